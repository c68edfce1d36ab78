"""How every kernel is called."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, UInt32

from electra_jax.model.layers import Seed

WARPS, STAGES = 4, 3
"""A program's threads, over 32, and the loads that a loop of products is ahead: the best at heads of 64."""


def words(seed: Seed | None, rows: int) -> UInt32[Array, "B 2"]:
    """The seed; zeros, which nobody reads, where nothing is dropped."""
    return jnp.zeros((rows, 2), jnp.uint32) if seed is None else seed


def call(
    kernel: Callable,
    grid: tuple[int, ...],
    arrays: tuple,
    specs: tuple,
    outputs: tuple,
    output_specs: tuple,
    aliases: dict[int, int] | None = None,
) -> Any:
    """`outputs`' shapes and dtypes, filled by `kernel` (a partial of its function); on a CPU interpreted, for tests.

    `aliases` are from arrays to outputs, by number: those begin with what these have.
    """
    return pl.pallas_call(
        kernel,
        grid=grid,
        in_specs=specs,
        out_specs=output_specs,
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in outputs],
        compiler_params=triton.CompilerParams(num_warps=WARPS, num_stages=STAGES),
        input_output_aliases=aliases or {},
        interpret=jax.default_backend() == "cpu",
        name=kernel.func.__name__.strip("_"),  # type: ignore[attr-defined]
    )(*arrays)
