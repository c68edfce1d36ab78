"""Batches of rows, in an order that is a function of the seed and the step alone."""

from collections.abc import Generator, Sequence

import grain
import numpy as np

from electra_jax.data.rows import COLUMNS, Rows, open_rows
from electra_jax.errors import UserError

__all__ = ["Rows", "eval_batches", "open_rows", "train_batches"]

Batch = dict[str, np.ndarray]
"""input_ids [B, L] (uint16 or uint32), length [B] int32, first_length [B] int32; see `Rows`."""

READ = grain.ReadOptions(num_threads=4, prefetch_buffer_size=16)
"""In batches. Threads read ahead; they don't change the order."""


def train_batches(rows: Rows, batch_size: int, seed: int, first_step: int = 0) -> Generator[Batch]:
    """Batches without end, from that of step `first_step` on.

    Each epoch is all rows in an order of its own, and batches run on from one epoch into the next. Batch s depends
    on rows, seed, batch_size and s alone, so a resumed run passes its step, and there is no state to keep. Close
    the iterator (or drop it) to end its threads. Raises UserError where there are no rows.
    """
    if len(rows) == 0:
        raise UserError("no rows to train on; prepare the data again with more text")
    dataset = grain.MapDataset.source(rows).shuffle(seed=seed).repeat()
    # Batched before the iteration: after it, a batch would hold whatever the threads bring first.
    batches = dataset.batch(batch_size, drop_remainder=True)  # there is none; a length rounded up overflows
    return _closing(batches[first_step:].to_iter_dataset(READ))


def row_numbers(rows: int, batch_size: int, seed: int, step: int) -> list[int]:
    """The rows of the batch that step number `step` (from 1) reads."""
    numbers = grain.MapDataset.range(rows).shuffle(seed=seed).repeat()
    return [int(numbers[i]) for i in range((step - 1) * batch_size, step * batch_size)]


def eval_batches(rows: Rows, batch_size: int, max_rows: int) -> Generator[Batch]:
    """The first `max_rows` rows in order, once; the last batch is filled up with empty rows (all zeros, length 0)."""
    stop = min(max_rows, len(rows))
    for start in range(0, stop, batch_size):
        batch = [rows[index] for index in range(start, min(start + batch_size, stop))]
        missing = batch_size - len(batch)
        yield {name: _stack([row[name] for row in batch], missing) for name in COLUMNS}


def _closing(dataset: grain.IterDataset) -> Generator[Batch]:
    iterator = iter(dataset)
    try:
        yield from iterator
    finally:
        iterator.close()


def _stack(values: Sequence[np.ndarray | np.integer], missing: int) -> np.ndarray:
    stacked = np.stack(values)
    return np.pad(stacked, [(0, missing)] + [(0, 0)] * (stacked.ndim - 1))
