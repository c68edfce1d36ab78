from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_expit
from sklearn.metrics import accuracy_score, precision_score, recall_score, roc_auc_score

from electra_jax.config import ObjectiveConfig
from electra_jax.objectives.losses import mean, replaced_token_loss
from electra_jax.objectives.metrics import discriminator_counts, summarize

ROWS, LENGTH = 3, 13
RNG = np.random.default_rng(0)
REPLACED = RNG.random((ROWS, LENGTH)) < 0.3
MASK = np.arange(LENGTH) < np.array([13, 6, 0])[:, None]


def replaced_token_reference(logits: np.ndarray) -> float:
    logits = logits.astype(np.float64)
    return -np.where(REPLACED, log_expit(logits), log_expit(-logits))[MASK].sum()


LOSSES = {
    "replaced": (lambda x: replaced_token_loss(x, REPLACED, MASK), replaced_token_reference, MASK, (ROWS, LENGTH)),
}


@pytest.fixture(params=LOSSES.values(), ids=LOSSES.keys())
def loss(request: pytest.FixtureRequest) -> tuple[Callable, Callable, np.ndarray, tuple[int, ...]]:
    """Ours, the same in float64, what it counts, the shape of its logits."""
    return request.param


def test_sum_and_count_are_those_of_the_definition(loss: tuple) -> None:
    ours, reference, counted, shape = loss
    logits = np.random.default_rng(1).normal(scale=3, size=shape).astype(np.float32)

    total, count = ours(jnp.asarray(logits))

    np.testing.assert_allclose(total, reference(logits), rtol=1e-6)
    assert count == counted.sum()


def test_gradients_are_the_differences_of_the_definition(loss: tuple) -> None:
    ours, reference, _, shape = loss
    logits = np.random.default_rng(2).normal(scale=3, size=shape)
    gradient = jax.grad(lambda x: ours(x)[0])(jnp.asarray(logits, jnp.float32))

    expected = np.zeros(shape)
    for index in np.ndindex(shape):
        step = np.zeros(shape)
        step[index] = 1e-5
        expected[index] = (reference(logits + step) - reference(logits - step)) / 2e-5
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scale", [1e2, 1e4, 1e30])
def test_large_logits_do_not_overflow(loss: tuple, scale: float) -> None:
    ours, reference, _, shape = loss
    logits = (scale * np.random.default_rng(3).choice([-1.0, 1.0], shape)).astype(np.float32)
    (total, _), gradient = ours(jnp.asarray(logits)), jax.grad(lambda x: ours(x)[0])(jnp.asarray(logits))

    np.testing.assert_allclose(total, reference(logits), rtol=1e-6)
    assert np.isfinite(gradient).all()


def test_nothing_counted_is_a_loss_of_0_with_no_gradient() -> None:
    def nothing(logits: jax.Array) -> jax.Array:
        return mean(*replaced_token_loss(logits, REPLACED, np.zeros_like(MASK)))

    loss, gradient = jax.value_and_grad(nothing)(jnp.ones((ROWS, LENGTH)))

    assert loss == 0
    np.testing.assert_array_equal(gradient, 0)


def test_mean_adds_the_references_epsilon() -> None:
    assert mean(jnp.float32(3), jnp.float32(0)) == pytest.approx(3e6)


# --- metrics ------------------------------------------------------------------------------------------------------


def no_picks() -> dict[str, np.ndarray]:
    return {name: np.zeros(()) for name in ("mlm_sum", "picks", "generator_correct", "samples_correct")}


def metrics_of(logits: np.ndarray, replaced: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    counts = discriminator_counts(jnp.asarray(logits), jnp.asarray(replaced), jnp.asarray(mask))
    total, tokens = replaced_token_loss(jnp.asarray(logits), replaced, mask)
    return summarize({**no_picks(), **counts, "discriminator_sum": total, "judged": tokens}, ObjectiveConfig())


@pytest.mark.parametrize(("shift", "scale"), [(1.0, 1.0), (0.2, 0.1), (3.0, 3.0), (-1.0, 1.0), (6.0, 10.0)])
def test_rates_are_those_of_scikit_learn(shift: float, scale: float) -> None:
    rng = np.random.default_rng(4)
    replaced, mask = rng.random((64, 128)) < 0.1, rng.random((64, 128)) < 0.8
    logits = (rng.normal(scale=scale, size=replaced.shape) + shift * (replaced - 0.5)).astype(np.float32)

    metrics = metrics_of(logits, replaced, mask)

    truth, predicted = replaced[mask], logits[mask] > 0
    assert metrics["auc"] == pytest.approx(roc_auc_score(truth, logits[mask]), abs=2e-3)
    assert metrics["accuracy"] == pytest.approx(accuracy_score(truth, predicted))
    assert metrics["precision"] == pytest.approx(precision_score(truth, predicted, zero_division=0))
    assert metrics["recall"] == pytest.approx(recall_score(truth, predicted))
    assert metrics["replaced_rate"] == pytest.approx(truth.mean())


def test_the_loss_is_that_of_the_objectives_weights() -> None:
    sums = no_picks() | {"mlm_sum": 6.0, "picks": 2.0, "discriminator_sum": 4.0, "judged": 8.0}

    metrics = summarize(sums, ObjectiveConfig(generator_weight=3.0, discriminator_weight=10.0))

    assert (metrics["mlm_loss"], metrics["discriminator_loss"], metrics["loss"]) == (3.0, 0.5, 14.0)


def test_samples_are_right_among_those_that_are_drawn() -> None:
    sums = no_picks() | {"picks": 100.0, "sampled": 20.0, "samples_correct": 5.0}

    assert summarize(sums, ObjectiveConfig())["samples_correct"] == 0.25


def test_logits_that_warm_up_has_hardly_spread_have_their_auc() -> None:
    rng = np.random.default_rng(5)
    replaced = rng.random((40, 50)) < 0.15
    logits = (rng.normal(-1.7, 0.0126, (40, 50)) + 0.012 * replaced).astype(np.float32)
    exact = roc_auc_score(replaced.ravel(), logits.ravel())
    assert metrics_of(logits, replaced, np.ones((40, 50), bool))["auc"] == pytest.approx(exact, abs=5e-3)


def test_equal_logits_have_an_auc_of_one_half() -> None:
    replaced = np.arange(100).reshape(4, 25) % 3 == 0

    assert metrics_of(np.zeros((4, 25), np.float32), replaced, np.ones((4, 25), bool))["auc"] == 0.5


def test_logits_that_are_no_numbers_have_no_rates() -> None:
    replaced = np.arange(100).reshape(4, 25) % 3 == 0

    metrics = metrics_of(np.full((4, 25), np.nan, np.float32), replaced, np.ones((4, 25), bool))

    assert all(np.isnan(metrics[name]) for name in ("loss", "auc", "accuracy", "recall", "calibration_error"))


def test_counts_add_up_to_those_of_the_whole() -> None:
    rng = np.random.default_rng(5)
    arrays = rng.normal(size=(8, 32)).astype(np.float32), rng.random((8, 32)) < 0.2, rng.random((8, 32)) < 0.7

    parts = [discriminator_counts(*(jnp.asarray(array[rows]) for array in arrays)) for rows in (slice(3), slice(3, 8))]

    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(jnp.add, *parts), discriminator_counts(*arrays))


def test_rates_over_nothing_are_0_and_auc_is_one_half() -> None:
    nothing = np.zeros((2, 8), bool)

    metrics = metrics_of(np.ones((2, 8), np.float32), nothing, nothing)

    assert metrics.pop("auc") == 0.5
    assert set(metrics.values()) == {0.0}
