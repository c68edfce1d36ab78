"""Prepared rows, read from memory-mapped Arrow files without copies."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, List, Value, load_from_disk

from electra_jax.data.manifest import Manifest
from electra_jax.errors import UserError

COLUMNS = ("input_ids", "length", "first_length")
PACKED_COLUMNS = ("input_ids", "length", "segments")
ROWS_IN_CHUNK = 2**15
"""As `prepare` writes them: each chunk that is opened takes time, and brings the pages around its head to memory."""
Batch = dict[str, np.ndarray]
"""input_ids [B, L] (uint16 or uint32), length [B] int32, and first_length [B] int32, or of packed rows segments [B, L]
(uint8 or uint16); see `Rows`."""


def id_dtype(vocab_size: int) -> str:
    """The smallest type that holds the ids of a vocabulary."""
    return "uint16" if vocab_size <= 2**16 else "uint32"


def segment_dtype(length: int) -> str:
    """The smallest type that numbers the segments of a packed row, whose examples have three tokens at least."""
    return "uint8" if 2 * (length // 3) < 2**8 else "uint16"


def row_features(length: int, dtype: str, packed: bool = False) -> Features:
    """The columns' types, of rows of `length` ids of `dtype`."""
    ids, number = List(Value(dtype), length=length), Value("int32")
    last = List(Value(segment_dtype(length)), length=length) if packed else number
    return Features(dict(zip(PACKED_COLUMNS if packed else COLUMNS, (ids, number, last), strict=True)))


class Rows:
    """The rows of one folder, or of several one after the other.

    Row i is {"input_ids": [L] uint16 or uint32, "length": int32, "first_length": int32}: `[CLS] A [SEP] (B [SEP])`
    and padding, the tokens of it without padding, and those of `[CLS] A [SEP]`, from where on the token type is 1.

    A packed row holds several of these examples, then padding, and has in place of "first_length" "segments": [L] uint8
    or uint16, 2i + 1 at the tokens `[CLS] A [SEP]` of its example i, 2i + 2 at `B [SEP]`, and 0 at padding.
    """

    columns: tuple[str, ...]
    """COLUMNS or PACKED_COLUMNS."""

    sizes: tuple[int, ...]
    """Rows of each folder."""

    def __init__(self, *datasets: Dataset):
        self.sizes = tuple(map(len, datasets))
        self.columns = tuple(datasets[0].column_names)
        # Views of the Arrow buffers; `datasets`' own numpy format copies, and reads a fifth of the rows a second.
        self._chunks = {
            name: [view(chunk) for dataset in datasets for chunk in dataset.data.column(name).chunks]
            for name in self.columns
        }
        self._starts = np.cumsum([0, *map(len, self._chunks["length"])])

    def __len__(self) -> int:
        return sum(self.sizes)

    def take(self, numbers: Sequence[int] | np.ndarray) -> Batch:
        """The rows of these numbers, copied; raises IndexError for one that is not there."""
        wanted = np.asarray(numbers, np.int64)
        outside = wanted[(wanted < 0) | (wanted >= len(self))]
        if len(outside):
            raise IndexError(f"row {outside[0]} of {len(self)}")
        chunks = np.searchsorted(self._starts, wanted, side="right") - 1
        offsets = (wanted - self._starts[chunks]).tolist()
        return {name: _gather(self._chunks[name], chunks.tolist(), offsets) for name in self.columns}

    def column_chunks(self, name: str) -> list[np.ndarray]:
        """A column as views, in order, such as "input_ids" [n, L] each."""
        return self._chunks[name]


def open_rows(folders: Sequence[Path], split: Literal["train", "eval"]) -> Rows:
    """The rows of one split of folders that `prepare` wrote; raises UserError where one is none."""
    return Rows(*(_open(folder, split) for folder in folders))


def _open(folder: Path, split: str) -> Dataset:
    wanted = getattr(Manifest.read(folder), split).rows
    try:
        rows = load_from_disk(str(folder / split))
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise UserError(f"{folder / split}: the rows can't be read ({error}); prepare them again") from error
    if len(rows) != wanted:
        raise UserError(f"{folder / split}: has {len(rows):,} rows of {wanted:,}; copy it anew, or prepare it again")
    return rows


def view(chunk: pa.Array) -> np.ndarray:
    """A part of a column without a copy: [n], or [n, L] of lists."""
    if not pa.types.is_fixed_size_list(chunk.type):
        return chunk.to_numpy()
    return chunk.flatten().to_numpy().reshape(len(chunk), chunk.type.list_size)


def _gather(column: Sequence[np.ndarray], chunks: Sequence[int], offsets: Sequence[int]) -> np.ndarray:
    """Row by row: where there are many chunks, hardly two rows of a batch lie in the same."""
    rows = np.empty((len(chunks), *column[0].shape[1:]), column[0].dtype)
    for i, (chunk, offset) in enumerate(zip(chunks, offsets, strict=True)):
        rows[i] = column[chunk][offset]
    return rows
