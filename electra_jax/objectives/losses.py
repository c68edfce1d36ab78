"""The two losses, each as a sum and the count to divide it by, so that sums of parts stay exact."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

EPSILON = 1e-6  # in each mean's divisor ([G] run_pretraining.py)

Scalar = Float[Array, ""]


def replaced_token_loss(
    logits: Float[Array, "B L"], replaced: Bool[Array, "B L"], mask: Bool[Array, "B L"]
) -> tuple[Scalar, Scalar]:
    """Sigmoid cross-entropy at every real position, [CLS] and [SEP] included ([P] section 2, L_Disc): sum and count."""
    nll = jax.nn.softplus(jnp.where(replaced, -logits, logits))
    return jnp.sum(jnp.where(mask, nll, 0)), mask.sum().astype(jnp.float32)


def mean(total: Scalar, count: Scalar) -> Scalar:
    """total / count, and 0 where nothing was counted."""
    return total / (count + EPSILON)
