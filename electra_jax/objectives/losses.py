"""Losses, each as a sum and what to divide it by, so that sums of parts of a batch stay exact."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from electra_jax.config import ObjectiveConfig
from electra_jax.model import Tokens
from electra_jax.objectives.masking import SpecialTokens, candidates, count_picks

EPSILON = 1e-6  # in each mean's divisor ([G] run_pretraining.py)

Scalar = Float[Array, ""]


class Totals(NamedTuple):
    """What losses are divided by: counts of the whole batch, as float32 scalars, known before anything is drawn."""

    picks: Scalar
    tokens: Scalar
    """Real ones, [CLS] and [SEP] included."""
    candidates: Scalar
    """Tokens that may be picked."""


def count(tokens: Tokens, special: SpecialTokens, config: ObjectiveConfig) -> Totals:
    """The totals of a batch."""
    sums = count_picks(tokens, special, config).sum(), tokens.mask.sum(), candidates(tokens, special).sum()
    return Totals(*(total.astype(jnp.float32) for total in sums))


def binary_nll(logits: Float[Array, "B L"], true: Bool[Array, "B L"]) -> Float[Array, "B L"]:
    """Sigmoid cross-entropy of each."""
    return jax.nn.softplus(jnp.where(true, -logits, logits))


def replaced_token_loss(
    logits: Float[Array, "B L"], replaced: Bool[Array, "B L"], judged: Bool[Array, "B L"]
) -> tuple[Scalar, Scalar]:
    """Sigmoid cross-entropy where `judged` is true: sum and count.

    ELECTRA judges every real position, [CLS] and [SEP] included ([P] section 2, L_Disc).
    """
    return jnp.sum(jnp.where(judged, binary_nll(logits, replaced), 0)), judged.sum().astype(jnp.float32)


def mean(total: Scalar, count: Scalar) -> Scalar:
    """total / count, and 0 where nothing was counted."""
    return total / (count + EPSILON)
