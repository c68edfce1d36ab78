"""Every task by its name: the five kinds, and GLUE's as settings of them."""

from dataclasses import dataclass
from typing import get_args

from transformers import PreTrainedTokenizerFast

from electra_jax.config import ElectraConfig, FinetuneConfig, GlueName, TaskName
from electra_jax.errors import UserError
from electra_jax.finetuning.classification import Classification
from electra_jax.finetuning.multiple_choice import MultipleChoice
from electra_jax.finetuning.question_answering import QuestionAnswering
from electra_jax.finetuning.regression import Regression
from electra_jax.finetuning.tagging import Tagging
from electra_jax.finetuning.task import Task, TaskSettings

TASKS: dict[TaskName, type[Task]] = {
    "classification": Classification,
    "regression": Regression,
    "tagging": Tagging,
    "question-answering": QuestionAnswering,
    "multiple-choice": MultipleChoice,
}

GLUE_DATASET = "nyu-mll/glue"


@dataclass(frozen=True)
class Glue:
    """A task of GLUE (Wang et al., 2019): its columns, the metric that [P] reports, and [G]'s epochs."""

    text: tuple[str, ...]
    metric: str = "accuracy"
    epochs: float = 3
    task: TaskName = "classification"
    eval_split: str = "validation"


GLUE: dict[GlueName, Glue] = {
    "cola": Glue(("sentence",), "matthews"),
    "sst2": Glue(("sentence",)),
    "mrpc": Glue(("sentence1", "sentence2")),
    "stsb": Glue(("sentence1", "sentence2"), "spearman", 10, "regression"),
    "qqp": Glue(("question1", "question2")),
    "mnli": Glue(("premise", "hypothesis"), eval_split="validation_matched"),
    "qnli": Glue(("question", "sentence")),
    "rte": Glue(("sentence1", "sentence2"), epochs=10),
    "wnli": Glue(("sentence1", "sentence2")),
}


def glue_of(config: FinetuneConfig) -> Glue | None:
    """The GLUE task that `config` names, if it does."""
    return GLUE.get(config.task)  # type: ignore[arg-type]


def kind_of(config: FinetuneConfig) -> type[Task]:
    """The kind of task that `config` names, itself or by a GLUE task."""
    glue = glue_of(config)
    return TASKS[glue.task if glue else config.task]  # type: ignore[index]


def epochs_of(config: FinetuneConfig) -> float:
    """How often every example is seen."""
    glue = glue_of(config)
    return config.epochs if config.epochs is not None else glue.epochs if glue else kind_of(config).epochs


def make_task(config: FinetuneConfig, tokenizer: PreTrainedTokenizerFast, model: ElectraConfig) -> Task:
    """The task of `config`, its labels apart; raises UserError for settings that it can't have."""
    kind, glue = kind_of(config), glue_of(config)
    settings = TaskSettings(
        task=kind.name,
        text=config.text or (glue.text if glue else kind.text),
        label=config.label or kind.label,
        choices=config.choices or kind.choices,
        multi_label=config.multi_label,
        length=min(kind.length, model.max_position_embeddings) if config.length is None else config.length,
        stride=config.stride,
        max_answer_length=config.max_answer_length,
        metric=config.metric or (glue.metric if glue else ""),
    )
    return task_of(settings, tokenizer, model)


def task_of(settings: TaskSettings, tokenizer: PreTrainedTokenizerFast, model: ElectraConfig) -> Task:
    """The task of a fine-tuned folder; raises UserError for settings that its model can't have."""
    kind = TASKS[settings.task]
    _check(settings, kind, model)
    return kind(settings, tokenizer)


def _check(settings: TaskSettings, kind: type[Task], model: ElectraConfig) -> None:
    positions = model.max_position_embeddings
    if not SHORTEST <= settings.length <= positions:
        raise UserError(f"length: {settings.length} is not between {SHORTEST} and the model's {positions} positions")
    if settings.stride < 0:
        raise UserError(f"stride: {settings.stride} is below 0")
    if settings.max_answer_length < 1:
        raise UserError(f"max_answer_length: {settings.max_answer_length} is below 1")
    if len(settings.text) not in kind.texts_allowed:
        allowed = " or ".join(map(str, kind.texts_allowed))
        raise UserError(f"text: {len(settings.text)} columns are named, and {kind.name} reads {allowed}")
    if model.type_vocab_size < 2 and (len(settings.text) > 1 or kind in TWO_SEGMENTS):
        raise UserError(
            f"text: {kind.name} reads two segments, and the model has type_vocab_size 1; take another model"
        )
    if settings.multi_label and kind is not Classification:
        raise UserError(f"multi_label: {kind.name} has no such labels; leave it out")
    if settings.choices and not kind.choices:
        raise UserError(f"choices: {kind.name} has none; leave it out")
    if len(settings.label) > 1 and not settings.multi_label:
        raise UserError(f"label: {len(settings.label)} columns are named; name one, or give --multi-label")


SHORTEST = 16
TWO_SEGMENTS = (QuestionAnswering, MultipleChoice)
"""Kinds whose rows are always pairs, whatever columns they come from."""
assert set(TASKS) == set(get_args(TaskName))
assert set(GLUE) == set(get_args(GlueName))
