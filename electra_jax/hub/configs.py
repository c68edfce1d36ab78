"""Configurations to and from Hugging Face's config.json."""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import transformers

from electra_jax.config import ElectraConfig, ModelConfig, TowerConfig
from electra_jax.errors import UserError
from electra_jax.hub.names import Kind

FILE_NAME = "config.json"

ARCHITECTURES: dict[Kind, str] = {"discriminator": "ElectraForPreTraining", "generator": "ElectraForMaskedLM"}

FIXED = {"hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False}
"""What transformers lets one choose and ELECTRA doesn't; absent means the value here."""

OPTIONAL = {"hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range", "pad_token_id"}
"""Fields that no weight and no output depends on; absent means transformers' default, which is ElectraConfig's."""


@dataclass(frozen=True)
class Range:
    """What a field of config.json may hold."""

    type: type[int] | type[float]
    low: float
    high: float = float("inf")

    def __contains__(self, value: object) -> bool:
        accepted = (int,) if self.type is int else (int, float)
        return isinstance(value, accepted) and not isinstance(value, bool) and self.low <= value < self.high

    def __str__(self) -> str:
        noun = "a whole number" if self.type is int else "a number"
        return f"{noun} of at least {self.low:g}" + (f" and below {self.high:g}" if self.high < float("inf") else "")


RANGES = {
    "hidden_dropout_prob": Range(float, 0, 1),
    "attention_probs_dropout_prob": Range(float, 0, 1),
    "initializer_range": Range(float, 0),
    "layer_norm_eps": Range(float, 0),
    "pad_token_id": Range(int, 0),
}
SIZE = Range(int, 1)
"""Of all other fields."""


def to_hf(config: ElectraConfig, kind: Kind) -> transformers.ElectraConfig:
    """The configuration as transformers has it, with the class that the weights are for."""
    values = {field.name: getattr(config, field.name) for field in fields(ElectraConfig)}
    return transformers.ElectraConfig(**values, architectures=[ARCHITECTURES[kind]])


def write_config(config: ElectraConfig, kind: Kind, folder: Path) -> None:
    """Write config.json into `folder`."""
    (folder / FILE_NAME).write_text(to_hf(config, kind).to_json_string(), encoding="utf-8")


def from_hf(folder: Path) -> ElectraConfig:
    """The configuration in a Hugging Face folder.

    Raises UserError, which names the file and the field, where config.json is missing or damaged, is of another
    architecture than ELECTRA's or of a variant that this package doesn't compute, or lacks a field.
    """
    file = folder / FILE_NAME
    content = _read(file)
    _check_architecture(content, file)
    config = ElectraConfig(**_values(content, file))
    if config.hidden_size % config.num_attention_heads:
        sizes = f"hidden_size {config.hidden_size} is no multiple of num_attention_heads {config.num_attention_heads}"
        raise UserError(f"{file}: {sizes}; correct one of them")
    return config


def pair_config(discriminator: ElectraConfig, generator: ElectraConfig) -> ModelConfig:
    """The pair of the two models; raises UserError where they differ in what a pair shares."""
    sizes = {field.name for field in fields(TowerConfig)}
    for field in fields(ElectraConfig):
        ours, theirs = getattr(discriminator, field.name), getattr(generator, field.name)
        if field.name not in sizes and ours != theirs:
            message = f"{field.name} is {ours} in the discriminator and {theirs} in the generator"
            raise UserError(f"{message}; a pair shares it, so give two models that were trained together")
    names = {field.name for field in fields(ModelConfig)} & {field.name for field in fields(ElectraConfig)}
    shared = {name: getattr(discriminator, name) for name in names}
    return ModelConfig(**shared, discriminator=_tower(discriminator), generator=_tower(generator))


def _tower(config: ElectraConfig) -> TowerConfig:
    return TowerConfig(**{field.name: getattr(config, field.name) for field in fields(TowerConfig)})


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise UserError(f"{file.parent}: holds no {FILE_NAME}; give the folder of a model as transformers saves it")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file}: is no JSON ({error}); fetch or copy it again") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: holds no JSON object; fetch or copy it again")
    return content


def _check_architecture(content: dict[str, Any], file: Path) -> None:
    model_type = content.get("model_type")
    if model_type != "electra":
        found = "has no model_type" if model_type is None else f"is of another architecture (model_type {model_type!r})"
        raise UserError(f"{file}: {found}; give the folder of an ELECTRA model (model_type 'electra')")
    for name, value in FIXED.items():
        if content.get(name, value) != value:
            raise UserError(f"{file}: {name} is {content[name]!r}, and only models with {value!r} can be read")


def _values(content: dict[str, Any], file: Path) -> dict[str, Any]:
    values = {}
    for field in fields(ElectraConfig):
        value, wanted = content.get(field.name), RANGES.get(field.name, SIZE)
        if value is None and field.name in OPTIONAL:
            continue
        if value is None:
            raise UserError(f"{file}: {field.name} is missing; add it ({wanted})")
        if value not in wanted:
            raise UserError(f"{file}: {field.name} is {value!r}, and must be {wanted}")
        values[field.name] = wanted.type(value)
    return values
