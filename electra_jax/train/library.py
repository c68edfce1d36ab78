"""Which library makes the matrix products of a step on a CPU."""

from dataclasses import replace
from functools import cache

import jax
import numpy as np

from electra_jax.config import ComputeConfig, PretrainConfig
from electra_jax.model.kernels import has_triton
from electra_jax.model.onednn import matmul
from electra_jax.train.cache import unkept
from electra_jax.train.flops import run_flops
from electra_jax.train.processor import has_avx512, has_fast_bfloat16

LONG = {"float32": 5e14, "bfloat16": 1e13}
"""Floating-point operations of a run, an hour and a minute on two cores, whose gain is far above what compiling at a
start takes."""


def takes_onednn(config: PretrainConfig) -> bool:
    """Whether oneDNN makes the products of the run's steps, see `ComputeConfig.products`."""
    choice = config.compute.products
    if choice != "auto":
        return choice == "onednn"
    long = run_flops(config) >= LONG[config.compute.dtype]
    return has_avx512() and long and can_take_onednn(config.compute)


def faster_in_bfloat16(config: PretrainConfig) -> bool:
    """Whether the run, which is in float32, would be half as fast again in bfloat16 here, or faster still."""
    if config.compute.dtype != "float32":
        return False
    if jax.default_backend() != "cpu":
        return has_triton("bfloat16")
    return has_fast_bfloat16() and takes_onednn(replace(config, compute=replace(config.compute, dtype="bfloat16")))


def can_take_onednn(compute: ComputeConfig) -> bool:
    """Whether it could: on a CPU, in a dtype that this one multiplies, with layers that don't keep their products
    alone (`remat`)."""
    able = compute.dtype == "float32" or has_fast_bfloat16()
    return jax.default_backend() == "cpu" and able and not compute.remat.startswith("dots") and has_onednn()


@cache
def has_onednn() -> bool:
    """Whether XLA knows the call, and makes the product that is asked for."""
    a, b = np.arange(24, dtype=np.float32).reshape(2, 3, 4), np.arange(30, dtype=np.float32).reshape(2, 5, 3)
    try:
        with unkept():
            found = jax.jit(lambda a, b: matmul(a, b, transpose_a=True, transpose_b=True))(a, b)
    except jax.errors.JaxRuntimeError:
        return False
    return np.array_equal(found, np.einsum("bml,bnm->bln", a, b))
