"""Tasks by their names: what settings they have by default, and which they refuse."""

from pathlib import Path
from typing import Any, get_args

import pytest
from transformers import PreTrainedTokenizerFast

from electra_jax.config import ElectraConfig, FinetuneConfig, GlueName, TaskName
from electra_jax.data.records import Record
from electra_jax.data.tokenizer import load_tokenizer
from electra_jax.errors import UserError
from electra_jax.finetuning.task import Task, read_examples
from electra_jax.finetuning.tasks import epochs_of, glue_of, make_task, task_of

KINDS: dict[TaskName, dict[str, Any]] = {
    "classification": {"text": ("text",), "label": ("label",), "length": 128},
    "regression": {"text": ("text",), "label": ("label",), "length": 128},
    "tagging": {"text": ("tokens",), "label": ("tags",), "length": 128},
    "question-answering": {"text": ("question", "context"), "label": ("answers",), "length": 512},
    "multiple-choice": {"text": ("context",), "label": ("label",), "choices": ("choices",), "length": 128},
}

GLUE: dict[GlueName, tuple[tuple[str, ...], str, float, str]] = {
    "cola": (("sentence",), "matthews", 3, "validation"),
    "sst2": (("sentence",), "accuracy", 3, "validation"),
    "mrpc": (("sentence1", "sentence2"), "accuracy", 3, "validation"),
    "stsb": (("sentence1", "sentence2"), "spearman", 10, "validation"),
    "qqp": (("question1", "question2"), "accuracy", 3, "validation"),
    "mnli": (("premise", "hypothesis"), "accuracy", 3, "validation_matched"),
    "qnli": (("question", "sentence"), "accuracy", 3, "validation"),
    "rte": (("sentence1", "sentence2"), "accuracy", 10, "validation"),
    "wnli": (("sentence1", "sentence2"), "accuracy", 3, "validation"),
}
"""Columns of the data set nyu-mll/glue; metric, epochs and the split that scores are of."""


@pytest.fixture(scope="module")
def pieces(tokenizer: Path) -> PreTrainedTokenizerFast:
    return load_tokenizer(tokenizer)


def config(task: str, **settings: Any) -> FinetuneConfig:
    return FinetuneConfig("model", Path("out"), task=task, **settings)  # type: ignore[arg-type]


def make(pieces: PreTrainedTokenizerFast, task: str, positions: int = 512, **settings: Any) -> Task:
    return make_task(config(task, **settings), pieces, ElectraConfig(max_position_embeddings=positions))


def test_every_name_is_tested_here() -> None:
    assert set(KINDS) == set(get_args(TaskName))
    assert set(GLUE) == set(get_args(GlueName))


@pytest.mark.parametrize("name", KINDS)
def test_the_defaults_of_a_kind(pieces: PreTrainedTokenizerFast, name: TaskName) -> None:
    task = make(pieces, name)
    expected = {"task": name, "choices": (), "labels": (), "multi_label": False, "stride": 128, "metric": ""}
    assert vars(task.settings) == expected | {"null_threshold": None, "max_answer_length": 30} | KINDS[name]
    assert task.name == name
    assert epochs_of(config(name)) == (2 if name == "question-answering" else 3)
    assert glue_of(config(name)) is None


@pytest.mark.parametrize("name", GLUE)
def test_the_defaults_of_a_glue_task(pieces: PreTrainedTokenizerFast, name: GlueName) -> None:
    text, metric, epochs, split = GLUE[name]
    task, glue = make(pieces, name), glue_of(config(name))
    assert task.name == task.settings.task == ("regression" if name == "stsb" else "classification")
    assert (task.settings.text, task.settings.label, task.settings.metric) == (text, ("label",), metric)
    assert metric in task.metrics
    assert epochs_of(config(name)) == epochs
    assert glue is not None
    assert glue.eval_split == split


def test_settings_that_are_given_go_before_the_defaults(pieces: PreTrainedTokenizerFast) -> None:
    given = {"text": ("a", "b"), "label": ("c",), "metric": "f1", "length": 64}
    settings = make(pieces, "cola", **given).settings
    assert {name: getattr(settings, name) for name in given} == given
    assert epochs_of(config("rte", epochs=0.5)) == 0.5
    assert make(pieces, "question-answering", stride=0).settings.stride == 0
    assert make(pieces, "multiple-choice", choices=("a", "b")).settings.choices == ("a", "b")


@pytest.mark.parametrize(("name", "positions", "length"), [("tagging", 100, 100), ("question-answering", 2048, 512)])
def test_the_default_length_is_no_more_than_the_model_has(
    pieces: PreTrainedTokenizerFast, name: str, positions: int, length: int
) -> None:
    assert make(pieces, name, positions).settings.length == length


@pytest.mark.parametrize("length", [16, 48])
def test_the_shortest_and_the_longest_length(pieces: PreTrainedTokenizerFast, length: int) -> None:
    assert make(pieces, "classification", positions=48, length=length).settings.length == length


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("classification", {"length": 15}, "length: 15 is not between 16 and the model's 512 positions"),
        ("cola", {"length": 513}, "length: 513 is not between 16 and the model's 512 positions"),
        ("tagging", {"length": -1}, "length: -1 is not between 16 and the model's 512 positions"),
        ("question-answering", {"stride": -1}, "stride: -1 is below 0"),
        ("classification", {"text": ("a", "b", "c")}, "text: 3 columns are named, and classification reads 1 or 2"),
        ("tagging", {"text": ("a", "b")}, "text: 2 columns are named, and tagging reads 1"),
        ("question-answering", {"text": ("a",)}, "text: 1 columns are named, and question-answering reads 2"),
        ("stsb", {"multi_label": True}, "multi_label: regression has no such labels; leave it out"),
        ("tagging", {"multi_label": True}, "multi_label: tagging has no such labels; leave it out"),
        ("regression", {"label": ("a", "b")}, "label: 2 columns are named; name one, or give --multi-label"),
        ("classification", {"label": ("a", "b")}, "label: 2 columns are named; name one, or give --multi-label"),
    ],
)
def test_settings_that_a_task_cannot_have(
    pieces: PreTrainedTokenizerFast, name: str, settings: dict[str, Any], says: str
) -> None:
    with pytest.raises(UserError) as error:
        make(pieces, name, **settings)
    assert str(error.value) == says


def test_a_model_of_few_positions_is_refused(pieces: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UserError, match="length: 8 is not between 16 and the model's 8 positions"):
        make(pieces, "classification", positions=8)


@pytest.mark.parametrize("name", KINDS)
def test_a_task_is_made_again_of_its_settings(pieces: PreTrainedTokenizerFast, name: TaskName) -> None:
    task = make(pieces, name).with_settings(labels=("a", "b"), metric="some")
    again = task_of(task.settings, pieces, ElectraConfig())
    assert type(again) is type(task)
    assert again.settings == task.settings
    assert again.settings.labels == ("a", "b")


def test_empty_rows_end_it_or_are_left_out_and_named(pieces: PreTrainedTokenizerFast) -> None:
    task = make(pieces, "classification")
    rows = [{"text": "a", "label": "x"}, {"text": " ", "label": "x"}, {"text": "b", "label": None}]
    records = [Record("a.csv", number, row) for number, row in enumerate(rows, start=1)]
    skipped: list[str] = []
    found = list(read_examples(task, records, "skip", labelled=True, skipped=skipped))
    assert [example.record.number for example in found] == [1]
    assert skipped == ["a.csv: row 2, column 'text' is empty", "a.csv: row 3, column 'label' is empty"]
    with pytest.raises(UserError, match=r"row 2, column 'text' is empty; fill it in, or leave .* with --empty skip"):
        list(read_examples(task, records, "error", labelled=True, skipped=[]))


def test_a_row_that_is_wrong_is_never_left_out(pieces: PreTrainedTokenizerFast) -> None:
    records = [Record("a.csv", 1, {"text": "a", "label": "many"})]
    with pytest.raises(UserError, match="row 1, column 'label': 'many' is no number"):
        list(read_examples(make(pieces, "regression"), records, "skip", labelled=True, skipped=[]))
