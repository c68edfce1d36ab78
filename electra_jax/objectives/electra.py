"""Replaced-token detection, as the paper's section 2 has it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from electra_jax.config import ObjectiveConfig
from electra_jax.model import Electra, Tokens
from electra_jax.model.layers import row_keys, split_rows
from electra_jax.objectives.cloze import Picked, cloze
from electra_jax.objectives.losses import mean, replaced_token_loss
from electra_jax.objectives.masking import SpecialTokens, count_picks, gather, mask, pick, scatter
from electra_jax.objectives.metrics import Counts, discriminator_counts
from electra_jax.objectives.sampling import uniforms


class Totals(NamedTuple):
    """What the two losses are divided by: the picks and the real tokens of the whole batch, as float32 scalars."""

    picks: Float[Array, ""]
    tokens: Float[Array, ""]


def count(tokens: Tokens, special: SpecialTokens, config: ObjectiveConfig) -> Totals:
    """The totals of a batch, known before anything is drawn."""
    picks = count_picks(tokens, special, config).sum()
    return Totals(picks.astype(jnp.float32), tokens.mask.sum().astype(jnp.float32))


def electra(
    model: Electra,
    tokens: Tokens,
    key: PRNGKeyArray,
    special: SpecialTokens,
    config: ObjectiveConfig,
    *,
    dropout: bool,
    totals: Totals | None = None,
) -> tuple[Float[Array, ""], Counts]:
    """The joint loss of a batch ([P] equation 3), and its counts.

    Not adversarial: no gradient of the discriminator's loss reaches the generator but through the embeddings. `key` is
    one, or one a row. Of a part of a batch, with the whole batch's `totals`, it is that part's share of the loss.
    """
    totals = totals or count(tokens, special, config)
    pick_key, mask_key, sample_key, *keys = split_rows(row_keys(key, len(tokens.ids)), 5)
    generator_key, discriminator_key = keys if dropout else (None, None)

    with jax.named_scope("masking"):
        picks = pick(pick_key, tokens, special, config)
        targets = gather(tokens.ids, picks)
        masked = mask(mask_key, tokens, picks, special.mask, config.mask_token_prob)
    with jax.named_scope("generator"):
        states = model.states(masked, picks.positions, generator_key)
    with jax.named_scope("cloze"):
        table, bias = model.embeddings.word[...], model.generator.head.bias[...]
        picked = Picked(flat(states), flat(targets), flat(picks.used), uniforms(sample_key, *targets.shape))
        predicted = cloze(config, picked, table, bias)
        sampled = predicted.sampled.reshape(targets.shape)

    corrupted = tokens._replace(ids=scatter(tokens.ids, picks, sampled))
    replaced = corrupted.ids != tokens.ids  # a sample that hits the original token counts as original
    with jax.named_scope("discriminator"):
        replaced_logits = model.discriminate(corrupted, discriminator_key)
        discriminator_sum, real = replaced_token_loss(replaced_logits, replaced, tokens.mask)

    loss = config.generator_weight * mean(predicted.nll_sum, totals.picks)
    loss += config.discriminator_weight * mean(discriminator_sum, totals.tokens)
    counts = {
        "mlm_sum": predicted.nll_sum,
        "picks": jnp.sum(picks.used, dtype=jnp.float32),
        "generator_correct": predicted.correct,
        "samples_correct": jnp.sum(picks.used & (sampled == targets), dtype=jnp.float32),
        "discriminator_sum": discriminator_sum,
        "tokens": real,
    }
    with jax.named_scope("counts"):
        counts |= discriminator_counts(replaced_logits, replaced, tokens.mask)
    return loss, jax.tree.map(jax.lax.stop_gradient, counts)


def flat(x: Array) -> Array:
    """[B, K, ...] to [P, ...]: the picks of all rows, one after the other."""
    return x.reshape(-1, *x.shape[2:])
