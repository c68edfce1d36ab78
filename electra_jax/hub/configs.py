"""Configurations to and from Hugging Face's config.json."""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

import transformers

from electra_jax.config import ElectraConfig, ModelConfig, TowerConfig
from electra_jax.errors import UserError
from electra_jax.hub.names import AnyKind
from electra_jax.model import HeadKind

FILE_NAME = "config.json"
OBJECTIVE = "pretraining_objective"
"""A field of this package's own, in models of other objectives than electra."""

ARCHITECTURES: dict[AnyKind, str] = {
    "discriminator": "ElectraForPreTraining",
    "generator": "ElectraForMaskedLM",
    "sequence": "ElectraForSequenceClassification",
    "token": "ElectraForTokenClassification",
    "span": "ElectraForQuestionAnswering",
    "choice": "ElectraForMultipleChoice",
}

HEAD_OUTPUTS: dict[HeadKind, int] = {"span": 2, "choice": 1}
"""Of heads whose number of outputs is not that of their labels."""

FIXED = {"hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False}
"""What transformers lets one choose and ELECTRA doesn't; absent means the value here."""

SUMMARY = {"summary_type": "first", "summary_use_proj": True, "summary_activation": "gelu"}
"""The same of the head of multiple choice, which alone reads these."""

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


@dataclass(frozen=True)
class TaskHead:
    """The head of a fine-tuned model, as config.json describes it."""

    kind: HeadKind
    labels: tuple[str, ...] = ()
    """Of its outputs in their order, where these are labels; one for a regression."""
    problem: str | None = None
    """sequence: transformers' problem_type."""

    @property
    def outputs(self) -> int:
        """Logits of a sequence, or of a token."""
        return HEAD_OUTPUTS.get(self.kind, len(self.labels))


def to_hf(
    config: ElectraConfig, kind: AnyKind, head: TaskHead | None = None, objective: str | None = None
) -> transformers.ElectraConfig:
    """The configuration as transformers has it, with the class that the weights are for.

    `objective` is the one that pretrained them, which transformers passes over.
    """
    values: dict[str, Any] = {field.name: getattr(config, field.name) for field in fields(ElectraConfig)}
    if head is not None and head.labels:
        values["id2label"] = dict(enumerate(head.labels))
        values["label2id"] = {label: index for index, label in enumerate(head.labels)}
    if head is not None and head.problem is not None:
        values["problem_type"] = head.problem
    if objective is not None:
        values[OBJECTIVE] = objective
    return transformers.ElectraConfig(**values, architectures=[ARCHITECTURES[kind]])


def write_config(
    config: ElectraConfig, kind: AnyKind, folder: Path, head: TaskHead | None = None, objective: str | None = None
) -> None:
    """Write config.json into `folder`; the arguments are those of `to_hf`."""
    (folder / FILE_NAME).write_text(to_hf(config, kind, head, objective).to_json_string(), encoding="utf-8")


def read_objective(folder: Path) -> str | None:
    """The objective that pretrained the model, where config.json says it; raises UserError where there is none."""
    return _read(folder / FILE_NAME).get(OBJECTIVE)


def read_head(folder: Path) -> TaskHead:
    """The head of a fine-tuned model; raises UserError where the folder holds another kind of model."""
    file = folder / FILE_NAME
    content = _read(file)
    _check_architecture(content, file)
    architectures = content.get("architectures")
    named = architectures[0] if isinstance(architectures, list) and architectures else "none"
    kinds = {name: kind for kind, name in ARCHITECTURES.items() if kind in get_args(HeadKind)}
    if named not in kinds:
        raise UserError(f"{file}: holds {named}, which is no fine-tuned model; those are {', '.join(kinds)}")
    kind: HeadKind = kinds[named]  # type: ignore[assignment]
    outputs = content.get("num_labels")  # as people write it, who leave the names to transformers
    unnamed = range(outputs if isinstance(outputs, int) and not isinstance(outputs, bool) else 2)
    labels = content.get("id2label") or {str(index): f"LABEL_{index}" for index in unnamed}
    try:
        ordered = tuple(str(labels[str(index)]) for index in range(len(labels)))
    except (KeyError, TypeError) as error:
        raise UserError(f"{file}: id2label doesn't number the labels from 0; correct it") from error
    repeated = [label for label in ordered if ordered.count(label) > 1]
    if repeated:
        raise UserError(f"{file}: id2label has {repeated[0]!r} twice; give each label its own name")
    problem = content.get("problem_type")
    if kind == "sequence" and problem is None:  # as transformers takes it
        problem = "regression" if len(ordered) == 1 else "single_label_classification"
    if problem == "regression" and len(ordered) != 1:
        raise UserError(f"{file}: a regression of {len(ordered)} numbers, and only one can be read; see num_labels")
    if kind == "choice":
        _check_fixed(content, SUMMARY, file)
    return TaskHead(kind, () if kind in HEAD_OUTPUTS else ordered, problem)


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
    """The pair of the two models; raises UserError where they differ in what a pair shares.

    Of what neither weight nor output depends on, as dropout, the discriminator's counts.
    """
    free = {field.name for field in fields(TowerConfig)} | OPTIONAL
    for field in fields(ElectraConfig):
        ours, theirs = getattr(discriminator, field.name), getattr(generator, field.name)
        if field.name not in free and ours != theirs:
            message = f"{field.name} is {ours} in the discriminator and {theirs} in the generator"
            raise UserError(f"{message}; a pair shares it, so give two models that were trained together")
    names = {field.name for field in fields(ModelConfig)} & {field.name for field in fields(ElectraConfig)}
    shared = {name: getattr(discriminator, name) for name in names}
    return ModelConfig(**shared, discriminator=_tower(discriminator), generator=_tower(generator))


def _tower(config: ElectraConfig) -> TowerConfig:
    return TowerConfig(**{field.name: getattr(config, field.name) for field in fields(TowerConfig)})


def _read(file: Path) -> dict[str, Any]:
    if (file.parent / "config.toml").is_file() and not file.is_file():
        raise UserError(f"{file.parent}: is a pretraining run; give what `electra-jax export` makes of it")
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
    _check_fixed(content, FIXED, file)


def _check_fixed(content: dict[str, Any], fixed: dict[str, Any], file: Path) -> None:
    for name, value in fixed.items():
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
