"""From the files that a person names to the features that a model is trained and evaluated on."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset
from datasets import List as ListOf
from datasets.config import DATASETDICT_JSON_FILENAME
from sklearn.model_selection import train_test_split

from electra_jax.config import FinetuneConfig
from electra_jax.data.documents import check_source, load_split
from electra_jax.data.records import Record, format_of, read_file, require_rows
from electra_jax.errors import UserError
from electra_jax.finetuning.classification import Classification
from electra_jax.finetuning.examples import Example, Feature
from electra_jax.finetuning.question_answering import read_squad
from electra_jax.finetuning.tagging import Tagging
from electra_jax.finetuning.task import Task, read_examples
from electra_jax.finetuning.tasks import GLUE_DATASET, glue_of


@dataclass(frozen=True)
class Split:
    """Examples, and what the model reads of each."""

    examples: list[Example]
    features: list[list[Feature]]

    @property
    def flat(self) -> list[Feature]:
        """The features of all examples, one after the other."""
        return [feature for features in self.features for feature in features]

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each of them."""
        return np.array([feature.length for feature in self.flat], np.int64)

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hexadecimal) over every token and target."""
        digest = hashlib.sha256()
        for feature in self.flat:
            for array in (*feature.ids, np.asarray(feature.target)):
                digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class FinetuneData:
    """What a run trains and evaluates on, and the task with its labels."""

    task: Task
    train: Split
    eval: Split
    skipped: tuple[str, ...]
    """The rows that were left out, each as a line."""


def load_data(config: FinetuneConfig, task: Task) -> FinetuneData:
    """Read, split and tokenize. Raises UserError, which names file, row and column, for what can't be read."""
    source, train_split, eval_source, eval_split = _sources(config)
    skipped: list[str] = []
    train = list(_examples(config, task, source, train_split, skipped))
    if not train:
        raise UserError(f"{source}: all of its {len(skipped)} rows have empty fields")
    task = _with_known_labels(task, config, source, train_split)
    fitted = task.fitted(train, source)  # to all: a label that one example alone has may fall among those held out
    held_out: list[Example] = []
    if eval_source is not None:
        before = len(skipped)
        held_out = list(_examples(config, fitted, eval_source, eval_split, skipped))
        if not held_out:
            raise UserError(f"{eval_source}: all of its {len(skipped) - before} rows have empty fields")
    elif config.eval_fraction > 0:
        train, held_out = _divide(train, config)
    if config.patience is not None and not held_out:
        raise UserError("patience: nothing is held out to wait for; give eval or an eval_fraction, or leave it out")
    return FinetuneData(fitted, _tokenized(fitted, train), _tokenized(fitted, held_out), tuple(skipped))


def read_records(source: str, split: str = "train", subset: str | None = None) -> Iterator[Record]:
    """The rows of a file, of a folder saved by `datasets`, or of a dataset on the hub; raises UserError for none."""
    check_source(source)
    path = Path(source)
    if path.is_file():
        squad = read_squad(path) if format_of(path) == ".json" else None
        return require_rows(squad or read_file(path), source)
    return require_rows(_rows(load_split(source, split, subset), source), source)


def _sources(config: FinetuneConfig) -> tuple[str, str, str | None, str]:
    """Where the training examples are and their split, and the same of those to evaluate on."""
    glue = glue_of(config)
    source = config.train or (GLUE_DATASET if glue else None)
    if source is None:
        raise UserError(
            f"train: none is given; name a file of examples, since task {config.task!r} has none of its own"
        )
    if not 0 <= config.eval_fraction < 1:
        raise UserError(f"eval_fraction: {config.eval_fraction} is not from 0 to below 1")
    if config.eval_split and config.eval is None and not _has_splits(source):
        raise UserError(f"eval_split: {source} has no splits; name other examples by eval, or leave it out")
    eval_split = config.eval_split or (glue.eval_split if glue else "validation")
    divided = (glue or config.eval_split) and _has_splits(source)
    return source, config.train_split, source if config.eval is None and divided else config.eval, eval_split


def _has_splits(source: str) -> bool:
    """Whether it is of the hub, or a folder of several splits; one set alone would be evaluated on itself."""
    return not Path(source).exists() or (Path(source) / DATASETDICT_JSON_FILENAME).is_file()


def _examples(config: FinetuneConfig, task: Task, source: str, split: str, skipped: list[str]) -> Iterator[Example]:
    records = read_records(source, split, _subset(config))
    return read_examples(task, records, config.empty, labelled=True, skipped=skipped)


def _subset(config: FinetuneConfig) -> str | None:
    return config.subset or (str(config.task) if glue_of(config) else None)


def _with_known_labels(task: Task, config: FinetuneConfig, source: str, split: str) -> Task:
    """A classification, or tagging, with the labels of a numbered class (ClassLabel), in their order."""
    if not isinstance(task, (Classification, Tagging)) or Path(source).is_file():
        return task
    kind = load_split(source, split, _subset(config)).features.get(task.settings.label[0])
    return task.with_settings(labels=tuple(_class_names(kind) or ()))


def _divide(examples: list[Example], config: FinetuneConfig) -> tuple[list[Example], list[Example]]:
    """Keep `eval_fraction` for evaluation. Repetitions of a text fall on one side, or the score would be too high."""
    groups: dict[str, list[Example]] = {}
    for example in examples:
        groups.setdefault(repr([_bare(part) for part in example.inputs]), []).append(example)
    keys = list(groups)
    strata = [str(groups[key][0].target) for key in keys] if config.stratify else None
    alone = next((label for label, count in Counter(strata or ()).items() if count == 1), None)
    if alone is not None:
        raise UserError(f"stratify: only one text is {alone!r}, and each side wants one; leave stratify out")
    try:
        sides = train_test_split(keys, test_size=config.eval_fraction, random_state=config.seed, stratify=strata)
    except ValueError:
        few = "too few for each label" if strata else "none"
        share = f"{config.eval_fraction} of {len(keys)} examples"
        raise UserError(f"eval_fraction: {share} leaves one side {few}; give another") from None
    chosen = set(sides[1])
    parts: tuple[list[Example], list[Example]] = ([], [])
    for key in keys:
        parts[key in chosen].extend(groups[key])
    return parts


def _bare(part: Any) -> Any:
    return part.strip() if isinstance(part, str) else part


def _tokenized(task: Task, examples: Sequence[Example]) -> Split:
    return Split(list(examples), task.features(examples) if examples else [])


def _rows(dataset: Dataset, source: str) -> Iterator[Record]:
    """Rows of `datasets`, numbered classes by their names; a class of -1, as in GLUE's test sets, is none."""
    names = {column: names for column, kind in dataset.features.items() if (names := _class_names(kind)) is not None}
    for number, values in enumerate(dataset.with_format(None), start=1):  # or arrays, if it was saved so
        named = {column: _named(values[column], names[column]) for column in names}
        yield Record(source, number, values | named)


def _class_names(kind: Any) -> list[str] | None:
    kind = kind.feature if isinstance(kind, ListOf) else kind
    return kind.names if isinstance(kind, ClassLabel) else None


def _named(value: Any, names: list[str]) -> Any:
    if isinstance(value, list):
        return [_named(one, names) for one in value]
    return names[value] if value is not None and value >= 0 else None
