"""The generator's head, loss and samples as one function, against their definitions in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from electra_jax.config import ObjectiveConfig
from electra_jax.objectives import cloze as module
from electra_jax.objectives.cloze import Cloze, Picked, cloze
from electra_jax.objectives.sampling import sample, uniforms

PICKS, VOCABULARY, WIDTH = 23, 301, 8
RNG = np.random.default_rng(0)
STATES = RNG.normal(size=(PICKS, WIDTH)).astype(np.float32)
TABLE = RNG.normal(size=(VOCABULARY, WIDTH)).astype(np.float32)
BIAS = RNG.normal(size=VOCABULARY).astype(np.float32)
TARGETS = RNG.integers(0, VOCABULARY, PICKS)
USED = RNG.random(PICKS) < 0.7
KEY = jax.random.key(3)
CONFIG = ObjectiveConfig()
CHUNKS = pytest.mark.parametrize("chunk", [512, 23, 10, 7, 1])


def picked(states: jax.Array, used: np.ndarray = USED, targets: np.ndarray = TARGETS) -> Picked:
    return Picked(states, jnp.asarray(targets), jnp.asarray(used), uniforms(KEY, 1, PICKS))


def run(config: ObjectiveConfig = CONFIG, used: np.ndarray = USED, targets: np.ndarray = TARGETS) -> Cloze:
    return cloze(config, picked(jnp.asarray(STATES), used, targets), jnp.asarray(TABLE), jnp.asarray(BIAS))


def gradients(dtype: str = "float32", factor: float = 1.0, used: np.ndarray = USED) -> tuple[np.ndarray, ...]:
    def loss(states: jax.Array, table: jax.Array, bias: jax.Array) -> jax.Array:
        return factor * cloze(CONFIG, picked(states, used), table, bias).nll_sum

    return jax.grad(loss, (0, 1, 2))(jnp.asarray(STATES, dtype), jnp.asarray(TABLE), jnp.asarray(BIAS))


def logits() -> np.ndarray:
    return STATES.astype(np.float64) @ TABLE.T + BIAS


def expected_gradients() -> tuple[np.ndarray, ...]:
    """Of the definition: softmax - one-hot at the used picks."""
    by_logits = (softmax(logits(), axis=-1) - np.eye(VOCABULARY)[TARGETS]) * USED[:, None]
    return by_logits @ TABLE, by_logits.T @ STATES, by_logits.sum(0)


@CHUNKS
def test_the_loss_is_the_cross_entropy_of_the_used_picks(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", chunk)
    nll = -log_softmax(logits(), axis=-1)[np.arange(PICKS), TARGETS]

    np.testing.assert_allclose(run().nll_sum, nll[USED].sum(), rtol=1e-6)


@CHUNKS
def test_the_gradient_is_that_of_the_definition(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", chunk)

    for gradient, expected in zip(gradients(), expected_gradients(), strict=True):
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)


def test_the_gradient_is_the_difference_of_the_loss() -> None:
    direction = RNG.normal(size=WIDTH)
    moved = [
        -log_softmax((STATES + step * direction) @ TABLE.T.astype(np.float64) + BIAS, -1) for step in (1e-5, -1e-5)
    ]
    first, second = (nll[np.arange(PICKS), TARGETS][USED].sum() for nll in moved)

    np.testing.assert_allclose((gradients()[0] @ direction).sum(), (first - second) / 2e-5, rtol=1e-4)


def test_a_weight_of_the_loss_is_one_of_the_gradient() -> None:
    for gradient, expected in zip(gradients(factor=-3.0), expected_gradients(), strict=True):
        np.testing.assert_allclose(gradient, -3 * expected, rtol=1e-4, atol=1e-5)


def test_bfloat16_states_have_a_bfloat16_gradient_and_the_table_a_float32_one() -> None:
    found = gradients("bfloat16")

    assert [gradient.dtype for gradient in found] == [jnp.bfloat16, jnp.float32, jnp.float32]
    for gradient, expected in zip(found, expected_gradients(), strict=True):
        np.testing.assert_allclose(gradient.astype(jnp.float32), expected, atol=0.03 * np.abs(expected).max())


@CHUNKS
@pytest.mark.parametrize("config", [CONFIG, ObjectiveConfig(temperature=0.5), ObjectiveConfig(disallow_correct=True)])
def test_samples_are_those_of_the_whole_logits(
    chunk: int, config: ObjectiveConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = jnp.asarray(logits(), jnp.float32)[None]
    exclude = jnp.asarray(TARGETS)[None] if config.disallow_correct else None
    expected = sample(KEY, whole, config.temperature, exclude)[0]
    monkeypatch.setattr(module, "CHUNK", chunk)

    np.testing.assert_array_equal(run(config).sampled, expected)


def test_correct_counts_used_picks_whose_token_is_likeliest() -> None:
    likeliest = logits().argmax(-1)
    targets = np.where(np.arange(PICKS) % 2, likeliest, TARGETS)

    assert run(targets=targets).correct == (USED & (targets == likeliest)).sum() > 0


def test_without_used_picks_loss_and_gradient_are_0() -> None:
    nothing = np.zeros_like(USED)

    assert run(used=nothing).nll_sum == 0
    for gradient in gradients(used=nothing):
        np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("scale", [1e2, 1e4, 1e30])
def test_large_logits_do_not_overflow(scale: float) -> None:
    large = (scale * np.random.default_rng(3).choice([-1.0, 1.0], (PICKS, VOCABULARY))).astype(np.float32)

    @jax.value_and_grad
    def loss(states: jax.Array) -> jax.Array:
        return cloze(CONFIG, picked(states), jnp.eye(VOCABULARY), jnp.zeros(VOCABULARY)).nll_sum

    total, gradient = loss(jnp.asarray(large))
    nll = -log_softmax(large.astype(np.float64), axis=-1)[np.arange(PICKS), TARGETS]

    np.testing.assert_allclose(total, nll[USED].sum(), rtol=1e-6)
    assert np.isfinite(gradient).all()


def test_logits_of_no_more_than_a_chunk_exist_at_a_time() -> None:
    """By XLA's own account: 8 times the picks take no more memory but for their states."""

    def temporary(picks: int) -> int:
        some = Picked(*(jnp.zeros((picks, *a.shape[1:]), a.dtype) for a in picked(jnp.asarray(STATES))))
        table, bias = jnp.zeros((5000, WIDTH)), jnp.zeros(5000)
        loss = jax.jit(jax.grad(lambda table: cloze(CONFIG, some, table, bias).nll_sum))
        return loss.lower(table).compile().memory_analysis().temp_size_in_bytes

    assert temporary(8 * module.CHUNK) < 1.5 * temporary(module.CHUNK)
