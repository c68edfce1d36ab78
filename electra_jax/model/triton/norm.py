"""Dropout, residual and LayerNorm as a kernel each way: XLA takes two passes over the rows forward, five backward."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float, UInt32

from electra_jax.model.layers import Seed, keeps, odd_words
from electra_jax.model.triton.call import call, words

ROWS = 64
"""Positions that a program takes, some at a time."""


class Shape(NamedTuple):
    """What the kernels are compiled for."""

    rate: float
    """Of dropout."""
    epsilon: float
    length: int
    features: int
    held: int
    """The most positions at a time."""

    @property
    def width(self) -> int:
        """Triton's arrays have powers of 2; what is beyond the features is masked."""
        return pl.next_power_of_2(self.features)

    @property
    def programs(self) -> int:
        """To a row of the batch."""
        return pl.cdiv(self.length, ROWS)

    @property
    def blocks(self) -> int:
        """To a program."""
        return pl.cdiv(min(self.length, ROWS), self.held)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def fused_norm(
    epsilon: float,
    rate: float,
    x: Float[Array, "B L H"],
    y: Float[Array, "B L H"],
    y_bias: Float[Array, " H"],
    scale: Float[Array, " H"],
    bias: Float[Array, " H"],
    seed: UInt32[Array, "B 2"] | None,
) -> Float[Array, "B L H"]:
    """LayerNorm(x + dropout(y + y_bias)), in float32 inside."""
    return _norm(epsilon, rate, x, y, y_bias, scale, bias, seed)[0]


def _norm(
    epsilon: float, rate: float, x: Array, y: Array, y_bias: Array, scale: Array, bias: Array, seed: Seed | None
) -> tuple[Float[Array, "B L H"], tuple]:
    shape = Shape(0.0 if seed is None else rate, epsilon, x.shape[1], x.shape[2], held=4)
    rows, features, of_row = _specs(shape)
    out, total = call(
        partial(_forward_kernel, shape),
        (len(x), shape.programs),
        (x, y, y_bias, scale, bias, words(seed, len(x))),
        (rows, rows, features, features, features, of_row),
        (x, x),
        (rows, rows),
    )
    return out, (total, y_bias, scale, bias, seed)


def _backward(epsilon: float, rate: float, kept: tuple, g: Float[Array, "B L H"]) -> tuple:
    total, y_bias, scale, bias, seed = kept
    # Of wide rows fewer, since the sums are held too.
    held = 2 if g.shape[2] > 512 else 4
    shape = Shape(0.0 if seed is None else rate, epsilon, g.shape[1], g.shape[2], held)
    rows, features, of_row = _specs(shape)
    sums = jax.ShapeDtypeStruct((len(g), shape.programs, 3, shape.features), jnp.float32)
    of_program = pl.BlockSpec((None, None, 3, shape.width), lambda b, i: (b, i, 0, 0))
    of_x, of_y, sums = call(
        partial(_backward_kernel, shape),
        (len(g), shape.programs),
        (total, g, scale, words(seed, len(g))),
        (rows, rows, features, of_row),
        (g, g, sums),
        (rows, rows, of_program),
    )
    parameters = zip(sums.sum((0, 1)), (y_bias, scale, bias), strict=True)
    return of_x, of_y, *(found.astype(one.dtype) for found, one in parameters), None


fused_norm.defvjp(_norm, _backward)


def _specs(shape: Shape) -> tuple[pl.BlockSpec, pl.BlockSpec, pl.BlockSpec]:
    """Of ROWS positions, of what each feature has, and of a row's seed."""
    return (
        pl.BlockSpec((None, ROWS, shape.width), lambda b, i: (b, i, 0)),
        pl.BlockSpec((shape.width,), lambda b, i: (0,)),
        pl.BlockSpec((None, 2), lambda b, i: (b, 0)),
    )


# --- the kernels --------------------------------------------------------------------------------------------------


def _forward_kernel(shape: Shape, *refs: Any) -> None:
    x, y, y_bias, scale, bias, seed, out, total = refs
    of_y, of_norm, of_bias = (_load(shape, a) for a in (y_bias, scale, bias))
    place, keeps_at = _places(shape), _keeps(shape, seed)

    def normalize(i: Array, carry: tuple) -> tuple:
        at, mask = place(i)
        residual = _load_rows(y, at, mask) + of_y
        if shape.rate:
            residual = jnp.where(keeps_at(i), residual * (1 / (1 - shape.rate)), 0)
        # Rounded first, so that the backward pass, which reads it again, normalises the same.
        added = (_load_rows(x, at, mask) + residual).astype(total.dtype)
        triton.store(total.at[at, :], added, mask=mask)
        normal, _ = _normal(shape, added, mask)
        triton.store(out.at[at, :], (normal * of_norm + of_bias).astype(out.dtype), mask=mask)
        return carry

    jax.lax.fori_loop(0, shape.blocks, normalize, ())


def _backward_kernel(shape: Shape, total: Any, g: Any, scale: Any, seed: Any, of_x: Any, of_y: Any, sums: Any) -> None:
    """Of x and y, and the sums over this program's positions of what y_bias, scale and bias have."""
    of_norm, place, keeps_at = _load(shape, scale), _places(shape), _keeps(shape, seed)

    def differentiate(i: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        at, mask = place(i)
        normal, rstd = _normal(shape, _load_rows(total, at, mask), mask)
        row_g = _load_rows(g, at, mask)
        scaled = row_g * of_norm
        first, second = ((a.sum(1) / shape.features)[:, None] for a in (scaled, scaled * normal))
        residual = added = jnp.where(mask, rstd * (scaled - first - normal * second), 0)
        if shape.rate:
            residual = jnp.where(keeps_at(i), added * (1 / (1 - shape.rate)), 0)
        triton.store(of_x.at[at, :], added.astype(of_x.dtype), mask=mask)
        triton.store(of_y.at[at, :], residual.astype(of_y.dtype), mask=mask)
        return tuple(a + b.sum(0) for a, b in zip(carry, (residual, row_g * normal, row_g), strict=True))

    nothing = jnp.zeros(shape.width, jnp.float32)
    found = jax.lax.fori_loop(0, shape.blocks, differentiate, (nothing, nothing, nothing))
    inside = jnp.arange(shape.width) < shape.features
    for i, one in enumerate(found):
        triton.store(sums.at[pl.ds(i, 1), :], one[None], mask=inside[None])


def _places(shape: Shape) -> Callable[[Array], tuple[Any, Array]]:
    """The positions of a block, and which of its entries there are."""
    first_row, (rows, columns) = pl.program_id(1) * ROWS, map(jnp.arange, (shape.held, shape.width))

    def at(i: Array) -> tuple[Any, Array]:
        mask = (first_row + i * shape.held + rows < shape.length)[:, None] & (columns < shape.features)[None, :]
        return pl.ds(i * shape.held, shape.held), mask

    return at


def _load(shape: Shape, ref: Any) -> Float[Array, " width"]:
    return triton.load(ref, mask=jnp.arange(shape.width) < shape.features, other=0).astype(jnp.float32)


def _load_rows(ref: Any, at: Any, mask: Array) -> Float[Array, "block width"]:
    return triton.load(ref.at[at, :], mask=mask, other=0).astype(jnp.float32)


def _normal(shape: Shape, x: Array, mask: Array) -> tuple[Float[Array, "block width"], Float[Array, "block 1"]]:
    """`x` less its mean, over its deviation; and one over that."""
    x = x.astype(jnp.float32)
    centred = jnp.where(mask, x - (x.sum(1) / shape.features)[:, None], 0)
    rstd = jax.lax.rsqrt((centred * centred).sum(1) / shape.features + shape.epsilon)[:, None]
    return centred * rstd, rstd


def _keeps(shape: Shape, seed: Any) -> Callable[[Array], Array]:
    """`layers.keep_mask` of [L, H], at the blocks that it is asked for."""
    first_line = pl.program_id(1) * ROWS
    lines, columns = (jnp.arange(size, dtype=jnp.uint32) for size in (shape.held, shape.width))
    columns = odd_words(columns, seed[1])[None, :]

    def keeps_at(i: Array) -> Array:
        line = jnp.uint32(first_line + i * shape.held) + lines
        return keeps(odd_words(line[:, None], seed[0]), columns, shape.rate)

    return keeps_at
