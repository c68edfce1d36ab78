"""The compiled step that the command keeps: found again by all that it is made from, and only so."""

import math
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import micro
import pytest
from test_library import with_onednn

from electra_jax.config import ComputeConfig, DistributedConfig, PretrainConfig
from electra_jax.objectives.masking import SpecialTokens
from electra_jax.train import kept as module
from electra_jax.train.cache import compile_now
from electra_jax.train.kept import OUTSIDE, compile_step, digest, find_or_make, steps_folder
from electra_jax.train.pretrain import pretrain
from electra_jax.train.run import settings
from electra_jax.train.sharding import abstract, by_row, make_mesh
from electra_jax.train.step import abstract_state, empty_batch, jit_step

pytestmark = pytest.mark.skipif(jax.default_backend() != "cpu", reason="kept on a CPU alone")
SPECIAL = SpecialTokens(cls=2, sep=3, mask=4)
ELSEWHERE: dict[str, Any] = {
    "data": (Path("a"), Path("b")),
    "data_weights": (0.5, 0.5),
    "out": Path("elsewhere"),
    "init_from": Path("before"),
    "word_start": "neighbours",
    "log_every": 7,
    "eval_every": 7,
    "eval_rows": 7,
    "checkpoint_every": 7,
    "checkpoints_kept": 7,
    "keep_best": True,
    "max_time": "2h",
    "distributed": DistributedConfig(processes=2),
}
"""Another value of each setting that the step doesn't depend on."""


@pytest.fixture(autouse=True)
def each_start_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in processes of their own: other tests share what is traced for the same settings."""
    monkeypatch.setattr(module, "jit_step", jit_step)


def config_of(rows: Path, **changes: Any) -> PretrainConfig:
    return micro.make_config(rows, Path("out"), **changes)


def compiled(config: PretrainConfig, keep: bool = True) -> jax.stages.Compiled:
    mesh = make_mesh(config.mesh, config.batch_size)
    batch = jax.device_put(empty_batch(config), by_row(mesh))
    with jax.set_mesh(mesh):
        return compile_step(config, SPECIAL, mesh, batch, keep=keep)


def refuse(*_: Any, **__: Any) -> None:
    pytest.fail("compiled again")


def steps(kept: Path) -> set[str]:
    return {path.name for path in (kept / "steps").glob("*")}


def test_a_second_start_compiles_nothing_and_trains_to_the_same_bits(
    finished: PretrainConfig, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (replace(finished, seed=1, out=tmp_path / name) for name in ("first", "second"))
    pretrain(first, keep_step=True)
    assert len(steps(kept)) == 1
    monkeypatch.setattr(module, "compile_now", refuse)
    monkeypatch.setattr(module, "jit_step", refuse)
    pretrain(second, keep_step=True)
    assert micro.records(first.out) == micro.records(second.out)
    assert micro.equal_bits(micro.saved_state(first.out, 20), micro.saved_state(second.out, 20))


def test_a_program_must_ask_for_it(finished: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def note(*_: Any, keep: bool) -> None:
        asked.append(keep)
        raise ZeroDivisionError

    monkeypatch.setattr("electra_jax.train.pretrain.compile_step", note)
    with pytest.raises(ZeroDivisionError):
        pretrain(replace(finished, out=tmp_path / "run"))
    assert asked == [False]


def test_the_command_finds_what_an_earlier_one_has_kept(preset: Path, rows: Path, tmp_path: Path) -> None:
    kept, contents = tmp_path / "kept", []
    kept.mkdir()
    for name in ("first", "second"):
        options = ["--config", preset, "--data", rows, "--out", tmp_path / name, "--mesh", "data=2"]
        command = ["-m", "electra_jax", "pretrain", *map(str, options)]
        run = micro.python(*command, devices=2, JAX_COMPILATION_CACHE_DIR=str(kept))
        assert run.returncode == 0, run.stderr
        (file,) = (kept / "steps").iterdir()
        assert file.stat().st_mtime > 0  # made or used now
        os.utime(file, (0, 0))
        contents.append(file.read_bytes())
    assert contents[0] == contents[1]
    assert micro.records(tmp_path / "first") == micro.records(tmp_path / "second")
    assert micro.equal_bits(*(micro.saved_state(tmp_path / name, 20) for name in ("first", "second")))


def test_settings_that_are_left_out_change_nothing_of_the_step(rows: Path) -> None:
    assert ELSEWHERE.keys() == OUTSIDE
    one = config_of(rows)
    other = replace(one, **ELSEWHERE)
    assert all(getattr(one, name) != getattr(other, name) for name in OUTSIDE)

    def text(config: PretrainConfig) -> str:
        mesh = make_mesh(None, config.batch_size)
        return jit_step(config, SPECIAL, mesh).lower(abstract_state(config), empty_batch(config)).as_text()

    assert text(one) == text(other)
    assert settings(one, OUTSIDE) == settings(other, OUTSIDE)


def test_whatever_else_a_step_is_made_from_gives_it_another_name(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(rows)

    def name(config: PretrainConfig = config, mask: int = 4, dtype: str = "int32") -> str:
        mesh = make_mesh(config.mesh, config.batch_size)
        batch = {"input_ids": jax.ShapeDtypeStruct((8, 16), jnp.dtype(dtype), sharding=by_row(mesh))}
        arguments = abstract(abstract_state(config), mesh), batch
        return digest(settings(config, OUTSIDE), SPECIAL._replace(mask=mask), mesh, arguments)

    names = [name(), name(replace(config, seed=1)), name(replace(config, steps=21)), name(mask=5), name(dtype="int16")]
    with jax.default_matmul_precision("highest"):
        names.append(name())
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    names.append(name())
    monkeypatch.setattr(module, "instructions", lambda: b"flags: fpu sse4_2")
    names.append(name())
    monkeypatch.setattr(module, "version", lambda library: f"another {library}")
    module._sources.cache_clear()
    names.append(name())
    shutil.copytree(module.PACKAGE, tmp_path / "package", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(module, "PACKAGE", tmp_path / "package")
    module._sources.cache_clear()
    assert name() == names[-1]  # the same sources elsewhere
    with (tmp_path / "package" / "model" / "layers.py").open("a") as file:
        file.write("# a change\n")
    module._sources.cache_clear()
    names.append(name())
    monkeypatch.undo()
    module._sources.cache_clear()
    assert len(set(names)) == len(names)
    assert name() == names[0]


@with_onednn
def test_a_step_whose_products_onednn_makes_is_not_kept(rows: Path, kept: Path) -> None:
    compiled(config_of(rows, compute=ComputeConfig(scan_layers=True, products="onednn")))
    assert not steps(kept)


# --- the file -----------------------------------------------------------------------------------------------------


def program(number: int = 3) -> jax.stages.Compiled:
    """A small one in a step's place, traced anew."""
    return compile_now(jax.jit(lambda tree: {"sum": number * tree["x"]}, donate_argnums=0), {"x": jnp.ones(())})


def right(compiled: jax.stages.Compiled) -> bool:
    return float(compiled({"x": jnp.float32(5)})["sum"]) == 15


def test_what_is_kept_is_loaded(kept: Path) -> None:
    assert right(find_or_make(kept / "steps" / "one", program))
    assert right(find_or_make(kept / "steps" / "one", refuse))
    assert (kept / "steps").stat().st_mode & 0o777 == 0o700


def test_what_jax_has_of_programs_that_tracing_runs_is_no_part_of_it(kept: Path) -> None:
    def tracing() -> jax.stages.Compiled:
        jax.jit(lambda x: x + 1)(2.0)
        return program()

    jax.jit(lambda x: x + 1)(2.0)  # which JAX keeps, and finds when it is traced anew
    assert right(find_or_make(kept / "steps" / "one", tracing))
    assert steps(kept) == {"one"}


@pytest.mark.parametrize("damage", [lambda whole: whole[:-100], lambda _: b"", lambda whole: whole[:99] + whole[100:]])
def test_a_damaged_file_is_made_anew(damage: Callable[[bytes], bytes], kept: Path) -> None:
    jax.config.update("jax_persistent_cache_min_compile_time_secs", math.inf)  # JAX keeps none
    file = kept / "steps" / "one"
    find_or_make(file, program)
    file.write_bytes(damage(file.read_bytes()))
    assert right(find_or_make(file, program))
    assert right(find_or_make(file, refuse))


def test_what_jax_has_kept_already_is_not_kept_in_part(kept: Path) -> None:
    assert right(program())
    assert right(find_or_make(kept / "steps" / "one", program))
    assert not steps(kept)


def test_the_longest_unused_goes_first(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 2)
    for i in range(2):
        find_or_make(kept / "steps" / str(i), partial(program, i))
        os.utime(kept / "steps" / str(i), (i, i))
    find_or_make(kept / "steps" / "0", refuse)  # it is used
    find_or_make(kept / "steps" / "2", partial(program, 2))
    assert steps(kept) == {"0", "2"}


def test_where_nothing_can_be_written_a_step_is_compiled_all_the_same(kept: Path) -> None:
    (kept / "steps").write_text("in the way")
    assert right(find_or_make(kept / "steps" / "one", program))


def test_the_folder_is_in_that_of_jax(kept: Path) -> None:
    enabled = jax.config.values["jax_enable_compilation_cache"]
    assert steps_folder() == kept / "steps"
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        assert steps_folder() is None
    finally:
        jax.config.update("jax_enable_compilation_cache", enabled)
    for chosen in ("gs://bucket/folder", "", None):
        jax.config.update("jax_compilation_cache_dir", chosen)
        assert steps_folder() is None


def test_a_folder_that_jax_has_not_made_yet_is_made(kept: Path) -> None:
    jax.config.update("jax_compilation_cache_dir", str(kept / "new" / "one"))
    folder = steps_folder()
    assert folder is not None
    assert not folder.parent.exists()
    assert right(find_or_make(folder / "one", program))
    assert right(find_or_make(folder / "one", refuse))
