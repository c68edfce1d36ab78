"""Prepared rows, read from memory-mapped Arrow files without copies."""

from pathlib import Path
from typing import Literal, SupportsIndex

import numpy as np
import pyarrow as pa
from datasets import Dataset, load_from_disk

from electra_jax.data.manifest import Manifest
from electra_jax.errors import UserError

COLUMNS = ("input_ids", "length", "first_length")


class Rows:
    """Rows by their number, as `grain.RandomAccessDataSource` wants it.

    Row i is {"input_ids": [L] uint16 or uint32, "length": int32, "first_length": int32}: `[CLS] A [SEP] (B [SEP])`
    and padding, the tokens of it without padding, and those of `[CLS] A [SEP]`, from where on the token type is 1.
    """

    def __init__(self, dataset: Dataset):
        columns = {name: dataset.data.column(name).chunks for name in COLUMNS}
        # Views of the Arrow buffers; `datasets`' own numpy format copies, and reads a fifth of the rows a second.
        self._ids = [_matrix(chunk) for chunk in columns["input_ids"]]
        self._lengths = [chunk.to_numpy() for chunk in columns["length"]]
        self._first_lengths = [chunk.to_numpy() for chunk in columns["first_length"]]
        self._starts = np.cumsum([0, *map(len, self._ids)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: SupportsIndex) -> dict[str, np.ndarray | np.integer]:
        number = index.__index__()
        if not 0 <= number < len(self):
            raise IndexError(f"row {number} of {len(self)}")
        chunk = int(np.searchsorted(self._starts, number, side="right")) - 1
        offset = number - self._starts[chunk]
        return {
            "input_ids": self._ids[chunk][offset],
            "length": self._lengths[chunk][offset],
            "first_length": self._first_lengths[chunk][offset],
        }

    def column_chunks(self, name: str) -> list[np.ndarray]:
        """A column as views, in order: "input_ids" [n, L], "length" [n] or "first_length" [n] each."""
        return {"input_ids": self._ids, "length": self._lengths, "first_length": self._first_lengths}[name]


def open_rows(folder: Path, split: Literal["train", "eval"]) -> Rows:
    """The rows of one split of a folder that `prepare` wrote; raises UserError where it is none."""
    Manifest.read(folder)
    try:
        dataset = load_from_disk(str(folder / split))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(f"{folder / split}: the rows can't be read ({error}); prepare them again") from error
    return Rows(dataset)


def _matrix(chunk: pa.FixedSizeListArray) -> np.ndarray:
    return chunk.flatten().to_numpy().reshape(len(chunk), chunk.type.list_size)
