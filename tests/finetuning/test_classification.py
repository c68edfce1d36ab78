import random
from pathlib import Path
from typing import Any

import micro
import numpy as np
import pytest
from sklearn import metrics
from transformers import PreTrainedTokenizerFast

from electra_jax.config import ElectraConfig, FinetuneConfig
from electra_jax.data.records import Record
from electra_jax.data.tokenizer import load_tokenizer
from electra_jax.errors import UserError
from electra_jax.finetuning.examples import EmptyFieldError, Example
from electra_jax.finetuning.task import Prediction, Task, read_examples
from electra_jax.finetuning.tasks import make_task

LENGTH = 24


@pytest.fixture(scope="module")
def words(tokenizer: Path) -> PreTrainedTokenizerFast:
    return load_tokenizer(tokenizer)


def make(words: PreTrainedTokenizerFast, **settings: Any) -> Task:
    return make_task(FinetuneConfig("model", Path("out"), **({"length": LENGTH} | settings)), words, ElectraConfig())


def read(task: Task, *rows: dict[str, Any]) -> list[Example]:
    records = [Record("a.csv", number, row) for number, row in enumerate(rows, start=1)]
    return list(read_examples(task, records, "error", labelled=True, skipped=[]))


def labelled(task: Task, *labels: Any) -> list[Example]:
    return read(task, *({"text": "a fox", "label": label} for label in labels))


def predictions_of(task: Task, logits: Any) -> list[Prediction]:
    example = Example(Record("a.csv", 1, {}), ("a fox",))
    return [task.predict(example, [], [np.array(row, np.float32)]) for row in logits]


def sentences(count: int, longest: int) -> list[str]:
    rng = random.Random(count)
    return [" ".join(rng.choices(micro.WORDS.split(), k=rng.randint(1, longest))) for _ in range(count)]


# --- labels -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["yes", "10", "2", "no", "2", "-1"], ("-1", "2", "10", "no", "yes")),
        (["1.5", "1", "nan", "0", "10"], ("0", "1", "1.5", "10", "nan")),
        (["nan", "10", "1.5", "1", "0"], ("0", "1", "1.5", "10", "nan")),
        ([" b", "a ", "b"], ("a", "b")),
    ],
)
def test_labels_are_sorted_numbers_before_words(
    words: PreTrainedTokenizerFast, given: list[str], expected: tuple[str, ...]
):
    task = make(words)
    task = task.fitted(labelled(task, *given), "a.csv")
    assert task.settings.labels == expected
    assert task.head.labels == expected
    assert task.head.problem == "single_label_classification"


@pytest.mark.parametrize("multi_label", [False, True])
def test_numbers_and_booleans_of_json_are_labels_and_texts_too(words: PreTrainedTokenizerFast, multi_label: bool):
    task = make(words, multi_label=multi_label)
    values = [1, 0, True, False, 2.5]
    examples = read(task, *({"text": 12, "label": [value] if multi_label else value} for value in values))
    assert {example.inputs for example in examples} == {("12",)}
    assert task.fitted(examples, "a.json").settings.labels == ("0", "1", "2.5", "False", "True")


def test_a_number_is_spelt_one_way(words: PreTrainedTokenizerFast):
    task = make(words)
    with pytest.raises(UserError, match=r"^a\.csv: column 'label' has '1' and '1\.0'; write the number one way$"):
        task.fitted(labelled(task, "1", "0", "1.0"), "a.csv")
    known = task.with_settings(labels=("0", "1.0", "01"))
    assert [e.target for e in labelled(known, "0.0", 1, "1.0", "01", "2")] == ["0", "1.0", "1.0", "01", "2"]


def test_a_list_is_told_what_it_takes(words: PreTrainedTokenizerFast):
    with pytest.raises(UserError, match=r"row 1, column 'label' holds a list; for several labels give --multi-label$"):
        labelled(make(words), ["a", "b"])


def test_one_label_only_teaches_nothing(words: PreTrainedTokenizerFast):
    task = make(words, label=("mood",))
    examples = read(task, *[{"text": "a fox", "mood": "good"}] * 3)
    with pytest.raises(UserError, match=r"a\.csv: column 'mood' has one value only, 'good'"):
        task.fitted(examples, "a.csv")


def test_a_label_that_training_lacks_is_named_by_row(words: PreTrainedTokenizerFast):
    task = make(words, label=("mood",))
    task = task.fitted(read(task, {"text": "a", "mood": "good"}, {"text": "b", "mood": "bad"}), "a.csv")
    others = read(task, {"text": "a", "mood": "good"}, {"text": "b", "mood": "so so"})
    with pytest.raises(UserError, match=r"a\.csv: row 2, column 'mood': label 'so so' is none of .*: bad, good"):
        task.features(others)


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"text": "a", "label": "  "}, "row 1, column 'label' is empty"),
        ({"text": "a", "label": None}, "row 1, column 'label' is empty"),
        ({"text": "\t", "label": "x"}, "row 1, column 'text' is empty"),
        ({"text": "a", "label": ["x"]}, "row 1, column 'label' holds a list"),
        ({"text": {"en": "a"}, "label": "x"}, "row 1, column 'text' holds a dict"),
        ({"text": "a", "labels": "x"}, "row 1: has no column 'label'; there are: text, labels"),
    ],
)
def test_a_row_without_text_or_label(words: PreTrainedTokenizerFast, row: dict[str, Any], complaint: str):
    with pytest.raises(UserError, match=complaint):
        read(make(words), row)


def test_labels_are_not_asked_for_where_nothing_is_learnt(words: PreTrainedTokenizerFast):
    task = make(words)
    example = task.read(Record("a.csv", 1, {"text": "a fox"}), labelled=False)
    assert example.target is None
    assert task.features([example])[0][0].target is None


# --- what the model reads -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [("one",), ("one", "two")])
def test_ids_and_token_types_are_those_of_transformers(words: PreTrainedTokenizerFast, columns: tuple[str, ...]):
    task = make(words, text=columns)
    texts = [*zip(sentences(40, 30), sentences(40, 6), strict=True), ("The QUICK, fox!", "zürich 你")]
    rows = [{"one": one, "two": two, "label": number % 3} for number, (one, two) in enumerate(texts)]
    examples = read(task, *rows)
    features = task.fitted(examples, "a.csv").features(examples)
    cut = 0
    for row, (feature,) in zip(rows, features, strict=True):
        expected = words(*(row[column] for column in columns), truncation=True, max_length=LENGTH)
        assert feature.ids[0].tolist() == expected["input_ids"]
        types = np.arange(feature.length) >= feature.first_lengths[0]
        assert types.tolist() == expected["token_type_ids"]
        assert feature.target == row["label"]
        cut += feature.length == LENGTH
    assert 0 < cut < len(rows)


# --- predictions and scores ---------------------------------------------------------------------------------------


def test_a_prediction_is_the_likeliest_label(words: PreTrainedTokenizerFast):
    task = make(words).with_settings(labels=("a", "b", "c"))
    (found,) = predictions_of(task, [np.log([1, 5, 2])])
    assert found["predicted"] == "b"
    assert found["probability"] == found["probability_b"] == pytest.approx(5 / 8)
    assert [found[f"probability_{label}"] for label in "abc"] == pytest.approx([1 / 8, 5 / 8, 2 / 8])


def test_probabilities_of_any_logits_sum_to_one(words: PreTrainedTokenizerFast):
    task = make(words).with_settings(labels=("a", "b", "c"))
    logits = np.random.default_rng(0).normal(scale=[[1.0], [30.0], [1e4]], size=(20, 3, 1)).swapaxes(1, 2)
    for found in predictions_of(task, np.repeat(logits, 3, axis=1).reshape(-1, 3)):
        assert sum(found[f"probability_{label}"] for label in "abc") == pytest.approx(1)
        assert found["probability"] == max(found[f"probability_{label}"] for label in "abc")


def test_scores_of_two_labels_by_hand(words: PreTrainedTokenizerFast):
    # "yes", the second label, is the positive one: 2 right, 1 missed, 1 wrong; "no": 3 right.
    task = make(words).with_settings(labels=("no", "yes"))
    examples = labelled(task, "yes", "yes", "yes", "no", "no", "no", "no")
    of_yes = [2.0, 1.0, -1.0, 0.5, -0.5, -2.0, -3.0]
    scores = task.scores(examples, predictions_of(task, [[0, logit] for logit in of_yes]))
    assert scores == pytest.approx(
        {
            "accuracy": 5 / 7,
            "f1": 2 / 3,
            "macro_f1": (2 / 3 + 3 / 4) / 2,
            "matthews": (2 * 3 - 1 * 1) / np.sqrt(3 * 3 * 4 * 4),
            "auc": 10 / 12,  # pairs of a positive and a negative example in the right order
        }
    )
    assert set(task.metrics) == set(scores)


def test_scores_of_more_labels_are_those_of_scikit_learn(words: PreTrainedTokenizerFast):
    rng = np.random.default_rng(0)
    task = make(words).with_settings(labels=("2", "10", "x"))
    examples = labelled(task, *rng.choice(task.settings.labels, 60).tolist())
    predictions = predictions_of(task, rng.normal(size=(60, 3)))
    true, predicted = [e.target for e in examples], [p["predicted"] for p in predictions]
    assert task.scores(examples, predictions) == pytest.approx(
        {
            "accuracy": np.mean([a == b for a, b in zip(true, predicted, strict=True)]),
            "macro_f1": metrics.f1_score(true, predicted, average="macro"),
            "matthews": metrics.matthews_corrcoef(true, predicted),
        }
    )
    assert task.metrics == ("accuracy", "macro_f1", "matthews")


@pytest.mark.filterwarnings("ignore:A single label was found")
def test_scores_of_examples_that_have_one_label_only(words: PreTrainedTokenizerFast):
    task = make(words).with_settings(labels=("no", "yes"))
    scores = task.scores(labelled(task, "no", "no"), predictions_of(task, [[1, 0], [2, 0]]))
    assert scores == {"accuracy": 1, "macro_f1": 0.5, "matthews": 0, "f1": 0, "auc": 0.5}


def test_the_loss_is_over_real_examples(words: PreTrainedTokenizerFast):
    task = make(words).with_settings(labels=("a", "b"))
    batch = {"target": np.array([1, 0, 0]), "weight": np.array([1.0, 1.0, 0.0])}
    total, count = task.loss(np.log(np.array([[1.0, 3.0], [1.0, 1.0], [1.0, 9.0]], np.float32)), batch)
    assert float(total) == pytest.approx(-np.log(3 / 4) - np.log(1 / 2))
    assert float(count) == 2


# --- any number of labels -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "targets"),
    [
        ([["red", "blue"], [], ["red"]], [["red", "blue"], [], ["red"]]),
        (["red,blue", "", " red ,"], [["red", "blue"], [], ["red"]]),
    ],
)
def test_several_labels_are_a_list_or_divided_by_commas(
    words: PreTrainedTokenizerFast, values: list[Any], targets: list[list[str]]
):
    task = make(words, multi_label=True)
    examples = labelled(task, *values)
    assert [example.target for example in examples] == targets
    task = task.fitted(examples, "a.csv")
    assert task.settings.labels == ("blue", "red")
    assert task.head.problem == "multi_label_classification"
    assert [f.target.tolist() for (f,) in task.features(examples)] == [[1, 1], [0, 0], [0, 1]]


def test_a_column_of_zeros_and_ones_for_each_label(words: PreTrainedTokenizerFast):
    task = make(words, multi_label=True, label=("red", "blue", "loud"))
    rows = [{"red": "1", "blue": " 0 ", "loud": "1.0"}, {"red": 0, "blue": 1, "loud": 0.0}]
    rows.append({"red": True, "blue": "FALSE", "loud": "0"})
    examples = read(task, *({"text": "a fox"} | row for row in rows))
    assert [example.target for example in examples] == [["red", "loud"], ["blue"], ["red"]]
    task = task.fitted(examples, "a.csv")
    assert task.settings.labels == ("red", "blue", "loud")  # as they were named, not sorted
    assert [f.target.tolist() for (f,) in task.features(examples)] == [[1, 0, 1], [0, 1, 0], [1, 0, 0]]


@pytest.mark.parametrize(
    ("value", "complaint"),
    [("2", "is '2', and 0 or 1 is wanted"), ("yes", "'yes'"), ("", "empty"), (None, "empty")],
)
def test_a_column_of_zeros_and_ones_holds_nothing_else(words: PreTrainedTokenizerFast, value: Any, complaint: str):
    task = make(words, multi_label=True, label=("red", "blue"))
    with pytest.raises(UserError, match=f"row 2, column 'blue' .*{complaint}"):
        read(task, {"text": "a", "red": 0, "blue": 1}, {"text": "a", "red": 1, "blue": value})


@pytest.mark.parametrize("rows", [([0, 1, 0], [1, 1, 0]), ([1.0, 0.0], [0.0, 1.0]), ([True, False], [True, True])])
def test_a_list_of_zeros_and_ones_has_no_labels(words: PreTrainedTokenizerFast, rows: tuple[list, ...]):
    task = make(words, multi_label=True)
    with pytest.raises(UserError, match=r"^a\.csv: column 'label' holds a 0 or 1 for each label; give lists of the"):
        task.fitted(labelled(task, *rows), "a.csv")


def test_labels_may_be_called_zero_and_one(words: PreTrainedTokenizerFast):
    task = make(words, multi_label=True)
    assert task.fitted(labelled(task, ["0"], ["0", "1"]), "a.csv").settings.labels == ("0", "1")
    assert task.fitted(labelled(task, ["0"], ["1"]), "a.csv").settings.labels == ("0", "1")


def test_columns_are_of_the_labels_as_they_are_called_now(words: PreTrainedTokenizerFast):
    task = make(words, multi_label=True, label=("red", "blue")).with_settings(labels=("rot", "blau"))
    (example,) = read(task, {"text": "a fox", "red": 0, "blue": 1})
    assert example.target == ["blau"]


@pytest.mark.parametrize("value", [None, ["red", None]])
def test_a_missing_label_is_not_a_label(words: PreTrainedTokenizerFast, value: Any):
    row = Record("a.csv", 1, {"text": "a fox", "label": value})
    with pytest.raises(EmptyFieldError, match=r"a\.csv: row 1, column 'label' .*empty"):
        make(words, multi_label=True).read(row, labelled=True)


def test_examples_without_any_label_at_all_teach_nothing(words: PreTrainedTokenizerFast):
    task = make(words, multi_label=True)
    with pytest.raises(UserError, match=r"a\.csv: column 'label' has no label"):
        task.fitted(labelled(task, [], []), "a.csv")


def test_one_of_several_labels_that_training_lacks(words: PreTrainedTokenizerFast):
    task = make(words, multi_label=True)
    task = task.fitted(labelled(task, "red,blue"), "a.csv")
    with pytest.raises(UserError, match=r"a\.csv: row 2, column 'label': label 'green' is none of training"):
        task.features(labelled(task, "red", "red,green"))


def test_labels_above_one_half_are_predicted(words: PreTrainedTokenizerFast):
    task = make(words, multi_label=True).with_settings(labels=("a", "b", "c"))
    some, none = predictions_of(task, [[0.1, 0.0, 3.0], [-0.1, -2.0, -9.0]])
    assert some["predicted"] == ["a", "c"]
    assert none["predicted"] == []
    assert some["probability_b"] == 0.5
    assert some["probability_c"] == pytest.approx(1 / (1 + np.exp(-3)))


def test_scores_of_several_labels_by_hand(words: PreTrainedTokenizerFast):
    task = make(words, multi_label=True).with_settings(labels=("a", "b", "c"))
    examples = labelled(task, "a", "a,b", "b", "")
    # a: 1 right, 1 missed. b: 2 right, 1 wrong. c: neither there nor predicted.
    predictions = predictions_of(task, [[1, -1, -1], [-1, 1, -1], [-1, 1, -1], [-1, 1, -1]])
    expected = {"micro_f1": 6 / 8, "macro_f1": (2 / 3 + 4 / 5 + 0) / 3, "accuracy": 2 / 4}
    assert task.scores(examples, predictions) == pytest.approx(expected)
    assert task.metrics == tuple(expected)


def test_scores_of_a_single_label_that_examples_have_or_not(words: PreTrainedTokenizerFast):
    task = make(words, multi_label=True)
    examples = labelled(task, "spam", "spam", "", "")
    task = task.fitted(examples, "a.csv")
    scores = task.scores(examples, predictions_of(task, [[1], [-1], [-1], [-1]]))
    assert scores == pytest.approx({"micro_f1": 2 / 3, "macro_f1": 2 / 3, "accuracy": 3 / 4})


def test_scores_of_several_labels_are_those_of_scikit_learn(words: PreTrainedTokenizerFast):
    rng = np.random.default_rng(0)
    task = make(words, multi_label=True).with_settings(labels=("a", "b", "c"))
    true, logits = rng.integers(0, 2, (40, 3)), rng.normal(size=(40, 3))
    examples = labelled(task, *([label for label, has in zip("abc", row, strict=True) if has] for row in true))
    scores = task.scores(examples, predictions_of(task, logits))
    assert scores["micro_f1"] == pytest.approx(metrics.f1_score(true, logits > 0, average="micro"))
    assert scores["macro_f1"] == pytest.approx(metrics.f1_score(true, logits > 0, average="macro"))
    assert scores["accuracy"] == pytest.approx(metrics.accuracy_score(true, logits > 0))
