"""A text, its tokenizer and rows, and one finished run, made once for all tests that read them."""

import gc
import os
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis
import jax
import micro
import pytest
import tomli_w
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh

from electra_jax import cli
from electra_jax.config import PrepareConfig, PretrainConfig, VocabConfig
from electra_jax.data.prepare import prepare
from electra_jax.data.vocab import train_vocabulary
from electra_jax.objectives.masking import SpecialTokens
from electra_jax.objectives.registry import Objective, find
from electra_jax.presets import to_toml
from electra_jax.train.pretrain import pretrain
from electra_jax.train.step import jit_step, make_evaluation

# The same examples each time, so that a change fails by its own fault; --hypothesis-profile default looks for others.
hypothesis.settings.register_profile("same", derandomize=True)
hypothesis.settings.load_profile("same")
if jax.__version_info__ < (0, 11):  # later ones know no such flag, and end where they find one
    # XLA's older way to compile fusions: without optimisations, a third of the time. Read when JAX is first used.
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false"

if "PYTEST_XDIST_WORKER" in os.environ and hasattr(os, "sched_setaffinity"):
    micro.take_own_cores(int(os.environ["PYTEST_XDIST_WORKER"][2:]), int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))


LONGEST = ("test_meshes", "test_processes", "test_pretrain", "test_objective_runs", "test_finetune", "test_guards")
"""Files that take minutes."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first, so that no worker has one left when the others are done."""
    items.sort(key=lambda item: item.path.stem not in LONGEST)


@pytest.fixture(scope="session", autouse=True)
def quick_compilation(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Compile carelessly, and each program once, here and in processes that tests start; leave the user's cache alone.

    Compiled as usual, a run here would spend a hundred times as long on it as on its training.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # that of all workers
    settings = {
        "jax_disable_most_optimizations": True,
        "jax_compilation_cache_dir": str(folder / "compiled"),
        "jax_persistent_cache_min_compile_time_secs": 0.1,
    }
    for name, value in settings.items():
        os.environ[name.upper()] = str(value)
        jax.config.update(name, value)


UNTRACED: dict[str, Any] = {
    "data": (),
    "out": Path(),
    "init_from": None,
    "log_every": 1,
    "eval_every": 1,
    "eval_rows": 1,
    "checkpoint_every": 1,
    "checkpoints_kept": 1,
    "keep_best": False,
}
"""Settings that no compiled function reads."""


@pytest.fixture(scope="session", autouse=True)
def programs() -> Iterator[Callable[[], None]]:
    """Runs in one file share what is traced and compiled for the same settings, which takes longer than their steps.

    The function forgets all.
    """

    @cache
    def made(maker: Callable, config: PretrainConfig, special: SpecialTokens, mesh: Mesh, objective: Objective) -> Any:
        return maker(config, special, mesh)

    def sharing(maker: Callable) -> Callable:
        return lambda config, *rest: made(maker, replace(config, **UNTRACED), *rest, find(config.objective.name))

    with pytest.MonkeyPatch.context() as patch:
        for user, maker in (("pretrain", jit_step), ("kept", jit_step), ("pretrain", make_evaluation)):
            patch.setattr(f"electra_jax.train.{user}.{maker.__name__}", sharing(maker))
        yield made.cache_clear


@pytest.fixture(scope="module", autouse=True)
def forgotten(programs: Callable[[], None]) -> Iterator[None]:
    """Each file's programs are let go of: a process that holds thousands is slow, and large."""
    yield
    programs()
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(micro.make_text())
    return path


@pytest.fixture(scope="session")
def tokenizer(text: Path) -> Path:
    return train_vocabulary(VocabConfig((text,), text.parent / "tokenizer", size=110)).folder


@pytest.fixture(scope="session")
def rows(text: Path, tokenizer: Path) -> Path:
    out = text.parent / "rows"
    prepare(PrepareConfig((str(text),), str(tokenizer), out, length=micro.LENGTH, held_out=0.2))
    return out


@pytest.fixture(scope="session")
def packed_rows(text: Path, tokenizer: Path) -> Path:
    out = text.parent / "packed"
    prepare(PrepareConfig((str(text),), str(tokenizer), out, length=micro.LENGTH, held_out=0.2, pack=True))
    return out


@pytest.fixture(scope="session")
def finished(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> PretrainConfig:
    """The settings of a run of 20 steps, which `out` holds. To be read only."""
    config = micro.make_config(rows, tmp_path_factory.mktemp("run") / "run")
    pretrain(config)
    return config


@pytest.fixture
def preset(rows: Path, tmp_path: Path) -> Path:
    """A TOML file of the finished run's settings, data and out apart."""
    path = tmp_path / "micro.toml"
    table = tomllib.loads(to_toml(micro.make_config(rows, tmp_path)))
    path.write_text(tomli_w.dumps({name: value for name, value in table.items() if name not in ("data", "out")}))
    return path


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting for a hub that isn't there."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Path]:
    """An empty folder in which JAX keeps all that it compiles."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before, folder = {name: jax.config.values[name] for name in names}, tmp_path / "kept"
    folder.mkdir()
    for name, value in zip(names, (str(folder), 0.0), strict=True):
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield folder
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture
def fail(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> micro.Failing:
    """Runs a command that must fail without a trace on disk; returns what its one line says after the name."""

    def run(command: str, *arguments: object) -> str:
        before = micro.files(tmp_path), set(tmp_path.rglob("*"))
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit:
            cli.main([command, *map(str, arguments)])
        assert exit.value.code == 2
        assert (micro.files(tmp_path), set(tmp_path.rglob("*"))) == before
        return micro.complaint(command, capfd.readouterr().err)

    return run
