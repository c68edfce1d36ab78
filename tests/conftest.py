"""A text, its tokenizer and rows, and one finished run, made once for all tests that read them."""

import os
import tomllib
from collections.abc import Iterator
from pathlib import Path

import jax
import micro
import pytest
import tomli_w

from electra_jax import cli
from electra_jax.config import PrepareConfig, PretrainConfig, VocabConfig
from electra_jax.data.prepare import prepare
from electra_jax.data.vocab import train_vocabulary
from electra_jax.presets import to_toml
from electra_jax.train.pretrain import pretrain


@pytest.fixture(scope="session", autouse=True)
def no_cache() -> None:
    """Commands leave the user's cache of compiled programs alone, here and in processes that tests start."""
    os.environ["JAX_COMPILATION_CACHE_DIR"] = ""
    jax.config.update("jax_compilation_cache_dir", "")


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
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where compiled programs are kept for the next run of the same settings."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="session")
def finished(rows: Path, compiled: Path, tmp_path_factory: pytest.TempPathFactory) -> PretrainConfig:
    """The settings of a run of 20 steps, which `out` holds. To be read only."""
    config = micro.make_config(rows, tmp_path_factory.mktemp("run") / "run")
    with micro.quick_compilation(compiled):
        pretrain(config)
    return config


@pytest.fixture
def quick_compilation(compiled: Path) -> Iterator[None]:
    with micro.quick_compilation(compiled):
        yield


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
