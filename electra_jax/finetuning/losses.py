"""The losses of fine-tuning, each as a sum over the examples and the count to divide it by."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from electra_jax.finetuning.examples import IGNORED

Scalar = Float[Array, ""]
Weight = Float[Array, "B"]


def cross_entropy(logits: Float[Array, "B C"], target: Int[Array, "B"], weight: Weight) -> tuple[Scalar, Scalar]:
    """-log softmax(logits)[target] of each example: one label of C, or one choice of C."""
    return jnp.sum(weight * _nll(logits, target)), weight.sum()


def sigmoid_cross_entropy(
    logits: Float[Array, "B C"], target: Float[Array, "B C"], weight: Weight
) -> tuple[Scalar, Scalar]:
    """The mean over C labels, each of which an example has (1) or not (0)."""
    nll = optax.sigmoid_binary_cross_entropy(logits, target)
    return jnp.sum(weight[:, None] * nll) / logits.shape[1], weight.sum()


def squared_error(logits: Float[Array, "B 1"], target: Float[Array, "B"], weight: Weight) -> tuple[Scalar, Scalar]:
    """(logit - target)^2."""
    return jnp.sum(weight * (logits[:, 0] - target) ** 2), weight.sum()


def token_cross_entropy(
    logits: Float[Array, "B L C"], target: Int[Array, "B L"], weight: Weight
) -> tuple[Scalar, Scalar]:
    """Over the tokens that have a target; the count is theirs."""
    counted = weight[:, None] * (target != IGNORED)
    return jnp.sum(counted * _nll(logits, target)), counted.sum()


def span_cross_entropy(
    logits: Float[Array, "B L 2"], target: Int[Array, "B 2"], length: Int[Array, "B"], weight: Weight
) -> tuple[Scalar, Scalar]:
    """The mean of the cross-entropies of an answer's first and last token, over the real positions."""
    real = jnp.arange(logits.shape[1]) < length[:, None]
    by_end = jnp.moveaxis(jnp.where(real[..., None], logits, jnp.finfo(logits.dtype).min), 2, 1)
    return jnp.sum(weight[:, None] * _nll(by_end, target)) / 2, weight.sum()


def _nll(logits: Float[Array, "... C"], target: Int[Array, "..."]) -> Float[Array, "..."]:
    """-log softmax(logits)[target], and that of the first where there is no target."""
    at_target = jnp.take_along_axis(logits, jnp.maximum(target, 0)[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - at_target
