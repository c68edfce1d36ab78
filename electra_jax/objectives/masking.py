"""Which tokens the generator predicts, drawn afresh every step ([G] pretrain/pretrain_helpers.py, `mask`)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PRNGKeyArray, Shaped

from electra_jax.config import ObjectiveConfig
from electra_jax.model import Tokens
from electra_jax.model.layers import row_keys


class SpecialTokens(NamedTuple):
    """Ids of the tokens that mean something to the objective."""

    cls: int
    sep: int
    mask: int


class Picks(NamedTuple):
    """The positions that the generator predicts: K slots a row, of which the first few are used."""

    positions: Int[Array, "B K"]
    """0 in an unused slot."""
    used: Bool[Array, "B K"]


def candidates(tokens: Tokens, special: SpecialTokens) -> Bool[Array, "B L"]:
    """Positions that may be picked: every real token but [CLS], [SEP] and [MASK]. [UNK] is one."""
    return tokens.mask & ~jnp.isin(tokens.ids, jnp.asarray(special))


def pick(key: PRNGKeyArray, tokens: Tokens, special: SpecialTokens, config: ObjectiveConfig) -> Picks:
    """Draw max(1, min(K, round(real tokens * mask_prob))) candidates of each row, without replacement.

    [G] draws with replacement and, where two slots hit one position, writes the average of the two ids.
    """
    rows, length = tokens.ids.shape
    slots = config.slots(length)
    drawn = jax.vmap(lambda key: jax.random.uniform(key, (length,)))(row_keys(key, rows))
    _, positions = jax.lax.top_k(jnp.where(candidates(tokens, special), drawn, -1.0), slots)
    used = jnp.arange(slots) < count_picks(tokens, special, config)[:, None]
    return Picks(jnp.where(used, positions, 0), used)


def count_picks(tokens: Tokens, special: SpecialTokens, config: ObjectiveConfig) -> Int[Array, " B"]:
    """How many tokens of each row are picked; chance has no part in it."""
    wanted = jnp.round(tokens.mask.sum(1) * config.mask_prob).astype(jnp.int32)
    wanted = jnp.clip(wanted, 1, config.slots(tokens.ids.shape[1]))
    return jnp.minimum(wanted, candidates(tokens, special).sum(1))


def gather(values: Shaped[Array, "B L"], picks: Picks) -> Shaped[Array, "B K"]:
    """The values at the picks (and whatever stands at position 0 in unused slots)."""
    return jnp.take_along_axis(values, picks.positions, axis=1)


def scatter(ids: Int[Array, "B L"], picks: Picks, new: Int[Array, "B K"] | int) -> Int[Array, "B L"]:
    """Write `new` at the picks; unused slots write nothing."""
    rows, length = ids.shape
    positions = jnp.where(picks.used, picks.positions, length)  # beyond the row: dropped
    return ids.at[jnp.arange(rows)[:, None], positions].set(new, mode="drop")


def at(picks: Picks, tokens: Tokens) -> Bool[Array, "B L"]:
    """True at the picks."""
    return scatter(jnp.zeros_like(tokens.ids), picks, 1) == 1


def mask(key: PRNGKeyArray, tokens: Tokens, picks: Picks, mask_id: int, mask_token_prob: float) -> Tokens:
    """Replace each pick by [MASK] with probability `mask_token_prob`; the others keep their token."""
    rows, slots = picks.used.shape
    chosen = jax.vmap(lambda key: jax.random.bernoulli(key, mask_token_prob, (slots,)))(row_keys(key, rows))
    masked = picks._replace(used=picks.used & chosen)
    return tokens._replace(ids=scatter(tokens.ids, masked, mask_id))
