"""Rows as the data pipeline makes them, of a vocabulary that begins with the five special tokens."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from electra_jax.model import Tokens
from electra_jax.objectives.masking import SpecialTokens

PAD, UNK, CLS, SEP, MASK, FIRST_WORD = range(6)
SPECIAL = SpecialTokens(CLS, SEP, MASK)


def rows(lengths: Int[np.ndarray, "B"], width: int, vocabulary: int = 100) -> Tokens:
    """[CLS] words [SEP] padding, with as many real tokens as `lengths` says."""
    lengths = np.asarray(lengths)[:, None]
    position = np.arange(width)
    ids = np.random.default_rng(0).integers(FIRST_WORD, vocabulary, (len(lengths), width))
    ids = np.where(position < lengths, ids, PAD)
    ids = np.where((position == 0) & (lengths > 0), CLS, ids)
    ids = np.where((position == lengths - 1) & (position > 0), SEP, ids)
    return as_tokens(ids, position < lengths)


def as_tokens(ids: Int[np.ndarray, "B L"], mask: Int[np.ndarray, "B L"]) -> Tokens:
    return Tokens(jnp.asarray(ids, jnp.int32), jnp.asarray(mask, bool), jnp.zeros(ids.shape, jnp.int32))
