"""Compiling: where programs are kept, so that a command compiles each once on a machine, and what it leaves behind."""

import gc
import hashlib
import math
import os
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import jax

from electra_jax.model.onednn import asked_for
from electra_jax.train.memory import hand_back
from electra_jax.train.processor import instructions, prefers_eigen

SETTINGS = {
    "jax_persistent_cache_min_compile_time_secs": 0.3,  # JAX's 1 s leaves the small programs of a start to be compiled
    "jax_compilation_cache_max_size": 4 * 2**30,  # some thousand steps of `small`; the longest unused go first
}
"""Of the cache, in seconds and bytes, where no variable of the environment says otherwise."""

Options = dict[str, bool | int | str]

GPU_OPTIONS: Options = {
    # cuBLAS makes the products, each with its bias; trying Triton's beside them takes most of a minute, and finds none.
    "xla_gpu_enable_triton_gemm": False,
    # Products that have a factor in common, as query's and key's, would be made as one, and copied apart.
    "xla_gpu_dot_merger_threshold_mb": 0,
    # Which of cuBLAS's ways is quickest would be measured, and another one found another time: other bits.
    "xla_gpu_autotune_level": 0,
}
"""Of XLA, for steps."""

EIGEN_OPTIONS: Options = {
    # XLA's younger library makes sums alone, not products: for those the older one has kernels of Intel's, and keeps
    # two cores busier.
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE",
}
"""The same, on a processor whose products the older library makes faster (`prefers_eigen`)."""

LEAN_OPTIONS: Options = {
    # XLA's younger way has a compiler of its own for each fusion that waits for a core, and hundreds wait. What the
    # older one makes is a tenth slower.
    "xla_cpu_use_fusion_emitters": False,
}
"""The same, where compiling is to take less memory: a third of a GB at `tiny`, of nine tenths."""

UNKEPT = threading.RLock()
"""Held while the cache's setting, of which a process has one, is another."""


def keep_compiled() -> Path | None:
    """Have JAX keep compiled programs in a folder of the user's cache; returns it, or None where nothing is changed.

    That is where the user has chosen a folder (JAX_COMPILATION_CACHE_DIR or jax.config; "" for none) or has disabled
    the cache (JAX_ENABLE_COMPILATION_CACHE=false), and where the folder can't be written. To be called before anything
    is compiled; the commands do, importing the package doesn't.
    """
    now = jax.config.values
    if now["jax_compilation_cache_dir"] is not None or not now["jax_enable_compilation_cache"]:
        return None
    try:
        folder = cache_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # who writes there can have this user run anything
    except (OSError, RuntimeError):  # RuntimeError: no home is known
        return None
    if not os.access(folder, os.W_OK | os.X_OK):
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    for name, value in SETTINGS.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)
    return folder


def compiler_options(*, lean: bool = False) -> Options:
    """How steps are compiled here; on a CPU in less memory, if asked to.

    It is XLA's own way otherwise, but on a GPU and on processors of Intel's or without AVX-512. XLA_FLAGS that name one
    of the options stand.
    """
    options: Options = {}
    match jax.default_backend():
        case "gpu":
            options = GPU_OPTIONS
        case "cpu":
            wanted = (EIGEN_OPTIONS if prefers_eigen() else {}) | (LEAN_OPTIONS if lean else {})
            options = {name: value for name, value in wanted.items() if knows(name, value)}
    return {name: value for name, value in options.items() if f"--{name}=" not in os.environ.get("XLA_FLAGS", "")}


@cache
def knows(name: str, value: bool | int | str) -> bool:
    """Whether XLA has this option, with such a value: experimental ones come, and old ones go."""
    try:
        jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def compile_now(function: jax.stages.Wrapped, *arguments: Any, onednn: bool = False) -> jax.stages.Compiled:
    """`function` for arguments of these shapes, dtypes and places, before it is run; `onednn` makes its products.

    The memory that the compiler took is handed back to the system: of `small` on a CPU a third of all that a run would
    hold, as much as its step takes.
    """
    with _no_collection(), asked_for(onednn), unkept() if onednn else nullcontext():
        compiled = function.lower(*arguments).compile()
    hand_back()
    return compiled


@contextmanager
def _no_collection() -> Iterator[None]:
    """Python doesn't look for garbage: of all the objects that a step's tracing makes, and that stay.

    Looking through them time and again was a quarter of the time of tracing.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def unkept() -> Iterator[None]:
    """JAX's persistent cache keeps nothing of what is compiled here; one thread at a time."""
    name = "jax_persistent_cache_min_compile_time_secs"
    with UNKEPT:
        before = jax.config.values[name]
        jax.config.update(name, math.inf)
        try:
            yield
        finally:
            jax.config.update(name, before)


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/electra-jax/jax, by default ~/.cache/electra-jax/jax, and in it a folder for this processor.

    A program for one processor may end another with SIGILL, and the hosts of a cluster often share a home folder.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return home / "electra-jax" / "jax" / f"{platform.machine()}-{hashlib.sha256(instructions()).hexdigest()[:12]}"
