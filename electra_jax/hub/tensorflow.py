"""Checkpoints of the original release, google-research/electra ([G] run_pretraining.py, model/modeling.py).

One checkpoint holds both towers: the encoders under `electra/` (the discriminator's) and `generator/`, the embeddings
that they share under `electra/embeddings/`, the heads under `discriminator_predictions/` and `generator_predictions/`,
and beside each variable Adam's two averages. A kernel is [in, out], as here. What isn't among the variables is the
number of attention heads: one for every 64 of the hidden size ([G] util/training_utils.py), unless told otherwise.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from electra_jax.config import ElectraConfig, ModelConfig
from electra_jax.errors import UserError
from electra_jax.hub.configs import pair_config
from electra_jax.hub.names import Kind, tensors
from electra_jax.hub.weights import PICKLE, SAFETENSORS, damaged, to_params

Variables = Mapping[str, np.ndarray]
"""Name to value, without what only training needs."""

HEAD_SIZE = 64
DISCRIMINATOR, GENERATOR = "electra", "generator"
"""Scopes of the two encoders."""

RENAMED = (
    (r"^electra\.(?=encoder|embeddings_project)", "{scope}."),
    (r"\.layer\.(\d+)", r".layer_\1"),
    (r"LayerNorm\.weight$", "LayerNorm.gamma"),
    (r"LayerNorm\.bias$", "LayerNorm.beta"),
    (r"_embeddings\.weight$", "_embeddings"),
    (r"\.weight$", ".kernel"),
    (r"^generator_lm_head\.bias$", "generator_predictions.output_bias"),
    (r"dense_prediction", "dense_1"),  # TensorFlow numbers what the release leaves unnamed
    (r"\.", "/"),
)
"""From a Hugging Face key to the release's name, one after the other."""

UNUSED = re.compile(r"/adam_[mv]$|^global_step$|^generator_predictions/temperature$|^_CHECKPOINTABLE_OBJECT_GRAPH$")
"""Variables that training alone needs; `temperature` is in the released checkpoints only."""

FILE = re.compile(r"\.(index|meta|data-\d{5}-of-\d{5})$")
"""What follows the prefix in the names of a checkpoint's files."""


class Pair(NamedTuple):
    """Both towers of a checkpoint, or the discriminator alone."""

    model: ModelConfig
    params: dict[str, Any]
    """`{"embeddings": ..., "discriminator": ..., "generator": ...}`, float32."""
    left_out: str | None
    """Why there is no generator."""


def variable_name(key: str, scope: str) -> str:
    """What the release calls the tensor of a Hugging Face `key`, where the tower's encoder is under `scope`."""
    for pattern, name in RENAMED:
        key = re.sub(pattern, name.replace("{scope}", scope), key)
    return key


# --- files --------------------------------------------------------------------------------------------------------


def find_checkpoint(path: str | Path) -> Path | None:
    """The prefix of the TensorFlow checkpoint that `path` names or holds, or None where it is something else.

    `path` is the prefix, one of its files, or a folder: then it is the checkpoint that the folder's file `checkpoint`
    names, or else the only one. Raises UserError where a folder holds several and names none, or a part of one, or has
    one in a folder below.
    """
    path = Path(path)
    if path.is_dir():
        return None if any((path / name).is_file() for name in (SAFETENSORS, PICKLE)) else _in_folder(path)
    name = FILE.sub("", path.name)
    return path.with_name(name) if name and path.with_name(f"{name}.index").is_file() else None


def _in_folder(folder: Path) -> Path | None:
    prefixes = sorted(file.with_suffix("") for file in folder.glob("*.index"))
    newest = _newest(folder / "checkpoint")
    if newest in prefixes:
        return newest
    if len(prefixes) > 1:
        names = ", ".join(prefix.name for prefix in prefixes)
        raise UserError(f"{folder}: holds {len(prefixes)} checkpoints; give one of {names}")
    if prefixes:
        return prefixes[0]
    if data := next(folder.glob("*.data-*-of-*"), None):
        raise UserError(f"{data}: there is no {FILE.sub('', data.name)}.index beside it; copy that too")
    if index := next(folder.glob("*/*.index"), None):
        raise UserError(f"{folder}: holds no model; give {index.parent}, which holds a TensorFlow checkpoint")
    return None


def _newest(file: Path) -> Path | None:
    """The checkpoint that a training run's `checkpoint` file names; in its folder, wherever that was at the time."""
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    named = re.search(r'^model_checkpoint_path: "(.+)"', text, re.MULTILINE)
    return file.with_name(PurePosixPath(named[1]).name) if named else None


def find_vocabulary(prefix: Path) -> Path | None:
    """The checkpoint's vocab.txt, where the release looks for it ([G] configure_finetuning.py), or None.

    It is beside the checkpoint, or in the folder DATA for one of a run in DATA/models/NAME.
    """
    folders = [prefix.parent]
    if prefix.resolve().parent.parent.name == "models":
        folders.append(prefix.resolve().parents[2])
    return next((folder / "vocab.txt" for folder in folders if (folder / "vocab.txt").is_file()), None)


def read_variables(prefix: Path) -> dict[str, np.ndarray]:
    """The model's variables in a checkpoint; takes TensorFlow.

    Raises UserError where TensorFlow is missing, and where a file is missing or damaged.
    """
    for name, value in (("TF_CPP_MIN_LOG_LEVEL", "3"), ("TF_ENABLE_ONEDNN_OPTS", "0")):
        os.environ.setdefault(name, value)  # else it greets with a page of notes on the processor
    try:
        import tensorflow  # for this alone, so no dependency
    except ImportError as error:
        advice = "`pip install tensorflow-cpu` (or tensorflow, where there is none for the machine)"
        raise UserError(f"{prefix}: only TensorFlow can read it; {advice}") from error
    try:
        reader = tensorflow.train.load_checkpoint(str(prefix))
        names = sorted(name for name in reader.get_variable_to_shape_map() if not UNUSED.search(name))
        return {name: reader.get_tensor(name) for name in names}
    except Exception as error:  # of a dozen kinds
        raise damaged(prefix, error) from error


# --- variables and parameters -------------------------------------------------------------------------------------


def to_pair(variables: Variables, where: Path | str, heads: int | None = None) -> Pair:
    """The towers of a checkpoint; `heads` are the discriminator's, where they are not hidden size / 64.

    A generator that this package has no counterpart of is left out, and told of. Raises UserError, which names the
    checkpoint `where` and the variable, where there is no discriminator, where a variable is missing, of another shape
    than the others make it, or of another architecture than ELECTRA's.
    """
    _check_discriminator(variables, where)
    config = _config(variables, DISCRIMINATOR, heads, where)
    params = _params(variables, config, "discriminator", DISCRIMINATOR, where)
    pair = {"embeddings": params.pop("embeddings"), "discriminator": params}
    left_out = _no_generator(variables)
    if left_out is not None:
        return Pair(pair_config(config, config), pair, left_out)

    scope = _generator_scope(variables, config)
    generator = config if scope == DISCRIMINATOR else _config(variables, scope, None, where)
    params = _params(variables, generator, "generator", scope, where)
    shared = ["embeddings", "encoder"] if scope == DISCRIMINATOR else ["embeddings"]
    pair["generator"] = {part: leaves for part, leaves in params.items() if part not in shared}
    model = pair_config(config, generator)
    return Pair(replace(model, tie="all") if scope == DISCRIMINATOR else model, pair, None)


def _check_discriminator(variables: Variables, where: Path | str) -> None:
    """Raise UserError where the checkpoint isn't of the release's pretraining, with what it seems to be instead."""
    if any(name.endswith("/.ATTRIBUTES/VARIABLE_VALUE") for name in variables):
        message = "was written by tf.train.Checkpoint of TensorFlow 2, and only the original release's can be read"
        raise UserError(f"{where}: {message}; docs/migrating.md tells how NVIDIA's ELECTRA is brought over")
    for name in ("electra/embeddings/word_embeddings", "discriminator_predictions/dense/kernel"):
        if name not in variables:
            wanted = "not one that is fine-tuned, of electra_objective false, or of another architecture"
            raise UserError(f"{where}: {name} is missing; give a checkpoint of ELECTRA's pretraining, {wanted}")


def _no_generator(variables: Variables) -> str | None:
    """Why the checkpoint has no generator that this package could train on, or None where it has."""
    if any(name.startswith("generator_ltr/") for name in variables):
        return "its generator is Electric's two towers (generator_ltr, generator_rtl)"
    if any(name.startswith("generator/embeddings/") for name in variables):
        return "its generator has embeddings of its own (untied_generator_embeddings)"
    if not any(name.startswith(("generator/", "generator_predictions/")) for name in variables):
        return "it has no generator (uniform_generator)"
    return None


def _generator_scope(variables: Variables, config: ElectraConfig) -> str:
    """Where the generator's encoder is: with untied_generator false it is the discriminator's."""
    own = any(name.startswith(f"{GENERATOR}/") for name in variables)
    head = variables.get("generator_predictions/dense/kernel", np.empty(0))
    return DISCRIMINATOR if not own and len(head) == config.hidden_size else GENERATOR


def _config(variables: Variables, scope: str, heads: int | None, where: Path | str) -> ElectraConfig:
    """The tower's sizes, as the shapes of its variables tell them."""
    layer = f"{scope}/encoder/layer_0"
    vocabulary, embedding = _get(variables, "electra/embeddings/word_embeddings", 2, where).shape
    hidden, intermediate = _get(variables, f"{layer}/intermediate/dense/kernel", 2, where).shape
    numbers = [re.match(rf"{scope}/encoder/layer_(\d+)/", name) for name in variables]
    heads = max(1, hidden // HEAD_SIZE) if heads is None else heads
    if heads < 1 or hidden % heads:
        raise UserError(
            f"{where}: {scope}/'s hidden size {hidden} is no multiple of {heads} heads; give another number"
        )
    return ElectraConfig(
        vocab_size=vocabulary,
        embedding_size=embedding,
        hidden_size=hidden,
        num_hidden_layers=1 + max(int(number[1]) for number in numbers if number),
        num_attention_heads=heads,
        intermediate_size=intermediate,
        max_position_embeddings=len(_get(variables, "electra/embeddings/position_embeddings", 2, where)),
        type_vocab_size=len(_get(variables, "electra/embeddings/token_type_embeddings", 2, where)),
    )


def _params(variables: Variables, config: ElectraConfig, kind: Kind, scope: str, where: Path | str) -> dict[str, Any]:
    """One model's parameters (float32), among them those that it shares."""
    state = {}
    for tensor in tensors(config, kind):
        name = variable_name(tensor.key, scope)
        value = _get(variables, name, len(tensor.shape), where)
        state[tensor.key] = value.T if tensor.transposed else value
        if state[tensor.key].shape != tensor.shape:
            wanted = tensor.shape[::-1] if tensor.transposed else tensor.shape
            raise UserError(f"{where}: {name} has shape {value.shape}, and the other variables make it {wanted}")
    _check_nothing_beside(variables, {variable_name(key, scope) for key in state}, f"{kind}_predictions", scope, where)
    return to_params(state, config, kind, where)


def _check_nothing_beside(variables: Variables, read: set[str], head: str, scope: str, where: Path | str) -> None:
    """Raise UserError for a variable of the tower that ELECTRA has no place for: an offshoot's, in the same scopes."""
    for name in variables:
        if name.startswith((f"{scope}/", f"{head}/")) and name not in read:
            raise UserError(f"{where}: {name} is in no ELECTRA of these sizes; is the checkpoint another model's?")


def _get(variables: Variables, name: str, rank: int, where: Path | str) -> np.ndarray:
    if name not in variables:
        raise UserError(f"{where}: {name} is missing; give a checkpoint as run_pretraining.py writes it")
    if np.ndim(variables[name]) != rank:
        raise UserError(f"{where}: {name} has shape {np.shape(variables[name])}, and ELECTRA's has {rank} axes")
    return variables[name]
