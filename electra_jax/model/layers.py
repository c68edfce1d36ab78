"""What every layer is made of: dense, layer norm, gelu, dropout.

Axes, here and in every signature of the package: B batch, L length, H hidden, N heads, D head width,
F feed-forward, E embedding, K picks a row, V vocabulary.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental.xla_metadata import set_xla_metadata
from jaxtyping import Array, Bool, Float, PRNGKeyArray, UInt32

from electra_jax.config import ElectraConfig
from electra_jax.model import onednn

Seed = UInt32[Array, "*rows 2"]
"""Two random words for each row of a batch (or one pair for a whole array), which key one dropout mask."""


class Words(NamedTuple):
    """What a seed comes to for an array of so many lines (`odd_words`): all that its mask needs."""

    lines: UInt32[Array, "*rows lines"]
    columns: UInt32[Array, "*rows length"]


def row_keys(key: PRNGKeyArray, rows: int) -> PRNGKeyArray:
    """A key for each row of a batch: those that are given, or of one key, by the row's number.

    Whatever is drawn for a row then depends on its number in the batch alone, and not on how the batch is divided over
    devices, processes and accumulated parts.
    """
    return key if key.ndim else jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(rows))


def split_rows(keys: PRNGKeyArray, number: int) -> list[PRNGKeyArray]:
    """`number` keys of each row's: [rows] each."""
    return list(jax.vmap(lambda key: jax.random.split(key, number), out_axes=1)(keys))


class Linear(nnx.Linear):
    """x @ kernel + bias, in the dtype of computing."""

    def __call__(self, x: Float[Array, "... size"]) -> Float[Array, "... features"]:  # type: ignore[override]
        """By the products and sums of this module."""
        assert self.bias is not None
        return add_bias(dot(x.astype(self.dtype), self.kernel[...].astype(self.dtype)), self.bias[...])


def linear(size: int, features: int, config: ElectraConfig, dtype: jnp.dtype, rngs: nnx.Rngs) -> Linear:
    """A dense layer whose kernel starts from the truncated normal of [G] model/modeling.py."""
    return Linear(size, features, kernel_init=initializer(config), dtype=dtype, rngs=rngs)


def initializer(config: ElectraConfig) -> nnx.Initializer:
    """Normal of `config.initializer_range`, cut at two standard deviations ([G] create_initializer)."""
    return nnx.initializers.truncated_normal(config.initializer_range)


def barrier(x: Any) -> Any:
    """`x`, which a CPU's compiler doesn't rewrite together with what it comes of; others do better when left alone.

    It comes before fusion, which takes no notice of it: see `outline`.
    """
    return jax.lax.optimization_barrier(x) if jax.default_backend() == "cpu" else x


def outline(function: Callable) -> Callable:
    """`function`, of which a CPU's XLA makes a call, computed once; elsewhere, `function` itself.

    Left to itself, XLA computes what is small again in whatever reads it: the learning rate, once for each
    array of the parameters. All these copies take time to compile, and to load.
    """
    if jax.default_backend() != "cpu":
        return function

    @jax.jit
    def body(*arguments: Any) -> Any:
        with set_xla_metadata(inlineable="true"):  # else what it calls would be calls as well
            return function(*arguments)

    def call(*arguments: Any) -> Any:
        with set_xla_metadata(inlineable="false"):
            return body(*arguments)

    return call


# --- matrix products ----------------------------------------------------------------------------------------------

BLOCK, PROCESSORS = 128, 128
"""Rows and columns that one of a GPU's processors computes at a time of a product, and about how many it has."""
NARROW_KERNEL = 64
"""Columns of a kernel whose product keeps a CPU's cores so little busy that to join several is worth it (with 128 it
is not)."""


def matmul(
    a: Float[Array, "*batch l m"],
    b: Float[Array, "*batch m n"],
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    dtype: jnp.dtype | None = None,
) -> Float[Array, "*batch l n"]:
    """a @ b over the last two axes; of a given as [*batch, m, l], or of b as [*batch, n, m]; in a's dtype unless set.

    For what has a derivative written out: the product itself may have none.
    """
    if onednn.takes(a, b, transpose_a=transpose_a, transpose_b=transpose_b):
        return onednn.matmul(a, b, transpose_a=transpose_a, transpose_b=transpose_b, dtype=dtype)
    of_a, of_b = "...ml" if transpose_a else "...lm", "...nm" if transpose_b else "...mn"
    return jnp.einsum(f"{of_a},{of_b}->...ln", a, b, preferred_element_type=dtype)


def dot(x: Float[Array, "... size"], kernel: Float[Array, "size features"]) -> Float[Array, "... features"]:
    """x @ kernel, whose derivative is made as suits the device."""
    return _product(x.reshape(-1, x.shape[-1]), kernel).reshape(*x.shape[:-1], -1)


@jax.custom_vjp
def _product(x: Float[Array, "rows size"], kernel: Float[Array, "size features"]) -> Float[Array, "rows features"]:
    return _multiply(x, kernel)


def _multiply(x: Array, kernel: Array) -> Array:
    return onednn.matmul(x, kernel) if onednn.takes(x, kernel) else x @ kernel


def _product_backward(
    kept: tuple[Array, Array], g: Float[Array, "rows features"]
) -> tuple[Float[Array, "rows size"], Float[Array, "size features"]]:
    x, kernel = kept
    of_x = onednn.matmul(g, kernel, transpose_b=True) if onednn.takes(g, kernel, transpose_b=True) else g @ kernel.T
    return of_x, transposed_product(x, g)


def transposed_product(x: Float[Array, "rows size"], g: Float[Array, "rows features"]) -> Float[Array, "size features"]:
    """x.T @ g. On a CPU without a barrier: XLA would fuse what made x with its transpose, and compute it once more."""
    if onednn.takes(x, g, transpose_a=True):
        return onednn.matmul(x, g, transpose_a=True)
    return jax.lax.platform_dependent(x, g, cpu=lambda x, g: x.T @ g, default=in_parts)


def in_parts(x: Float[Array, "rows size"], g: Float[Array, "rows features"]) -> Float[Array, "size features"]:
    """x.T @ g as a sum over parts of the rows, so many as keep a GPU's processors busy: cuBLAS leaves most without work
    where the result has few blocks."""
    blocks = -(-x.shape[1] // BLOCK) * -(-g.shape[1] // BLOCK)
    parts = math.gcd(len(x), 2 ** int(math.log2(max(1, PROCESSORS // blocks))))
    if parts == 1:
        return x.T @ g
    x, g = (a.reshape(parts, -1, a.shape[1]) for a in (x, g))
    return jnp.einsum("prm,prn->pmn", x, g, preferred_element_type=jnp.float32).sum(0).astype(x.dtype)


_product.defvjp(lambda x, kernel: (_multiply(x, kernel), (x, kernel)), _product_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def products(
    joined: bool, x: Float[Array, "B L size"], kernels: tuple[Float[Array, "size H"], ...]
) -> tuple[tuple[Float[Array, "B L H"], ...], Float[Array, "B L size"]]:
    """x @ kernel for each; and x itself, for what else reads it.

    All of x's gradient is so added up here, a product at a time. `joined` makes one product of them, which is quicker
    where the kernels' gradients come as slices of one array, as `fused_attend` has them. Kernels that are narrow are
    joined on the way forward, too.
    """
    if _narrow(kernels):
        return tuple(jnp.split(dot(x, jnp.concatenate(kernels, 1)), len(kernels), -1)), x
    return tuple(dot(x, kernel) for kernel in kernels), x


def _narrow(kernels: tuple[Array, ...]) -> bool:
    return jax.default_backend() == "cpu" and kernels[0].shape[1] <= NARROW_KERNEL


def _products_backward(
    joined: bool, kept: tuple[Array, tuple[Array, ...]], gs: tuple[tuple[Array, ...], Array]
) -> tuple[Array, tuple[Array, ...]]:
    (x, kernels), (of_products, total) = kept, gs
    if joined or _narrow(kernels):
        of_product = jnp.stack(of_products, -2).reshape(*x.shape[:-1], -1)
        total, of_kernel = _add_gradient(x, jnp.concatenate(kernels, 1), of_product, total)
        return total, tuple(jnp.split(of_kernel, len(kernels), 1))
    of_kernels = []
    for kernel, g in zip(reversed(kernels), reversed(of_products), strict=True):
        total, of_kernel = _add_gradient(x, kernel, g, total)
        of_kernels.append(of_kernel)
    return total, tuple(reversed(of_kernels))


def _add_gradient(x: Array, kernel: Array, g: Array, total: Array) -> tuple[Array, Array]:
    """The gradient of x with `total`, and the kernel's."""
    of_x, of_kernel = _product_backward((x.reshape(-1, x.shape[-1]), kernel), g.reshape(-1, g.shape[-1]))
    return of_x.reshape(x.shape) + total, of_kernel  # in this order: cuBLAS then adds the second to its product


products.defvjp(lambda joined, x, kernels: (products(joined, x, kernels), (x, kernels)), _products_backward)


@jax.custom_vjp
def add_bias(x: Float[Array, "... features"], bias: Float[Array, " features"]) -> Float[Array, "... features"]:
    """x + bias in x's dtype; the bias' gradient is summed in its own, float32.

    Of bfloat16 a sum would keep three digits, and take a CPU's XLA over ten times as long.
    """
    return x + bias.astype(x.dtype)


def _add_bias_backward(
    bias: Float[Array, " features"], g: Float[Array, "... features"]
) -> tuple[Float[Array, "... features"], Float[Array, " features"]]:
    return g, g.astype(bias.dtype).sum(tuple(range(g.ndim - 1)))


add_bias.defvjp(lambda x, bias: (add_bias(x, bias), bias), _add_bias_backward)


# --- layer norm ---------------------------------------------------------------------------------------------------


class LayerNorm(nnx.Module):
    """LayerNorm of the last axis, in float32 (Ba et al., 2016).

    The variance takes two passes: E[x^2] - E[x]^2 loses the digits parity needs.
    """

    def __init__(self, size: int, epsilon: float, dtype: jnp.dtype):
        self.epsilon, self.dtype = epsilon, dtype
        self.scale, self.bias = nnx.Param(jnp.ones(size)), nnx.Param(jnp.zeros(size))

    def __call__(self, x: Float[Array, "... features"]) -> Float[Array, "... features"]:
        """(x - mean) / sqrt(variance + epsilon) * scale + bias, in the dtype of computing."""
        given = x.astype(jnp.float32)
        if jax.default_backend() != "cpu":
            # A GPU's compiler would lay out [B, L, features] as suits some sum over B, and transpose it again. A CPU's
            # takes twice as long for a step if it can't see the three axes.
            given = given.reshape(-1, x.shape[-1])
        return normalize(self.epsilon, given, self.scale[...], self.bias[...]).astype(self.dtype).reshape(x.shape)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def normalize(
    epsilon: float, x: Float[Array, "... features"], scale: Float[Array, " features"], bias: Float[Array, " features"]
) -> Float[Array, "... features"]:
    """`LayerNorm`. Its derivative is written out: on CPU, XLA's own blows `scale` up to the shape of x."""
    return _normalize(epsilon, x, scale, bias)[0]


def _normalize(epsilon: float, x: Array, scale: Array, bias: Array) -> tuple[Array, tuple[Array, ...]]:
    mean = x.mean(-1)
    rstd = jax.lax.rsqrt(jnp.square(x - mean[..., None]).mean(-1) + epsilon)
    mean, rstd = (a[..., None] for a in barrier((mean, rstd)))
    return barrier((x - mean) * rstd * scale + bias), (x, mean, rstd, scale)


def _normalize_backward(epsilon: float, kept: tuple[Array, ...], g: Array) -> tuple[Array, Array, Array]:
    x, mean, rstd, scale = kept
    rows, along = tuple(range(x.ndim - 1)), partial(jnp.dot, b=scale / len(scale), precision="highest")
    normal = (x - mean) * rstd
    by_normal = barrier(g * normal)
    # The means of g * scale, and of that by what is normal; as products neither needs an array of its own.
    first, second = (a[..., None] for a in barrier((along(g), along(by_normal))))
    x_gradient = barrier(rstd * (g * scale - first - normal * second))
    return x_gradient, by_normal.sum(rows), g.sum(rows)


normalize.defvjp(_normalize, _normalize_backward)


# --- gelu ---------------------------------------------------------------------------------------------------------


@jax.custom_vjp
def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x * Phi(x), by erf (Hendrycks & Gimpel, 2016).

    `jax.nn.gelu(approximate=False)` takes the slower erfc. The derivative is computed from x alone, so only x is kept
    for it, and the barriers stop XLA from computing it again inside each matrix product that consumes it. Computed in
    float32: in bfloat16, 1 + erf leaves nothing of the negative tail.
    """
    return _gelu(x)


def _cdf(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return 0.5 * (1 + jax.lax.erf(x * np.float32(0.5**0.5)))


def _gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    wide = x.astype(jnp.float32)
    return barrier((wide * _cdf(wide)).astype(x.dtype))


def _gelu_backward(x: Float[Array, "..."], g: Float[Array, "..."]) -> tuple[Float[Array, "..."]]:
    x, g = barrier((x, g))
    wide = x.astype(jnp.float32)
    pdf = jnp.exp(-0.5 * wide * wide) * np.float32((2 * np.pi) ** -0.5)
    return (barrier((g * (_cdf(wide) + wide * pdf)).astype(x.dtype)),)


gelu.defvjp(lambda x: (_gelu(x), x), _gelu_backward)


# --- dropout ------------------------------------------------------------------------------------------------------


def dropout(x: Float[Array, "..."], seed: Seed | Words | None, rate: float) -> Float[Array, "..."]:
    """Zero each element with probability `rate`, and scale the others by 1 / (1 - rate); x itself without a seed.

    The mask is a hash of the element's place, which costs a hundredth of drawing it with threefry, is the same bits
    however the array is sharded, and is computed again in the backward pass rather than stored.
    """
    if seed is None or rate == 0:
        return x
    return _dropout(rate, x, seed)


@partial(jax.jit, static_argnums=(1, 2))  # traced once for all sites of one shape
def keep_mask(seed: Seed | Words, shape: tuple[int, ...], rate: float) -> Bool[Array, "..."]:
    """True with probability 1 - `rate`, independently for each element and each seed.

    Words may be of more lines than the array has: its are the first.
    """
    rows = (seed.lines if isinstance(seed, Words) else seed).shape[:-1]
    *leading, length = shape[len(rows) :]  # of one row, where each has a seed
    number = math.prod(leading)
    lines, columns = seed if isinstance(seed, Words) else words_of(seed, number, length)
    lines = lines[..., :number].reshape(*rows, *leading, 1)
    return keeps(lines, columns.reshape(*rows, *[1] * len(leading), length), rate)


def words_of(seed: Seed, lines: int, length: int) -> Words:
    """The words of an array of so many lines of `length` elements."""
    of_lines, of_columns = (jax.lax.iota(jnp.uint32, number) for number in (lines, length))
    return Words(odd_words(of_lines, seed[..., :1]), odd_words(of_columns, seed[..., 1:]))


def keeps(lines: UInt32[Array, "..."], columns: UInt32[Array, "..."], rate: float) -> Bool[Array, "..."]:
    """`keep_mask` where lines and columns meet, by their words.

    The product of two odd words is a random word: of two elements independent of each other, and of any number in one
    line, or in one column, since an odd factor maps the odd words onto each other.
    """
    return lines * columns >= jnp.uint32(rate * 2**32)


def odd_words(places: UInt32[Array, "..."], seed: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """A random odd word for each line of an array (what runs along its last axis), by its number and the first word of
    a seed; or for each place in a line, by the second."""
    return _mix(places ^ seed) | 1


def _mix(h: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """A bijection of the 32-bit words that spreads every bit (lowbias32 of C. Wellons' hash prospector)."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        h = (h ^ (h >> shift)) * jnp.uint32(factor)
    return h ^ (h >> 16)


def _drop(x: Float[Array, "..."], seed: Seed | Words, rate: float) -> Float[Array, "..."]:
    scaled = (x * np.float32(1 / (1 - rate))).astype(x.dtype)  # 1.111 is 1.109 in bfloat16
    return jnp.where(keep_mask(seed, x.shape, rate), scaled, 0)


_dropout = jax.custom_vjp(lambda rate, x, seed: _drop(x, seed, rate), nondiff_argnums=(0,))
_dropout.defvjp(
    lambda rate, x, seed: (_drop(x, seed, rate), seed),
    lambda rate, seed, g: (_drop(g, seed, rate), None),
)
