"""Batches of like lengths: few shapes to compile, little padding to compute."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

BATCH_SIZE = 32
"""Of what is read after training."""
MOST_BUCKETS = 12
PADDING = 0.06
"""Share of padding at which no more buckets are wanted."""
FIXED = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384)
"""Lengths that a stream is padded to, whose own lengths nobody knows beforehand."""


class Plan(NamedTuple):
    """One batch: which examples, and the length they are padded to."""

    indices: Int[np.ndarray, " n"]
    length: int


def fit_buckets(lengths: Int[np.ndarray, " n"], batches: int) -> tuple[int, ...]:
    """The fewest lengths to pad to, at most 12 and not more than `batches`, that leave under 6% of padding.

    Where none are few enough, the most that are allowed. For each number of buckets the best ones, by dynamic
    programming over the distinct lengths.
    """
    values, counts = np.unique(lengths, return_counts=True)
    waste = _waste(values, counts)
    best, previous = waste[0].copy(), []
    total, most = float((values * counts).sum()), min(MOST_BUCKETS, len(values), max(1, batches))
    for used in range(1, most + 1):
        if best[-1] <= PADDING / (1 - PADDING) * total or used == most:
            break
        # The last bucket of used + 1 begins after value i: best[i] before it, waste[i + 1] in it.
        candidates = best[:-1, None] + waste[1:]
        previous.append(candidates.argmin(0))
        best = candidates.min(0)
    chosen = [len(values) - 1]
    for split in reversed(previous):
        chosen.append(int(split[chosen[-1]]))
    return tuple(sorted({int(values[i]) for i in chosen}))


def _waste(values: Int[np.ndarray, " n"], counts: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n n"]:
    """Padding in a bucket of the i-th to the j-th length, [i, j]; infinite below the diagonal."""
    rows, tokens = np.cumsum(counts), np.cumsum(counts * values)
    inside = rows[None, :] - (rows - counts)[:, None]
    waste = inside * values[None, :] - (tokens[None, :] - (tokens - counts * values)[:, None])
    return np.where(np.arange(len(values))[:, None] <= np.arange(len(values)), waste, np.inf)


def fixed_buckets(longest: int) -> tuple[int, ...]:
    """Lengths up to `longest` for examples that come one after the other."""
    return (*(length for length in FIXED if length < longest), longest)


def train_plans(
    lengths: Int[np.ndarray, " n"], buckets: tuple[int, ...], batch_size: int, seed: int, epoch: int
) -> list[Plan]:
    """An epoch: every example once, in an order that is a function of seed and epoch alone.

    Examples are drawn into the batches of their bucket at random, and the batches put in random order. What a bucket
    leaves over goes into the first batch of the next longer one; the last batch may be short.
    """
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(len(lengths))
    plans = list(_plans(lengths, buckets, batch_size, order))
    return [plans[i] for i in rng.permutation(len(plans))]


def eval_plans(lengths: Int[np.ndarray, " n"], buckets: tuple[int, ...], batch_size: int) -> list[Plan]:
    """Every example once, shortest first."""
    return list(_plans(lengths, buckets, batch_size, np.argsort(lengths, kind="stable")))


def padding_share(lengths: Int[np.ndarray, " n"], plans: list[Plan]) -> float:
    """Share of padding among the positions of the examples in the batches."""
    padded = sum(len(plan.indices) * plan.length for plan in plans)
    return 1 - float(lengths.sum()) / padded


def _plans(
    lengths: Int[np.ndarray, " n"], buckets: tuple[int, ...], batch_size: int, order: Int[np.ndarray, " n"]
) -> Iterator[Plan]:
    bucket = np.searchsorted(buckets, lengths)
    order = order[np.argsort(bucket[order], kind="stable")]
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        yield Plan(indices, buckets[bucket[indices].max()])
