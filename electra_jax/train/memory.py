"""The C library's memory, from which XLA's programs on a CPU take theirs."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import jax

from electra_jax.errors import RunError, first_line

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of <malloc.h>


def keep_memory() -> bool:
    """Have programs on a CPU use the memory of the last call again; returns whether they will.

    A step takes memory for its intermediate results at each call (`small`: 0.7 GB, `base`: 2.7 GB). glibc gets so large
    a piece from the system and gives it back at the end; clearing its pages anew is up to a fifth of the step's time.
    Here glibc keeps what it got, and JAX starts a program when the one before it has ended: started ahead, each would
    hold memory of its own.

    To be called before JAX has found its devices; `electra-jax pretrain` of one process does, importing the package
    doesn't. Nothing is changed where JAX_CPU_ENABLE_ASYNC_DISPATCH is set, or where there is no glibc.
    """
    if "JAX_CPU_ENABLE_ASYNC_DISPATCH" in os.environ:
        return False
    with suppress(AttributeError):  # no glibc
        mallopt = ctypes.CDLL(None).mallopt
        jax.config.update("jax_cpu_enable_async_dispatch", False)
        return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, -1))
    return False


@contextmanager
def enough_memory(out: Path, mend: str) -> Iterator[None]:
    """Raise RunError where the block, which works on `out`, asks a device for more memory than it has."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not str(error).startswith("RESOURCE_EXHAUSTED"):
            raise
        raise RunError(f"{out}: a device's memory is too small: {first_line(error).rstrip('.')}; {mend}") from error


def hand_back() -> None:
    """Give memory that is free to the system, where glibc holds it."""
    with suppress(AttributeError):  # no glibc
        ctypes.CDLL(None).malloc_trim(0)
