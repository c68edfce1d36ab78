"""Weights: parameters to and from the tensors of a Hugging Face folder."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, get_args

import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from electra_jax.config import ElectraConfig
from electra_jax.errors import UserError, first_line
from electra_jax.hub.names import (
    BODY,
    HEADS,
    NOUNS,
    PROJECT,
    AnyKind,
    Kind,
    Tensor,
    flat,
    nested,
    parameter_shapes,
    tensors,
)

State = dict[str, np.ndarray]
"""Hugging Face key to tensor."""

SAFETENSORS, PICKLE = "model.safetensors", "pytorch_model.bin"
INDEX, SHARDS = "model.safetensors.index.json", "model-*.safetensors"
PICKLE_INDEX, PICKLE_SHARDS = "pytorch_model.bin.index.json", "pytorch_model-*.bin"
LFS = b"version https://git-lfs"
"""What a file begins with that git left in place of a large one."""
TENSORFLOW = "tf_model.h5"
OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
"""Ends of keys in files that were converted from TensorFlow in transformers' first years."""

PARALLEL = "module."
"""What torch's DataParallel puts before every key."""

BASE = "electra."
"""What transformers puts before the keys below a head."""

TIED_OUTPUT, WORD_TABLE = "generator_lm_head.weight", "electra.embeddings.word_embeddings.weight"
POSITION_IDS = "electra.embeddings.position_ids"


# --- parameters and tensors ---------------------------------------------------------------------------------------


def to_state(params: dict[str, Any], config: ElectraConfig, kind: AnyKind, outputs: int = 1) -> State:
    """The tensors (float32) of a Hugging Face file, from the parameters of one model.

    The generator's output matrix is left out: it is the word table, and transformers ties it.
    Raises UserError where the parameters are not those of `config` (and of `outputs`, with a task's head).
    """
    check_params(params, config, kind, outputs)
    leaves = {path: np.asarray(leaf, np.float32) for path, leaf in flat(params).items()}
    return {tensor.key: _to_tensor(leaves[tensor.path], tensor) for tensor in tensors(config, kind, outputs)}


def to_params(
    state: Mapping[str, np.ndarray], config: ElectraConfig, kind: AnyKind, where: Path | str, outputs: int = 1
) -> dict[str, Any]:
    """The parameters (float32) of one model, from the tensors of a Hugging Face file.

    float16 and bfloat16 become float32. Raises UserError, which names the file `where` and the key, for a tensor that
    is missing, unexpected, of another shape or not of floats. Ignored is what released checkpoints carry beside the
    parameters: the buffer of position ids, a copy of the word table as the generator's output matrix, and a projection
    of embeddings that are as wide as the encoder.
    """
    table = tensors(config, kind, outputs)
    state = _without_extras(state, config, where)
    _check({key: np.shape(value) for key, value in state.items()}, {t.key: t.shape for t in table}, kind, where)
    return nested((path, _to_leaf(state, list(group), where)) for path, group in groupby(table, lambda t: t.path))


def to_body(state: Mapping[str, np.ndarray], config: ElectraConfig, where: Path | str) -> dict[str, Any]:
    """The parameters (float32) below the head, `{"embeddings": ..., "encoder": ...}`, of a file of any head or none.

    Raises UserError as `to_params` does.
    """
    if not any(key.startswith(BASE) for key in state):  # as ElectraModel saves itself
        state = {BASE + key: value for key, value in state.items()}
    body = {key: value for key, value in state.items() if key.startswith(BASE)}
    return to_params(body, config, "body", where)


def check_params(params: dict[str, Any], config: ElectraConfig, kind: AnyKind, outputs: int = 1) -> None:
    """Raise UserError where `params` has not exactly the paths and shapes of the model that `config` describes."""
    found = {path: np.shape(leaf) for path, leaf in flat(params).items()}
    _check(found, parameter_shapes(config, kind, outputs), kind, "the parameters")


def kind_of(state: Mapping[str, Any], where: Path | str) -> Kind:
    """Which of the two models the keys are of; raises UserError where the file `where` has neither head or both."""
    kinds: list[Kind] = [kind for kind in get_args(Kind) if any(name.key in state for name in HEADS[kind])]
    if len(kinds) != 1:
        found = "both pretraining heads" if kinds else "neither of ELECTRA's pretraining heads"
        raise UserError(f"{where}: has {found}; give the folder of a pretrained discriminator or generator")
    return kinds[0]


def _to_tensor(leaf: np.ndarray, tensor: Tensor) -> np.ndarray:
    own = leaf if tensor.layer is None else leaf[tensor.layer]
    return np.ascontiguousarray(own.T if tensor.transposed else own)


def _to_leaf(state: Mapping[str, np.ndarray], group: list[Tensor], where: Path | str) -> np.ndarray:
    values = [_float32(state[tensor.key], tensor.key, where) for tensor in group]
    if group[0].transposed:
        values = [value.T for value in values]
    return np.ascontiguousarray(values[0] if group[0].layer is None else np.stack(values))


def _float32(value: np.ndarray, key: str, where: Path | str) -> np.ndarray:
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise UserError(f"{where}: {key} holds {value.dtype}, and weights are floats; export the model again")
    value = value.astype(np.float32, copy=False)
    if not np.isfinite(value).all():
        raise UserError(f"{where}: {key} holds values that are no numbers; its training failed, or the file is damaged")
    return value


def _without_extras(state: Mapping[str, np.ndarray], config: ElectraConfig, where: Path | str) -> State:
    """`state` without what is no parameter of ELECTRA though released checkpoints carry it."""
    ignored = {POSITION_IDS, TIED_OUTPUT}
    if config.embedding_size == config.hidden_size:  # transformers never uses it there either
        ignored |= {name.key for name in BODY if name.path.startswith(PROJECT)}
    if TIED_OUTPUT in state and not np.array_equal(state[TIED_OUTPUT], state.get(WORD_TABLE, np.empty(0))):
        raise UserError(f"{where}: {TIED_OUTPUT} is not {WORD_TABLE}; only generators that tie the two can be read")
    return {key: value for key, value in state.items() if key not in ignored}


def _check(
    found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], kind: AnyKind, where: Path | str
) -> None:
    """Raise UserError for the first of `wanted` that is missing or of another shape, and for what is beside them."""
    for name, shape in wanted.items():
        if name not in found:
            described = f"the {NOUNS[kind]} that the settings describe"
            raise UserError(f"{where}: {name}, of shape {shape}, is missing for {described}")
        if found[name] != shape:
            raise UserError(f"{where}: {name} has shape {found[name]}, and the settings make it {shape}")
    for name in sorted(found.keys() - wanted.keys()):
        message = f"{where}: {name}, of shape {found[name]}, is in no {NOUNS[kind]} of these settings"
        raise UserError(f"{message}; are they (config.json) of another model?")


# --- files --------------------------------------------------------------------------------------------------------


def read_state(folder: Path) -> tuple[Path, State]:
    """The weights' file in `folder` and its tensors.

    That is model.safetensors, or else pytorch_model.bin, which takes torch, or the index of several such files. Raises
    UserError where there is none of them, and where a file is damaged.
    """
    readers: dict[str, Callable[[Path], State]] = {
        SAFETENSORS: _read_safetensors,
        INDEX: partial(_read_shards, read=_read_safetensors),
        PICKLE: _read_pickle,
        PICKLE_INDEX: partial(_read_shards, read=_read_pickle),
    }
    for name, read in readers.items():
        if (folder / name).is_file():
            return folder / name, {_new_name(key): value for key, value in read(folder / name).items()}
    if (folder / TENSORFLOW).is_file():
        mend = "load it there (from_tf=True), and save it anew"
        raise UserError(f"{folder / TENSORFLOW}: only transformers 4 with TensorFlow reads it; {mend}")
    raise UserError(f"{folder}: holds no weights: neither {SAFETENSORS} nor {PICKLE} is there")


def _new_name(key: str) -> str:
    key = key.removeprefix(PARALLEL)
    for old, new in OLD_NAMES.items():
        if key.endswith(old):
            return key.removesuffix(old) + new
    return key


def write_state(state: State, file: Path) -> None:
    """Write a safetensors file; raises OSError as other writers do, where the library has errors of its own."""
    # transformers 4 refuses a file whose metadata doesn't name the framework.
    file.write_bytes(safetensors.numpy.save(state, metadata={"format": "pt"}))


def _read_safetensors(file: Path) -> State:
    try:
        return safetensors.numpy.load_file(file)
    except AttributeError as error:
        raise UserError(f"{file}: holds a type that can't be read ({error}); save it in float32 or bfloat16") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise damaged(file, error) from error


def _read_shards(index: Path, read: Callable[[Path], State]) -> State:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(index, error) from error
    shards = [read(index.with_name(str(name))) for name in names]
    return {key: value for shard in shards for key, value in shard.items()}


def _read_pickle(file: Path) -> State:
    try:
        import torch  # for this file only, so no dependency
    except ImportError as error:
        advice = "`pip install torch`, or convert the file to model.safetensors where torch is"
        raise UserError(f"{file}: only torch can read it; {advice}") from error
    no_tensors = UserError(f"{file}: is no dict of tensors; save the model's state_dict() there")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        if "GLOBAL" in str(error):
            raise no_tensors from error
        raise damaged(file, error) from error
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise no_tensors
    return {key: _to_numpy(value.detach()) for key, value in content.items()}


def _to_numpy(tensor: Any) -> np.ndarray:
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()  # numpy has no bfloat16


def damaged(file: Path, error: Exception) -> UserError:
    """What to raise where a library can't read a file of weights."""
    if file.is_file():
        with file.open("rb") as content:
            if content.read(len(LFS)) == LFS:
                return UserError(f"{file}: is a pointer of Git LFS to the file; fetch that with git lfs pull")
    reason = first_line(error)[:200]
    return UserError(f"{file}: damaged, or cut short ({reason}); fetch or copy it again")
