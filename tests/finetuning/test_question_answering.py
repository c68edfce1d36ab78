"""Questions: windows of the context, the answers in them, and how predictions are scored."""

import json
import re
import string
from collections import Counter
from pathlib import Path
from typing import Any

import micro
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from electra_jax.config import FinetuneConfig
from electra_jax.data.records import Record
from electra_jax.data.tokenizer import load_tokenizer
from electra_jax.errors import UserError
from electra_jax.finetuning.examples import Example
from electra_jax.finetuning.question_answering import LONGEST_ANSWER, Answer, exact, f1, read_squad
from electra_jax.finetuning.task import Task
from electra_jax.finetuning.tasks import make_task

WORDS = list(dict.fromkeys(micro.WORDS.split()))[:15]


@pytest.fixture(scope="module")
def pieces(tokenizer: Path) -> PreTrainedTokenizerFast:
    return load_tokenizer(tokenizer)


def make(pieces: PreTrainedTokenizerFast, **changes: Any) -> Task:
    config = FinetuneConfig("model", Path("out"), task="question-answering", **({"length": 32, "stride": 8} | changes))
    return make_task(config, pieces, positions=512)


def example(context: str, *answers: Answer, question: str = "who?") -> Example:
    return Example(Record("a.json", 1, {}), (question, context), list(answers))


# --- windows ------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(st.sampled_from(WORDS), min_size=1, max_size=70), data=st.data())
def test_an_answer_is_where_its_windows_targets_say(
    pieces: PreTrainedTokenizerFast, words: list[str], data: st.DataObject
) -> None:
    context = " ".join(words)
    first = data.draw(st.integers(0, len(words) - 1))
    text = " ".join(words[first : first + data.draw(st.integers(1, 2))])
    answer = Answer(text, len(" ".join(words[:first])) + (first > 0))
    (windows,) = make(pieces).features([example(context, answer)])

    covered, found = set(), 0
    for window in windows:
        assert window.length <= 32
        assert window.marks is not None
        assert window.target is not None
        inside = window.marks[window.marks[:, 0] >= 0]
        covered |= {tuple(mark) for mark in inside.tolist()}
        start, stop = window.target
        if start:
            found += 1
            assert context[window.marks[start, 0] : window.marks[stop, 1]] == text
        else:  # then it isn't whole in this window
            assert answer.start < inside[0, 0] or answer.start + len(text) > inside[-1, 1]
    assert covered == set(pieces(context, add_special_tokens=False).encodings[0].offsets)
    assert found >= 1


def test_a_question_without_answer_targets_cls(pieces: PreTrainedTokenizerFast) -> None:
    (windows,) = make(pieces).features([example(" ".join(WORDS * 5))])
    assert len(windows) > 1
    assert all(np.array_equal(window.target, [0, 0]) for window in windows)  # type: ignore[arg-type]


def test_a_long_question_is_cut(pieces: PreTrainedTokenizerFast) -> None:
    (windows,) = make(pieces).features([example("a fox", question=" ".join(WORDS * 9))])
    assert [window.first_lengths[0] for window in windows] == [32 // 3 + 2]


# --- rows ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answers",
    [
        {"text": ["fox"], "answer_start": [2]},
        [{"text": "fox", "answer_start": 2}],
        [{"text": " fox", "answer_start": 1}],
        "fox",
    ],
)
def test_answers_have_several_forms(pieces: PreTrainedTokenizerFast, answers: Any) -> None:
    row = {"question": "who?", "context": "a fox", "answers": answers}
    assert make(pieces).read(Record("a", 1, row), labelled=True).target == [Answer("fox", 2)]


@pytest.mark.parametrize("answers", [[], {"text": [], "answer_start": []}, None, ""])
def test_no_answer_has_several_forms(pieces: PreTrainedTokenizerFast, answers: Any) -> None:
    row = {"question": "who?", "context": "a fox", "answers": answers}
    assert make(pieces).read(Record("a", 1, row), labelled=True).target == []


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ([{"text": "dog", "answer_start": 2}], "answer 'dog' does not occur in the context at character 2; correct it"),
        ([{"text": "fox", "answer_start": 0}], "answer 'fox' does not occur in the context at character 0; correct it"),
        ("dog", "answer 'dog' does not occur in the context; correct it"),
    ],
)
def test_an_answer_that_does_not_occur_is_told(pieces: PreTrainedTokenizerFast, answers: Any, says: str) -> None:
    row = {"question": "who?", "context": "a fox", "answers": answers}
    with pytest.raises(UserError) as error:
        make(pieces).read(Record("a.json", 5, row), labelled=True)
    assert str(error.value) == f"a.json: row 5, column 'answers': {says}"


def test_squads_own_files_are_read(tmp_path: Path) -> None:
    questions = [
        {"id": "1", "question": "who?", "answers": [{"text": "fox", "answer_start": 2}], "is_impossible": False},
        {"id": "2", "question": "why?", "answers": [], "plausible_answers": [], "is_impossible": True},
    ]
    content = {"version": "v2.0", "data": [{"title": "t", "paragraphs": [{"context": "a fox", "qas": questions}]}]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    (tmp_path / "b.json").write_text(json.dumps({"data": [{"question": "who?"}]}))
    found = read_squad(tmp_path / "a.json")

    assert found is not None
    assert [(r.number, r.values["id"], r.values["context"], r.values["answers"]) for r in found] == [
        (1, "1", "a fox", [{"text": "fox", "answer_start": 2}]),
        (2, "2", "a fox", []),
    ]
    assert read_squad(tmp_path / "b.json") is None


# --- predictions --------------------------------------------------------------------------------------------------


def test_the_likeliest_span_of_the_context_is_predicted(pieces: PreTrainedTokenizerFast) -> None:
    task, asked = make(pieces, length=128), example(" ".join(WORDS * 3))
    (features,) = task.features([asked])
    marks = features[0].marks
    assert marks is not None
    inside = np.flatnonzero(marks[:, 0] >= 0)
    logits = np.zeros((features[0].length, 2))
    logits[1] = 100  # the question, where no answer is
    logits[inside[4], 0], logits[inside[4] + LONGEST_ANSWER, 1] = 50, 50  # too long a span
    logits[inside[9], 0], logits[inside[7], 1] = 40, 40  # the wrong way round
    logits[inside[5], 0], logits[inside[6], 1] = 30, 30
    answer = task.predict(asked, features, [logits])

    best = [(s, e) for s in (4, 5, 9) for e in (6, 7) if s <= e]
    score = max(logits[inside[s], 0] + logits[inside[e], 1] for s, e in best)
    start, stop = next((s, e) for s, e in best if logits[inside[s], 0] + logits[inside[e], 1] == score)
    assert answer["predicted"] == asked.inputs[1][marks[inside[start], 0] : marks[inside[stop], 1]]
    assert answer["null_difference"] == pytest.approx(-score)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cases=st.lists(st.tuples(st.integers(-3, 3), st.sampled_from(["fox", "red fox", ""]), st.booleans()), min_size=1)
)
def test_the_threshold_is_that_of_the_best_f1(pieces: PreTrainedTokenizerFast, cases: list) -> None:
    task = make(pieces).with_settings(null_threshold=0.0)
    examples = [example("a red fox", *([Answer("fox", 6)] if has else [])) for _, _, has in cases]
    predictions = [{"best_answer": text, "null_difference": float(d)} for d, text, _ in cases]

    def score(threshold: float) -> float:
        return task.with_settings(null_threshold=threshold).scores(examples, predictions)["f1"]

    fitted = task.tuned(examples, predictions).settings.null_threshold
    assert fitted is not None
    assert score(fitted) == pytest.approx(max(score(t + half) for t in range(-5, 5) for half in (0.0, 0.5)))


def test_without_unanswerable_questions_there_is_always_an_answer(pieces: PreTrainedTokenizerFast) -> None:
    task = make(pieces)
    assert task.fitted([example("a fox", Answer("fox", 2))], "a").settings.null_threshold is None
    assert task.fitted([example("a fox", Answer("fox", 2)), example("b")], "a").settings.null_threshold == 0.0


# --- scores -------------------------------------------------------------------------------------------------------


def official(text: str) -> list[str]:
    """normalize_answer of SQuAD's evaluate-v2.0.py, and its split."""
    lowered = "".join(character for character in text.lower() if character not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", lowered).split()).split()


TEXT = st.lists(st.sampled_from(["The", "a", "fox", "fox's", "quick-brown", "3.5", "an", "theme", ","]), max_size=5)


@given(ours=TEXT.map(" ".join), theirs=TEXT.map(" ".join))
def test_scores_are_the_official_ones(ours: str, theirs: str) -> None:
    predicted, answer = official(ours), official(theirs)
    assert exact(ours, theirs) == float(predicted == answer)
    if not predicted or not answer:
        assert f1(ours, theirs) == float(predicted == answer)
        return
    same = sum((Counter(predicted) & Counter(answer)).values())
    precision, recall = same / len(predicted), same / len(answer)
    assert f1(ours, theirs) == pytest.approx(2 * precision * recall / (precision + recall) if same else 0.0)


def test_a_chinese_character_is_a_word() -> None:
    assert f1("北京大学", "北京") == pytest.approx(2 * 1 * 0.5 / 1.5)
    assert exact("北京。", "北京") == 1


def test_the_nearest_of_several_answers_counts(pieces: PreTrainedTokenizerFast) -> None:
    asked = example("a red fox", Answer("red", 2), Answer("red fox", 2))
    unanswerable = example("a red fox")
    predictions = [{"best_answer": "red fox", "null_difference": -1.0}, {"best_answer": "fox", "null_difference": 1.0}]
    scores = make(pieces).with_settings(null_threshold=0.0).scores([asked, unanswerable], predictions)
    assert scores == {
        "f1": 1.0,
        "f1_answerable": 1.0,
        "f1_unanswerable": 1.0,
        "exact": 1.0,
        "exact_answerable": 1.0,
        "exact_unanswerable": 1.0,
    }
