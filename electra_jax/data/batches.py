"""Batches of rows, in an order that is a function of the seed and the step alone."""

import math
import sys
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate

import grain
import numpy as np

from electra_jax.data.rows import Batch, Rows, open_rows
from electra_jax.errors import UserError

__all__ = ["Batch", "Rows", "Shard", "eval_batches", "open_rows", "row_numbers", "train_batches"]

READ = grain.ReadOptions(num_threads=4, prefetch_buffer_size=16)
"""In batches. Threads read ahead; they don't change the order."""


@dataclass(frozen=True)
class Shard:
    """The part of each batch that one of several processes reads."""

    index: int = 0
    count: int = 1

    def places(self, batch_size: int) -> range:
        """Of a batch's rows; the shards from 0 to `count` - 1 together are the batch."""
        return range(self.index * batch_size // self.count, (self.index + 1) * batch_size // self.count)


WHOLE = Shard()


def train_batches(
    rows: Rows,
    batch_size: int,
    seed: int,
    first_step: int = 0,
    shard: Shard = WHOLE,
    weights: Sequence[float] = (),
) -> Generator[Batch]:
    """Batches without end, from that of step `first_step` on, or a shard of each.

    Each folder of `rows` is drawn from in the proportion of its weight (without weights, of its rows) and on its own:
    all of its rows in an order of that epoch, then all of them in another. Batches run on from one epoch into the
    next. Batch s depends on rows, weights, seed, batch_size and s alone: a resumed run passes its step, there is no
    state to keep, and any number of processes reads the same batches. Close the iterator (or drop it) to end its
    threads. Raises UserError where a folder has no rows.
    """
    if min(rows.sizes) == 0:
        raise UserError("no rows to train on; prepare the data again with more text")
    order, places = _order(rows.sizes, weights or rows.sizes, seed), shard.places(batch_size)

    def read(step: int) -> Batch:
        return rows.take([order[step * batch_size + place] for place in places])

    # Batched before the iteration: after it, a batch would hold whatever the threads bring first.
    return _closing(grain.MapDataset.range(first_step, sys.maxsize).map(read).to_iter_dataset(READ))


def row_numbers(rows: Rows, batch_size: int, seed: int, step: int, weights: Sequence[float] = ()) -> list[int]:
    """The rows that step number `step` (from 1) reads."""
    order = _order(rows.sizes, weights or rows.sizes, seed)
    return [int(order[place]) for place in range((step - 1) * batch_size, step * batch_size)]


def eval_batches(rows: Rows, batch_size: int, max_rows: int, shard: Shard = WHOLE) -> Generator[Batch]:
    """At most `max_rows` rows in order, once, or a shard of each batch.

    They are the first of each folder, in proportion to its rows. The last batch is filled up with empty rows (all
    zeros, length 0).
    """
    numbers = _first(rows.sizes, max_rows)
    for start in range(0, len(numbers), batch_size):
        places = shard.places(batch_size)
        batch = rows.take(numbers[start + places.start : start + places.stop])
        yield {name: _fill(column, len(places)) for name, column in batch.items()}


class _Mixture:
    """Who gives the row at each position of a mixture, as grain's `select_from_datasets` asks it.

    grain's own `mix` does the same, but rounds the weights to a hundredth of the smallest.
    """

    def __init__(self, weights: Sequence[float]):
        exact = [Fraction(weight) for weight in weights]
        scale = math.lcm(*(weight.denominator for weight in exact))
        self.weights = [int(weight * scale) for weight in exact]

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, position: int) -> tuple[int, int]:
        """The folder, and how many rows it has given before."""
        rest, start, stop = sum(self.weights), position, position + 1
        for folder, weight in enumerate(self.weights[:-1]):
            # Of the first n positions that are left to this folder and the later ones, how many are the later ones'.
            later_start, later_stop = (n * (rest - weight) // rest for n in (start, stop))
            if later_start == later_stop:
                return folder, start - later_start
            rest, start, stop = rest - weight, later_start, later_stop
        return len(self.weights) - 1, start


def _order(sizes: Sequence[int], weights: Sequence[float], seed: int) -> grain.MapDataset[int]:
    """The row's number at each position of the training, without end."""
    # Far from each other: grain's next epoch has the next key, which must be no other seed's, and no other folder's.
    keys = [int(np.random.SeedSequence((seed, i)).generate_state(1)[0]) for i in range(len(sizes))]
    folders = [
        grain.MapDataset.range(stop - size, stop).shuffle(seed=key).repeat()
        for size, stop, key in zip(sizes, accumulate(sizes), keys, strict=True)
    ]
    return grain.MapDataset.select_from_datasets(folders, _Mixture(weights))


def _first(sizes: Sequence[int], most: int) -> np.ndarray:
    """Numbers of the first rows of each folder, `most` in all, in proportion to the folders' rows."""
    total = max(1, sum(sizes))
    stops = [0, *accumulate(sizes)]
    taken = [min(most, total) * stop // total for stop in stops]
    counts = np.diff(taken)
    return np.concatenate([np.arange(start, start + count) for start, count in zip(stops[:-1], counts, strict=True)])


def _closing(dataset: grain.IterDataset) -> Generator[Batch]:
    iterator = iter(dataset)
    try:
        yield from iterator
    finally:
        iterator.close()


def _fill(column: np.ndarray, size: int) -> np.ndarray:
    return np.pad(column, [(0, size - len(column))] + [(0, 0)] * (column.ndim - 1))
