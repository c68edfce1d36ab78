"""Texts to rows of token ids: what a worker of `prepare` does."""

import functools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from datasets import Features
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from electra_jax.config import PrepareConfig
from electra_jax.data.builder import Row, build_rows
from electra_jax.data.rows import COLUMNS, id_dtype, row_features

SENTENCES_AT_ONCE = 1024
"""Enough for the tokenizer's threads, and few, because an encoding takes some hundred bytes a token."""


@dataclass(frozen=True)
class Encoder:
    """All that a document's rows depend on but its text, its split and its number there."""

    backend: str
    """A tokenizers.Tokenizer as JSON."""
    special_ids: tuple[int, int, int]
    """Of [PAD], [CLS] and [SEP]."""
    dtype: str
    """Of the ids: "uint16" or "uint32"."""
    length: int
    seed: int
    single_segment_prob: float
    short_row_prob: float
    pack: bool
    """Whether what a call makes is packed before it is written."""

    @staticmethod
    def of(config: PrepareConfig, tokenizer: PreTrainedTokenizerFast) -> "Encoder":
        """The encoder of these settings."""
        return Encoder(
            backend=tokenizer.backend_tokenizer.to_str(),
            special_ids=(tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id),
            dtype=id_dtype(len(tokenizer)),
            length=config.length,
            seed=config.seed,
            single_segment_prob=config.single_segment_prob,
            short_row_prob=config.short_row_prob,
            pack=config.pack,
        )

    @property
    def features(self) -> Features:
        """The types of the columns that are written."""
        return row_features(self.length, self.dtype, self.pack)

    def tokenize(self, texts: Sequence[str]) -> "Tokens":
        """The tokens of some documents, whose sentences are separated by newlines."""
        documents = [text.split("\n") for text in texts]
        ids, counts = _encode(self.backend, [sentence for document in documents for sentence in document], self.dtype)
        sentences = iter(counts)
        return Tokens(ids, [list(islice(sentences, len(document))) for document in documents])

    def rows(self, tokens: "Tokens", split: str, first: int) -> pa.Table:
        """The rows of some documents as columns input_ids, length and first_length, see `Rows`.

        The documents are numbers `first`, `first + 1`, ... of their split. A document's random draws depend on seed,
        split and number alone.
        """
        ids, bounds = [], []
        start = 0
        for number, lengths in enumerate(tokens.lengths, start=first):
            rng = random.Random(f"{self.seed}/{split}/{number}")
            rows = list(build_rows(lengths, self.length, rng, self.single_segment_prob, self.short_row_prob))
            stop = start + sum(lengths)
            ids.append(_fill(tokens.ids[start:stop], rows, self.length, self.special_ids))
            start = stop
            bounds.extend(rows)
        return _table(np.concatenate(ids), bounds)


class Tokens(NamedTuple):
    """Some documents."""

    ids: np.ndarray
    """Of all sentences, one after the other."""
    lengths: list[list[int]]
    """Tokens of each sentence of each document."""


def _encode(backend: str, sentences: Sequence[str], dtype: str) -> tuple[np.ndarray, list[int]]:
    """The ids of all sentences, one after the other, and how many each has."""
    tokenizer, ids = _backend(backend), []
    counts: list[int] = []
    for start in range(0, len(sentences), SENTENCES_AT_ONCE):
        some = list(sentences[start : start + SENTENCES_AT_ONCE])
        lists = [encoding.ids for encoding in tokenizer.encode_batch_fast(some, add_special_tokens=False)]
        lengths = [len(one) for one in lists]
        counts += lengths
        ids.append(np.fromiter(chain.from_iterable(lists), dtype, sum(lengths)))  # one array, not one a sentence
    return np.concatenate(ids), counts


@functools.cache
def _backend(state: str) -> Tokenizer:
    """One a process: a worker gets the tokenizer as text with each shard."""
    tokenizer = Tokenizer.from_str(state)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = True  # "[MASK]" in a text is text
    return tokenizer


def _fill(tokens: np.ndarray, rows: Sequence[Row], length: int, special_ids: tuple[int, int, int]) -> np.ndarray:
    """One document's rows, [rows, L]: `[CLS] A [SEP]`, then `B [SEP]` where there is a B, then padding."""
    pad, cls, sep = special_ids
    filled = np.full((len(rows), length), pad, tokens.dtype)
    for row, (start, middle, stop) in zip(filled, rows, strict=True):
        row[0] = cls
        first = middle - start + 2
        row[1 : first - 1] = tokens[start:middle]
        row[first - 1] = sep
        if stop > middle:
            row[first : first + stop - middle] = tokens[middle:stop]
            row[first + stop - middle] = sep
    return filled


def _table(ids: np.ndarray, rows: Sequence[Row]) -> pa.Table:
    first = [row.middle - row.start + 2 for row in rows]
    second = [row.stop - row.middle + 1 if row.stop > row.middle else 0 for row in rows]
    columns = [
        pa.FixedSizeListArray.from_arrays(pa.array(ids.reshape(-1)), ids.shape[1]),
        pa.array(np.add(first, second), pa.int32()),
        pa.array(first, pa.int32()),
    ]
    return pa.table(dict(zip(COLUMNS, columns, strict=True)))
