"""The large kernels of a tower's layers as arrays of their own, as a run on a CPU holds them.

Everywhere else, in checkpoints too, each kind of kernel is one array of all layers. Out of such a stack a CPU's XLA
copies each kernel before its product, and into one all gradients for the optimiser: two passes over the parameters.
(In bfloat16 nothing is gained, since the copy is what rounds them.)
"""

import re
from typing import Any

import jax
import jax.numpy as jnp

from electra_jax.config import ComputeConfig
from electra_jax.train.optimizer import paths

KERNELS = re.compile(r"(^|/)layers/.*/kernel$")
LARGE = 2**16
"""Elements of a layer's kernel from which on it is held apart: what is smaller takes longer to compile than to copy."""


def holds_apart(compute: ComputeConfig) -> bool:
    """Whether a run does: on a CPU as the one device, in float32, with layers that aren't a loop's."""
    alone = jax.default_backend() == "cpu" and jax.device_count() == 1
    return alone and compute.dtype == "float32" and not compute.scan_layers


def take_apart(tree: Any) -> Any:
    """The same tree (of parameters, or a state of them) with a list of arrays in place of each large stack."""

    def one(path: str, array: jax.Array) -> Any:
        large = KERNELS.search(path) and array.size // len(array) >= LARGE
        return _unstack(array) if large else array

    return jax.tree.map(one, paths(tree), tree)


def put_together(tree: Any) -> Any:
    """The inverse of `take_apart`; a tree without lists is returned as it is."""
    return jax.tree.map(lambda x: _stack(x) if _is_apart(x) else x, tree, is_leaf=_is_apart)


_stack = jax.jit(jnp.stack)
_unstack = jax.jit(lambda array: list(jnp.unstack(array)))


def _is_apart(x: Any) -> bool:
    return isinstance(x, list)
