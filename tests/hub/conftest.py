from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from tiny import CONFIGS, StateFile

from electra_jax.hub.pretrained import Discriminator, Generator


@pytest.fixture
def discriminator() -> Discriminator:
    """Its embeddings are narrower than its encoder."""
    return Discriminator(CONFIGS["discriminator"], rngs=nnx.Rngs(1))


@pytest.fixture
def generator() -> Generator:
    """Its embeddings are as wide as its encoder."""
    return Generator(CONFIGS["generator"], rngs=nnx.Rngs(2))


@pytest.fixture
def discriminator_folder(discriminator: Discriminator, tmp_path: Path) -> Path:
    discriminator.save_pretrained(tmp_path / "discriminator")
    return tmp_path / "discriminator"


@pytest.fixture
def generator_folder(generator: Generator, tmp_path: Path) -> Path:
    generator.save_pretrained(tmp_path / "generator")
    return tmp_path / "generator"


@pytest.fixture
def ids() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 40, (2, 7))


@pytest.fixture
def tokenizer_folder(tmp_path: Path) -> Path:
    """A vocabulary of 40 tokens, as older models are handed round."""
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(35))]
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "ElectraTokenizer"}')
    (folder / "unrelated.txt").write_text("not a tokenizer's file")
    return folder


@pytest.fixture
def discriminator_state(discriminator_folder: Path) -> StateFile:
    return StateFile(discriminator_folder)


@pytest.fixture
def generator_state(generator_folder: Path) -> StateFile:
    return StateFile(generator_folder)
