"""Reliability, against its definition token by token."""

import jax.numpy as jnp
import numpy as np
import pytest

from electra_jax.objectives.calibration import BINS, LARGEST, LEVELS, calibration_error, reliability
from electra_jax.objectives.metrics import discriminator_counts


def histogram(logits: np.ndarray, replaced: np.ndarray) -> np.ndarray:
    everywhere = jnp.ones(logits.shape, bool)
    return np.asarray(discriminator_counts(jnp.asarray(logits), jnp.asarray(replaced), everywhere)["histogram"])


def tokens(bias: float = 0.0, factor: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and which tokens were replaced: with the logits' own probability where `bias` is 0 and `factor` 1."""
    rng = np.random.default_rng(0)
    logits = rng.normal(-1, 2, (256, 512)).astype(np.float32)
    replaced = rng.random(logits.shape) < 1 / (1 + np.exp(-(factor * logits + bias)))
    return logits, replaced


@pytest.mark.parametrize(("bias", "factor"), [(0.0, 1.0), (1.5, 1.0), (0.0, 0.3)])
def test_reliability_is_that_of_the_tokens(bias: float, factor: float) -> None:
    logits, replaced = tokens(bias, factor)
    width = 2 * LARGEST / BINS
    logits = (np.floor(logits / width) + 0.5) * width  # the middles of the histogram's bins: nothing is lost
    found = reliability(histogram(logits, replaced))

    probability = 1 / (1 + np.exp(-logits.astype(np.float64)))
    level = np.floor(probability * LEVELS).astype(int)
    assert found.tokens.sum() == logits.size
    gaps = 0.0
    for i in range(LEVELS):
        inside = level == i
        assert found.tokens[i] == inside.sum()
        assert found.predicted[i] == pytest.approx(probability[inside].mean(), rel=1e-6)
        assert found.replaced[i] == pytest.approx(replaced[inside].mean(), rel=1e-6)
        gaps += inside.mean() * abs(probability[inside].mean() - replaced[inside].mean())
    assert calibration_error(histogram(logits, replaced)) == pytest.approx(gaps, rel=1e-6)


def test_probabilities_that_mean_what_they_say_have_hardly_an_error() -> None:
    assert calibration_error(histogram(*tokens())) < 0.01
    assert calibration_error(histogram(*tokens(bias=1.5))) > 0.1


def test_certainty_that_is_always_wrong_is_an_error_of_one() -> None:
    logits = np.array([[20.0, -20.0]], np.float32)
    assert calibration_error(histogram(logits, logits < 0)) == pytest.approx(1)
    assert calibration_error(histogram(logits, logits > 0)) == pytest.approx(0, abs=1e-6)


def test_nothing_has_no_error() -> None:
    found = reliability(np.zeros((2, BINS)))
    assert calibration_error(np.zeros((2, BINS))) == 0
    assert not found.tokens.any()
    assert ((found.predicted > 0) & (found.predicted < 1)).all()
