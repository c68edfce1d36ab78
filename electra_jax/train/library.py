"""Which library makes the matrix products of a step on a CPU."""

from functools import cache

import jax
import numpy as np

from electra_jax.config import ComputeConfig, PretrainConfig
from electra_jax.model.onednn import matmul
from electra_jax.train.cache import is_intel, unkept
from electra_jax.train.flops import step_flops

LONG = 5e14
"""Floating-point operations of a run, an hour on two cores, whose gain is far above what compiling at a start takes."""


def takes_onednn(config: PretrainConfig) -> bool:
    """Whether oneDNN makes the products of the run's steps, see `ComputeConfig.products`."""
    choice = config.compute.products
    if choice != "auto":
        return choice == "onednn"
    return is_intel() and step_flops(config) * config.steps >= LONG and can_take_onednn(config.compute)


def can_take_onednn(compute: ComputeConfig) -> bool:
    """Whether it could: on a CPU, in float32, with layers that don't keep their products alone (`remat`)."""
    plain = compute.dtype == "float32" and not compute.remat.startswith("dots")
    return jax.default_backend() == "cpu" and plain and has_onednn()


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
