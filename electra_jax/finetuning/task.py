"""What every kind of task has: how it reads rows, what its model learns, how its predictions are scored."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
from jaxtyping import Array, Float
from tokenizers import Encoding
from transformers import PreTrainedTokenizerFast

from electra_jax.config import TaskName
from electra_jax.data.records import Record
from electra_jax.errors import UserError
from electra_jax.finetuning.examples import EmptyFieldError, Example, Feature, text_of
from electra_jax.finetuning.losses import Scalar
from electra_jax.hub.configs import TaskHead

Prediction = dict[str, Any]
"""What is told of an example: a column of the output each."""
Scores = dict[str, float]


@dataclass(frozen=True)
class TaskSettings:
    """How a task reads its rows. A fine-tuned folder keeps it, in task.json."""

    task: TaskName
    text: tuple[str, ...]
    label: tuple[str, ...]
    choices: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    """Those of the training examples, in the order of the model's outputs."""
    multi_label: bool = False
    length: int = 128
    stride: int = 128
    max_answer_length: int = 30  # [G] configure_finetuning.py
    """question-answering: most tokens of an answer."""
    metric: str = ""
    null_threshold: float | None = None
    """question-answering: how far "no answer" may score above the best answer; None: always answer."""


class Task(ABC):
    """One kind of task with its settings. What `text`, `label` and the like default to is here too."""

    name: ClassVar[TaskName]
    text: ClassVar[tuple[str, ...]] = ("text",)
    label: ClassVar[tuple[str, ...]] = ("label",)
    choices: ClassVar[tuple[str, ...]] = ()
    texts_allowed: ClassVar[tuple[int, ...]] = (1, 2)
    length: ClassVar[int] = 128
    epochs: ClassVar[float] = 3  # [G] configure_finetuning.py

    def __init__(self, settings: TaskSettings, tokenizer: PreTrainedTokenizerFast):
        self.settings, self.tokenizer = settings, tokenizer

    @property
    @abstractmethod
    def head(self) -> TaskHead:
        """The head of its model."""

    @property
    @abstractmethod
    def metrics(self) -> tuple[str, ...]:
        """Names of its scores, higher being better; the first is the one that decides, unless another is named."""

    @abstractmethod
    def read(self, record: Record, labelled: bool) -> Example:
        """A row as an example. Raises EmptyFieldError where it may be left out, UserError where it is wrong."""

    @abstractmethod
    def features(self, examples: Sequence[Example]) -> list[list[Feature]]:
        """What the model reads of each example. Raises UserError for a target that there is not."""

    @abstractmethod
    def loss(self, logits: Float[Array, "B ..."], batch: dict[str, Array]) -> tuple[Scalar, Scalar]:
        """The sum over a batch, and the count to divide it by."""

    @abstractmethod
    def predict(
        self, example: Example, features: Sequence[Feature], logits: Sequence[Float[np.ndarray, "..."]]
    ) -> Prediction:
        """What the logits of an example's features say of it."""

    @abstractmethod
    def scores(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> Scores:
        """Metrics over labelled examples, `metrics` among them."""

    def notes(self, features: Sequence[Feature]) -> dict[str, str]:
        """What a person should know of the training features before the first step, by its heading."""
        return {}

    def fitted(self, examples: Sequence[Example], source: str) -> Self:
        """The task with what it takes from the training examples, such as the labels."""
        return self

    def tuned(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> Self:
        """The task with what it takes from evaluating the fine-tuned model, such as a threshold."""
        return self

    def with_settings(self, **changes: Any) -> Self:
        """The same task under changed settings."""
        return type(self)(replace(self.settings, **changes), self.tokenizer)

    def texts(self, record: Record) -> tuple[str, ...]:
        """The texts of the columns that the model reads."""
        return tuple(text_of(record, column) for column in self.settings.text)

    def encode(self, firsts: Sequence[str], seconds: Sequence[str] | None, **options: Any) -> list[Encoding]:
        """One or two segments each, cut to the task's length."""
        settings = {"truncation": True, "max_length": self.settings.length, "return_token_type_ids": True} | options
        encodings = self.tokenizer(list(firsts), None if seconds is None else list(seconds), **settings).encodings
        assert encodings is not None
        return encodings


def read_examples(
    task: Task, records: Iterable[Record], empty: Literal["error", "skip"], labelled: bool, skipped: list[str]
) -> Iterator[Example]:
    """Rows as examples; rows with empty fields end it, or are named in `skipped` and left out."""
    for record in records:
        try:
            yield task.read(record, labelled)
        except EmptyFieldError as error:
            if empty == "error":
                raise UserError(f"{error}; fill it in, or leave such rows out with --empty skip") from None
            skipped.append(str(error))
