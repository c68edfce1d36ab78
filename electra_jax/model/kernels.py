"""Who computes what could be left to XLA: `ComputeConfig.attention` and `.layer_norm` on the devices that are here."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from electra_jax.config import ComputeConfig

WARPS, STAGES = 4, 3
"""A program's threads, over 32, and the loads that a loop of products is ahead: the best at heads of 64."""
SINCE = 8.0  # compute capability of Ampere, the first with bfloat16


def has_triton(dtype: str) -> bool:
    """Whether kernels of this dtype are compiled here, by Triton: on NVIDIA GPUs since Ampere, in bfloat16."""
    capability = getattr(jax.devices()[0], "compute_capability", "")  # "9.0"; of an AMD GPU, "gfx942"
    return dtype == "bfloat16" and capability.replace(".", "").isdigit() and float(capability) >= SINCE


def can_call(dtype: str = "bfloat16") -> bool:
    """Whether what is traced now may call such kernels.

    It may not where XLA is to divide the arrays over several devices, which it can't do with a kernel's: it would have
    each device compute all of it. Inside `jax.shard_map` they are divided.
    """
    divided = jax.device_count() == 1 or jax.sharding.get_abstract_mesh().are_all_axes_manual
    return divided and has_triton(dtype)


def anywhere(compute: ComputeConfig) -> ComputeConfig:
    """`compute` without kernels that only some devices have, where these don't."""
    if has_triton(compute.dtype):
        return compute
    return replace(compute, attention="xla", layer_norm="xla")


def call(
    kernel: Callable, grid: tuple[int, ...], arrays: tuple, specs: tuple, outputs: tuple, output_specs: tuple
) -> Any:
    """`outputs`' shapes and dtypes, filled by `kernel` (a partial of its function); on a CPU interpreted, for tests."""
    return pl.pallas_call(
        kernel,
        grid=grid,
        in_specs=specs,
        out_specs=output_specs,
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in outputs],
        compiler_params=triton.CompilerParams(num_warps=WARPS, num_stages=STAGES),
        interpret=jax.default_backend() == "cpu",
        name=kernel.func.__name__.strip("_"),  # type: ignore[attr-defined]
    )(*arrays)
