import json
import re
from pathlib import Path

import numpy as np
import pytest
from tiny import CONFIGS

from electra_jax.errors import UserError
from electra_jax.hub.folders import read_model, write_model
from electra_jax.hub.names import flat
from electra_jax.hub.pretrained import Discriminator, Generator
from electra_jax.train.convert import import_pretrained


def test_what_was_written_is_read(generator: Generator, tmp_path: Path) -> None:
    write_model(tmp_path, "generator", generator.config, generator.params)
    config, params = read_model(tmp_path, "generator")

    assert config == generator.config
    assert flat(params).keys() == flat(generator.params).keys()
    for path, leaf in flat(generator.params).items():
        np.testing.assert_array_equal(flat(params)[path], leaf)


def test_card_and_tokenizer_files_are_written(generator: Generator, tokenizer_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    write_model(folder, "generator", generator.config, generator.params, tokenizer_folder, "# Card\n")

    assert {file.name for file in folder.iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizer_config.json",
        "vocab.txt",
    }
    assert (folder / "README.md").read_text() == "# Card\n"
    assert (folder / "vocab.txt").read_bytes() == (tokenizer_folder / "vocab.txt").read_bytes()


def test_a_folder_without_tokenizer(generator: Generator, tmp_path: Path) -> None:
    empty, folder = tmp_path / "empty", tmp_path / "model"
    empty.mkdir()
    folder.mkdir()

    with pytest.raises(UserError, match=f"{re.escape(str(empty))}: holds no tokenizer"):
        write_model(folder, "generator", generator.config, generator.params, empty)


def test_generator_given_as_discriminator(generator_folder: Path) -> None:
    with pytest.raises(UserError, match=f"{re.escape(str(generator_folder))}: holds a generator, and a discriminator"):
        Discriminator.from_pretrained(generator_folder)


def test_discriminator_given_as_generator(discriminator_folder: Path) -> None:
    with pytest.raises(UserError, match="holds a discriminator, and a generator is wanted"):
        Generator.from_pretrained(discriminator_folder)


def test_another_architecture(discriminator_folder: Path) -> None:
    file = discriminator_folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_type": "bert"}))

    with pytest.raises(UserError, match="of another architecture"):
        Discriminator.from_pretrained(discriminator_folder)


def test_config_of_another_size(discriminator_folder: Path) -> None:
    file = discriminator_folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"vocab_size": CONFIGS["generator"].vocab_size + 1}))

    with pytest.raises(UserError, match=r"word_embeddings\.weight has shape \(40, 8\), and the settings"):
        Discriminator.from_pretrained(discriminator_folder)


def test_an_import_tells_that_there_is_no_tokenizer(
    discriminator_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = import_pretrained(discriminator_folder, tmp_path / "imported")
    assert f"{discriminator_folder}: holds no tokenizer; imported without one" in capsys.readouterr().err
    assert not (run / "tokenizer").exists()
