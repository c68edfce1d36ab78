"""What ends both halves of a layer."""

from flax import nnx
from jaxtyping import Array, Float

from electra_jax.config import ComputeConfig
from electra_jax.model.kernels import chosen
from electra_jax.model.layers import LayerNorm, Seed, Words, dot, dropout


def add_and_norm(
    norm: LayerNorm,
    x: Float[Array, "B L H"],
    dense: nnx.Linear,
    y: Float[Array, "B L F"],
    seed: Seed | Words | None,
    rate: float,
    compute: ComputeConfig,
) -> Float[Array, "B L H"]:
    """norm(x + dropout(dense(y)))."""
    if not chosen(compute.layer_norm, compute.dtype):
        return norm(x + dropout(dense(y), seed, rate))
    from electra_jax.model.triton.norm import fused_norm

    product = dot(y, dense.kernel[...].astype(y.dtype))
    assert dense.bias is not None
    return fused_norm(norm.epsilon, rate, x, product, dense.bias[...], norm.scale[...], norm.bias[...], seed)
