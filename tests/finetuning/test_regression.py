from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from electra_jax.config import ElectraConfig, FinetuneConfig
from electra_jax.data.records import Record
from electra_jax.data.tokenizer import load_tokenizer
from electra_jax.errors import UserError
from electra_jax.finetuning.examples import EmptyFieldError, Example
from electra_jax.finetuning.task import Scores, Task
from electra_jax.finetuning.tasks import make_task


@pytest.fixture(scope="module")
def task(tokenizer: Path) -> Task:
    config = FinetuneConfig("model", Path("out"), task="regression", label=("stars",))
    return make_task(config, load_tokenizer(tokenizer), ElectraConfig())


def read(task: Task, value: Any) -> Example:
    return task.read(Record("a.tsv", 7, {"text": "a fox", "stars": value}), labelled=True)


def scores_of(task: Task, true: Any, logits: Any) -> Scores:
    examples = [read(task, float(value)) for value in true]
    predictions = [
        task.predict(example, [], [np.array([logit], np.float32)])
        for example, logit in zip(examples, logits, strict=True)
    ]
    return task.scores(examples, predictions)


@pytest.mark.parametrize(
    ("value", "number"), [("2.5", 2.5), (" -3 ", -3.0), (4, 4.0), (0.1, 0.1), ("1e3", 1000.0), (0, 0.0)]
)
def test_numbers_and_their_texts_are_targets(task: Task, value: Any, number: float):
    example = read(task, value)
    assert example.target == number
    ((feature,),) = task.features([example])
    assert feature.target == np.float32(number)
    assert task.head.outputs == 1


@pytest.mark.parametrize("value", ["good", "1,5", "nan", "inf", "-Infinity", float("inf"), True])
def test_what_is_no_number_is_named_by_row(task: Task, value: Any):
    with pytest.raises(UserError, match=r"a\.tsv: row 7, column 'stars': .* is no number") as error:
        read(task, value)
    assert not isinstance(error.value, EmptyFieldError)
    assert repr(str(value)) in str(error.value)


@pytest.mark.parametrize("value", ["", " ", None])
def test_an_empty_label_may_be_left_out(task: Task, value: Any):
    with pytest.raises(EmptyFieldError, match=r"a\.tsv: row 7, column 'stars' is empty"):
        read(task, value)


def test_a_text_of_its_own_is_read_as_transformers_does(tokenizer: Path):
    words = load_tokenizer(tokenizer)
    config = FinetuneConfig("model", Path("out"), task="stsb", length=16)
    task = make_task(config, words, ElectraConfig())
    row = {"sentence1": "the quick brown fox jumps over dogs", "sentence2": "lazy dogs near rivers", "label": 3.2}
    ((feature,),) = task.features([task.read(Record("a", 1, row), labelled=True)])
    expected = words(row["sentence1"], row["sentence2"], truncation=True, max_length=16)
    assert feature.ids[0].tolist() == expected["input_ids"]
    assert feature.first_lengths == (expected["token_type_ids"].index(1),)


def test_the_logit_is_the_prediction(task: Task):
    assert task.predict(read(task, 1), [], [np.array([-0.75], np.float32)]) == {"predicted": -0.75}


def test_correlations_are_those_of_scipy(task: Task):
    rng = np.random.default_rng(0)
    true = rng.integers(0, 6, 50)  # with ties, which Spearman's ranks share
    logits = (true + rng.normal(size=50)).round(1).astype(np.float32)
    scores = scores_of(task, true, logits)
    assert scores["pearson"] == pytest.approx(stats.pearsonr(true, logits).statistic)
    assert scores["spearman"] == pytest.approx(stats.spearmanr(true, logits).statistic)
    assert scores["negative_mse"] == pytest.approx(-np.mean((true - logits) ** 2))
    assert set(scores) == set(task.metrics)
    assert task.metrics[0] == "pearson"


def test_ranks_alone_count_for_spearman(task: Task):
    scores = scores_of(task, [1, 2, 3, 4], [0.0, 1.0, 10.0, 1000.0])
    assert scores["spearman"] == pytest.approx(1)
    assert scores["pearson"] < 0.9


@pytest.mark.parametrize(
    ("true", "logits"),
    [([1, 2, 3], [0.3, 0.3, 0.3]), ([2, 2, 2], [1, 2, 3]), ([1], [1]), ([1, 2], [1e-3, 1e-3])],
)
def test_what_does_not_vary_has_no_correlation(task: Task, true: list[float], logits: list[float]):
    scores = scores_of(task, true, logits)
    assert scores["pearson"] == scores["spearman"] == 0
    assert scores["negative_mse"] == pytest.approx(-np.mean((np.array(true) - np.array(logits)) ** 2))


def test_the_loss_is_the_squared_error_of_real_examples(task: Task):
    batch = {"target": np.array([1.0, 2.0, 5.0]), "weight": np.array([1.0, 1.0, 0.0])}
    total, count = task.loss(np.array([[1.5], [0.0], [9.0]], np.float32), batch)
    assert (float(total), float(count)) == (4.25, 2)
