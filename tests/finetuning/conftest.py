"""A model of random weights and a file of examples that it learns within seconds."""

from dataclasses import replace
from pathlib import Path

import micro
import pytest
from flax import nnx
from toy import sentences, write_csv

from electra_jax.config import ComputeConfig, ElectraConfig, FinetuneConfig
from electra_jax.data.tokenizer import load_tokenizer, save_tokenizer
from electra_jax.finetuning.finetune import finetune
from electra_jax.hub.pretrained import Discriminator

LETTERS = "abcdefghijklmnopqrstuvwxyz"
POSITIONS = 48


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of which each of micro's words is a token, so that lengths are few and little is compiled."""
    folder = tmp_path_factory.mktemp("words")
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(micro.WORDS.split())]
    pieces = [*"0123456789.,?<>&'", *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in [*tokens, *pieces]))
    return folder


@pytest.fixture(scope="session")
def pretrained(words: Path) -> Path:
    """A discriminator of random weights, large ones, from which it learns quickly. To be read only."""
    tokenizer = load_tokenizer(words)
    config = ElectraConfig(
        vocab_size=len(tokenizer),
        embedding_size=16,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=POSITIONS,
        initializer_range=0.15,
    )
    folder = words.parent / "pretrained"
    Discriminator(config, rngs=nnx.Rngs(0)).save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    return folder


@pytest.fixture(scope="session")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """160 texts of two labels."""
    path = tmp_path_factory.mktemp("examples") / "examples.csv"
    return write_csv(path, ("text", "label"), sentences(160))


@pytest.fixture(scope="session")
def learning(pretrained: Path, examples: Path, tmp_path_factory: pytest.TempPathFactory) -> FinetuneConfig:
    """The settings of a run that learns the examples."""
    return FinetuneConfig(
        model=str(pretrained),
        out=tmp_path_factory.mktemp("learnt") / "model",
        train=str(examples),
        eval_fraction=0.25,
        epochs=6,
        batch_size=8,
        learning_rate=1e-3,
        layer_decay=1.0,
        log_every=20,
        compute=ComputeConfig(scan_layers=True),
    )


@pytest.fixture(scope="session")
def learnt(learning: FinetuneConfig) -> FinetuneConfig:
    """The settings of a run that is done, of two seeds; its folder is `out`. To be read only."""
    config = replace(learning, seeds=2)
    finetune(config)
    return config
