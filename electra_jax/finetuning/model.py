"""A fine-tuned model: weights, task and tokenizer, from and to a folder that transformers loads."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int
from transformers import PreTrainedTokenizerFast

from electra_jax.config import ComputeConfig, ElectraConfig, TaskName
from electra_jax.data.records import Record
from electra_jax.data.tokenizer import fitting, load_tokenizer, max_length, save_tokenizer
from electra_jax.errors import UserError
from electra_jax.files import new_folder
from electra_jax.finetuning.buckets import BATCH_SIZE, eval_plans, fixed_buckets
from electra_jax.finetuning.examples import Example, Feature, check_several, collate
from electra_jax.finetuning.task import Prediction, Task, TaskSettings
from electra_jax.finetuning.tasks import TASKS, task_of
from electra_jax.hub.configs import HEAD_OUTPUTS, TaskHead
from electra_jax.hub.folders import read_task_model, write_model
from electra_jax.hub.source import TASK_FILE, local_folder
from electra_jax.model import HeadKind, TaskModel, Tokens
from electra_jax.presets import parse
from electra_jax.train.cache import compiler_options
from electra_jax.train.check import check_compute
from electra_jax.train.optimizer import Params
from electra_jax.train.sharding import by_row, make_mesh, put_batch, replicated
from electra_jax.train.step import read_tokens

USUAL_TASK: dict[HeadKind, TaskName] = {
    "sequence": "classification",
    "token": "tagging",
    "span": "question-answering",
    "choice": "multiple-choice",
}
IN_WINDOWS: tuple[HeadKind, ...] = ("token", "span")
"""Heads of tasks that read a long text in windows."""
Logits = list[Float[np.ndarray, "..."]]
"""Of each feature, without padding."""


def graph_of(config: ElectraConfig, head: TaskHead, compute: ComputeConfig) -> nnx.GraphDef:
    """The model without its numbers."""
    return nnx.graphdef(nnx.eval_shape(lambda: TaskModel(config, head.kind, head.outputs, compute, rngs=nnx.Rngs(0))))


class Forward:
    """The compiled model: batches of features to logits, on all devices."""

    def __init__(self, graph: nnx.GraphDef, mesh: Mesh, batch_size: int):
        self.mesh, self.batch_size = mesh, batch_size
        whole = replicated(mesh)

        def forward(params: Params, batch: dict[str, Array]) -> Array:
            return nnx.merge(graph, params)(read_tokens(batch))

        self.call: Callable[..., Array] = jax.jit(
            forward,
            in_shardings=(whole, by_row(mesh)),
            out_shardings=whole,
            compiler_options=compiler_options(),
        )

    def __call__(self, params: Params, features: Sequence[Feature], buckets: tuple[int, ...]) -> Logits:
        """Logits of each feature: [outputs], [L, outputs] of its tokens, or [choices, 1]."""
        found: dict[int, np.ndarray] = {}
        pending: list[tuple[Sequence[int], Array]] = []
        for plan in eval_plans(np.array([feature.length for feature in features]), buckets, self.batch_size):
            batch = collate([features[i] for i in plan.indices], self.batch_size, plan.length)
            inputs = {name: batch[name] for name in ("input_ids", "length", "first_length")}
            pending.append((plan.indices.tolist(), self.call(params, put_batch(inputs, self.mesh))))
        for indices, logits in pending:  # all are under way by now
            each = np.split(np.asarray(logits), self.batch_size)
            found |= {i: _trimmed(rows, features[i]) for i, rows in zip(indices, each, strict=False)}
        return [found[i] for i in range(len(features))]


def _trimmed(rows: np.ndarray, feature: Feature) -> np.ndarray:
    if len(feature.ids) > 1:
        return rows
    return rows[0][: feature.length] if rows[0].ndim > 1 else rows[0]


@dataclass(frozen=True, eq=False)
class FineTuned:
    """A fine-tuned model of any task."""

    config: ElectraConfig
    params: Params
    """Float32, as nested dicts of "embeddings", "encoder" and "head"."""
    task: Task
    compute: ComputeConfig = ComputeConfig()

    @classmethod
    def from_pretrained(
        cls, name_or_folder: str | Path, compute: ComputeConfig = ComputeConfig(), task: TaskSettings | None = None
    ) -> Self:
        """The model in a folder that `finetune` or transformers wrote, or of that name on the hub.

        `task` says how to read rows, where the folder (as one of transformers) does not. Raises UserError where there
        is no fine-tuned ELECTRA model.
        """
        check_compute(compute)
        folder = local_folder(name_or_folder)
        config, head, params = read_task_model(folder)
        tokenizer = fitting(load_tokenizer(folder), config.vocab_size, name_or_folder)
        settings = task or _read_settings(folder, head, config, tokenizer)
        made = task_of(settings, tokenizer, config)
        if (made.head.kind, made.head.outputs) != (head.kind, head.outputs):
            ours = f"{settings.task} of {made.head.outputs} outputs"
            raise UserError(
                f"{folder}: the model is of {head.kind} and {head.outputs} outputs, and {TASK_FILE} is {ours}"
            )
        return cls(config, params, made, compute)

    def save_pretrained(self, folder: str | Path, card: str | None = None) -> None:
        """Write the new `folder`: config.json, model.safetensors, task.json and the tokenizer.

        Raises UserError where `folder` already holds something.
        """
        with new_folder(Path(folder)) as scratch:
            write_fine_tuned(scratch, self, card)

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Its tokenizer."""
        return self.task.tokenizer

    @property
    def labels(self) -> tuple[str, ...]:
        """Of the outputs in their order; none where the task has no labels."""
        return self.task.settings.labels

    def logits(
        self,
        input_ids: Int[Array, "B L"],
        attention_mask: Int[Array, "B L"] | None = None,
        token_type_ids: Int[Array, "B L"] | None = None,
    ) -> Float[Array, "B ..."]:
        """Float32 logits, as transformers' model of the same folder gives them; [B, 1] each choice for a choice.

        Raises ValueError for `input_ids` that are none of the vocabulary's.
        """
        return _apply(self._graph, self.params, Tokens.of(input_ids, attention_mask, token_type_ids, self.config))

    def predict(self, records: Sequence[dict[str, Any]]) -> list[Prediction]:
        """What the model says of rows, each a dict of the task's columns. Raises UserError for a row that is wrong."""
        examples = [
            self.task.read(Record("the rows", number, dict(values)), labelled=False)
            for number, values in enumerate(records, start=1)
        ]
        return self.predict_examples(examples)

    def predict_examples(self, examples: Sequence[Example]) -> list[Prediction]:
        """The same of rows that the task has read."""
        return predict_with(self._forward, self._placed, self.task, examples, fixed_buckets(self.task.settings.length))

    @cached_property
    def _graph(self) -> nnx.GraphDef:
        return graph_of(self.config, self.task.head, self.compute)

    @cached_property
    def _forward(self) -> Forward:
        devices = jax.device_count()
        batch_size = -(-BATCH_SIZE // devices) * devices
        return Forward(self._graph, make_mesh(None, batch_size), batch_size)

    @cached_property
    def _placed(self) -> Params:
        return jax.device_put(self.params, replicated(self._forward.mesh))


class Classifier(FineTuned):
    """A fine-tuned classifier or regression of a text or a pair of texts."""

    def __call__(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[Prediction]:
        """For each text (with its pair, where the model was trained on pairs) the label and every probability.

        {"predicted": "good", "probability": 0.9, "probability_bad": 0.1, "probability_good": 0.9}; for several labels
        "predicted" is a list, for a regression it is a number. Raises UserError for an empty text, TypeError for one
        text in place of several.
        """
        check_several(texts)
        columns = self.task.settings.text
        given = [texts] if pairs is None else [texts, pairs]
        if len(given) != len(columns) or self.task.name not in ("classification", "regression"):
            raise UserError(f"this model is a {self.task.name} of the columns {', '.join(columns)}")
        return self.predict([dict(zip(columns, row, strict=True)) for row in zip(*given, strict=True)])


def predict_with(
    forward: Forward, params: Params, task: Task, examples: Sequence[Example], buckets: tuple[int, ...]
) -> list[Prediction]:
    """What a model says of examples."""
    if not examples:
        return []
    return decode(task, examples, task.features(examples), partial(forward, params, buckets=buckets))


def decode(
    task: Task,
    examples: Sequence[Example],
    features: Sequence[Sequence[Feature]],
    forward: Callable[[Sequence[Feature]], Logits],
) -> list[Prediction]:
    """Logits of all features, and what each example's say. Raises UserError where they are no numbers."""
    found = forward([feature for some in features for feature in some])
    if not all(np.isfinite(one).all() for one in found):
        raise UserError("the model's logits are no numbers; its weights are damaged, or its learning_rate was too high")
    logits: Iterator[Any] = iter(found)
    return [
        task.predict(example, some, [next(logits) for _ in some])
        for example, some in zip(examples, features, strict=True)
    ]


def write_fine_tuned(folder: Path, model: FineTuned, card: str | None = None) -> None:
    """Write the model's files into the existing `folder`."""
    head = model.task.head
    write_model(folder, head.kind, model.config, model.params, card=card, head=head)
    save_tokenizer(model.tokenizer, folder, model.config.max_position_embeddings)
    settings = {name: value for name, value in asdict(model.task.settings).items() if value is not None}
    (folder / TASK_FILE).write_text(json.dumps(settings, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _read_settings(
    folder: Path, head: TaskHead, config: ElectraConfig, tokenizer: PreTrainedTokenizerFast
) -> TaskSettings:
    file = folder / TASK_FILE
    if not file.is_file():
        positions = config.max_position_embeddings
        return _assumed_settings(head, min(positions, max_length(tokenizer) or positions))
    try:
        settings = parse(TaskSettings, json.loads(file.read_text(encoding="utf-8")), str(file))
    except ValueError as error:
        raise UserError(f"{file}: is no JSON ({error}); fetch or copy the folder again") from None
    if len(settings.labels) != len(head.labels):
        return settings
    return replace(settings, labels=head.labels)  # config.json's, which people rename


def _assumed_settings(head: TaskHead, positions: int) -> TaskSettings:
    """For a folder that transformers wrote: the columns that the kind of task has by default.

    Texts are read as far as the model can, but contexts of questions in windows of the usual length.
    """
    name = "regression" if head.problem == "regression" else USUAL_TASK[head.kind]
    kind = TASKS[name]
    return TaskSettings(
        task=name,
        text=kind.text,
        label=kind.label,
        choices=kind.choices,
        labels=head.labels if head.kind not in HEAD_OUTPUTS and name != "regression" else (),
        multi_label=head.problem == "multi_label_classification",
        length=min(kind.length, positions) if head.kind == "span" else positions,
    )


@partial(jax.jit, static_argnums=0)
def _apply(graph: nnx.GraphDef, params: Params, tokens: Tokens) -> Array:
    return nnx.merge(graph, params)(tokens)
