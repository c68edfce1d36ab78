from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import chi2_contingency, chisquare

from electra_jax.objectives.sampling import _inverse_cdf, sample

DRAWS = 20_000


def normal(vocabulary: int, scale: float = 1.0) -> np.ndarray:
    return scale * np.random.default_rng(vocabulary).normal(size=vocabulary).astype(np.float32)


def peaked(vocabulary: int) -> np.ndarray:
    logits = np.zeros(vocabulary, np.float32)
    logits[vocabulary // 2] = np.log(20.0 * vocabulary)
    return logits


@partial(jax.jit, static_argnames=("temperature", "exclude"))
def draw(key: jax.Array, logits: jax.Array, temperature: float, exclude: int | None) -> jax.Array:
    rows = jnp.broadcast_to(logits, (DRAWS // 20, 20, logits.size))
    excluded = None if exclude is None else jnp.full(rows.shape[:2], exclude)
    return sample(key, rows, temperature, excluded)


def counts(logits: np.ndarray, temperature: float = 1.0, exclude: int | None = None, keys: int = 10) -> np.ndarray:
    """How often each id comes up in 20,000 draws from each of the keys."""
    ids = [np.ravel(draw(jax.random.key(number), logits, temperature, exclude)) for number in range(keys)]
    return np.bincount(np.concatenate(ids), minlength=len(logits))


def p_value(observed: np.ndarray, probabilities: np.ndarray) -> float:
    """Of the chi-square test, with entries expected less than ten times taken together."""
    expected = probabilities * observed.sum()
    rare = expected < 10
    pooled = [np.append(values[~rare], values[rare].sum()) for values in (observed, expected)]
    observed, expected = (values[pooled[1] > 0] for values in pooled)
    return chisquare(observed, expected).pvalue


@pytest.mark.parametrize(
    "logits",
    [normal(1000), normal(1000, 4.0), normal(1024), normal(130), normal(7), peaked(1000), np.zeros(1000, np.float32)],
    ids=["normal", "wide", "whole blocks", "two blocks", "less than a block", "peaked", "flat"],
)
def test_samples_follow_the_softmax(logits: np.ndarray) -> None:
    assert p_value(counts(logits), softmax(logits.astype(np.float64))) > 1e-4


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_temperature_divides_the_logits(temperature: float) -> None:
    logits = normal(300)

    assert p_value(counts(logits, temperature), softmax(logits.astype(np.float64) / temperature)) > 1e-4


@pytest.mark.parametrize("logits", [normal(300), peaked(300)], ids=["normal", "peaked"])
def test_an_excluded_id_is_never_drawn_and_the_others_stay_in_proportion(logits: np.ndarray) -> None:
    exclude = int(np.argmax(logits))
    rest = softmax(np.where(np.arange(300) == exclude, -np.inf, logits.astype(np.float64)))

    observed = counts(logits, exclude=exclude)

    assert observed[exclude] == 0
    assert p_value(observed, rest) > 1e-4


@pytest.mark.parametrize(("temperature", "ahead"), [(1.0, 120.0), (0.25, 30.0)])
def test_the_others_are_drawn_where_the_excluded_id_is_all_but_certain(temperature: float, ahead: float) -> None:
    logits = jnp.zeros((1, 4000, 20)).at[..., 7].set(ahead)
    drawn = np.asarray(sample(jax.random.key(0), logits, temperature, jnp.full((1, 4000), 7)))
    assert p_value(np.bincount(drawn[0], minlength=20), np.where(np.arange(20) == 7, 0, 1 / 19)) > 1e-4


def test_each_row_excludes_its_own_id() -> None:
    logits = jnp.where(jnp.arange(200) < 3, 0.0, -jnp.inf) * jnp.ones((1000, 3, 1))
    drawn = sample(jax.random.key(0), logits, exclude=jnp.broadcast_to(jnp.arange(3), (1000, 3)))

    assert [set(np.unique(drawn[:, i]).tolist()) for i in range(3)] == [{1, 2}, {0, 2}, {0, 1}]


@pytest.mark.parametrize("support", [[0], [299], [127, 128], [5, 130, 298], list(range(128, 256))])
def test_what_has_no_probability_is_never_drawn(support: list[int]) -> None:
    logits = np.full(300, -np.inf, np.float32)
    logits[support] = 0.0

    assert np.flatnonzero(counts(logits, keys=2)).tolist() == support


@pytest.mark.parametrize("uniform", [1 - 2**-23, 1 - 2**-24], ids=["largest drawn", "largest below 1"])
@pytest.mark.parametrize("entries", [2, 128, 239])
def test_the_extremes_of_the_uniform_stay_within_the_support(uniform: float, entries: int) -> None:
    weights = np.random.default_rng(0).exponential(size=(1000, entries)).astype(np.float32)
    zeros = np.zeros((1000, 3), np.float32)
    weights = np.concatenate([zeros, weights, zeros], axis=1)

    lowest = _inverse_cdf(jnp.asarray(weights), jnp.zeros(1000))
    highest = _inverse_cdf(jnp.asarray(weights), jnp.full(1000, uniform, jnp.float32))

    np.testing.assert_array_equal(lowest, 3)
    assert (np.take_along_axis(weights, np.asarray(highest)[:, None], axis=1) > 0).all()
    assert np.mean(highest) > 2.9 + 0.98 * (entries - 1)


def test_large_logits_do_not_overflow() -> None:
    logits = jnp.array([[[1e4, 1e4 - 1, -1e4]]]) * jnp.ones((5000, 1, 1))
    drawn = np.bincount(np.ravel(sample(jax.random.key(0), logits)), minlength=3)

    assert drawn[2] == 0
    assert p_value(drawn, softmax([0, -1, -2e4])) > 1e-4


def test_picks_are_drawn_independently() -> None:
    logits = jnp.log(jnp.array([0.1, 0.2, 0.3, 0.4])) * jnp.ones((50_000, 2, 1))
    drawn = np.asarray(sample(jax.random.key(0), logits))

    for one, other in ((drawn[:, 0], drawn[:, 1]), (drawn[:-1, 0], drawn[1:, 0]), (drawn[:-1, 1], drawn[1:, 0])):
        table = np.zeros((4, 4))
        np.add.at(table, (one, other), 1)
        assert chi2_contingency(table).pvalue > 1e-4


def test_a_key_gives_the_same_samples_and_another_key_others() -> None:
    logits = jnp.asarray(normal(1000)) * jnp.ones((8, 19, 1))
    first, again, other = (sample(jax.random.key(seed), logits) for seed in (0, 0, 1))

    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
