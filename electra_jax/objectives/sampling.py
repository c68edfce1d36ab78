"""Replacements drawn from the generator's softmax ([P] equation 1; [G] run_pretraining.py, `_get_fake_data`)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from electra_jax.config import ObjectiveConfig
from electra_jax.model.layers import row_keys

LEAST = 1e-37  # of a weight; a CPU takes what is below 1.2e-38 for 0
BLOCK = 128  # entries of the vocabulary in a block; near sqrt(V), where both levels cost about the same


def sample(
    key: PRNGKeyArray,
    logits: Float[Array, "B K V"],
    temperature: float = 1.0,
    exclude: Int[Array, "B K"] | None = None,
) -> Int[Array, "B K"]:
    """Draw one id from softmax(logits / temperature) for each pick, never `exclude`; no gradient flows through."""
    rows, slots, vocabulary = logits.shape
    logits = jax.lax.stop_gradient(logits).reshape(-1, vocabulary)
    config = ObjectiveConfig(temperature=temperature, disallow_correct=exclude is not None)
    excluded = jnp.zeros(rows * slots, jnp.int32) if exclude is None else exclude.reshape(-1)
    weights = weigh(jnp.exp(logits - logits.max(-1, keepdims=True)), excluded, config)
    return draw(weights, uniforms(key, rows, slots)).reshape(rows, slots)


def uniforms(key: PRNGKeyArray, rows: int, slots: int) -> Float[Array, "P 2"]:
    """What `draw` takes for each of rows * slots picks. `key` is one, or one a row."""
    drawn = jax.vmap(lambda key: jax.random.uniform(key, (2, slots)))(row_keys(key, rows))
    return drawn.transpose(0, 2, 1).reshape(-1, 2)


def weigh(exps: Float[Array, "P V"], targets: Int[Array, " P"], config: ObjectiveConfig) -> Float[Array, "P V"]:
    """exp(logits / temperature), to any factor, of exp(logits); 0 at `targets` with `disallow_correct`."""
    weights = exps if config.temperature == 1 else exps ** (1 / config.temperature)
    if config.disallow_correct:
        # Where the target is all but certain, the others' weights may all have become 0.
        weights = jnp.where(jnp.arange(weights.shape[1]) == targets[:, None], 0, jnp.maximum(weights, LEAST))
    return weights


def draw(weights: Float[Array, "P V"], uniforms: Float[Array, "P 2"]) -> Int[Array, " P"]:
    """An entry of each row, with probability in proportion to its weight.

    By the inverse of the cumulative distribution, first over blocks of the vocabulary, then inside the block drawn:
    two uniforms a pick, where Gumbel noise takes V. Two, because one of 23 bits would be coarse for 30,000 entries.
    """
    vocabulary = weights.shape[1]
    size, whole = min(BLOCK, vocabulary), vocabulary // BLOCK * BLOCK
    sums = weights[:, :whole].reshape(len(weights), -1, BLOCK).sum(-1)
    if whole < vocabulary:
        sums = jnp.concatenate([sums, weights[:, whole:].sum(-1, keepdims=True)], axis=1)
    first = _inverse_cdf(sums, uniforms[:, 0]) * BLOCK
    start = jnp.minimum(first, vocabulary - size)  # the last block begins inside the one before
    inside = jax.vmap(lambda row, start: jax.lax.dynamic_slice(row, (start,), (size,)))(weights, start)
    inside = jnp.where(start[:, None] + jnp.arange(size) >= first[:, None], inside, 0)
    return start + _inverse_cdf(inside, uniforms[:, 1])


def _inverse_cdf(weights: Float[Array, "P n"], uniform: Float[Array, " P"]) -> Int[Array, " P"]:
    """The first entry whose cumulative weight exceeds uniform * total; never one of weight 0."""
    cumulative = jnp.cumsum(weights, axis=-1)
    total = cumulative[..., -1]
    target = jnp.minimum(uniform * total, jnp.nextafter(total, jnp.zeros_like(total)))  # the product may round up
    # A parallel sum is not monotonic to the last bit, so the support is asked for by itself.
    reached: Bool[Array, "P n"] = (cumulative > target[..., None]) & (weights > 0)
    return jnp.argmax(reached, axis=-1)
