"""Rows looked up in an array, whose derivatives are the same bits each time on a GPU too.

Left to itself, XLA has a GPU's threads add to a table's gradient as they come; asked for an order, it takes them one by
one. Here equal ids are brought together first.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from electra_jax.model.kernels import can_call


@jax.custom_vjp
def take_rows(table: Float[Array, "V E"], ids: Int[Array, "..."]) -> Float[Array, "... E"]:
    """table[ids]."""
    return table[ids]


def _take_rows_backward(kept: tuple[Array, Array], g: Float[Array, "... E"]) -> tuple[Float[Array, "V E"], np.ndarray]:
    table, ids = kept
    of_table = add_by_id(jnp.zeros_like(table), ids.reshape(-1), g.reshape(-1, g.shape[-1]))
    return of_table, np.zeros(ids.shape, jax.dtypes.float0)


take_rows.defvjp(lambda table, ids: (table[ids], (table, ids)), _take_rows_backward)


@jax.custom_vjp
def take_positions(x: Float[Array, "B L H"], positions: Int[Array, "B K"]) -> Float[Array, "B K H"]:
    """x[b, positions[b]] of each row b."""
    return jnp.take_along_axis(x, positions[..., None], axis=1)


def _take_positions_backward(
    kept: tuple[Array, Array], g: Float[Array, "B K H"]
) -> tuple[Float[Array, "B L H"], np.ndarray]:
    x, positions = kept
    there = (positions[..., None] == jnp.arange(x.shape[1])).astype(g.dtype)
    of_x = jnp.einsum("BKL,BKH->BLH", there, g, precision="highest")
    return of_x, np.zeros(positions.shape, jax.dtypes.float0)


take_positions.defvjp(lambda x, positions: (take_positions(x, positions), (x, positions)), _take_positions_backward)


def add_by_id(total: Float[Array, "V E"], ids: Int[Array, " T"], rows: Float[Array, "T E"]) -> Float[Array, "V E"]:
    """`total`, and to each of its entries the sum of the rows with that id."""
    if not can_call():  # on a CPU, no two threads add to one entry
        return total.at[ids].add(rows.astype(total.dtype))
    from electra_jax.model.triton.sums import sum_sorted

    return total + sum_sorted(ids, rows, len(total))
