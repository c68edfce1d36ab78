"""Self-attention (Vaswani et al., 2017), with a derivative of its own."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from electra_jax.config import ComputeConfig, ElectraConfig
from electra_jax.model.kernels import can_fuse, chosen
from electra_jax.model.layers import LayerNorm, Seed, Words, add_bias, barrier, keep_mask, linear, matmul, products
from electra_jax.model.lookup import take_positions
from electra_jax.model.residual import add_and_norm


class SelfAttention(nnx.Module):
    """Multi-head attention, its residual and LayerNorm."""

    def __init__(self, config: ElectraConfig, compute: ComputeConfig, rngs: nnx.Rngs):
        self.config, self.compute, dtype = config, compute, jnp.dtype(compute.dtype)
        square = partial(linear, config.hidden_size, config.hidden_size, config, dtype, rngs)
        self.query, self.key, self.value, self.output = square(), square(), square(), square()
        self.norm = LayerNorm(config.hidden_size, config.layer_norm_eps, dtype)

    def __call__(
        self,
        x: Float[Array, "B L H"],
        attended: Bool[Array, "B #L L"],
        weights_seed: Seed | Words | None,
        output_seed: Seed | Words | None,
        positions: Int[Array, "B K"] | None = None,
    ) -> Float[Array, "B L H"] | Float[Array, "B K H"]:
        """Attend from each position to those where its row of `attended` is true (one row for all, or one each).

        From `positions` alone, where they are given.
        """
        projections = self.query, self.key, self.value
        kernels = tuple(dense.kernel[...].astype(x.dtype) for dense in projections)
        biases = [dense.bias[...] for dense in projections]  # type: ignore[index]
        # What all keys have in common adds the same to all scores of a query, of which a softmax sees nothing.
        biases[1] = jax.lax.stop_gradient(biases[1])
        rate = self.config.attention_probs_dropout_prob if weights_seed is not None else 0.0
        mix, joined = implementation(self.compute, self.config.head_size, rate)
        if positions is None:
            (query, key, value), asking = products(joined, x, kernels)
        else:
            (query,), asking = products(False, take_positions(x, positions), kernels[:1])
            (key, value), _ = products(False, x, kernels[1:])
            if attended.shape[1] > 1:
                attended = jnp.take_along_axis(attended, positions[..., None], axis=1)
        mixed = mix(rate, *map(self._heads, (query, key, value), biases), attended, weights_seed).reshape(asking.shape)
        hidden_rate = self.config.hidden_dropout_prob
        return add_and_norm(self.norm, asking, self.output, mixed, output_seed, hidden_rate, self.compute)

    def _heads(self, x: Float[Array, "B L H"], bias: Float[Array, " H"]) -> Float[Array, "B L N D"]:
        x = add_bias(x, bias)
        return x.reshape(*x.shape[:2], self.config.num_attention_heads, self.config.head_size)


# The derivative is written out for the sake of the CPU: left to itself, XLA computes softmax and dropout again inside
# each product that reads them, in both passes. Here each is an array of its own, and one sum over D (of g * output)
# takes the place of one over M. The barriers keep them so; "BNLD" lets the products run without transposes.


class _Residuals(NamedTuple):
    query: Float[Array, "B N L D"]
    key: Float[Array, "B N M D"]
    value: Float[Array, "B N M D"]
    exps: Float[Array, "B N L M"]
    scale: Float[Array, "B N L 1"]
    mixed: Float[Array, "B N L D"]
    seed: Seed | Words | None


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def attend(
    rate: float,
    query: Float[Array, "B L N D"],
    key: Float[Array, "B M N D"],
    value: Float[Array, "B M N D"],
    attended: Bool[Array, "B #L M"],
    seed: Seed | Words | None,
) -> Float[Array, "B L N D"]:
    """Scaled dot-product attention, whose weights are dropped at `rate`; softmax in float32."""
    return _attend(rate, query, key, value, attended, seed)[0]


def _attend(
    rate: float, query: Array, key: Array, value: Array, attended: Array, seed: Seed | Words | None
) -> tuple[Float[Array, "B L N D"], _Residuals]:
    query, key, value = (barrier(_by_head(x)) for x in (query * query.shape[-1] ** -0.5, key, value))
    scores = matmul(query, key, transpose_b=True, dtype=jnp.float32)
    scores = jnp.where(attended[:, None], scores, jnp.finfo(scores.dtype).min)
    exps = barrier(jnp.exp(scores - scores.max(-1, keepdims=True)))
    scale = 1 / exps.sum(-1, keepdims=True)
    weights = barrier(_weights(rate, exps, scale, seed).astype(value.dtype))
    mixed = matmul(weights, value)
    return _by_head(mixed), _Residuals(query, key, value, exps, scale, mixed, seed)


def _attend_backward(rate: float, kept: _Residuals, g: Float[Array, "B L N D"]) -> tuple:
    g, dtype = barrier(_by_head(g)), kept.value.dtype
    weights = barrier(_weights(rate, kept.exps, kept.scale, kept.seed))
    weights_gradient = matmul(g, kept.value, transpose_b=True, dtype=jnp.float32)
    # The mean of weights_gradient, by weights; over three axes, since of four XLA makes it a part of what reads it, a
    # slow one, and of a single head's takes ten times as long.
    flat_g, flat_mixed = (a.reshape(-1, *a.shape[2:]) for a in (g.astype(jnp.float32), kept.mixed))
    mean = (flat_g * flat_mixed).sum(-1).reshape(*g.shape[:-1], 1)
    scores_gradient = weights * weights_gradient - kept.exps * (kept.scale * mean)
    scores_gradient = barrier(scores_gradient.astype(dtype))
    query_gradient = matmul(scores_gradient, kept.key) * kept.query.shape[-1] ** -0.5
    key_gradient = matmul(scores_gradient, kept.query, transpose_a=True)
    value_gradient = matmul(weights.astype(dtype), g, transpose_a=True)
    return *map(_by_head, (query_gradient, key_gradient, value_gradient)), None, None


attend.defvjp(_attend, _attend_backward)


def _weights(rate: float, exps: Array, scale: Array, seed: Seed | Words | None) -> Float[Array, "B N L M"]:
    if seed is None or rate == 0:
        return exps * scale
    return jnp.where(keep_mask(seed, exps.shape, rate), exps * (scale / (1 - rate)), 0)


def _by_head(x: Array) -> Array:
    """[B, L, N, D] to [B, N, L, D], and back."""
    return x.transpose(0, 2, 1, 3)


# --- other ways to compute the same -------------------------------------------------------------------------------


def _cudnn(
    rate: float, query: Array, key: Array, value: Array, attended: Array, seed: Seed | None
) -> Float[Array, "B L N D"]:
    assert rate == 0, "cudnn's dropout takes no key that could follow the step's number"
    whole = jnp.broadcast_to(attended[:, None], (len(attended), 1, query.shape[1], key.shape[1]))
    return jax.nn.dot_product_attention(query, key, value, mask=whole, implementation="cudnn")


def implementation(
    compute: ComputeConfig, head_size: int, rate: float
) -> tuple[Callable[..., Float[Array, "B L N D"]], bool]:
    """What `compute.attention` comes to here, for heads of this size and dropout of this rate.

    And whether the gradients of its query, key and value come as slices of one array.
    """
    if compute.attention == "cudnn" and rate == 0:
        return _cudnn, False
    if not (can_fuse(head_size) and chosen(compute.attention, compute.dtype)):
        return attend, False
    from electra_jax.model.triton.attention import fused_attend

    return fused_attend, True
