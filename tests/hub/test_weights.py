import json
import re
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from tiny import CONFIGS, StateFile

from electra_jax.errors import UserError
from electra_jax.hub.names import flat
from electra_jax.hub.pretrained import Discriminator, Generator
from electra_jax.hub.weights import kind_of, read_state, to_params, to_state

QUERY = "electra.encoder.layer.1.attention.self.query.weight"
BOTH = ["generator_lm_head.bias", "discriminator_predictions.dense.bias"]
WORDS, OUTPUT = "electra.embeddings.word_embeddings.weight", "generator_lm_head.weight"


def rejected(state: StateFile, model: type[Discriminator] | type[Generator]) -> str:
    """The message that reading the changed file gives; it names the file, on one line."""
    state.save()
    with pytest.raises(UserError) as error:
        model.from_pretrained(state.path.parent)
    message = str(error.value)
    assert str(state.path) in message
    assert "\n" not in message
    return message


def assert_equal(left: dict, right: dict) -> None:
    left, right = flat(left), flat(right)
    assert left.keys() == right.keys()
    for path in left:
        np.testing.assert_array_equal(left[path], right[path], err_msg=path)


# --- what doesn't fit ---


def test_missing_key(discriminator_state: StateFile) -> None:
    del discriminator_state.tensors[QUERY]

    assert f"{QUERY}, of shape (16, 16), is missing" in rejected(discriminator_state, Discriminator)


def test_wrong_shape(discriminator_state: StateFile) -> None:
    discriminator_state.tensors[WORDS] = np.zeros((41, 8), np.float32)

    assert f"{WORDS} has shape (41, 8), and the settings make it (40, 8)" in rejected(
        discriminator_state, Discriminator
    )


def test_unexpected_key(discriminator_state: StateFile) -> None:
    extra = "electra.encoder.layer.2.output.dense.bias"
    discriminator_state.tensors[extra] = np.zeros(16, np.float32)

    assert f"{extra}, of shape (16,), is in no discriminator" in rejected(discriminator_state, Discriminator)


def test_weights_that_are_no_floats(discriminator_state: StateFile) -> None:
    discriminator_state.tensors[QUERY] = np.zeros((16, 16), np.int8)

    assert f"{QUERY} holds int8" in rejected(discriminator_state, Discriminator)


def test_parameters_of_other_settings(discriminator: Discriminator) -> None:
    with pytest.raises(UserError, match=re.escape("encoder/layers/attention/key/bias has shape (2, 16)")):
        to_state(discriminator.params, CONFIGS["generator"], "discriminator")


# --- what released checkpoints carry beside their parameters ---


def test_position_ids_are_ignored(discriminator: Discriminator, discriminator_state: StateFile) -> None:
    discriminator_state.tensors["electra.embeddings.position_ids"] = np.arange(12)[None]
    discriminator_state.save()

    assert_equal(Discriminator.from_pretrained(discriminator_state.path.parent).params, discriminator.params)


def test_a_copy_of_the_word_table_is_ignored(generator: Generator, generator_state: StateFile) -> None:
    generator_state.tensors[OUTPUT] = generator_state.tensors[WORDS].copy()
    generator_state.save()

    assert_equal(Generator.from_pretrained(generator_state.path.parent).params, generator.params)


def test_an_output_matrix_of_its_own_is_refused(generator_state: StateFile) -> None:
    generator_state.tensors[OUTPUT] = generator_state.tensors[WORDS] + 1

    assert f"{OUTPUT} is not {WORDS}" in rejected(generator_state, Generator)


def test_a_projection_that_nothing_uses_is_ignored(generator: Generator, generator_state: StateFile) -> None:
    generator_state.tensors["electra.embeddings_project.weight"] = np.ones((8, 8), np.float32)
    generator_state.save()

    assert_equal(Generator.from_pretrained(generator_state.path.parent).params, generator.params)


# --- types ---


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.float64])
def test_other_floats_become_float32(discriminator: Discriminator, dtype: type) -> None:
    state = to_state(discriminator.params, discriminator.config, "discriminator")
    other = {key: value.astype(dtype) for key, value in state.items()}
    params = to_params(other, discriminator.config, "discriminator", "file")

    assert {leaf.dtype for leaf in flat(params).values()} == {np.dtype("float32")}
    again = to_state(params, discriminator.config, "discriminator")
    for key, value in other.items():
        np.testing.assert_array_equal(again[key], value.astype(np.float32))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files_are_read(discriminator_state: StateFile, dtype: torch.dtype) -> None:
    from safetensors.torch import save_file

    half = {key: torch.from_numpy(value).to(dtype) for key, value in discriminator_state.tensors.items()}
    save_file(half, discriminator_state.path)
    words = Discriminator.from_pretrained(discriminator_state.path.parent).params["embeddings"]["word"]

    assert words.dtype == np.float32
    np.testing.assert_array_equal(words, half[WORDS].float().numpy())


# --- files ---


@pytest.mark.parametrize("size", [0, 4, 20, -1])
def test_truncated_safetensors(discriminator_folder: Path, size: int) -> None:
    file = discriminator_folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])

    with pytest.raises(UserError, match=f"{re.escape(str(file))}: damaged, or cut short"):
        read_state(discriminator_folder)


def test_what_git_left_in_place_of_a_large_file(discriminator_folder: Path) -> None:
    file = discriminator_folder / "model.safetensors"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n")

    with pytest.raises(UserError, match=f"{re.escape(str(file))}: is a pointer of Git LFS .* git lfs pull"):
        read_state(discriminator_folder)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers(discriminator_state: StateFile, value: float) -> None:
    discriminator_state.tensors[QUERY] = np.full((16, 16), value, np.float32)

    assert f"{QUERY} holds values that are no numbers" in rejected(discriminator_state, Discriminator)


def test_no_weights(discriminator_folder: Path) -> None:
    (discriminator_folder / "model.safetensors").unlink()

    with pytest.raises(UserError, match=r"neither model\.safetensors nor pytorch_model\.bin"):
        read_state(discriminator_folder)


@pytest.fixture
def pickle_file(discriminator_state: StateFile) -> Path:
    """pytorch_model.bin in place of model.safetensors."""
    file = discriminator_state.path.with_name("pytorch_model.bin")
    tensors = {key: torch.from_numpy(value) for key, value in discriminator_state.tensors.items()}
    torch.save(tensors | {"electra.embeddings.position_ids": torch.arange(12)[None]}, file)
    discriminator_state.path.unlink()
    return file


def test_a_folder_with_only_a_pickle_is_read(discriminator: Discriminator, pickle_file: Path) -> None:
    assert_equal(Discriminator.from_pretrained(pickle_file.parent).params, discriminator.params)


def test_a_pickle_in_bfloat16_is_read(pickle_file: Path) -> None:
    torch.save({key: value.bfloat16() for key, value in torch.load(pickle_file).items()}, pickle_file)

    assert Discriminator.from_pretrained(pickle_file.parent).params["embeddings"]["word"].dtype == np.float32


def test_a_pickle_without_torch(pickle_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)

    with pytest.raises(UserError, match=r"pytorch_model\.bin.*`pip install torch`.*model\.safetensors"):
        read_state(pickle_file.parent)


@pytest.mark.parametrize("content", [b"", b"hello world, hello", None])
def test_damaged_pickle(pickle_file: Path, content: bytes | None) -> None:
    pickle_file.write_bytes(pickle_file.read_bytes()[:-40] if content is None else content)

    with pytest.raises(UserError, match=f"{re.escape(str(pickle_file))}: damaged"):
        read_state(pickle_file.parent)


@pytest.mark.parametrize("content", [{"step": 3}, torch.nn.Linear(2, 3)])
def test_a_pickle_of_something_else(pickle_file: Path, content: object) -> None:
    torch.save(content, pickle_file)

    with pytest.raises(UserError, match="no dict of tensors"):
        read_state(pickle_file.parent)


def test_pickles_that_an_index_names(discriminator: Discriminator, pickle_file: Path) -> None:
    shard = pickle_file.rename(pickle_file.with_name("pytorch_model-00001-of-00001.bin"))
    weight_map = dict.fromkeys(torch.load(shard), shard.name)
    shard.with_name("pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))

    assert_equal(Discriminator.from_pretrained(shard.parent).params, discriminator.params)


def test_weights_of_tensorflow(discriminator_folder: Path) -> None:
    (discriminator_folder / "model.safetensors").rename(discriminator_folder / "tf_model.h5")

    with pytest.raises(UserError, match=r"tf_model\.h5: only transformers 4 with TensorFlow reads it"):
        read_state(discriminator_folder)


def test_a_type_that_is_not_read(discriminator_folder: Path) -> None:
    file = discriminator_folder / "model.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(2).to(torch.float8_e4m3fn)}, file)

    with pytest.raises(UserError, match=r"model\.safetensors: holds a type that can't be read \(.*float8.*\); save it"):
        read_state(discriminator_folder)


def test_the_names_that_data_parallel_gives(discriminator: Discriminator, discriminator_state: StateFile) -> None:
    discriminator_state.tensors = {f"module.{key}": value for key, value in discriminator_state.tensors.items()}
    discriminator_state.save()

    assert_equal(Discriminator.from_pretrained(discriminator_state.path.parent).params, discriminator.params)


def test_the_file_names_its_format_and_leaves_tied_weights_out(generator_folder: Path) -> None:
    with safetensors.safe_open(generator_folder / "model.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "pt"}  # what transformers 4 asks for
        assert OUTPUT not in file.keys()  # noqa: SIM118 - no dict


# --- kinds ---


def test_kind_of() -> None:
    assert kind_of({"discriminator_predictions.dense.bias": 0}, "file") == "discriminator"
    assert kind_of({"generator_lm_head.bias": 0}, "file") == "generator"


@pytest.mark.parametrize("keys", [["classifier.dense.bias"], BOTH])
def test_kind_of_neither_or_both(keys: list[str]) -> None:
    with pytest.raises(UserError, match=r"^file: has (neither|both)"):
        kind_of(dict.fromkeys(keys, 0), "file")


# --- several files, and old names ---


def test_weights_in_several_files(discriminator: Discriminator, discriminator_folder: Path) -> None:
    tensors = safetensors.numpy.load_file(discriminator_folder / "model.safetensors")
    (discriminator_folder / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, some in shards.items():
        safetensors.numpy.save_file({name: tensors[name] for name in some}, discriminator_folder / file)
    weight_map = {name: file for file, some in shards.items() for name in some}
    index = discriminator_folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert_equal(Discriminator.from_pretrained(discriminator_folder).params, discriminator.params)

    (discriminator_folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match=r"model-00002-of-00002\.safetensors: damaged, or cut short"):
        Discriminator.from_pretrained(discriminator_folder)
    index.write_text("[]")
    with pytest.raises(UserError, match=r"index\.json: damaged, or cut short"):
        Discriminator.from_pretrained(discriminator_folder)


def test_the_names_that_layer_norm_had_in_tensorflow(
    discriminator: Discriminator, discriminator_state: StateFile
) -> None:
    new = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    renamed = {}
    for key, tensor in discriminator_state.tensors.items():
        end = ".".join(key.split(".")[-2:])
        renamed[key.removesuffix(end) + new.get(end, end)] = tensor
    assert renamed.keys() != discriminator_state.tensors.keys()
    discriminator_state.tensors = renamed
    discriminator_state.save()
    assert_equal(Discriminator.from_pretrained(discriminator_state.path.parent).params, discriminator.params)
