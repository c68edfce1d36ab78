"""Masked language modelling with a generator's samples in place of [MASK] ([P] section 3.5, "Replace MLM")."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from electra_jax.config import ObjectiveConfig
from electra_jax.model import Electra, Tokens
from electra_jax.objectives.corruption import corrupt, draw_keys, generator_counts
from electra_jax.objectives.losses import Totals, count, mean
from electra_jax.objectives.masking import SpecialTokens
from electra_jax.objectives.metrics import Counts
from electra_jax.objectives.prediction import predict, prediction_counts


def replace_mlm(
    model: Electra,
    tokens: Tokens,
    key: PRNGKeyArray,
    special: SpecialTokens,
    config: ObjectiveConfig,
    *,
    dropout: bool,
    totals: Totals | None = None,
) -> tuple[Float[Array, ""], Counts]:
    """The generator predicts the picks, and the encoder that is kept what stood where samples do.

    Arguments as `electra` has them.
    """
    totals = totals or count(tokens, special, config)
    keys = draw_keys(key, len(tokens.ids), dropout)
    corrupted = corrupt(model, tokens, keys, special, config)
    with jax.named_scope("discriminator"):
        hidden = model.hidden(corrupted.tokens, keys.discriminator, corrupted.picks.positions)
        predicted = predict(model, hidden, corrupted.targets, corrupted.picks.used, config)

    loss = config.generator_weight * mean(corrupted.predicted.nll_sum, totals.picks)
    loss += mean(predicted.nll_sum, totals.picks)
    counts = generator_counts(corrupted)
    counts |= prediction_counts(predicted.nll_sum, predicted.correct, counts["picks"])
    counts["tokens"] = jnp.sum(tokens.mask, dtype=jnp.float32)
    return loss, jax.tree.map(jax.lax.stop_gradient, counts)
