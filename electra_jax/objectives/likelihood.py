"""Log-probabilities over the vocabulary where each is wanted, and not only their sum (see cloze.py for that)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from electra_jax.model.heads import word_logits
from electra_jax.objectives.cloze import in_chunks


def log_likelihood(
    states: Float[Array, "P E"], ids: Int[Array, "P *K"], table: Float[Array, "V E"], bias: Float[Array, " V"]
) -> tuple[Float[Array, "P *K"], Float[Array, " P"]]:
    """log softmax(states @ table.T + bias) (float32) at `ids`, one or several of each, and that of the likeliest entry.

    The logits of a few hundred positions exist at a time; the backward pass computes them again.
    """

    @jax.checkpoint
    def some(states_and_ids: tuple[Array, Array]) -> tuple[tuple, tuple[Array, Array]]:
        states, ids = states_and_ids
        logits = word_logits(states, table, bias)
        wanted = jnp.take_along_axis(logits, ids.reshape(len(ids), -1), axis=1)
        total = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
        return (), ((wanted - total).reshape(ids.shape), logits.max(-1) - total[:, 0])

    return in_chunks(some, (states, ids))[1]
