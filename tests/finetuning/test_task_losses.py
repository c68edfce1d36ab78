"""The losses of fine-tuning against NumPy, in float64."""

import jax
import numpy as np
import pytest
from scipy.special import expit, log_softmax

from electra_jax.finetuning import losses
from electra_jax.finetuning.examples import IGNORED

RNG = np.random.default_rng(0)
B, L, C = 5, 7, 4
WEIGHT = np.array([1, 1, 1, 1, 0], np.float32)
LENGTH = np.array([7, 5, 3, 6, 7])


def test_cross_entropy() -> None:
    logits, target = RNG.normal(size=(B, C)).astype(np.float32), RNG.integers(0, C, B)
    total, count = losses.cross_entropy(logits, target, WEIGHT)
    assert count == 4
    np.testing.assert_allclose(total, -log_softmax(logits, -1)[np.arange(4), target[:4]].sum(), rtol=1e-5)


def test_sigmoid_cross_entropy() -> None:
    logits, target = RNG.normal(size=(B, C)).astype(np.float32), RNG.integers(0, 2, (B, C)).astype(np.float32)
    total, count = losses.sigmoid_cross_entropy(logits, target, WEIGHT)
    p = expit(logits)
    expected = -(target * np.log(p) + (1 - target) * np.log(1 - p)).mean(1)[:4].sum()
    assert count == 4
    np.testing.assert_allclose(total, expected, rtol=1e-5)


def test_squared_error() -> None:
    logits, target = RNG.normal(size=(B, 1)), RNG.normal(size=B)
    total, count = losses.squared_error(logits, target, WEIGHT)
    assert count == 4
    np.testing.assert_allclose(total, ((logits[:, 0] - target) ** 2)[:4].sum(), rtol=1e-5)


def test_token_cross_entropy_counts_the_tokens_that_have_a_target() -> None:
    logits, target = RNG.normal(size=(B, L, C)).astype(np.float32), RNG.integers(0, C, (B, L))
    target[:, ::2] = IGNORED
    total, count = losses.token_cross_entropy(logits, target, WEIGHT)
    expected = -sum(
        log_softmax(logits[b, i])[target[b, i]] for b in range(4) for i in range(L) if target[b, i] != IGNORED
    )
    assert count == 4 * 3
    np.testing.assert_allclose(total, expected, rtol=1e-5)


def test_span_cross_entropy_is_over_the_real_positions() -> None:
    logits, target = RNG.normal(size=(B, L, 2)).astype(np.float32), np.array([[1, 2], [0, 4], [2, 2], [0, 0], [1, 1]])
    total, count = losses.span_cross_entropy(logits, target, LENGTH, WEIGHT)
    expected = -sum(log_softmax(logits[b, : LENGTH[b], end])[target[b, end]] / 2 for b in range(4) for end in range(2))
    assert count == 4
    np.testing.assert_allclose(total, expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["token", "span"])
def test_no_gradient_where_nothing_is_asked(name: str) -> None:
    logits = RNG.normal(size=(B, L, 2)).astype(np.float32)
    target = RNG.integers(0, 2, (B, L))
    target[:, 3] = IGNORED

    def loss(logits: jax.Array) -> jax.Array:
        if name == "token":
            return losses.token_cross_entropy(logits, target, WEIGHT)[0]
        return losses.span_cross_entropy(logits, np.ones((B, 2), int), LENGTH, WEIGHT)[0]

    gradient = np.asarray(jax.grad(loss)(logits))
    idle = np.arange(L) == 3 if name == "token" else np.arange(L) >= LENGTH[:, None]
    idle = np.broadcast_to(idle, (B, L)) | (WEIGHT == 0)[:, None]
    assert np.all(gradient[idle] == 0)
    assert np.all(gradient[~idle] != 0)
