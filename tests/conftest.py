"""A text, its tokenizer and rows, and one finished run, made once for all tests that read them."""

from collections.abc import Iterator
from pathlib import Path

import micro
import pytest

from electra_jax.config import PrepareConfig, PretrainConfig, VocabConfig
from electra_jax.data.prepare import prepare
from electra_jax.data.vocab import train_vocabulary
from electra_jax.presets import to_toml
from electra_jax.train.pretrain import pretrain


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
    lines = to_toml(micro.make_config(rows, tmp_path)).splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith(("data =", "out ="))))
    return path
