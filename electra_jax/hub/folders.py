"""One model as a Hugging Face folder: config.json, model.safetensors, README.md and the tokenizer's files."""

import shutil
from pathlib import Path
from typing import Any

from electra_jax.config import ElectraConfig
from electra_jax.data.tokenizer import holds_tokenizer, limit_length
from electra_jax.errors import UserError
from electra_jax.hub.configs import TaskHead, from_hf, read_head, write_config
from electra_jax.hub.names import AnyKind, Kind
from electra_jax.hub.source import TOKENIZER_FILES
from electra_jax.hub.weights import SAFETENSORS, kind_of, read_state, to_body, to_params, to_state, write_state


def read_model(folder: Path, kind: Kind) -> tuple[ElectraConfig, dict[str, Any]]:
    """The configuration and the parameters (float32, as nested dicts) of the model in `folder`.

    Raises UserError where it is none, where it is the other `kind`, and where weights and configuration don't match.
    """
    config = from_hf(folder)
    file, state = read_state(folder)
    found = kind_of(state, file)
    if found != kind:
        raise UserError(f"{folder}: holds a {found}, and a {kind} is wanted; give the {kind}'s folder")
    return config, to_params(state, config, kind, file)


def read_body(folder: Path) -> tuple[ElectraConfig, dict[str, Any]]:
    """The configuration and the parameters below the head of any ELECTRA model in `folder`.

    Raises UserError where it is none, and where weights and configuration don't match.
    """
    config = from_hf(folder)
    file, state = read_state(folder)
    return config, to_body(state, config, file)


def read_task_model(folder: Path) -> tuple[ElectraConfig, TaskHead, dict[str, Any]]:
    """Configuration, head and parameters of the fine-tuned model in `folder`; raises UserError where it is none."""
    config, head = from_hf(folder), read_head(folder)
    file, state = read_state(folder)
    return config, head, to_params(state, config, head.kind, file, head.outputs)


def write_model(
    folder: Path,
    kind: AnyKind,
    config: ElectraConfig,
    params: dict[str, Any],
    tokenizer_folder: Path | None = None,
    card: str | None = None,
    head: TaskHead | None = None,
    objective: str | None = None,
) -> None:
    """Write the model into the existing `folder`, with the tokenizer's files and README.md where they are given.

    `head` is that of a fine-tuned model; `objective` is written where it is given. Raises UserError where the
    parameters are not those of `config`, or `tokenizer_folder` holds no tokenizer.
    """
    write_config(config, kind, folder, head, objective)
    write_state(to_state(params, config, kind, head.outputs if head else 1), folder / SAFETENSORS)
    if tokenizer_folder is not None:
        _copy_tokenizer(tokenizer_folder, folder)
        limit_length(folder, config.max_position_embeddings)
    if card is not None:
        (folder / "README.md").write_text(card, encoding="utf-8")


def _copy_tokenizer(source: Path, folder: Path) -> None:
    if not holds_tokenizer(source):
        raise UserError(f"{source}: holds no tokenizer: neither tokenizer.json nor vocab.txt is there")
    for file in [source / name for name in TOKENIZER_FILES if (source / name).is_file()]:
        shutil.copyfile(file, folder / file.name)
