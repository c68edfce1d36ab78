"""The losses of fine-tuning against NumPy, in float64."""

from typing import Any

import jax
import numpy as np
import pytest
from scipy.special import expit, log_expit, log_softmax

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


# --- all of them, on random inputs --------------------------------------------------------------------------------

SHAPES = {"classes": (B, C), "labels": (B, C), "number": (B, 1), "tokens": (B, L, C), "span": (B, L, 2)}
"""Of the logits, by loss."""


class Case:
    """Random inputs of a loss, and the loss in float64 as it is defined, example by example."""

    def __init__(self, name: str, seed: int, scale: float = 2.0):
        rng = np.random.default_rng(seed)
        self.name = name
        self.logits = (scale * rng.normal(size=SHAPES[name])).astype(np.float32)
        self.weight = np.array([1, 0, 1, 1, 0], np.float32)
        self.length = np.array([L, 0, 3, 1, 0])  # a row that fills the batch up has no tokens
        self.target: Any = {
            "classes": rng.integers(0, C, B),
            "labels": rng.integers(0, 2, (B, C)).astype(np.float32),
            "number": rng.normal(size=B).astype(np.float32),
            "tokens": np.where(rng.random((B, L)) < 0.4, IGNORED, rng.integers(0, C, (B, L))),
            "span": rng.integers(0, np.maximum(self.length, 1)[:, None], (B, 2)),
        }[name]

    def ours(self, logits: Any) -> tuple[jax.Array, jax.Array]:
        if self.name == "span":
            return losses.span_cross_entropy(logits, self.target, self.length, self.weight)
        loss = {
            "classes": losses.cross_entropy,
            "labels": losses.sigmoid_cross_entropy,
            "number": losses.squared_error,
            "tokens": losses.token_cross_entropy,
        }[self.name]
        return loss(logits, self.target, self.weight)

    def theirs(self, logits: np.ndarray) -> tuple[float, int]:
        parts = [self.of_example(b, logits[b].astype(np.float64)) for b in range(B) if self.weight[b]]
        return sum(total for total, _ in parts), sum(count for _, count in parts)

    def of_example(self, b: int, x: np.ndarray) -> tuple[float, int]:
        target = self.target[b]
        if self.name == "classes":
            return -log_softmax(x)[target], 1
        if self.name == "labels":
            return -np.mean([log_expit(x[c] if target[c] else -x[c]) for c in range(C)]), 1
        if self.name == "number":
            return (x[0] - target) ** 2, 1
        if self.name == "tokens":
            asked = np.flatnonzero(target != IGNORED)
            return -sum(log_softmax(x[i])[target[i]] for i in asked), len(asked)
        return -np.mean([log_softmax(x[: self.length[b], end])[target[end]] for end in range(2)]), 1

    def idle(self) -> np.ndarray:
        """The logits that nothing is asked of."""
        idle = np.broadcast_to((self.weight == 0).reshape(-1, *[1] * (self.logits.ndim - 1)), self.logits.shape).copy()
        if self.name == "tokens":
            idle |= (self.target == IGNORED)[..., None]
        if self.name == "span":
            idle |= (np.arange(L) >= self.length[:, None])[..., None]
        return idle


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", SHAPES)
def test_sum_and_count_are_those_of_the_definition(name: str, seed: int) -> None:
    case = Case(name, seed)
    total, count = case.ours(case.logits)
    expected, examples = case.theirs(case.logits)
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    assert count == examples


@pytest.mark.parametrize("name", SHAPES)
def test_gradients_are_the_differences_of_the_definition(name: str) -> None:
    case = Case(name, seed=3)
    gradient = np.asarray(jax.grad(lambda x: case.ours(x)[0])(case.logits))
    expected = np.zeros(case.logits.shape)
    for index in np.ndindex(expected.shape):
        step = np.zeros(expected.shape)
        step[index] = 1e-5
        expected[index] = (case.theirs(case.logits + step)[0] - case.theirs(case.logits - step)[0]) / 2e-5
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)
    assert np.all(gradient[case.idle()] == 0)
    assert case.idle().any()


@pytest.mark.parametrize("name", SHAPES)
def test_what_nothing_is_asked_of_may_be_anything(name: str) -> None:
    case = Case(name, seed=4)
    filled = np.where(case.idle(), np.float32(1e4), case.logits)
    for ours, theirs in zip(case.ours(filled), case.ours(case.logits), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", ["classes", "labels", "tokens", "span"])
def test_large_logits_do_not_overflow(name: str) -> None:
    case = Case(name, seed=5, scale=1e30)
    np.testing.assert_allclose(case.ours(case.logits)[0], case.theirs(case.logits)[0], rtol=1e-5)
    assert np.isfinite(jax.grad(lambda x: case.ours(x)[0])(case.logits)).all()
