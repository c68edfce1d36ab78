"""Multiple choice: which of several continuations, or answers, goes with a context."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Float
from scipy.special import softmax
from sklearn import metrics

from electra_jax.data.records import Record
from electra_jax.errors import UserError
from electra_jax.finetuning import losses
from electra_jax.finetuning.examples import EmptyFieldError, Example, Feature, list_of, sequence_of, text_of
from electra_jax.finetuning.task import Prediction, Scores, Task
from electra_jax.hub.configs import TaskHead

SEPARATOR = "|"
"""Between the choices of one column, in a file that has no lists."""


class MultipleChoice(Task):
    """`multiple-choice`. A choice is read as `[CLS] context [SEP] beginning choice [SEP]`."""

    name = "multiple-choice"
    text = ("context",)
    choices = ("choices",)

    @property
    def head(self) -> TaskHead:  # noqa: D102
        return TaskHead("choice")

    @property
    def metrics(self) -> tuple[str, ...]:  # noqa: D102
        return ("accuracy",)

    def read(self, record: Record, labelled: bool) -> Example:  # noqa: D102
        columns = self.settings.choices
        if len(columns) == 1:
            choices = list_of(record, columns[0], SEPARATOR)
        else:
            choices = [text_of(record, column) for column in columns]
        if not choices:
            raise EmptyFieldError(f"{record.where}, column {columns[0]!r} is empty")
        if len(choices) < 2:
            raise UserError(f"{record.where}, column {columns[0]!r} has {len(choices)} choices; give two or more")
        return Example(record, (*self.texts(record), choices), self._target(record, choices) if labelled else None)

    def features(self, examples: Sequence[Example]) -> list[list[Feature]]:  # noqa: D102
        self._check_counts(examples)
        counts = [len(example.inputs[-1]) for example in examples]
        firsts = [example.inputs[0] for example, count in zip(examples, counts, strict=True) for _ in range(count)]
        seconds = [" ".join([*example.inputs[1:-1], choice]) for example in examples for choice in example.inputs[-1]]
        encodings = iter(self.encode(firsts, seconds))
        made = []
        for example, count in zip(examples, counts, strict=True):
            ids, lengths = zip(*(sequence_of(next(encodings)) for _ in range(count)), strict=True)
            target = None if example.target is None else np.array(example.target, np.int32)
            made.append([Feature(ids, lengths, target)])
        return made

    def loss(self, logits: Float[Array, "B*S 1"], batch: dict[str, Array]) -> tuple[losses.Scalar, losses.Scalar]:  # noqa: D102
        weight = batch["weight"]
        return losses.cross_entropy(logits.reshape(weight.shape[0], -1), batch["target"], weight)

    def predict(  # noqa: D102
        self, example: Example, features: Sequence[Feature], logits: Sequence[Float[np.ndarray, "S 1"]]
    ) -> Prediction:
        probability = softmax(logits[0][:, 0].astype(np.float64))
        best = int(probability.argmax())
        each = {f"probability_{index}": float(p) for index, p in enumerate(probability)}
        return {"predicted": best, "probability": float(probability[best]), **each}

    def scores(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> Scores:  # noqa: D102
        true = [example.target for example in examples]
        return {"accuracy": float(metrics.accuracy_score(true, [p["predicted"] for p in predictions]))}

    def _target(self, record: Record, choices: Sequence[str]) -> int:
        """The number of the right choice, counted from 0; a row gives it, or the choice itself."""
        column = self.settings.label[0]
        label = text_of(record, column).strip()
        by_text = [index for index, choice in enumerate(choices) if choice.strip() == label][:1]
        number = label.removesuffix(".0")  # as pandas writes it beside a missing one
        by_number = [int(number)] if number.isdecimal() and int(number) < len(choices) else []
        if by_number and isinstance(record.values[column], int):
            return by_number[0]  # even where a choice is that number
        where = f"{record.where}, column {column!r} is {label!r}"
        match sorted({*by_text, *by_number}):
            case []:
                raise UserError(f"{where}; give a number from 0 to {len(choices) - 1}, or one of the choices")
            case [meant]:
                return meant
        raise UserError(
            f"{where}, the number of one choice and the text of another; give numbers, in JSONL or Parquet, which are "
            f"taken for numbers"
        )

    def _check_counts(self, examples: Sequence[Example]) -> None:
        first = examples[0]
        for example in examples:
            here, there = len(example.inputs[-1]), len(first.inputs[-1])
            if here != there:
                other = f"row {first.record.number} {there}"
                raise UserError(f"{example.record.where} has {here} choices, and {other}; give as many in each row")
