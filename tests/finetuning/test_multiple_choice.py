"""Choices: how they are read, and what logits say of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from transformers import PreTrainedTokenizerFast

from electra_jax.config import ElectraConfig, FinetuneConfig
from electra_jax.data.records import Record
from electra_jax.data.tokenizer import load_tokenizer
from electra_jax.errors import UserError
from electra_jax.finetuning.examples import EmptyFieldError
from electra_jax.finetuning.task import Task
from electra_jax.finetuning.tasks import make_task

ROW = {"context": "the quick fox", "choices": ["jumps", "running near"], "label": "1"}


@pytest.fixture(scope="module")
def pieces(tokenizer: Path) -> PreTrainedTokenizerFast:
    return load_tokenizer(tokenizer)


def make(pieces: PreTrainedTokenizerFast, **changes: Any) -> Task:
    config = FinetuneConfig("model", Path("out"), task="multiple-choice", **({"length": 32} | changes))
    return make_task(config, pieces, ElectraConfig())


def record(**changes: Any) -> Record:
    return Record("a.jsonl", 4, ROW | changes)


def test_a_choice_is_the_second_segment(pieces: PreTrainedTokenizerFast) -> None:
    task = make(pieces)
    ((feature,),) = task.features([task.read(record(), labelled=True)])
    for ids, first, choice in zip(feature.ids, feature.first_lengths, ROW["choices"], strict=True):
        encoded = pieces(str(ROW["context"]), choice)
        assert ids.tolist() == encoded["input_ids"]
        assert first == encoded["token_type_ids"].count(0)
    assert feature.target == 1


def test_long_pairs_are_cut_as_transformers_cuts_them(pieces: PreTrainedTokenizerFast) -> None:
    task = make(pieces, length=16, choices=("a", "b", "c"))
    context, *choices = "the quick brown fox jumps over", "lazy dogs", "rivers and small towns under skies", "a"
    row = {"context": context, "label": 2} | dict(zip("abc", choices, strict=True))
    ((feature,),) = task.features([task.read(Record("a.csv", 1, row), labelled=True)])
    expected = pieces([context] * 3, choices, truncation=True, max_length=16)
    assert [ids.tolist() for ids in feature.ids] == expected["input_ids"]
    assert list(feature.first_lengths) == [types.count(0) for types in expected["token_type_ids"]]
    assert feature.length == 16


@pytest.mark.parametrize(
    ("changes", "settings"),
    [
        ({}, {}),
        ({"choices": "jumps | running near"}, {}),
        ({"a": "jumps", "b": "running near"}, {"choices": ("a", "b")}),
        ({"label": 1}, {}),
        ({"label": 1.0}, {}),
        ({"label": "1.0"}, {}),
        ({"label": "running near"}, {}),
        ({"label": " running near"}, {}),
        ({"choices": ["jumps", "running near "], "label": "running near "}, {"choices": ("choices",)}),
    ],
)
def test_choices_and_labels_have_several_forms(
    pieces: PreTrainedTokenizerFast, changes: dict[str, Any], settings: dict[str, Any]
) -> None:
    example = make(pieces, **settings).read(record(**changes), labelled=True)
    assert example.inputs[0] == "the quick fox"
    assert [choice.strip() for choice in example.inputs[1]] == ["jumps", "running near"]
    assert example.target == 1


@pytest.mark.parametrize(
    ("choices", "label", "target"), [("3|2|1", 2, 2), ("3|2|1", "3", 0), ("0|1|5", "1", 1), ("a|b|c", "2", 2)]
)
def test_choices_may_be_numbers(pieces: PreTrainedTokenizerFast, choices: str, label: int | str, target: int) -> None:
    assert make(pieces).read(record(choices=choices, label=label), labelled=True).target == target


def test_a_second_column_begins_each_choice(pieces: PreTrainedTokenizerFast) -> None:
    task = make(pieces, text=("context", "begin"))
    ((feature,),) = task.features([task.read(record(begin="it"), labelled=True)])
    assert feature.ids[0].tolist() == pieces("the quick fox", "it jumps")["input_ids"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"label": 2}, "a.jsonl: row 4, column 'label' is '2'; give a number from 0 to 1, or one of the choices"),
        ({"label": "x"}, "a.jsonl: row 4, column 'label' is 'x'; give a number from 0 to 1, or one of the choices"),
        ({"label": -1}, "a.jsonl: row 4, column 'label' is '-1'; give a number from 0 to 1, or one of the choices"),
        ({"label": 0.5}, "a.jsonl: row 4, column 'label' is '0.5'; give a number from 0 to 1, or one of the choices"),
        ({"label": "²"}, "a.jsonl: row 4, column 'label' is '²'; give a number from 0 to 1, or one of the choices"),
        (
            {"choices": "3|2|1", "label": "2"},
            "a.jsonl: row 4, column 'label' is '2', the number of one choice and the text of another; give numbers, in "
            "JSONL or Parquet, which are taken for numbers",
        ),
        ({"choices": "jumps|"}, "a.jsonl: row 4, column 'choices' has 1 choices; give two or more"),
        ({"choices": ["jumps"]}, "a.jsonl: row 4, column 'choices' has 1 choices; give two or more"),
        ({"choices": 3}, "a.jsonl: row 4, column 'choices' holds 3, and a list is wanted"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(
    pieces: PreTrainedTokenizerFast, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(UserError) as error:
        make(pieces).read(record(**changes), labelled=True)
    assert str(error.value) == says


@pytest.mark.parametrize(
    ("changes", "column"),
    [
        ({"choices": None}, "choices"),
        ({"choices": []}, "choices"),
        ({"choices": ""}, "choices"),
        ({"choices": ["jumps", None]}, "choices"),
        ({"label": None}, "label"),
        ({"context": " "}, "context"),
    ],
)
def test_a_row_that_lacks_something_may_be_left_out(
    pieces: PreTrainedTokenizerFast, changes: dict[str, Any], column: str
) -> None:
    with pytest.raises(EmptyFieldError, match=rf"a\.jsonl: row 4, column '{column}' .*empty"):
        make(pieces).read(record(**changes), labelled=True)


def test_all_rows_have_as_many_choices(pieces: PreTrainedTokenizerFast) -> None:
    task = make(pieces)
    some = [task.read(row, labelled=False) for row in (record(), record(choices=["a", "b", "c"]))]
    with pytest.raises(UserError, match="row 4 has 3 choices, and row 4 2; give as many in each row"):
        task.features(some)


def test_loss_and_prediction_are_over_the_choices_of_an_example(pieces: PreTrainedTokenizerFast) -> None:
    task, logits = make(pieces), np.array([[1.0], [3.0], [0.5], [-1.0]], np.float32)
    batch = {"target": np.array([0, 1]), "weight": np.ones(2, np.float32)}
    total, count = task.loss(logits, batch)  # type: ignore[arg-type]
    expected = log_softmax(logits.reshape(2, 2), -1)
    np.testing.assert_allclose(total, -(expected[0, 0] + expected[1, 1]), rtol=1e-6)
    assert count == 2

    example = task.read(record(), labelled=True)
    answer = task.predict(example, task.features([example])[0], [logits[:2]])
    assert answer["predicted"] == 1
    assert [answer["probability_0"], answer["probability_1"]] == pytest.approx(softmax([1.0, 3.0]).tolist())
    assert task.scores([example], [answer]) == {"accuracy": 1.0}
