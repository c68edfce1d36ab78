"""Replaced-token detection, as the paper's section 2 has it, and ELECTRA 15% (section 3.5)."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from electra_jax.config import ObjectiveConfig
from electra_jax.model import Electra, Tokens
from electra_jax.objectives.adversary import adversarial_sum
from electra_jax.objectives.corruption import corrupt, draw_keys, generator_counts
from electra_jax.objectives.losses import Totals, count, mean, replaced_token_loss
from electra_jax.objectives.masking import SpecialTokens, at
from electra_jax.objectives.metrics import Counts, discriminator_counts


def electra(
    model: Electra,
    tokens: Tokens,
    key: PRNGKeyArray,
    special: SpecialTokens,
    config: ObjectiveConfig,
    *,
    dropout: bool,
    totals: Totals | None = None,
    picks_only: bool = False,
) -> tuple[Float[Array, ""], Counts]:
    """The joint loss of a batch ([P] equation 3), and its counts.

    Not adversarial, unless `config` says so: no gradient of the discriminator's loss reaches the generator but through
    what the towers share. `key` is one, or one a row. Of a part of a batch, with the whole batch's `totals`, it is that
    part's share of the loss. With `picks_only`, the discriminator judges the picks and no other token.
    """
    totals = totals or count(tokens, special, config)
    keys = draw_keys(key, len(tokens.ids), dropout)
    corrupted = corrupt(model, tokens, keys, special, config)

    judged = at(corrupted.picks, tokens) if picks_only else tokens.mask
    with jax.named_scope("discriminator"):
        logits = model.discriminate(corrupted.tokens, keys.discriminator)
        discriminator_sum, real = replaced_token_loss(logits, corrupted.replaced, judged)

    loss = config.generator_weight * mean(corrupted.predicted.nll_sum, totals.picks)
    loss += config.discriminator_weight * mean(discriminator_sum, totals.picks if picks_only else totals.tokens)
    adversary = {}
    if config.adversarial_weight:
        adversary["adversarial_sum"] = adversarial_sum(model, corrupted, logits, config)
        loss += config.adversarial_weight * mean(adversary["adversarial_sum"], totals.picks)
    counts = generator_counts(corrupted) | adversary
    counts |= {
        "discriminator_sum": discriminator_sum,
        "judged": real,
        "tokens": jnp.sum(tokens.mask, dtype=jnp.float32),
    }
    with jax.named_scope("counts"):
        counts |= discriminator_counts(logits, corrupted.replaced, judged)
    return loss, jax.tree.map(jax.lax.stop_gradient, counts)


electra_15 = partial(electra, picks_only=True)
"""`electra`, whose discriminator is judged by the picks alone."""
