"""Self-attention as a kernel each way (Dao, 2023, FlashAttention-2), whose scores never reach a GPU's memory.

Its dropout is the package's own, whose mask is a function of a seed and an index: a kernel computes it again wherever
it is needed, so that the same weights are dropped as by `attention.attend`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Bool, Float, Int8, UInt32

from electra_jax.model.kernels import LEAST
from electra_jax.model.layers import Seed, keeps, odd_words
from electra_jax.model.triton.call import call, words

BLOCK, WHOLE, BESIDE_WHOLE = 64, 128, 32
"""Queries or keys in a block, the most queries that are left whole, and the keys in a block then."""


class Shape(NamedTuple):
    """What the kernels are compiled for."""

    rate: float
    """Of dropout."""
    queries: int
    keys: int
    """L and M; whole blocks are computed, and what is beyond these is masked or cut off."""
    head_size: int

    @property
    def block_q(self) -> int:
        """Queries in a block."""
        return _block(self.queries) if self.queries <= WHOLE else BLOCK

    @property
    def block_k(self) -> int:
        """Keys in a block."""
        return min(BESIDE_WHOLE if self.queries <= WHOLE else BLOCK, _block(self.keys))

    @property
    def blocks(self) -> tuple[int, int]:
        """Of queries, and of keys."""
        return pl.cdiv(self.queries, self.block_q), pl.cdiv(self.keys, self.block_k)


def _block(length: int) -> int:
    return max(LEAST, pl.next_power_of_2(length))


class Inputs(NamedTuple):
    """What every kernel reads first, in whole blocks."""

    query: Float[Array, "B L N D"]
    key: Float[Array, "B M N D"]
    value: Float[Array, "B M N D"]
    attended: Int8[Array, "B #L M"]
    seed: UInt32[Array, "B 2"]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def fused_attend(
    rate: float,
    query: Float[Array, "B L N D"],
    key: Float[Array, "B M N D"],
    value: Float[Array, "B M N D"],
    attended: Bool[Array, "B #L M"],
    seed: UInt32[Array, "B 2"] | None,
) -> Float[Array, "B L N D"]:
    """`attention.attend`, to rounding, where `kernels.can_fuse` takes D."""
    return _attend(rate, query, key, value, attended, seed)[0]


def _attend(
    rate: float, query: Array, key: Array, value: Array, attended: Array, seed: Seed | None
) -> tuple[Float[Array, "B L N D"], tuple]:
    shape, inputs = _prepare(rate, query, key, value, attended, seed)
    output, log_sums = _forward(shape, inputs)
    output = output[:, : shape.queries]
    return output, (query, key, value, attended, seed, output, log_sums)


def _backward(rate: float, kept: tuple, g: Float[Array, "B L N D"]) -> tuple:
    *given, output, log_sums = kept
    shape, inputs = _prepare(rate, *given)
    outputs, gs = (_fill(x, shape.block_q) for x in (output, g))
    gradients = _differentiate(shape, inputs, outputs, log_sums, gs)
    # In slices of [B, longer, 3, H]: so XLA sees that `layers.products` joins what lies beside each other anyway.
    of_heads = gradients.reshape(*gradients.shape[:3], -1)
    return *(of_heads[:, : x.shape[1], i].reshape(x.shape) for i, x in enumerate(given[:3])), None, None


fused_attend.defvjp(_attend, _backward)


def _prepare(
    rate: float, query: Array, key: Array, value: Array, attended: Array, seed: Seed | None
) -> tuple[Shape, Inputs]:
    """The arrays in whole blocks, of which what is filled in is masked."""
    shape = Shape(0.0 if seed is None else rate, query.shape[1], key.shape[1], query.shape[3])
    rows = attended.astype(jnp.int8)
    rows = _fill(rows if rows.shape[1] == 1 else _fill(rows, shape.block_q), shape.block_k, axis=2)
    queries, keys, values = _fill(query, shape.block_q), _fill(key, shape.block_k), _fill(value, shape.block_k)
    return shape, Inputs(queries, keys, values, rows, words(seed, len(query)))


def _fill(x: Array, block: int, axis: int = 1) -> Array:
    missing = -x.shape[axis] % block
    return jnp.pad(x, [(0, missing if i == axis else 0) for i in range(x.ndim)]) if missing else x


# --- the calls: a program for each row, head and block ------------------------------------------------------------


def _forward(shape: Shape, inputs: Inputs) -> tuple[Float[Array, "B L N D"], Float[Array, "B N L"]]:
    """The output, and the logarithm of each softmax's sum."""
    query = inputs.query
    log_sums = jax.ShapeDtypeStruct((query.shape[0], query.shape[2], query.shape[1]), jnp.float32)
    return call(
        partial(_forward_kernel, shape),
        (len(query), query.shape[2], shape.blocks[0]),
        inputs,
        (_by_block(shape.block_q, shape), _all(inputs.key), _all(inputs.value), _rows(shape, inputs, True), _SEED),
        (query, log_sums),
        (_by_block(shape.block_q, shape), _sums(shape)),
    )


def _differentiate(
    shape: Shape, inputs: Inputs, output: Array, log_sums: Array, g: Array
) -> Float[Array, "B longer 3 N D"]:
    """The gradients of query, key and value beside each other, each as long as the longer of L and M.

    In one call where a block has all queries, and two otherwise.
    """
    query, key, value = inputs[:3]
    arrays, whole = (*inputs, output, log_sums, g), shape.blocks[0] == 1
    rows, heads, size = len(query), query.shape[2], shape.head_size
    all_three = jax.ShapeDtypeStruct((rows, max(query.shape[1], key.shape[1]), 3, heads, size), query.dtype)
    by_query, sums = _by_block(shape.block_q, shape), _sums(shape)
    (gradients,) = call(
        partial(_backward_queries_kernel, shape),
        (rows, heads, shape.blocks[0]),
        arrays,
        (by_query, _all(key), _all(value), _rows(shape, inputs, True), _SEED, by_query, sums, by_query),
        (all_three,),
        (_of_all_three(all_three.shape[1] if whole else shape.block_q, size),),
    )
    if whole:
        return gradients
    by_key, whole_query = _by_block(shape.block_k, shape), _all(query)
    every = pl.BlockSpec((None, None, query.shape[1]), lambda b, n, i: (b, n, 0))
    of_block = _of_all_three(shape.block_k, size)
    (gradients,) = call(
        partial(_backward_keys_kernel, shape),
        (rows, heads, shape.blocks[1]),
        (*arrays, gradients),
        (whole_query, by_key, by_key, _rows(shape, inputs, False), _SEED, whole_query, every, whole_query, of_block),
        (all_three,),
        (of_block,),
        aliases={len(arrays): 0},
    )
    return gradients


def _of_all_three(size: int, head_size: int) -> pl.BlockSpec:
    return pl.BlockSpec((None, size, 3, None, head_size), lambda b, n, i: (b, i, 0, n, 0))


_SEED = pl.BlockSpec((None, 2), lambda b, n, i: (b, 0))


def _by_block(size: int, shape: Shape) -> pl.BlockSpec:
    return pl.BlockSpec((None, size, None, shape.head_size), lambda b, n, i: (b, i, n, 0))


def _all(x: Array) -> pl.BlockSpec:
    return pl.BlockSpec((None, x.shape[1], None, x.shape[3]), lambda b, n, i: (b, 0, n, 0))


def _sums(shape: Shape) -> pl.BlockSpec:
    return pl.BlockSpec((None, None, shape.block_q), lambda b, n, i: (b, n, i))


def _rows(shape: Shape, inputs: Inputs, by_query: bool) -> pl.BlockSpec:
    """Of `attended`: all keys of a block of queries, or all queries of a block of keys."""
    _, rows, keys = inputs.attended.shape
    if by_query:
        size = 1 if rows == 1 else shape.block_q
        return pl.BlockSpec((None, size, keys), lambda b, n, i: (b, 0 if rows == 1 else i, 0))
    return pl.BlockSpec((None, rows, shape.block_k), lambda b, n, i: (b, 0, i))


# --- the kernels --------------------------------------------------------------------------------------------------


def _forward_kernel(shape: Shape, *refs: Any) -> None:
    """Of a block of queries; keys are read a block at a time."""
    query, key, value, attended, seed, out, sums = refs
    i, q, keeps_at = pl.program_id(2), query[...], _keeps(shape, seed)

    def add(j: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        mixed, largest, total = carry
        keys = _at(j, shape.block_k)
        scores = _scores(shape, q, key[keys, :], attended[:, keys])
        new_largest = jnp.maximum(largest, scores.max(1))
        exps, shrunk = jnp.exp(scores - new_largest[:, None]), jnp.exp(largest - new_largest)
        kept = jnp.where(keeps_at(i, j), exps, 0) if shape.rate else exps
        mixed = mixed * shrunk[:, None] + _dot(kept.astype(value.dtype), value[keys, :])
        return mixed, new_largest, total * shrunk + exps.sum(1)

    nothing = jnp.zeros((shape.block_q, shape.head_size), jnp.float32)
    least = jnp.full(shape.block_q, -jnp.inf)
    mixed, largest, total = jax.lax.fori_loop(0, shape.blocks[1], add, (nothing, least, jnp.zeros(shape.block_q)))
    out[...] = (mixed / (total * (1 - shape.rate))[:, None]).astype(out.dtype)
    sums[...] = largest + jnp.log(total)


def _backward_queries_kernel(shape: Shape, *refs: Any) -> None:
    """Of a block of queries, and of keys and values where that is all; keys are read a block at a time."""
    query, key, value, attended, seed, output, sums, g, gradients = refs
    i, q, keeps_at = pl.program_id(2), query[...], _keeps(shape, seed)
    of_output = _output_gradient(output[...], sums[...], g[...])

    def add(j: Array, total: Array) -> Array:
        keys = _at(j, shape.block_k)
        k, v = key[keys, :], value[keys, :]
        dropped, of_scores = _scores_gradient(shape, (q, k, v, attended[:, keys]), of_output, partial(keeps_at, i, j))
        if shape.blocks[0] == 1:
            gradients[keys, 1, :] = _dot(of_scores, q, (0, 0)).astype(gradients.dtype)
            gradients[keys, 2, :] = _dot(dropped, of_output[0], (0, 0)).astype(gradients.dtype)
        return total + _dot(of_scores, k)

    nothing = jnp.zeros((shape.block_q, shape.head_size), jnp.float32)
    total = jax.lax.fori_loop(0, shape.blocks[1], add, nothing)
    gradients[: shape.block_q, 0, :] = total.astype(gradients.dtype)


def _backward_keys_kernel(shape: Shape, *refs: Any) -> None:
    """Of a block of keys and values, beside what the queries have; queries are read a block at a time."""
    query, key, value, attended, seed, output, sums, g, _, gradients = refs
    j, k, v, keeps_at = pl.program_id(2), key[...], value[...], _keeps(shape, seed)

    def add(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        queries = _at(i, shape.block_q)
        q, rows = query[queries, :], attended[...] if attended.shape[0] == 1 else attended[queries, :]
        of_output = _output_gradient(output[queries, :], sums[queries], g[queries, :])
        dropped, of_scores = _scores_gradient(shape, (q, k, v, rows), of_output, partial(keeps_at, i, j))
        return carry[0] + _dot(of_scores, q, (0, 0)), carry[1] + _dot(dropped, of_output[0], (0, 0))

    nothing = jnp.zeros((shape.block_k, shape.head_size), jnp.float32)
    of_key, of_value = jax.lax.fori_loop(0, shape.blocks[0], add, (nothing, nothing))
    gradients[:, 1, :], gradients[:, 2, :] = of_key.astype(gradients.dtype), of_value.astype(gradients.dtype)


def _scores(shape: Shape, q: Array, k: Array, attended: Array) -> Float[Array, "block_q block_k"]:
    scores = _dot(q, k, (1, 1)) * shape.head_size**-0.5
    return jnp.where(attended != 0, scores, jnp.finfo(jnp.float32).min)


def _output_gradient(output: Array, sums: Array, g: Array) -> tuple[Array, Array, Array]:
    """It, the softmax's sums, and the mean of the weights' gradient, by weights."""
    return g, sums, (g.astype(jnp.float32) * output.astype(jnp.float32)).sum(1)


def _scores_gradient(
    shape: Shape, inputs: tuple[Array, ...], of_output: tuple[Array, ...], keeps_here: Callable[[], Array]
) -> tuple[Float[Array, "block_q block_k"], Float[Array, "block_q block_k"]]:
    """The weights after dropout, and the gradient of the queries' and keys' products."""
    (q, k, v, attended), (g, sums, mean) = inputs, of_output
    weights = jnp.exp(_scores(shape, q, k, attended) - sums[:, None])
    dropped = weights
    if shape.rate:
        dropped = jnp.where(keeps_here(), weights * (1 / (1 - shape.rate)), 0)
    of_scores = (dropped * _dot(g, v, (1, 1)) - weights * mean[:, None]) * shape.head_size**-0.5
    return dropped.astype(v.dtype), of_scores.astype(v.dtype)


def _keeps(shape: Shape, seed: Any) -> Callable[[Array, Array], Bool[Array, "block_q block_k"]]:
    """`layers.keep_mask` of [N, L, M], in this head and the blocks that it is asked for."""
    first_line = pl.program_id(1) * shape.queries

    def keeps_at(i: Array, j: Array) -> Array:
        line = (first_line + i * shape.block_q).astype(jnp.uint32) + jnp.arange(shape.block_q, dtype=jnp.uint32)
        column = jnp.uint32(j * shape.block_k) + jnp.arange(shape.block_k, dtype=jnp.uint32)
        return keeps(odd_words(line[:, None], seed[0]), odd_words(column[None, :], seed[1]), shape.rate)

    return keeps_at


def _at(block: Array, size: int) -> Any:
    return pl.ds(block * size, size)


def _dot(a: Array, b: Array, contracted: tuple[int, int] = (1, 0)) -> Float[Array, "..."]:
    """Of two matrices, over these axes; float32."""
    dimensions = ((contracted[:1], contracted[1:]), ((), ()))
    return jax.lax.dot_general(a, b, dimensions, preferred_element_type=jnp.float32)
