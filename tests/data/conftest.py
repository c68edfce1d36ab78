"""A small corpus of English and Chinese, its tokenizer, and its prepared rows."""

from pathlib import Path

import pytest
from bilingual import make_documents

from electra_jax.config import PrepareConfig, VocabConfig
from electra_jax.data.manifest import Manifest
from electra_jax.data.prepare import prepare
from electra_jax.data.vocab import train_vocabulary


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text file of 200 documents between blank lines."""
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text("\n\n".join(make_documents(200)) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tokenizer_folder(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_vocabulary(VocabConfig((corpus,), tmp_path_factory.mktemp("vocab") / "tokenizer", size=150)).folder


@pytest.fixture(scope="session")
def prepared(corpus: Path, tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    """A folder of prepared rows of 32 tokens, and its manifest."""
    out = tmp_path_factory.mktemp("prepared") / "rows"
    return out, prepare(PrepareConfig((str(corpus),), str(tokenizer_folder), out, length=32, held_out=0.2))


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting for a hub that isn't there."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
