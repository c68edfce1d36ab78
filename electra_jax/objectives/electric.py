"""An energy for every token, by noise-contrastive estimation (Clark et al., 2020, "Pre-Training Transformers as
Energy-Based Cloze Models", section 2 and algorithm 2; [G] electric_objective)."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from electra_jax.config import ObjectiveConfig
from electra_jax.model import Electra, Tokens
from electra_jax.objectives.cloze import Picked, cloze
from electra_jax.objectives.corruption import draw_keys, flat, trained
from electra_jax.objectives.likelihood import log_likelihood
from electra_jax.objectives.losses import Totals, count, mean, replaced_token_loss
from electra_jax.objectives.masking import SpecialTokens, at, candidates, gather, pick, scatter
from electra_jax.objectives.metrics import Counts, discriminator_counts
from electra_jax.objectives.sampling import uniforms


def electric(
    model: Electra,
    tokens: Tokens,
    key: PRNGKeyArray,
    special: SpecialTokens,
    config: ObjectiveConfig,
    *,
    dropout: bool,
    totals: Totals | None = None,
) -> tuple[Float[Array, ""], Counts]:
    """The generator predicts every token, and the discriminator tells its samples, at the picks, from data.

    Its logit is the energy E(x)_t = -log p(x_t | the others), up to a constant that training brings near 0. A sample is
    noise even where it hits the original. Arguments as `electra` has them.
    """
    totals = totals or count(tokens, special, config)
    keys = draw_keys(key, len(tokens.ids), dropout)
    picks = pick(keys.pick, tokens, special, config)
    with jax.named_scope("generator"):
        states = model.states(tokens, None, keys.generator)
        states, output = trained((states, model.output), config)
    with jax.named_scope("cloze"):
        may = candidates(tokens, special)
        every = Picked(flat(states), flat(tokens.ids), flat(may), uniforms(keys.sample, *tokens.ids.shape))
        predicted = cloze(config, every, *output)
        sampled, targets = gather(predicted.sampled.reshape(may.shape), picks), gather(tokens.ids, picks)
        noised = tokens._replace(ids=scatter(tokens.ids, picks, sampled))
        noise = jax.lax.stop_gradient((flat(states), flat(noised.ids), *output))
        log_q = log_likelihood(*noise)[0].reshape(may.shape)

    with jax.named_scope("discriminator"):
        energies = model.discriminate(noised, keys.discriminator)
        logits = energies + log_q + np.log(config.mask_prob / (1 - config.mask_prob))
        discriminator_sum, real = replaced_token_loss(logits, at(picks, tokens), tokens.mask)

    loss = config.generator_weight * mean(predicted.nll_sum, totals.candidates)
    loss += config.discriminator_weight * mean(discriminator_sum, totals.tokens)
    counts = {
        "mlm_sum": predicted.nll_sum,
        "picks": jnp.sum(may, dtype=jnp.float32),
        "generator_correct": predicted.correct,
        "sampled": jnp.sum(picks.used, dtype=jnp.float32),
        "samples_correct": jnp.sum(picks.used & (sampled == targets), dtype=jnp.float32),
        "discriminator_sum": discriminator_sum,
        "judged": real,
        "tokens": real,
    } | discriminator_counts(logits, at(picks, tokens), tokens.mask)
    return loss, jax.tree.map(jax.lax.stop_gradient, counts)
