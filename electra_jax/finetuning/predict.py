"""Predictions for a file of any size."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from electra_jax.config import ComputeConfig
from electra_jax.data.records import is_marked
from electra_jax.data.writers import row_writer
from electra_jax.errors import UserError
from electra_jax.finetuning.data import read_records
from electra_jax.finetuning.examples import Example
from electra_jax.finetuning.model import FineTuned
from electra_jax.finetuning.task import Prediction, read_examples
from electra_jax.finetuning.tasks import task_of
from electra_jax.hub.source import TASK_FILE, local_folder

OF_ANSWERS, COLUMNS = ("null_threshold", "max_answer_length"), ("text", "label")
"""Settings that question answering alone has, and those of each task's columns."""
EXAMPLES_AT_ONCE = 2048
"""In memory; sorted by length, they make batches with little padding."""


@dataclass(frozen=True)
class Predicted:
    """How many rows were predicted, and which were left out."""

    rows: int
    skipped: tuple[str, ...]


def predict(
    model: str | Path | FineTuned,
    source: str | Path,
    out: str | Path,
    empty: Literal["error", "skip"] = "error",
    compute: ComputeConfig = ComputeConfig(),
    split: str = "train",
    subset: str | None = None,
    null_threshold: float | None = None,
    max_answer_length: int | None = None,
    text: Sequence[str] | None = None,
) -> Predicted:
    """Write the rows of `source` to the file `out`, each with what the model says of it in further columns.

    `source` is a file of any format that training reads, a folder saved by `datasets` (`split` of it, if it has
    several) or a hub dataset's name (`split` of it, and the configuration `subset`); `out` is CSV, TSV, JSONL or
    Parquet by its suffix, a table with a byte order mark if `source` is one that has it. The columns are "predicted"
    and, by the task, "probability" and one "probability_LABEL" each. `text` names the columns that the model reads,
    `null_threshold` how far "no answer" may score above a question's best answer, and `max_answer_length` the most
    tokens of that, in place of what the model was fine-tuned with. Few rows are in memory at a time. Raises UserError,
    and leaves nothing, for a row that can't be read.
    """
    changes = {"null_threshold": null_threshold, "max_answer_length": max_answer_length, "text": text}
    fine_tuned = load_fine_tuned(model, compute, changes)
    skipped: list[str] = []
    records = read_records(str(source), split, subset)
    examples = read_examples(fine_tuned.task, records, empty, labelled=False, skipped=skipped)
    count = 0
    with row_writer(Path(out), marked=is_marked(Path(source))) as write:
        for some in chunks(examples):
            predictions = fine_tuned.predict_examples(some)
            write([_row(example, prediction) for example, prediction in zip(some, predictions, strict=True)])
            count += len(some)
        if not count:
            raise UserError(f"{source}: all of its {len(skipped)} rows have empty fields")
    return Predicted(count, tuple(skipped))


def chunks(examples: Iterator[Example]) -> Iterator[list[Example]]:
    """So many at a time as are kept in memory."""
    while some := list(islice(examples, EXAMPLES_AT_ONCE)):
        yield some


def predict_labelled(
    fine_tuned: FineTuned,
    source: str,
    empty: Literal["error", "skip"],
    skipped: list[str],
    split: str = "validation",
    subset: str | None = None,
) -> tuple[Sequence[Example], list[Prediction]]:
    """The examples of `source` with their labels, and what the model says of them."""
    examples: list[Example] = []
    predictions: list[Prediction] = []
    records = read_records(source, split, subset)
    for some in chunks(read_examples(fine_tuned.task, records, empty, labelled=True, skipped=skipped)):
        examples += some
        predictions += fine_tuned.predict_examples(some)
    if not examples:
        raise UserError(f"{source}: all of its {len(skipped)} rows have empty fields")
    return examples, predictions


def load_fine_tuned(model: str | Path | FineTuned, compute: ComputeConfig, settings: Mapping[str, Any]) -> FineTuned:
    """The model, its task's settings changed to those that are not None.

    Raises UserError for settings that the task does not have, and for more or fewer columns than the model was
    fine-tuned on, where its folder says so.
    """
    if isinstance(model, FineTuned):
        fine_tuned, told = model, True
    else:
        folder = local_folder(model)
        fine_tuned, told = FineTuned.from_pretrained(folder, compute), (folder / TASK_FILE).is_file()
    changes: dict[str, Any] = {name: value for name, value in settings.items() if value is not None}
    if not changes:
        return fine_tuned
    before = fine_tuned.task.settings
    for name in [name for name in OF_ANSWERS if name in changes]:
        if before.task != "question-answering":
            raise UserError(f"{name}: {before.task} gives no answers; leave it out")
    for name in [name for name in COLUMNS if name in changes]:
        known, changes[name] = getattr(before, name), tuple(changes[name])
        if told and len(changes[name]) != len(known):
            raise UserError(f"{name}: {len(changes[name])} columns are named, and the model has {', '.join(known)}")
    return replace(fine_tuned, task=task_of(replace(before, **changes), fine_tuned.tokenizer, fine_tuned.config))


def _row(example: Example, prediction: Prediction) -> dict[str, Any]:
    values = {column: example.record.get(column) for column in example.record.values}  # those unread are checked too
    taken = [column for column in prediction if column in values]
    if taken:
        raise UserError(f"{example.record.where}: has a column {taken[0]!r} already, which predictions want; rename it")
    return values | prediction
