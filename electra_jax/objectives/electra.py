"""Replaced-token detection, as the paper's section 2 has it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from electra_jax.config import ObjectiveConfig
from electra_jax.model import Electra, Tokens
from electra_jax.model.layers import row_keys, split_rows
from electra_jax.objectives.losses import masked_lm_loss, mean, replaced_token_loss
from electra_jax.objectives.masking import SpecialTokens, count_picks, gather, mask, pick, scatter
from electra_jax.objectives.metrics import Counts, discriminator_counts, generator_counts
from electra_jax.objectives.sampling import sample


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

    picks = pick(pick_key, tokens, special, config)
    targets = gather(tokens.ids, picks)
    masked = mask(mask_key, tokens, picks, special.mask, config.mask_token_prob)
    logits = model.generate(masked, picks.positions, generator_key)

    sampled = sample(sample_key, logits, config.temperature, targets if config.disallow_correct else None)
    corrupted = tokens._replace(ids=scatter(tokens.ids, picks, sampled))
    replaced = corrupted.ids != tokens.ids  # a sample that hits the original token counts as original
    replaced_logits = model.discriminate(corrupted, discriminator_key)

    mlm_sum, picked = masked_lm_loss(logits, targets, picks.used)
    discriminator_sum, real = replaced_token_loss(replaced_logits, replaced, tokens.mask)
    loss = config.generator_weight * mean(mlm_sum, totals.picks)
    loss += config.discriminator_weight * mean(discriminator_sum, totals.tokens)
    counts = {
        "mlm_sum": mlm_sum,
        "picks": picked,
        "discriminator_sum": discriminator_sum,
        "tokens": real,
    }
    counts |= generator_counts(logits, sampled, targets, picks.used)
    counts |= discriminator_counts(replaced_logits, replaced, tokens.mask)
    return loss, jax.tree.map(jax.lax.stop_gradient, counts)
