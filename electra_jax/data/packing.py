"""Rows of short documents, several put into one, with a note of which token is whose."""

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from electra_jax.data.rows import PACKED_COLUMNS, view


def pack(examples: pa.Table, pad_id: int) -> pa.Table:
    """Rows of L tokens that hold all of `examples`, which are rows of at most L; every token of them once.

    Takes the columns input_ids, length and first_length, gives input_ids, length and segments, see `Rows`. Within a
    row examples keep their order.
    """
    ids, lengths, firsts = (view(column.combine_chunks()) for column in examples.columns)
    length = ids.shape[1]
    rows = fit(lengths.tolist(), length)
    order = np.array([example for row in rows for example in row], np.int64)
    place = np.array([i for row in rows for i in range(len(row))], np.uint16)
    position = np.arange(length)
    segments = 2 * place[:, None] + 1 + (position >= firsts[order, None])
    real = position < lengths[order, None]
    row_lengths = np.array([lengths[row].sum() for row in rows], np.int32)
    filled = position < row_lengths[:, None]  # as many as in `real`, and both are read row by row
    packed_ids, packed_segments = np.full(filled.shape, pad_id, ids.dtype), np.zeros(filled.shape, segments.dtype)
    packed_ids[filled], packed_segments[filled] = ids[order][real], segments[real]
    columns = (_column(packed_ids), pa.array(row_lengths), _column(packed_segments))
    return pa.table(dict(zip(PACKED_COLUMNS, columns, strict=True)))


def fit(lengths: Sequence[int], length: int) -> list[list[int]]:
    """Divide examples, named by their place in `lengths`, into rows of at most `length` tokens.

    The longest come first, and each goes where it leaves the least room (best fit decreasing; Johnson, 1973: at most
    11/9 of the fewest rows, and hardly more than the fewest where many are short). Rows are in the order of their
    longest example, so that the first few of them are like all.
    """
    rows: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # of each row that isn't full: what is left, and its number; in order
    for example in sorted(range(len(lengths)), key=lambda example: -lengths[example]):
        tightest = bisect_left(rooms, (lengths[example], 0))
        if tightest < len(rooms):
            room, row = rooms.pop(tightest)
        else:
            room, row = length, len(rows)
            rows.append([])
        rows[row].append(example)
        if room > lengths[example]:
            insort(rooms, (room - lengths[example], row))
    return [sorted(row) for row in sorted(rows)]


def _column(rows: np.ndarray) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])
