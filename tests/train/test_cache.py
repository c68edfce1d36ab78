"""Where compiled programs are kept, by default and where the user has said something else, and what XLA is told."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import micro
import pytest
from micro import AMD, INTEL

from electra_jax.train.cache import (
    EIGEN_OPTIONS,
    GPU_OPTIONS,
    LEAN_OPTIONS,
    SETTINGS,
    cache_folder,
    compile_now,
    compiler_options,
    keep_compiled,
    knows,
)

NAMES = ("jax_compilation_cache_dir", "jax_enable_compilation_cache", *SETTINGS)
COMMAND = """
import electra_jax.train.pretrain, jax
assert jax.config.jax_compilation_cache_dir is None
from electra_jax.cli import main
main(["plan", "--config", "tiny"])
print(jax.config.jax_compilation_cache_dir)
"""


@pytest.fixture(autouse=True)
def untouched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A user who has set nothing."""
    before = {name: jax.config.values[name] for name in NAMES}
    jax.config.update("jax_compilation_cache_dir", None)
    for name in NAMES:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_a_folder_of_the_users_cache(tmp_path: Path) -> None:
    folder = keep_compiled()
    assert folder == cache_folder()
    assert folder.parent == tmp_path / "electra-jax" / "jax"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert jax.config.jax_compilation_cache_dir == str(folder)
    assert {name: jax.config.values[name] for name in SETTINGS} == SETTINGS


def test_by_default_below_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert keep_compiled() == cache_folder()
    assert cache_folder().parent == tmp_path / ".cache" / "electra-jax" / "jax"


def test_each_processor_has_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    folders = {cache_folder()}
    monkeypatch.setattr("electra_jax.train.cache.instructions", lambda: b"flags: fpu sse4_2")
    assert len(folders | {cache_folder()}) == 2


@pytest.mark.parametrize("chosen", ["", "elsewhere"])
def test_the_users_folder_stays(tmp_path: Path, chosen: str) -> None:
    jax.config.update("jax_compilation_cache_dir", chosen)
    assert keep_compiled() is None
    assert jax.config.jax_compilation_cache_dir == chosen
    assert not any(tmp_path.iterdir())


def test_disabled_it_stays_so(tmp_path: Path) -> None:
    jax.config.update("jax_enable_compilation_cache", False)
    assert keep_compiled() is None
    assert not any(tmp_path.iterdir())


def test_a_variable_of_the_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_COMPILATION_CACHE_MAX_SIZE", "1000")
    before = jax.config.values["jax_compilation_cache_max_size"]
    assert keep_compiled() is not None
    assert jax.config.values["jax_compilation_cache_max_size"] == before


def test_a_folder_that_cannot_be_made_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "electra-jax").write_text("in the way")
    assert keep_compiled() is None
    assert jax.config.jax_compilation_cache_dir is None


def test_a_folder_that_cannot_be_written_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    assert keep_compiled() is None
    assert jax.config.jax_compilation_cache_dir is None


def test_commands_keep_what_they_compile_and_imports_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    run = micro.python("-c", COMMAND)
    assert run.stdout == f"{cache_folder()}\n", run.stderr
    assert any(path.name.startswith("jit_step-") for path in cache_folder().iterdir())


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_is_left_alone_while_a_step_is_traced_and_no_longer(enabled: bool) -> None:
    seen = []

    def step(x: jax.Array, fails: bool) -> jax.Array:
        seen.append(gc.isenabled())
        return 2 * x if not fails else x["no such"]

    before = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        assert compile_now(jax.jit(step, static_argnums=1), 1.0, False)(1.0) == 2
        assert gc.isenabled() == enabled
        with pytest.raises(TypeError):
            compile_now(jax.jit(step, static_argnums=1), 1.0, True)
        assert (gc.isenabled(), seen) == (enabled, [False, False])
    finally:
        (gc.enable if before else gc.disable)()


# --- options of the compiler --------------------------------------------------------------------------------------


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="options of a CPU")
@pytest.mark.parametrize(
    ("maker", "instructions", "flags", "expected"),
    [
        (AMD, b"flags\t: fpu avx2 avx512f avx512bw", "", {}),
        (AMD, b"flags\t: fpu avx2", "", EIGEN_OPTIONS),
        (b"Apple M4", b"Features\t: fp asimd", "", {}),
        (INTEL, b"flags\t: fpu avx2 avx512f avx512bw", "", EIGEN_OPTIONS),
        (INTEL, b"flags\t: fpu avx2", "", EIGEN_OPTIONS),
        # as Python says it on Windows
        (b"Intel64 Family 6 Model 85 Stepping 7, GenuineIntel", b"Intel64 Family 6", "", EIGEN_OPTIONS),
        (INTEL, b"flags\t: fpu avx2", "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_DOT", {}),
    ],
)
def test_a_cpu_compiles_steps_in_xlas_own_way_but_intels_and_those_without_avx512(
    maker: bytes, instructions: bytes, flags: str, expected: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("electra_jax.train.processor._maker", lambda: maker)
    monkeypatch.setattr("electra_jax.train.processor.instructions", lambda: instructions)
    monkeypatch.setenv("XLA_FLAGS", flags)
    monkeypatch.setattr("electra_jax.train.cache.LEAN_OPTIONS", lean := {"xla_cpu_multi_thread_eigen": True})
    assert compiler_options() == expected
    assert compiler_options(lean=True) == expected | lean
    monkeypatch.setenv("XLA_FLAGS", f"{flags} --xla_cpu_multi_thread_eigen=false")
    assert compiler_options(lean=True) == expected


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="options of a CPU")
def test_the_older_library_makes_products_where_it_is_preferred() -> None:
    def compiled(options: dict | None) -> str:
        step = jax.jit(lambda x, w: x @ w, compiler_options=options)
        return step.lower(jnp.ones((512, 256)), jnp.ones((256, 256))).compile().as_text()

    assert "ynn" not in compiled(dict(EIGEN_OPTIONS))
    assert "ynn" in compiled(None), "XLA's own way is the same now: the option has had its day"


def test_options_that_xla_no_longer_knows_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(knows(name, value) for name, value in EIGEN_OPTIONS.items())
    assert all(knows(name, value) for name, value in LEAN_OPTIONS.items()) == (jax.__version_info__ < (0, 11))
    assert not knows("xla_cpu_no_such", "1")
    assert not knows("xla_cpu_experimental_ynn_fusion_type", "NO_SUCH")
    if jax.default_backend() == "cpu":
        monkeypatch.setattr("electra_jax.train.processor._maker", lambda: INTEL)
        monkeypatch.setattr("electra_jax.train.cache.EIGEN_OPTIONS", {"xla_cpu_no_such": "1"})
        monkeypatch.setattr("electra_jax.train.cache.LEAN_OPTIONS", {"xla_cpu_no_such_either": False})
        assert compiler_options(lean=True) == {}


def test_a_gpu_has_options_that_xla_knows_and_its_flags_overrule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_autotune_level=4")
    options = compiler_options(lean=True)
    assert options == {name: value for name, value in GPU_OPTIONS.items() if name != "xla_gpu_autotune_level"}
    monkeypatch.delenv("XLA_FLAGS")
    assert compiler_options() == GPU_OPTIONS
    monkeypatch.undo()
    # XLA refuses a name or a type that it doesn't know, on any device.
    assert jax.jit(lambda x: 2 * x, compiler_options=dict(GPU_OPTIONS))(1) == 2
    with pytest.raises(jax.errors.JaxRuntimeError, match="No such compile option"):
        jax.jit(lambda x: 3 * x, compiler_options={"xla_gpu_no_such": 0})(1)
