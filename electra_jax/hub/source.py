"""Where a model comes from: a folder on this machine, or the Hugging Face hub."""

from pathlib import Path

import huggingface_hub

from electra_jax.data.tokenizer import HUB_NAME, SETTINGS, VOCABULARIES
from electra_jax.errors import UserError
from electra_jax.hub import configs, weights

TASK_FILE = "task.json"
"""Of a fine-tuned model: how its task reads rows."""
TOKENIZER_FILES = (
    *VOCABULARIES,
    SETTINGS,
    "special_tokens_map.json",
    "added_tokens.json",
)


def local_folder(name_or_folder: str | Path) -> Path:
    """The folder of that name, or else a local copy of the hub's model of that name.

    Fetched are config.json, the tokenizer's files and model.safetensors, be it in several files; pytorch_model.bin, in
    one file or several, only where the model has none. Raises UserError where there is no such folder and the hub
    doesn't give the model.
    """
    if Path(name_or_folder).is_dir():
        return Path(name_or_folder)
    name = str(name_or_folder)
    if not HUB_NAME.fullmatch(name):
        raise UserError(f"{name}: no such folder; give a model's folder, or its name on the hub (owner/name)")
    safetensors = [weights.SAFETENSORS, weights.INDEX, weights.SHARDS]
    folder = _fetch(name, [configs.FILE_NAME, *safetensors, TASK_FILE, *TOKENIZER_FILES])
    if not any((folder / file).exists() for file in safetensors[:2]):
        folder = _fetch(name, [weights.PICKLE, weights.PICKLE_INDEX, weights.PICKLE_SHARDS])
    return folder


def _fetch(name: str, patterns: list[str]) -> Path:
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=patterns))
    except Exception as error:  # of the hub, the network or the disk: a dozen kinds
        message = f"{name}: no such folder, and the hub doesn't give a model of that name"
        raise UserError(f"{message}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """The error on one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__
