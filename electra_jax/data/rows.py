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
ROWS_IN_CHUNK = 2**15
"""As `prepare` writes them: each chunk that is opened takes time, and brings the pages around its head to memory."""
Batch = dict[str, np.ndarray]
"""input_ids [B, L] (uint16 or uint32), length [B] int32, first_length [B] int32; see `Rows`."""


def id_dtype(vocab_size: int) -> str:
    """The smallest type that holds the ids of a vocabulary."""
    return "uint16" if vocab_size <= 2**16 else "uint32"


def row_features(length: int, dtype: str) -> Features:
    """The columns' types, of rows of `length` ids of `dtype`."""
    return Features({"input_ids": List(Value(dtype), length=length)} | dict.fromkeys(COLUMNS[1:], Value("int32")))


class Rows:
    """The rows of one folder, or of several one after the other.

    Row i is {"input_ids": [L] uint16 or uint32, "length": int32, "first_length": int32}: `[CLS] A [SEP] (B [SEP])`
    and padding, the tokens of it without padding, and those of `[CLS] A [SEP]`, from where on the token type is 1.
    """

    sizes: tuple[int, ...]
    """Rows of each folder."""

    def __init__(self, *datasets: Dataset):
        self.sizes = tuple(map(len, datasets))
        # Views of the Arrow buffers; `datasets`' own numpy format copies, and reads a fifth of the rows a second.
        views = {"input_ids": _matrix, "length": pa.Array.to_numpy, "first_length": pa.Array.to_numpy}
        self._chunks = {
            name: [view(chunk) for dataset in datasets for chunk in dataset.data.column(name).chunks]
            for name, view in views.items()
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
        return {name: _gather(self._chunks[name], chunks.tolist(), offsets) for name in COLUMNS}

    def column_chunks(self, name: str) -> list[np.ndarray]:
        """A column as views, in order: "input_ids" [n, L], "length" [n] or "first_length" [n] each."""
        return self._chunks[name]


def open_rows(folders: Sequence[Path], split: Literal["train", "eval"]) -> Rows:
    """The rows of one split of folders that `prepare` wrote; raises UserError where one is none."""
    return Rows(*(_open(folder, split) for folder in folders))


def _open(folder: Path, split: str) -> Dataset:
    Manifest.read(folder)
    try:
        return load_from_disk(str(folder / split))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(f"{folder / split}: the rows can't be read ({error}); prepare them again") from error


def _matrix(chunk: pa.FixedSizeListArray) -> np.ndarray:
    return chunk.flatten().to_numpy().reshape(len(chunk), chunk.type.list_size)


def _gather(column: Sequence[np.ndarray], chunks: Sequence[int], offsets: Sequence[int]) -> np.ndarray:
    """Row by row: where there are many chunks, hardly two rows of a batch lie in the same."""
    rows = np.empty((len(chunks), *column[0].shape[1:]), column[0].dtype)
    for i, (chunk, offset) in enumerate(zip(chunks, offsets, strict=True)):
        rows[i] = column[chunk][offset]
    return rows
