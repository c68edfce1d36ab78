"""Classification of a text or a pair of texts: one label an example, or any number of them."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Float
from scipy.special import expit, softmax
from sklearn import metrics

from electra_jax.data.records import Record
from electra_jax.errors import UserError
from electra_jax.finetuning import losses
from electra_jax.finetuning.examples import BITS, Example, Feature, bit_of, in_order, list_of, sequence_of, text_of
from electra_jax.finetuning.task import Prediction, Scores, Task
from electra_jax.hub.configs import TaskHead

SEPARATOR = ","
THRESHOLD = 0.5
"""Probability above which an example of a multi-label task has a label."""


class SequenceTask(Task):
    """What classification and regression share: a text or a pair of texts in, one target an example."""

    def read(self, record: Record, labelled: bool) -> Example:  # noqa: D102
        return Example(record, self.texts(record), self._target(record) if labelled else None)

    def features(self, examples: Sequence[Example]) -> list[list[Feature]]:  # noqa: D102
        firsts = [example.inputs[0] for example in examples]
        seconds = [example.inputs[1] for example in examples] if len(self.settings.text) == 2 else None
        made = []
        for example, encoding in zip(examples, self.encode(firsts, seconds), strict=True):
            ids, first = sequence_of(encoding)
            target = None if example.target is None else self._array(example)
            made.append([Feature((ids,), (first,), target)])
        return made

    @abstractmethod
    def _target(self, record: Record) -> Any:
        """What a row gives as its target."""

    @abstractmethod
    def _array(self, example: Example) -> np.ndarray:
        """The same as the loss wants it."""


class Classification(SequenceTask):
    """`classification`."""

    name = "classification"

    @property
    def head(self) -> TaskHead:  # noqa: D102
        problem = "multi_label_classification" if self.settings.multi_label else "single_label_classification"
        return TaskHead("sequence", self.settings.labels, problem)

    @property
    def metrics(self) -> tuple[str, ...]:  # noqa: D102
        if self.settings.multi_label:
            return ("micro_f1", "macro_f1", "accuracy")
        binary = ("f1", "auc") if len(self.settings.labels) in (0, 2) else ()
        return ("accuracy", "macro_f1", "matthews", *binary)

    def fitted(self, examples: Sequence[Example], source: str) -> "Classification":  # noqa: D102
        if self.settings.multi_label and len(self.settings.label) > 1:
            return self.with_settings(labels=self.settings.label)
        found = {label for example in examples for label in self._labels(example)}
        counts = {len(self._labels(example)) for example in examples}
        if found and {label.lower() for label in found} <= BITS and len(counts) == 1 and counts != {1}:
            raise UserError(
                f"{source}: column {self.settings.label[0]!r} holds a 0 or 1 for each label; give lists of the labels' "
                f"names, or a column for each label"
            )
        if len(found) < 2 and not (self.settings.multi_label and found):
            value = f"has one value only, {next(iter(found))!r}" if found else "has no label"
            raise UserError(f"{source}: column {self.settings.label[0]!r} {value}; a classifier needs two or more")
        twice = [label for label in sorted(found) if f"{label}.0" in found]
        if twice:
            spellings = f"{twice[0]!r} and {twice[0] + '.0'!r}"
            raise UserError(f"{source}: column {self.settings.label[0]!r} has {spellings}; write the number one way")
        return self.with_settings(labels=in_order(found, self.settings.labels))

    def loss(self, logits: Float[Array, "B C"], batch: dict[str, Array]) -> tuple[losses.Scalar, losses.Scalar]:  # noqa: D102
        loss = losses.sigmoid_cross_entropy if self.settings.multi_label else losses.cross_entropy
        return loss(logits, batch["target"], batch["weight"])

    def predict(  # noqa: D102
        self, example: Example, features: Sequence[Feature], logits: Sequence[Float[np.ndarray, " C"]]
    ) -> Prediction:
        labels = self.settings.labels
        probability = (expit if self.settings.multi_label else softmax)(logits[0].astype(np.float64))
        each = {f"probability_{label}": float(p) for label, p in zip(labels, probability, strict=True)}
        if self.settings.multi_label:
            return {"predicted": [label for label, p in zip(labels, probability, strict=True) if p > THRESHOLD], **each}
        best = int(probability.argmax())
        return {"predicted": labels[best], "probability": float(probability[best]), **each}

    def scores(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> Scores:  # noqa: D102
        if self.settings.multi_label:
            return self._multi_label_scores(examples, predictions)
        labels = self.settings.labels
        true = [example.target for example in examples]
        predicted = [prediction["predicted"] for prediction in predictions]
        average: dict[str, Any] = {"labels": labels, "average": "macro", "zero_division": 0}
        found = {
            "accuracy": float(metrics.accuracy_score(true, predicted)),
            "macro_f1": float(metrics.f1_score(true, predicted, **average)),
            # sklearn warns where both sides have one label only, and gives 0
            "matthews": float(metrics.matthews_corrcoef(true, predicted)) if len({*true, *predicted}) > 1 else 0.0,
        }
        if len(labels) == 2:  # the second is the positive one, as 1 is of 0 and 1
            positive = [label == labels[1] for label in true]
            found["f1"] = float(metrics.f1_score(positive, [p == labels[1] for p in predicted], zero_division=0))
            score = [prediction[f"probability_{labels[1]}"] for prediction in predictions]
            found["auc"] = float(metrics.roc_auc_score(positive, score)) if len(set(positive)) == 2 else 0.5
        return found

    def _multi_label_scores(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> Scores:
        true = np.array([self._indicators(example.target) for example in examples])
        predicted = np.array([self._indicators(prediction["predicted"]) for prediction in predictions])
        each = [metrics.f1_score(*column, zero_division=0) for column in zip(true.T, predicted.T, strict=True)]
        return {  # not by sklearn's averages, which take the indicators of a single label for two classes
            "micro_f1": float(metrics.f1_score(true.ravel(), predicted.ravel(), zero_division=0)),
            "macro_f1": float(np.mean(each)),
            "accuracy": float(metrics.accuracy_score(true, predicted)),
        }

    def _target(self, record: Record) -> str | list[str]:
        columns = self.settings.label
        if not self.settings.multi_label:
            return self._known(self._one_label(record, columns[0]))
        if len(columns) > 1:
            names = self.settings.labels or columns  # which config.json may have renamed
            return [name for name, column in zip(names, columns, strict=True) if bit_of(record, column)]
        return list_of(record, columns[0], SEPARATOR)

    @staticmethod
    def _one_label(record: Record, column: str) -> str:
        if isinstance(record.get(column), list):
            raise UserError(f"{record.where}, column {column!r} holds a list; for several labels give --multi-label")
        return text_of(record, column).strip()

    def _known(self, label: str) -> str:
        """The label as training spelt it, where the two differ as 1 and 1.0: pandas has floats beside missing ones."""
        spellings = (label, label.removesuffix(".0"), f"{label}.0")
        return next((one for one in spellings if one in self.settings.labels), label)

    def _labels(self, example: Example) -> Sequence[str]:
        return example.target if self.settings.multi_label else [example.target]

    def _array(self, example: Example) -> np.ndarray:
        for label in self._labels(example):
            if label not in self.settings.labels:
                place = f"{example.record.where}, column {self.settings.label[0]!r}"
                raise UserError(f"{place}: label {label!r} is none of training: {', '.join(self.settings.labels)}")
        if self.settings.multi_label:
            return np.array(self._indicators(example.target), np.float32)
        return np.array(self.settings.labels.index(example.target), np.int32)

    def _indicators(self, present: Sequence[str]) -> list[int]:
        return [int(label in present) for label in self.settings.labels]
