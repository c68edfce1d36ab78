"""Sums of rows by their ids, as two kernels that always add in the same order."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float, Int

from electra_jax.model.triton.call import call

BLOCK, WIDTH = 64, 128
"""Rows that a program adds up by id, and how much of each."""


def sum_sorted(ids: Int[Array, " T"], rows: Float[Array, "T E"], entries: int) -> Float[Array, "V E"]:
    """Of the rows with each of so many ids; float32. First in blocks of the sorted rows, then over the blocks."""
    missing = -len(ids) % BLOCK
    order = jnp.pad(jnp.argsort(ids, stable=True).astype(jnp.int32), (0, missing))
    arranged = jnp.pad(ids[order[: len(ids)]].astype(jnp.int32), (0, missing), constant_values=entries)
    ends = jnp.cumsum(jnp.zeros(entries, jnp.int32).at[ids].add(1))
    width = min(WIDTH, pl.next_power_of_2(rows.shape[1]))
    columns = pl.cdiv(rows.shape[1], width)
    anything = pl.BlockSpec((len(rows), width), lambda i, j: (0, j))
    of_block = pl.BlockSpec((BLOCK,), lambda i, j: (i,))
    runs = jax.ShapeDtypeStruct((len(order), rows.shape[1]), jnp.float32)
    (runs,) = call(
        partial(_runs_kernel, rows.shape[1]),
        (len(order) // BLOCK, columns),
        (rows, order, arranged),
        (anything, of_block, of_block),
        (runs,),
        (pl.BlockSpec((BLOCK, width), lambda i, j: (i, j)),),
    )
    every = pl.BlockSpec((entries + 1,), lambda i: (0,))
    whole = pl.next_power_of_2(rows.shape[1])
    (sums,) = call(
        partial(_sums_kernel, rows.shape[1]),
        (entries,),
        (runs, jnp.pad(ends, (1, 0))),
        (pl.BlockSpec((len(order), whole), lambda i: (0, 0)), every),
        (jax.ShapeDtypeStruct((entries, rows.shape[1]), jnp.float32),),
        (pl.BlockSpec((None, whole), lambda i: (i, 0)),),
    )
    return sums


def _runs_kernel(features: int, rows: Any, order: Any, ids: Any, runs: Any) -> None:
    """At the last of equal ids in this block, the sum of their rows; nothing is written elsewhere."""
    here, place, columns = ids[...], jnp.arange(BLOCK), jnp.arange(runs.shape[1])
    inside = jnp.broadcast_to(pl.program_id(1) * runs.shape[1] + columns < features, runs.shape)
    at = jnp.broadcast_to(order[...][:, None], runs.shape), jnp.broadcast_to(columns, runs.shape)
    some = triton.load(rows.at[at], mask=inside, other=0).astype(jnp.float32)
    same = here[:, None] == here[None, :]
    sums = jnp.zeros(runs.shape, jnp.float32)
    for _ in range(3):  # float32 is three of bfloat16, which tensor cores add up in float32
        part = some.astype(jnp.bfloat16)
        sums += jnp.dot(same.astype(jnp.bfloat16), part, preferred_element_type=jnp.float32)
        some -= part.astype(jnp.float32)
    last = jnp.where(same, place[None, :], 0).max(1) == place
    triton.store(runs.at[:, :], sums, mask=last[:, None] & inside)


def _sums_kernel(features: int, runs: Any, ends: Any, sums: Any) -> None:
    """Of one id: what the blocks of its rows have."""
    entry, inside = pl.program_id(0), jnp.arange(sums.shape[0]) < features
    start, end = ends[entry], ends[entry + 1]

    def add(block: Array, total: Array) -> Array:
        last = jnp.minimum((block + 1) * BLOCK, end) - 1
        return total + triton.load(runs.at[last, :], mask=inside, other=0)

    blocks = jnp.where(end > start, (end - 1) // BLOCK + 1, start // BLOCK)
    total = jax.lax.fori_loop(start // BLOCK, blocks, add, jnp.zeros(sums.shape[0], jnp.float32))
    triton.store(sums, total, mask=inside)
