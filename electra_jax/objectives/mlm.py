"""Masked language modelling: BERT's objective (Devlin et al., 2019), with ELECTRA's masks ([P] section 3.5)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from electra_jax.config import ObjectiveConfig
from electra_jax.model import Electra, Tokens
from electra_jax.objectives.corruption import draw_keys
from electra_jax.objectives.losses import Totals, count, mean
from electra_jax.objectives.masking import SpecialTokens, gather, mask, pick
from electra_jax.objectives.metrics import Counts
from electra_jax.objectives.prediction import predict, prediction_counts


def mlm(
    model: Electra,
    tokens: Tokens,
    key: PRNGKeyArray,
    special: SpecialTokens,
    config: ObjectiveConfig,
    *,
    dropout: bool,
    totals: Totals | None = None,
) -> tuple[Float[Array, ""], Counts]:
    """The encoder that is kept predicts the picks; there is no generator. Arguments as `electra` has them."""
    totals = totals or count(tokens, special, config)
    keys = draw_keys(key, len(tokens.ids), dropout)
    picks = pick(keys.pick, tokens, special, config)
    masked = mask(keys.mask, tokens, picks, special.mask, config.mask_token_prob)
    with jax.named_scope("discriminator"):
        hidden = model.hidden(masked, keys.discriminator, picks.positions)
        predicted = predict(model, hidden, gather(tokens.ids, picks), picks.used, config)

    used = jnp.sum(picks.used, dtype=jnp.float32)
    counts = prediction_counts(predicted.nll_sum, predicted.correct, used)
    counts["tokens"] = jnp.sum(tokens.mask, dtype=jnp.float32)
    return mean(predicted.nll_sum, totals.picks), jax.tree.map(jax.lax.stop_gradient, counts)
