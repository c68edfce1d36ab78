"""Rows in which a generator has replaced some tokens: what all objectives with a generator begin with."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from electra_jax.config import ObjectiveConfig
from electra_jax.model import Electra, Tokens
from electra_jax.model.layers import row_keys, split_rows
from electra_jax.objectives.cloze import Cloze, Picked, cloze
from electra_jax.objectives.masking import Picks, SpecialTokens, gather, mask, pick, scatter
from electra_jax.objectives.metrics import Counts
from electra_jax.objectives.sampling import uniforms


class Keys(NamedTuple):
    """One for each thing that chance decides, a row: [B] each."""

    pick: PRNGKeyArray
    mask: PRNGKeyArray
    sample: PRNGKeyArray
    generator: PRNGKeyArray | None
    """Of its dropout, if there is any."""
    discriminator: PRNGKeyArray | None


def draw_keys(key: PRNGKeyArray, rows: int, dropout: bool) -> Keys:
    """Those of a batch, of one key or one a row."""
    picks, masks, samples, *towers = split_rows(row_keys(key, rows), 5)
    return Keys(picks, masks, samples, *(towers if dropout else (None, None)))


class Corrupted(NamedTuple):
    """A batch with the generator's samples in it, and how it came to be."""

    picks: Picks
    targets: Int[Array, "B K"]
    """The original tokens at the picks."""
    masked: Tokens
    """What a masked language model reads."""
    states: Float[Array, "B K E"]
    """Of the generator at the picks, see `Electra.states`."""
    predicted: Cloze
    sampled: Int[Array, "B K"]
    tokens: Tokens
    """The rows with the samples at the picks."""
    replaced: Bool[Array, "B L"]
    """Where they differ from the original: a sample that hits the original token counts as original."""


def corrupt(model: Electra, tokens: Tokens, keys: Keys, special: SpecialTokens, config: ObjectiveConfig) -> Corrupted:
    """Mask some tokens, predict them, and put samples of the predictions in their places ([P] section 2).

    No gradient goes through the samples.
    """
    with jax.named_scope("masking"):
        picks = pick(keys.pick, tokens, special, config)
        targets = gather(tokens.ids, picks)
        masked = mask(keys.mask, tokens, picks, special.mask, config.mask_token_prob)
    with jax.named_scope("generator"):
        states = model.states(masked if model.reads_masks else tokens, picks.positions, keys.generator)
        states, output = trained((states, model.output), config)
    with jax.named_scope("cloze"):
        picked = Picked(flat(states), flat(targets), flat(picks.used), uniforms(keys.sample, *targets.shape))
        predicted = cloze(config, picked, *output)
        sampled = predicted.sampled.reshape(targets.shape)
    corrupted = tokens._replace(ids=scatter(tokens.ids, picks, sampled))
    return Corrupted(
        picks, targets, masked, states, predicted, sampled, corrupted, replaced=corrupted.ids != tokens.ids
    )


def trained(of_generator: Any, config: ObjectiveConfig) -> Any:
    """Arrays of the generator: without a gradient where it has no loss, or all of it were computed, times 0."""
    return of_generator if config.trains_generator else jax.lax.stop_gradient(of_generator)


def generator_counts(corrupted: Corrupted) -> Counts:
    """What is counted of the generator."""
    used = corrupted.picks.used
    return {
        "mlm_sum": corrupted.predicted.nll_sum,
        "picks": jnp.sum(used, dtype=jnp.float32),
        "generator_correct": corrupted.predicted.correct,
        "samples_correct": jnp.sum(used & (corrupted.sampled == corrupted.targets), dtype=jnp.float32),
    }


def flat(x: Array) -> Array:
    """[B, K, ...] to [P, ...]: the picks of all rows, one after the other."""
    return x.reshape(-1, *x.shape[2:])
