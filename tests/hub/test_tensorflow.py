"""Checkpoints of the original release, without TensorFlow: the variables lie in a NumPy file that a stand-in reads.

test_real_tensorflow.py has TensorFlow itself write and read them.
"""

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from release import release_variables
from tiny import SIZES
from transformers import ElectraForMaskedLM, ElectraForPreTraining

from electra_jax import cli
from electra_jax.config import ModelConfig, TensorflowConfig, TowerConfig
from electra_jax.data.tokenizer import load_tokenizer
from electra_jax.errors import UserError
from electra_jax.hub.names import flat, tensors
from electra_jax.hub.pretrained import Discriminator, Generator
from electra_jax.hub.tensorflow import find_checkpoint, to_pair, variable_name
from electra_jax.model import Electra
from electra_jax.presets import load_config
from electra_jax.train.convert import import_pretrained
from electra_jax.train.models import single_models
from electra_jax.train.run import TOKENIZER, read_model, restore_params

SHARED = {name: value for name, value in SIZES.items() if name != "num_hidden_layers"}
PAIRS = {
    # Embeddings of 8: the discriminator projects them, and the generator doesn't; then the other way round.
    "narrow embeddings": ModelConfig(
        **SHARED, discriminator=TowerConfig(2, 16, 4, 24), generator=TowerConfig(1, 8, 1, 12)
    ),
    "wide embeddings": ModelConfig(
        **SHARED, discriminator=TowerConfig(2, 8, 4, 24), generator=TowerConfig(2, 4, 1, 12)
    ),
    "untied_generator false": ModelConfig(
        **SHARED, discriminator=TowerConfig(2, 16, 4, 24), generator=TowerConfig(2, 16, 4, 24), tie="all"
    ),
}
MODEL = PAIRS["narrow embeddings"]
HEADS = TensorflowConfig(heads=4)
Variables = dict[str, np.ndarray]
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "river", "River", "caf", "##é", "##e"]


def make_params(model: ModelConfig) -> dict[str, Any]:
    """Random ones: what starts as zeros or ones would hide an exchange."""
    params = nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: Electra(model, rngs=nnx.Rngs(0))), nnx.Param))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), params)


@pytest.fixture
def params() -> dict[str, Any]:
    return make_params(MODEL)


@pytest.fixture
def variables(params: dict[str, Any]) -> Variables:
    return release_variables(params)


@pytest.fixture
def save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Variables], Path]:
    """Writes variables as a checkpoint that the stand-in for TensorFlow reads; returns its prefix."""

    class Reader(dict):
        def get_variable_to_shape_map(self) -> dict[str, tuple[int, ...]]:
            return {name: value.shape for name, value in self.items()}

        def get_tensor(self, name: str) -> np.ndarray:
            assert "adam" not in name, "reading what isn't needed takes three times the memory"
            return self[name]

    module: Any = ModuleType("tensorflow")
    module.__spec__ = ModuleSpec("tensorflow", None)  # which orbax asks for
    module.train = SimpleNamespace(load_checkpoint=lambda prefix: Reader(np.load(f"{prefix}.index")))
    monkeypatch.setitem(sys.modules, "tensorflow", module)

    def write(variables: Variables) -> Path:
        folder = tmp_path / "electra_small"
        folder.mkdir()
        with (folder / "electra_small.index").open("wb") as file:
            np.savez(file, **variables)
        return folder / "electra_small"

    return write


def rejected(variables: Variables, heads: int | None = 4) -> str:
    with pytest.raises(UserError) as error:
        to_pair(variables, "CHECKPOINT", heads)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("CHECKPOINT: ")
    return str(error.value).removeprefix("CHECKPOINT: ")


def without_slots(variables: Variables) -> Variables:
    unused = re.compile("adam|global_step|temperature")
    return {name: value for name, value in variables.items() if not unused.search(name)}


@pytest.fixture
def read(variables: Variables) -> Variables:
    """What reading the checkpoint gives."""
    return without_slots(variables)


# --- names and values ---


@pytest.mark.parametrize(("kind", "scope"), [("discriminator", "electra"), ("generator", "generator")])
def test_the_names_are_the_releases(read: Variables, kind: str, scope: str) -> None:
    names = {variable_name(tensor.key, scope) for tensor in tensors(MODEL.tower(kind), kind)}

    assert names == {
        name for name in read if name.startswith((f"{scope}/", f"{kind}_predictions/", "electra/embeddings/"))
    }


@pytest.mark.parametrize("name", PAIRS)
def test_a_pair_is_imported(save: Callable[[Variables], Path], tmp_path: Path, name: str) -> None:
    model, params = PAIRS[name], make_params(PAIRS[name])
    run = import_pretrained(save(release_variables(params)), tmp_path / "imported", tensorflow=HEADS)

    assert read_model(run) == model
    found, expected = flat(restore_params(run)[1]), flat(params)
    assert found.keys() == expected.keys()
    for path, leaf in expected.items():
        np.testing.assert_array_equal(found[path], leaf, err_msg=path)


@pytest.mark.parametrize(
    ("hidden", "heads"), [(64, 1), (144, 2), (256, 4), (768, 12)], ids=["hfl's g", "debug", "small", "base"]
)
def test_a_head_for_every_64(hidden: int, heads: int) -> None:
    tower = TowerConfig(1, hidden, 1, 8)
    model = ModelConfig(**SHARED, discriminator=tower, generator=tower)
    found = to_pair(without_slots(release_variables(make_params(model))), "CHECKPOINT").model

    assert found.discriminator == found.generator == replace(tower, num_attention_heads=heads)


def test_the_released_small_model_is_the_presets() -> None:
    preset = load_config("small-pp", data=Path("data"), out=Path("out")).model
    variables = without_slots(release_variables(make_params(preset)))

    assert to_pair(variables, "CHECKPOINT").model == preset


@pytest.mark.parametrize("kind", ["discriminator", "generator"])
def test_transformers_computes_the_same(
    save: Callable[[Variables], Path],
    params: dict[str, Any],
    variables: Variables,
    ids: np.ndarray,
    tmp_path: Path,
    kind: str,
) -> None:
    prefix = save(variables)
    cli.main(["import", str(prefix), "--tensorflow.heads", "4", "--out", str(tmp_path / "imported")])
    cli.main(["export", str(tmp_path / "imported"), "--out", str(tmp_path / "exported")])
    ours = {"discriminator": Discriminator, "generator": Generator}[kind]
    theirs = {"discriminator": ElectraForPreTraining, "generator": ElectraForMaskedLM}[kind]
    with torch.no_grad():
        logits = theirs.from_pretrained(tmp_path / "exported" / kind).eval()(torch.tensor(ids)).logits.numpy()

    expected = ours.from_params(MODEL.tower(kind), single_models(params)[kind][1])(ids)
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    assert np.ptp(expected) > 0.1


# --- a generator that can't be had ---


def with_own_embeddings(variables: Variables) -> Variables:
    own = {name: value for name, value in variables.items() if name.startswith("electra/embeddings/")}
    return variables | {name.replace("electra/", "generator/"): value for name, value in own.items()}


def with_two_towers(variables: Variables) -> Variables:
    renamed = (name.replace("generator_predictions/", "cloze_predictions/") for name in variables)
    return {
        name.replace("generator/", "generator_ltr/"): v for name, v in zip(renamed, variables.values(), strict=True)
    }


def with_none(variables: Variables) -> Variables:
    return {name: value for name, value in variables.items() if not name.startswith("generator")}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (with_own_embeddings, "its generator has embeddings of its own"),
        (with_two_towers, "its generator is Electric's two towers"),
        (with_none, "it has no generator"),
    ],
)
def test_without_a_generator_the_discriminator_is_imported(
    save: Callable[[Variables], Path],
    params: dict[str, Any],
    variables: Variables,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Variables], Variables],
    says: str,
) -> None:
    prefix = save(change(variables))
    cli.main(["import", str(prefix), "--tensorflow.heads", "4", "--out", str(tmp_path / "imported")])

    assert f"{prefix}: {says}" in capsys.readouterr().err
    found = restore_params(tmp_path / "imported")[1]
    assert found.keys() == {"embeddings", "discriminator"}
    np.testing.assert_array_equal(found["embeddings"]["word"], params["embeddings"]["word"])


# --- finding the checkpoint ---


def checkpoints(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        for suffix in (".index", ".data-00000-of-00001", ".meta"):
            (folder / f"{name}{suffix}").touch()
    return folder


@pytest.mark.parametrize("name", ["", ".index", ".data-00000-of-00001", ".meta"])
def test_the_prefix_or_a_file_names_the_checkpoint(tmp_path: Path, name: str) -> None:
    checkpoints(tmp_path, "model.ckpt-10", "model.ckpt-20")

    assert find_checkpoint(f"{tmp_path}/model.ckpt-10{name}") == tmp_path / "model.ckpt-10"


@pytest.mark.parametrize("name", [".index", ".meta"])
def test_an_ending_alone_names_no_checkpoint(tmp_path: Path, name: str) -> None:
    assert find_checkpoint(tmp_path / name) is None


def test_a_released_folder_holds_one(tmp_path: Path) -> None:
    assert find_checkpoint(checkpoints(tmp_path, "electra_small")) == tmp_path / "electra_small"


@pytest.mark.parametrize("name", ["model.ckpt-9", "/gone/data/models/mine/model.ckpt-9", "gs://bucket/model.ckpt-9"])
def test_a_run_names_its_newest(tmp_path: Path, name: str) -> None:
    checkpoints(tmp_path, "model.ckpt-10", "model.ckpt-9")
    (tmp_path / "checkpoint").write_text(
        f'model_checkpoint_path: "{name}"\nall_model_checkpoint_paths: "model.ckpt-10"\n'
    )

    assert find_checkpoint(tmp_path) == tmp_path / "model.ckpt-9"


def test_several_without_a_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds 2 checkpoints; give one of model\.ckpt-10, model\.ckpt-20"):
        find_checkpoint(checkpoints(tmp_path, "model.ckpt-10", "model.ckpt-20"))


def test_a_part_of_one(tmp_path: Path) -> None:
    (checkpoints(tmp_path, "model.ckpt-10") / "model.ckpt-10.index").unlink()

    with pytest.raises(UserError, match=r"model\.ckpt-10\.data-\S+: there is no model\.ckpt-10\.index beside it"):
        find_checkpoint(tmp_path)


def test_one_in_a_folder_below(tmp_path: Path) -> None:
    (tmp_path / "electra_small").mkdir()
    checkpoints(tmp_path / "electra_small", "electra_small")

    with pytest.raises(UserError, match=r"holds no model; give \S+/electra_small, which holds a TensorFlow checkpoint"):
        find_checkpoint(tmp_path)


def test_other_things_are_no_checkpoint(discriminator_folder: Path, tmp_path: Path) -> None:
    checkpoints(discriminator_folder, "also")

    assert find_checkpoint(discriminator_folder) is None
    assert find_checkpoint(tmp_path / "none") is None
    assert find_checkpoint("google/electra-small-discriminator") is None


# --- its vocabulary ---


def write_vocabulary(file: Path, tokens: list[str] = TOKENS) -> Path:
    file.write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("settings", "tokens"),
    [
        (TensorflowConfig(), ["river", "caf", "##e"]),
        (TensorflowConfig(strip_accents=False), ["river", "caf", "##é"]),
        (TensorflowConfig(lowercase=False), ["River", "caf", "##é"]),
    ],
)
def test_the_vocabulary_beside_it_is_taken(
    save: Callable[[Variables], Path],
    variables: Variables,
    tmp_path: Path,
    settings: TensorflowConfig,
    tokens: list[str],
) -> None:
    prefix = save(variables)
    write_vocabulary(prefix.with_name("vocab.txt"))
    run = import_pretrained(prefix, tmp_path / "imported", tensorflow=settings)

    tokenizer = load_tokenizer(run / TOKENIZER)
    assert tokenizer.tokenize("River café") == tokens
    assert tokenizer.model_max_length == 12


def test_a_runs_vocabulary_is_where_it_looked_for_it(
    save: Callable[[Variables], Path], variables: Variables, tmp_path: Path
) -> None:
    (tmp_path / "data" / "models").mkdir(parents=True)
    folder = save(variables).parent.rename(tmp_path / "data" / "models" / "mine")
    write_vocabulary(tmp_path / "data" / "vocab.txt")

    run = import_pretrained(folder, tmp_path / "imported")
    assert len(load_tokenizer(run / TOKENIZER)) == len(TOKENS)


def test_a_vocabulary_that_is_named(save: Callable[[Variables], Path], variables: Variables, tmp_path: Path) -> None:
    settings = TensorflowConfig(vocab=write_vocabulary(tmp_path / "mine.txt"))
    run = import_pretrained(save(variables), tmp_path / "imported", tensorflow=settings)

    assert len(load_tokenizer(run / TOKENIZER)) == len(TOKENS)


def test_no_vocabulary(
    save: Callable[[Variables], Path], variables: Variables, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = import_pretrained(save(variables), tmp_path / "imported")

    assert "no vocab.txt is beside it; imported without a tokenizer" in capsys.readouterr().err
    assert not (run / TOKENIZER).exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "the vocabulary can't be read: "),
        (b"\xff\n", "the vocabulary can't be read: "),
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\nriver\n", "the vocabulary lacks [MASK]"),
        ("\n".join([*TOKENS, *map(str, range(31))]).encode(), "its tokenizer has 41 entries, its model 40"),
    ],
)
def test_a_vocabulary_that_does_not_do(
    fail: Callable[..., str],
    save: Callable[[Variables], Path],
    variables: Variables,
    tmp_path: Path,
    content: bytes | None,
    says: str,
) -> None:
    prefix, file = save(variables), tmp_path / "mine.txt"
    if content is not None:
        file.write_bytes(content)
    line = fail("import", prefix, "--tensorflow.vocab", file, "--out", tmp_path / "out")
    assert line.startswith(f"{file}: {says}")


# --- what doesn't fit ---


def test_a_variable_that_is_missing(read: Variables) -> None:
    del read["electra/encoder/layer_1/output/LayerNorm/gamma"]

    assert rejected(read).startswith("electra/encoder/layer_1/output/LayerNorm/gamma is missing; ")


def test_a_variable_of_another_shape(read: Variables) -> None:
    read["electra/encoder/layer_1/intermediate/dense/kernel"] = np.zeros((24, 16), np.float32)
    says = (
        "electra/encoder/layer_1/intermediate/dense/kernel has shape (24, 16), and the other variables make it (16, 24)"
    )

    assert rejected(read) == says


def test_a_table_that_is_none(read: Variables) -> None:
    read["electra/embeddings/word_embeddings"] = np.zeros(40, np.float32)

    assert rejected(read) == "electra/embeddings/word_embeddings has shape (40,), and ELECTRA's has 2 axes"


def test_an_offshoots_variable(read: Variables) -> None:
    name = "electra/encoder/layer_0/attention/self/conv_attn_key/bias"

    assert rejected(read | {name: np.zeros(3)}).startswith(f"{name} is in no ELECTRA of these sizes")


def test_weights_that_are_no_floats(read: Variables) -> None:
    read["electra/embeddings/LayerNorm/beta"] = np.zeros(8, np.int8)

    assert "holds int8" in rejected(read)


def test_a_generator_whose_encoder_is_missing(read: Variables) -> None:
    less = {name: value for name, value in read.items() if not name.startswith("generator/")}

    assert rejected(less).startswith("generator/encoder/layer_0/intermediate/dense/kernel is missing")


def test_a_generator_whose_head_is_missing(read: Variables) -> None:
    less = {name: value for name, value in read.items() if not name.startswith("generator_predictions/")}

    assert rejected(less).startswith("generator_predictions/dense/kernel is missing")


@pytest.mark.parametrize("heads", [0, 3])
def test_heads_that_do_not_divide_the_hidden_size(read: Variables, heads: int) -> None:
    assert rejected(read, heads).startswith(f"electra/'s hidden size 16 is no multiple of {heads} heads")


def test_a_masked_language_model_alone(read: Variables) -> None:
    less = {name: value for name, value in read.items() if not name.startswith("discriminator_predictions/")}

    assert rejected(less).startswith("discriminator_predictions/dense/kernel is missing; ")


@pytest.mark.parametrize("variables", [{}, {"bert/embeddings/word_embeddings": np.zeros((40, 8))}])
def test_another_architecture(variables: Variables) -> None:
    assert rejected(variables).startswith("electra/embeddings/word_embeddings is missing; ")


def test_a_checkpoint_of_tensorflow_2() -> None:
    name = "model/discriminator/electra/embeddings/weight/.ATTRIBUTES/VARIABLE_VALUE"

    assert rejected({name: np.zeros((40, 8))}).startswith("was written by tf.train.Checkpoint of TensorFlow 2")


def test_a_damaged_checkpoint(
    fail: Callable[..., str], save: Callable[[Variables], Path], variables: Variables, tmp_path: Path
) -> None:
    prefix = save(variables)
    prefix.with_name("electra_small.index").write_bytes(b"damaged")

    line = fail("import", prefix, "--out", tmp_path / "out")
    assert line.startswith(f"{prefix}: damaged, or cut short (")


def test_without_tensorflow(
    fail: Callable[..., str],
    save: Callable[[Variables], Path],
    variables: Variables,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prefix = save(variables)
    monkeypatch.setitem(sys.modules, "tensorflow", None)

    line = fail("import", prefix.parent, "--out", tmp_path / "out")
    assert line.startswith(f"{prefix}: only TensorFlow can read it; `pip install tensorflow-cpu`")


def test_a_generator_beside_a_checkpoint_of_both(
    fail: Callable[..., str], save: Callable[[Variables], Path], variables: Variables, tmp_path: Path
) -> None:
    prefix = save(variables)
    line = fail("import", prefix, "--generator", "generator", "--out", tmp_path / "out")
    assert line == f"generator: {prefix} is a checkpoint with both towers; leave --generator out"


def test_options_that_a_folder_answers_itself(
    fail: Callable[..., str], discriminator_folder: Path, tmp_path: Path
) -> None:
    line = fail("import", discriminator_folder, "--tensorflow.heads", 4, "--out", tmp_path / "out")
    assert line.startswith(f"{discriminator_folder}: is no TensorFlow checkpoint; ")
