"""The encoder that is kept as a masked language model: what predicts where there is nothing to detect."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from electra_jax.config import ObjectiveConfig
from electra_jax.model import Electra
from electra_jax.objectives.cloze import Cloze, Picked, cloze
from electra_jax.objectives.corruption import flat
from electra_jax.objectives.metrics import Counts


def predict(
    model: Electra,
    hidden: Float[Array, "B K H"],
    targets: Int[Array, "B K"],
    used: Bool[Array, "B K"],
    config: ObjectiveConfig,
) -> Cloze:
    """What the discriminator's masked-language-model head says of hidden states; its samples mean nothing."""
    states = flat(model.discriminator.lm_states(hidden))
    picked = Picked(states, flat(targets), flat(used), jnp.zeros((len(states), 2)))
    return cloze(config, picked, *model.prediction)


def prediction_counts(nll_sum: Float[Array, ""], correct: Float[Array, ""], predicted: Float[Array, ""]) -> Counts:
    """What is counted of the encoder's predictions: of how many, their loss, and those that were right."""
    return {"encoder_sum": nll_sum, "encoder_correct": correct, "predicted_tokens": predicted}
