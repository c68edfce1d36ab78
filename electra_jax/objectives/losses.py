"""The two losses, each as a sum and the count to divide it by, so that sums of parts stay exact."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

EPSILON = 1e-6  # in each mean's divisor ([G] run_pretraining.py)

Scalar = Float[Array, ""]


def masked_lm_loss(
    logits: Float[Array, "B K V"], targets: Int[Array, "B K"], used: Bool[Array, "B K"]
) -> tuple[Scalar, Scalar]:
    """Cross-entropy of the original tokens at the used picks ([P] section 2, L_MLM): sum over them, and their count."""
    target_logits = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    nll = jax.nn.logsumexp(logits, axis=-1) - target_logits
    return jnp.sum(jnp.where(used, nll, 0)), used.sum().astype(jnp.float32)


def replaced_token_loss(
    logits: Float[Array, "B L"], replaced: Bool[Array, "B L"], mask: Bool[Array, "B L"]
) -> tuple[Scalar, Scalar]:
    """Sigmoid cross-entropy at every real position, [CLS] and [SEP] included ([P] section 2, L_Disc): sum and count."""
    nll = jax.nn.softplus(jnp.where(replaced, -logits, logits))
    return jnp.sum(jnp.where(mask, nll, 0)), mask.sum().astype(jnp.float32)


def mean(total: Scalar, count: Scalar) -> Scalar:
    """total / count, and 0 where nothing was counted."""
    return total / (count + EPSILON)
