"""Memory of programs on a CPU: used again, or got anew at each call."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from electra_jax.errors import RunError
from electra_jax.train.memory import enough_memory

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc alone")
PAGES = 2**28 // os.sysconf("SC_PAGE_SIZE")  # of the program's intermediate result, 256 MB of float32
PROGRAM = """
import resource, jax, jax.numpy as jnp
from electra_jax.train.memory import keep_memory
print(keep_memory())
program = jax.jit(lambda x: jnp.sin(jnp.outer(x, x)) @ jnp.ones((8192, 8)))
x = jnp.linspace(0, 1, 8192, dtype=jnp.float32)
for _ in range(10):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    program(x).block_until_ready()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
COMPILING = """
import os, re
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])  # on more, fewer fusions wait for one
from pathlib import Path
from electra_jax.objectives.masking import SpecialTokens
from electra_jax.presets import load_config
from electra_jax.train.cache import compile_now
from electra_jax.train.sharding import make_mesh
from electra_jax.train.step import abstract_state, empty_batch, jit_step
config = load_config("tiny", data=(Path("data"),), out=Path("out"))
step = jit_step(config, SpecialTokens(2, 3, 4), make_mesh(config.mesh, config.batch_size))
arguments = abstract_state(config), empty_batch(config)
def peak():  # getrusage's begins with that of the process which starts this one
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
step.lower(*arguments)
before = peak()
compile_now(step, *arguments)
print(peak() - before)
"""


def run(program: str, **variables: str) -> list[str]:
    """The lines that a process prints, left to XLA's own ways on a CPU."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""} | variables,
    )
    return done.stdout.split()


def faults(**variables: str) -> tuple[bool, float]:
    """Whether memory is kept, and how much of the result's pages a call had to get from the system, at least.

    Now and then a call starts while the one before it still holds its memory, and gets as much once more.
    """
    kept, *pages = run(PROGRAM, **variables)
    return kept == "True", min(map(int, pages)) / PAGES


def test_memory_is_used_again() -> None:
    kept, share = faults()
    assert kept
    assert share < 0.05


def test_nothing_is_changed_where_the_user_says_how_programs_start() -> None:
    kept, share = faults(JAX_CPU_ENABLE_ASYNC_DISPATCH="true", GLIBC_TUNABLES="glibc.malloc.hugetlb=0")
    assert not kept
    assert share > 0.9


@pytest.mark.skipif(jax.__version_info__ >= (0, 11), reason="later ones have no such way")
def test_a_short_run_of_a_small_model_is_compiled_in_less_memory_unless_the_user_says_otherwise() -> None:
    (lean,) = run(COMPILING)
    (otherwise,) = run(COMPILING, XLA_FLAGS="--xla_cpu_use_fusion_emitters=true")
    assert int(lean) < 0.6 * int(otherwise)


def test_a_program_that_asks_for_too_much_is_told() -> None:
    with (
        pytest.raises(RunError, match=r"^run: a device's memory is too small: RESOURCE_EXHAUSTED: .*; give less$"),
        enough_memory(Path("run"), "give less"),
    ):
        jnp.zeros(2**50, jnp.int8)


def test_another_error_of_a_program_goes_on() -> None:
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), enough_memory(Path("run"), "give less"):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")
