"""The Transformer encoder: BERT's, with LayerNorm after each residual sum (Devlin et al., 2019)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt32

from electra_jax.config import ComputeConfig, ElectraConfig, RematPolicy
from electra_jax.model.attention import SelfAttention
from electra_jax.model.layers import LayerNorm, Seed, Words, dropout, gelu, linear, outline, row_keys, words_of
from electra_jax.model.residual import add_and_norm

SITES = 3  # dropout masks in a layer: attention's weights, attention's output, feed-forward's output


class FeedForward(nnx.Module):
    """Two dense layers with gelu between, their residual and LayerNorm."""

    def __init__(self, config: ElectraConfig, compute: ComputeConfig, rngs: nnx.Rngs):
        self.rate, self.compute, dtype = config.hidden_dropout_prob, compute, jnp.dtype(compute.dtype)
        self.intermediate = linear(config.hidden_size, config.intermediate_size, config, dtype, rngs)
        self.output = linear(config.intermediate_size, config.hidden_size, config, dtype, rngs)
        self.norm = LayerNorm(config.hidden_size, config.layer_norm_eps, dtype)

    def __call__(self, x: Float[Array, "B L H"], seed: Seed | Words | None) -> Float[Array, "B L H"]:
        """Apply it to every position."""
        return add_and_norm(self.norm, x, self.output, gelu(self.intermediate(x)), seed, self.rate, self.compute)


class Layer(nnx.Module):
    """Attention, then feed-forward."""

    def __init__(self, config: ElectraConfig, compute: ComputeConfig, rngs: nnx.Rngs):
        self.attention = SelfAttention(config, compute, rngs)
        self.feed_forward = FeedForward(config, compute, rngs)

    def __call__(
        self,
        x: Float[Array, "B L H"],
        attended: Bool[Array, "B #L L"],
        seeds: UInt32[Array, "3 B 2"] | tuple[Words, ...] | None,
        positions: Int[Array, "B K"] | None = None,
    ) -> Float[Array, "B L H"] | Float[Array, "B K H"]:
        """Apply the layer, at `positions` or at all of them; without seeds (or words) there is no dropout."""
        weights_seed, output_seed, feed_forward_seed = (None,) * SITES if seeds is None else seeds
        mixed = self.attention(x, attended, weights_seed, output_seed, positions)
        return self.feed_forward(mixed, feed_forward_seed)


class Encoder(nnx.Module):
    """Dropout, projection to H where E differs, and the layers, whose parameters are stacked along their first axis."""

    def __init__(self, config: ElectraConfig, compute: ComputeConfig, rngs: nnx.Rngs):
        self.config, self.scan, self.remat = config, compute.scan_layers, compute.remat
        self.takes_words = "triton" not in (compute.attention, compute.layer_norm)  # kernels make the words they need
        self.project = _projection(config.embedding_size, config.hidden_size, jnp.dtype(compute.dtype), rngs)

        @nnx.split_rngs(splits=config.num_hidden_layers)
        @nnx.vmap
        def stack(rngs: nnx.Rngs) -> Layer:
            return Layer(config, compute, rngs)

        self.layers = stack(rngs)

    def __call__(
        self,
        embedded: Float[Array, "B L E"],
        attended: Bool[Array, "B #L L"],
        key: PRNGKeyArray | None = None,
        positions: Int[Array, "B K"] | None = None,
    ) -> Float[Array, "B L H"] | Float[Array, "B K H"]:
        """The last layer's hidden states, at `positions` where only those are wanted: it computes no other.

        With a key (one, or one a row), dropout is on.
        """
        first_seed, layer_seeds = self._seeds(key, len(embedded))
        if layer_seeds is not None and self.takes_words and jax.default_backend() == "cpu":
            layer_seeds = outline(lambda seeds: self._words(seeds, embedded.shape[1]))(layer_seeds)
        x = dropout(embedded, first_seed, self.config.hidden_dropout_prob)
        if self.project is not None:
            x = self.project(x)
        graphdef, stacked = nnx.split(self.layers)

        @jax.jit  # traced once for all layers, and once more for a last one at `positions`
        def apply(x: Array, attended: Array, parameters_and_seeds: tuple, positions: Array | None) -> Array:
            parameters, seeds = parameters_and_seeds
            return nnx.merge(graphdef, parameters)(x, attended, seeds, positions)

        layer, each = remat(apply, self.remat), (stacked, layer_seeds)
        if self.scan:
            first, last = jax.tree.map(lambda a: a[:-1], each), jax.tree.map(lambda a: a[-1], each)
            x = jax.lax.scan(lambda x, one: (layer(x, attended, one, None), None), x, first)[0]
        else:
            *first, last = _unstack(each)
            for one in first:
                x = layer(x, attended, one, None)
        return layer(x, attended, last, positions)

    def _seeds(self, key: PRNGKeyArray | None, rows: int) -> tuple[Seed | None, UInt32[Array, "layers 3 B 2"] | None]:
        """A seed for each row of each dropout mask, all of one draw a row."""
        if key is None:
            return None, None
        layers = self.config.num_hidden_layers
        draw = jax.vmap(lambda key: jax.random.bits(key, (1 + layers * SITES, 2)), out_axes=1)
        words = draw(row_keys(key, rows))
        return words[0], words[1:].reshape(layers, SITES, rows, 2)

    def _words(self, seeds: UInt32[Array, "layers 3 B 2"], length: int) -> tuple[Words, ...]:
        """What the seeds of each site come to, for rows of `length`."""
        hidden, heads = self.config.hidden_size, self.config.num_attention_heads
        lines, columns = (heads * length, length, length), (length, hidden, hidden)
        return tuple(map(words_of, jnp.unstack(seeds, axis=1), lines, columns))


def _unstack(tree: Any) -> list:
    """The slices of all leaves along their first axis: one operation a leaf, so that its gradient is joined once."""
    leaves, structure = jax.tree.flatten(tree)
    return [jax.tree.unflatten(structure, one) for one in zip(*map(jnp.unstack, leaves), strict=True)]


def remat(layer: Callable, policy: RematPolicy) -> Callable:
    """`layer`, which keeps for the backward pass what the policy says, and computes the rest again."""
    if policy == "none":
        return layer
    return jax.checkpoint(layer, policy=getattr(jax.checkpoint_policies, policy))


def _projection(size: int, features: int, dtype: jnp.dtype, rngs: nnx.Rngs) -> nnx.Linear | None:
    """`embeddings_project`, where the widths differ."""
    if size == features:
        return None
    glorot = nnx.initializers.glorot_uniform()  # tf.layers.dense's default, which [G] keeps here
    return nnx.Linear(size, features, kernel_init=glorot, dtype=dtype, rngs=rngs)
