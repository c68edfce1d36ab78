"""Replacements drawn from the generator's softmax ([P] equation 1; [G] run_pretraining.py, `_get_fake_data`)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from electra_jax.model.layers import row_keys

BLOCK = 128  # entries of the vocabulary in a block; near sqrt(V), where both levels cost about the same


def sample(
    key: PRNGKeyArray,
    logits: Float[Array, "B K V"],
    temperature: float = 1.0,
    exclude: Int[Array, "B K"] | None = None,
) -> Int[Array, "B K"]:
    """Draw one id from softmax(logits / temperature) for each pick, never `exclude`; no gradient flows through.

    By the inverse of the cumulative distribution, first over blocks of the vocabulary, then inside the block drawn:
    two uniforms a pick, where Gumbel noise takes V. Two, because one of 23 bits would be coarse for 30,000 entries.
    """
    logits = jax.lax.stop_gradient(logits) / temperature
    if exclude is not None:
        logits = jnp.where(jnp.arange(logits.shape[-1]) == exclude[..., None], -jnp.inf, logits)
    weights = _blocks(jnp.exp(logits - logits.max(-1, keepdims=True)))
    rows, slots, _ = logits.shape
    uniforms = jax.vmap(lambda key: jax.random.uniform(key, (2, slots)), out_axes=1)(row_keys(key, rows))
    block = _inverse_cdf(weights.sum(-1), uniforms[0])
    inside = jnp.take_along_axis(weights, block[..., None, None], axis=-2)[..., 0, :]
    return block * BLOCK + _inverse_cdf(inside, uniforms[1])


def _blocks(weights: Float[Array, "B K V"]) -> Float[Array, "B K blocks entries"]:
    missing = -weights.shape[-1] % BLOCK
    padded = jnp.pad(weights, [(0, 0)] * (weights.ndim - 1) + [(0, missing)])
    return padded.reshape(*weights.shape[:-1], -1, BLOCK)


def _inverse_cdf(weights: Float[Array, "B K n"], uniform: Float[Array, "B K"]) -> Int[Array, "B K"]:
    """The first entry whose cumulative weight exceeds uniform * total; never one of weight 0."""
    cumulative = jnp.cumsum(weights, axis=-1)
    total = cumulative[..., -1]
    target = jnp.minimum(uniform * total, jnp.nextafter(total, jnp.zeros_like(total)))  # the product may round up
    # A parallel sum is not monotonic to the last bit, so the support is asked for by itself.
    reached: Bool[Array, "B K n"] = (cumulative > target[..., None]) & (weights > 0)
    return jnp.argmax(reached, axis=-1)
