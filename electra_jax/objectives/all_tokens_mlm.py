"""Prediction of every token of rows with a generator's samples, by copy or softmax ([P] section 3.5, "All-Tokens")."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from electra_jax.config import ObjectiveConfig
from electra_jax.model import Electra, Tokens
from electra_jax.objectives.corruption import corrupt, draw_keys, flat, generator_counts
from electra_jax.objectives.likelihood import log_likelihood
from electra_jax.objectives.losses import Totals, count, mean
from electra_jax.objectives.masking import SpecialTokens
from electra_jax.objectives.metrics import Counts, discriminator_counts
from electra_jax.objectives.prediction import prediction_counts


def all_tokens_mlm(
    model: Electra,
    tokens: Tokens,
    key: PRNGKeyArray,
    special: SpecialTokens,
    config: ObjectiveConfig,
    *,
    dropout: bool,
    totals: Totals | None = None,
) -> tuple[Float[Array, ""], Counts]:
    """The generator predicts the picks, and the encoder that is kept the original at every real position.

    What the replaced-token head says is whether to copy: p(x_t) = c_t [x_t = input_t] + (1 - c_t) softmax_t(x_t), with
    c_t = sigmoid(-logit_t), so the head detects replacements here too. Arguments as `electra` has them.
    """
    totals = totals or count(tokens, special, config)
    keys = draw_keys(key, len(tokens.ids), dropout)
    corrupted = corrupt(model, tokens, keys, special, config)
    with jax.named_scope("discriminator"):
        hidden = model.hidden(corrupted.tokens, keys.discriminator)
        logits, states = model.discriminator.detect(hidden), model.discriminator.lm_states(hidden)
        ids = jnp.stack([flat(tokens.ids), flat(corrupted.tokens.ids)], axis=-1)
        log_softmax, log_largest = log_likelihood(flat(states), ids, *model.prediction)
        of_original, of_input = jnp.moveaxis(log_softmax.reshape(*logits.shape, 2), -1, 0)
        log_p = with_copies(of_original, logits, ~corrupted.replaced)
        copied = with_copies(of_input, logits, jnp.ones_like(corrupted.replaced))
        nll_sum = -jnp.sum(jnp.where(tokens.mask, log_p, 0))

    loss = config.generator_weight * mean(corrupted.predicted.nll_sum, totals.picks)
    loss += mean(nll_sum, totals.tokens)
    right = log_p >= jnp.maximum(copied, jax.nn.log_sigmoid(logits) + log_largest.reshape(logits.shape))
    real, correct = (jnp.sum(some, dtype=jnp.float32) for some in (tokens.mask, tokens.mask & right))
    counts = generator_counts(corrupted) | prediction_counts(nll_sum, correct, real)
    counts |= {"tokens": real, "judged": real}
    counts |= discriminator_counts(logits, corrupted.replaced, tokens.mask)
    return loss, jax.tree.map(jax.lax.stop_gradient, counts)


def with_copies(
    log_softmax: Float[Array, "B L"], logits: Float[Array, "B L"], copied: Bool[Array, "B L"]
) -> Float[Array, "B L"]:
    """log p of the originals, from the softmax's and from the gate's logits; a copy is right where `copied` is true."""
    predicted = jax.nn.log_sigmoid(logits) + log_softmax
    return jnp.where(copied, jnp.logaddexp(jax.nn.log_sigmoid(-logits), predicted), predicted)
