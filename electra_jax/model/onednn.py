"""Matrix products of a CPU by oneDNN, whose kernels jaxlib carries on x86.

XLA's own libraries make the many small products of a batch on one core at a time, and take longer where an operand is
transposed; oneDNN divides both over the cores. In bfloat16, which XLA widens to float32 first, it has the
instructions of processors that multiply it (`has_fast_bfloat16`). XLA sends it no products by itself, but calls it
where a program asks for it by name. Such a program can't be kept: XLA takes the call for one of another kind when it
writes programs down.
"""

import json

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

CALL = "__onednn$matmul"
"""XLA's name for it, of xla/service/cpu."""
NARROW, NARROWEST = 1024, 128
"""Columns of operands in float32 that it reads as they lie in memory. Up to so many, a product is as quick as XLA's;
above, it takes up to twice as long, unless the second operand, and so the product, has no more than the fewer (measured
on two cores of a Cascade Lake). Of what is given transposed it makes a copy first, which may be as wide as it likes."""

asked_for = jax.make_user_context(False)
"""Whether oneDNN makes the products of what is traced: to be compiled by `compile_now` alone, which doesn't keep it."""


def takes(
    a: Float[Array, "..."], b: Float[Array, "..."], *, transpose_a: bool = False, transpose_b: bool = False
) -> bool:
    """Whether oneDNN is to make the product of these two, given as to `matmul`."""
    if not (asked_for.value and _alike(a, b) and a.size and b.size):
        return False
    if a.dtype == jnp.bfloat16:
        return True
    inner, columns = 0 if transpose_a else a.shape[-1], b.shape[-1]
    return transpose_b or columns <= NARROWEST or max(inner, columns) <= NARROW


def _alike(a: Float[Array, "..."], b: Float[Array, "..."]) -> bool:
    """Both in float32 or both in bfloat16, and as many of the one as of the other."""
    return a.dtype == b.dtype and a.dtype in (jnp.float32, jnp.bfloat16) and a.shape[:-2] == b.shape[:-2]


def matmul(
    a: Float[Array, "*batch l m"],
    b: Float[Array, "*batch m n"],
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    dtype: jnp.dtype | None = None,
) -> Float[Array, "*batch l n"]:
    """a @ b over the last two axes; of a given as [*batch, m, l], or of b as [*batch, n, m]; in a's dtype unless set.

    Summed up in float32. It has no derivative of its own. Raises ValueError where oneDNN would end the process, or
    compute nothing; in bfloat16 it ends the process on older processors (`can_take_onednn`).
    """
    rows, inner = a.shape[:-3:-1] if transpose_a else a.shape[-2:]
    inner_of_b, columns = b.shape[:-3:-1] if transpose_b else b.shape[-2:]
    if not (_alike(a, b) and inner == inner_of_b > 0):
        turned = f"{transpose_a=}, {transpose_b=}"
        raise ValueError(f"oneDNN makes no product of {a.dtype}{a.shape} and {b.dtype}{b.shape} ({turned})")
    call = jax.ffi.ffi_call(
        CALL,
        jax.ShapeDtypeStruct((*a.shape[:-2], rows, columns), dtype or a.dtype),
        vmap_method="broadcast_all",
        custom_call_api_version=2,  # of which the options are a text; XLA reads it as its BackendConfig
        legacy_backend_config=json.dumps(
            {"onednn_matmul_config": {"transpose_a": transpose_a, "transpose_b": transpose_b}}
        ),
    )
    return call(a, b)
