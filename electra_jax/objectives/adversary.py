"""A generator that is trained to fool the discriminator ([P] appendix F)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from electra_jax.config import ObjectiveConfig
from electra_jax.model import Electra
from electra_jax.objectives.corruption import Corrupted, flat
from electra_jax.objectives.likelihood import log_likelihood
from electra_jax.objectives.losses import binary_nll
from electra_jax.objectives.masking import gather


def adversarial_sum(
    model: Electra, corrupted: Corrupted, logits: Float[Array, "B L"], config: ObjectiveConfig
) -> Float[Array, ""]:
    """What REINFORCE (Williams, 1992) minimises, summed over the picks: its gradient reaches the generator, and what
    that shares, alone.

    A sample's reward is the discriminator's loss at its position. Its baseline is the mean reward of the row's other
    picks, where [P] learns one: it takes no parameters, and the expected gradient is the same.
    """
    used = corrupted.picks.used
    rewards = gather(jax.lax.stop_gradient(binary_nll(logits, corrupted.replaced)), corrupted.picks)
    others = jnp.maximum(used.sum(1, keepdims=True) - 1, 1)
    baselines = (jnp.sum(jnp.where(used, rewards, 0), axis=1, keepdims=True) - rewards) / others
    advantages = jnp.where(used & (used.sum(1, keepdims=True) > 1), rewards - baselines, 0)
    table, bias = model.output
    states = flat(corrupted.states) / config.temperature
    log_p, _ = log_likelihood(states, flat(corrupted.sampled), table, bias / config.temperature)
    return -jnp.sum(flat(advantages) * log_p)
