"""Log-probabilities over the vocabulary where each is wanted, and not only their sum (see cloze.py for that)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from electra_jax.objectives.cloze import in_chunks


def log_likelihood(
    states: Float[Array, "P E"], ids: Int[Array, " P"], table: Float[Array, "V E"], bias: Float[Array, " V"]
) -> tuple[Float[Array, " P"], Bool[Array, " P"]]:
    """log softmax(states @ table.T + bias) at `ids` (float32), and whether no entry is likelier.

    The logits of a few hundred positions exist at a time; the backward pass computes them again.
    """

    @jax.checkpoint
    def some(states_and_ids: tuple[Array, Array]) -> tuple[tuple, tuple[Array, Array]]:
        states, ids = states_and_ids
        matrix = table.astype(states.dtype)
        logits = jnp.einsum("PE,VE->PV", states, matrix, preferred_element_type=jnp.float32) + bias
        wanted = jnp.take_along_axis(logits, ids[:, None], axis=1)[:, 0]
        return (), (wanted - jax.nn.logsumexp(logits, axis=-1), wanted >= logits.max(-1))

    return in_chunks(some, (states, ids))[1]
