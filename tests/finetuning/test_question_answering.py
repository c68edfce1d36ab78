"""Questions: windows of the context, the answers in them, and how predictions are scored."""

import json
import re
import string
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import micro
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import BertTokenizer, PreTrainedTokenizerFast

from electra_jax.config import ElectraConfig, FinetuneConfig
from electra_jax.data.records import Record
from electra_jax.data.tokenizer import load_tokenizer
from electra_jax.errors import UserError
from electra_jax.finetuning.examples import EmptyFieldError, Example
from electra_jax.finetuning.question_answering import Answer, exact, f1, read_squad
from electra_jax.finetuning.task import Task
from electra_jax.finetuning.tasks import make_task

WORDS = list(dict.fromkeys(micro.WORDS.split()))[:15]


@pytest.fixture(scope="module")
def pieces(tokenizer: Path) -> PreTrainedTokenizerFast:
    return load_tokenizer(tokenizer)


def make(pieces: PreTrainedTokenizerFast, **changes: Any) -> Task:
    config = FinetuneConfig("model", Path("out"), task="question-answering", **({"length": 32, "stride": 8} | changes))
    return make_task(config, pieces, ElectraConfig())


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


@pytest.mark.parametrize("stride", [0, 4, 8, 500])
def test_neighbouring_windows_share_so_many_tokens(pieces: PreTrainedTokenizerFast, stride: int) -> None:
    context = " ".join(WORDS * 5)
    (windows,) = make(pieces, stride=stride).features([example(context)])
    inside = [window.marks[window.marks[:, 0] >= 0].tolist() for window in windows if window.marks is not None]
    shared = min(stride, (32 - 32 // 3 - 3) // 2)  # half a window at most, or one would hardly get on
    assert len(windows) > 2
    for before, after in pairwise(inside):
        assert before[len(before) - shared :] == after[:shared]
    following = inside[0] + [mark for marks in inside[1:] for mark in marks[shared:]]
    assert [tuple(mark) for mark in following] == pieces(context, add_special_tokens=False).encodings[0].offsets


def test_an_answer_and_its_question_are_read_as_transformers_does(pieces: PreTrainedTokenizerFast) -> None:
    asked = example("a quick fox", Answer("quick", 2), question="who is it?")
    ((window,),) = make(pieces).features([asked])
    expected = pieces("who is it?", "a quick fox")
    assert window.ids[0].tolist() == expected["input_ids"]
    assert window.first_lengths == (expected["token_type_ids"].count(0),)
    assert window.target is not None
    assert window.target.tolist() == [expected.char_to_token(at, sequence_index=1) for at in (2, 6)]


@pytest.mark.parametrize(
    ("context", "answer"), [("  fox jumps", "  fox"), ("a fox  ", "fox  "), ("a fox jumps over", " fox jumps ")]
)
def test_white_space_around_an_answer_does_not_hide_it(
    pieces: PreTrainedTokenizerFast, context: str, answer: str
) -> None:
    answers = [{"text": answer, "answer_start": context.index(answer)}]
    row = {"question": "who?", "context": context, "answers": answers}
    task = make(pieces)
    ((window,),) = task.features([task.read(Record("a", 1, row), labelled=True)])
    assert window.marks is not None
    assert window.target is not None
    start, stop = window.target
    assert context[window.marks[start, 0] : window.marks[stop, 1]] == answer.strip()


def test_the_first_of_several_answers_is_the_target(pieces: PreTrainedTokenizerFast) -> None:
    both = [Answer("fox", 6), Answer("red", 2)]
    ((several,),), ((first,),) = (make(pieces).features([example("a red fox", *some)]) for some in (both, both[:1]))
    assert np.array_equal(several.target, first.target)  # type: ignore[arg-type]


def test_a_question_without_answer_targets_cls(pieces: PreTrainedTokenizerFast) -> None:
    (windows,) = make(pieces).features([example(" ".join(WORDS * 5))])
    assert len(windows) > 1
    assert all(np.array_equal(window.target, [0, 0]) for window in windows)  # type: ignore[arg-type]


def test_a_long_question_is_cut(pieces: PreTrainedTokenizerFast) -> None:
    (windows,) = make(pieces).features([example("a fox", question=" ".join(WORDS * 9))])
    assert [window.first_lengths[0] for window in windows] == [32 // 3 + 2]
    (windows,) = make(pieces, length=384).features([example("a fox", question=" ".join(WORDS * 9))])
    assert [window.first_lengths[0] for window in windows] == [64 + 2]


# --- rows ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answers",
    [
        {"text": ["fox"], "answer_start": [2]},
        [{"text": "fox", "answer_start": 2}],
        [{"text": " fox", "answer_start": 1}],
        {"text": "fox", "answer_start": 2},
        {"text": ["fox"], "answer_start": []},
        {"text": ["fox", ""], "answer_start": [2, 0]},
        "fox",
        ["fox"],
        '[{"text": "fox", "answer_start": 2}]',
        ' {"text": ["fox"], "answer_start": [2]}',
        '["fox"]',
        "['fox']",
    ],
)
def test_answers_have_several_forms(pieces: PreTrainedTokenizerFast, answers: Any) -> None:
    row = {"question": "who?", "context": "a fox", "answers": answers}
    assert make(pieces).read(Record("a", 1, row), labelled=True).target == [Answer("fox", 2)]


@pytest.mark.parametrize(
    "answers",
    [
        [],
        {"text": [], "answer_start": []},
        {"text": None, "answer_start": None},
        {"text": [""], "answer_start": [-1]},
        [{"text": "", "answer_start": 0}],
        "",
        "[]",
        '{"text": [], "answer_start": []}',
    ],
)
def test_no_answer_has_several_forms(pieces: PreTrainedTokenizerFast, answers: Any) -> None:
    row = {"question": "who?", "context": "a fox", "answers": answers}
    assert make(pieces).read(Record("a", 1, row), labelled=True).target == []


@pytest.mark.parametrize("said", [True, 1, "1", "True", "TRUE"])  # as JSON and CSV have it
@pytest.mark.parametrize("answers", [{}, {"answers": None}, {"answers": [{"text": "fox", "answer_start": 2}]}])
def test_a_question_may_be_said_to_have_no_answer(
    pieces: PreTrainedTokenizerFast, answers: dict[str, Any], said: Any
) -> None:
    row = {"question": "who?", "context": "a fox", "is_impossible": said} | answers
    assert make(pieces).read(Record("a", 1, row), labelled=True).target == []


@pytest.mark.parametrize("said", [False, 0, "0.0", "false", None, ""])
def test_a_question_may_be_said_to_have_an_answer(pieces: PreTrainedTokenizerFast, said: Any) -> None:
    row = {"question": "who?", "context": "a fox", "is_impossible": said, "answers": "fox"}
    assert make(pieces).read(Record("a", 1, row), labelled=True).target == [Answer("fox", 2)]
    with pytest.raises(UserError, match=r"^a: row 1, column 'is_impossible' is 'maybe', and 0 or 1 is wanted$"):
        make(pieces).read(Record("a", 1, row | {"is_impossible": "maybe"}), labelled=True)


def test_answers_that_are_missing_are_not_those_of_none(pieces: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    task, row = make(pieces), {"question": "who?", "context": "a fox", "answers": None}
    with pytest.raises(EmptyFieldError, match=r"^a: row 1, column 'answers' is empty; where there is no answer, give"):
        task.read(Record("a", 1, row), labelled=True)
    paragraphs = [{"context": "a fox", "qas": [{"id": "1", "question": "who?"}]}]
    (tmp_path / "a.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    (record,) = read_squad(tmp_path / "a.json") or ()
    assert task.read(record, labelled=False).target is None
    with pytest.raises(UserError, match=r"a\.json: row 1: has no column 'answers'; there are: id, question, context"):
        task.read(record, labelled=True)


@pytest.mark.parametrize("answer", ["[fox]", "[]", '{"fox": 2}'])
def test_what_the_context_holds_is_no_list(pieces: PreTrainedTokenizerFast, answer: str) -> None:
    row = {"question": "who?", "context": f"a {answer}", "answers": answer}
    assert make(pieces).read(Record("a", 1, row), labelled=True).target == [Answer(answer, 2)]


def test_a_start_that_is_a_whole_number_is_one(pieces: PreTrainedTokenizerFast) -> None:
    row = {"question": "who?", "context": "a fox", "answers": {"text": ["fox"], "answer_start": [2.0]}}
    assert make(pieces).read(Record("a", 1, row), labelled=True).target == [Answer("fox", 2)]


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


@pytest.mark.parametrize(
    "answers",
    [
        {"text": ["fox", "a"], "answer_start": [2]},
        {"text": ["fox"], "answer_start": 2},
        {"text": 3, "answer_start": [2]},
        [3],
        [{"answer_start": 2}],
        7,
    ],
)
def test_what_is_no_answer_is_told_with_its_place(pieces: PreTrainedTokenizerFast, answers: Any) -> None:
    row = {"question": "who?", "context": "a fox", "answers": answers}
    with pytest.raises(UserError, match=r"^a\.json: row 5, column 'answers' holds "):
        make(pieces).read(Record("a.json", 5, row), labelled=True)


def test_squads_own_files_are_read(tmp_path: Path) -> None:
    questions = [
        {"id": "1", "question": "who?", "answers": [{"text": "fox", "answer_start": 2}], "is_impossible": False},
        {"id": "2", "question": "why?", "answers": [], "plausible_answers": [], "is_impossible": True},
        {"id": "3", "question": "why?", "answers": [{"text": "a", "answer_start": 0}], "is_impossible": True},
    ]
    content = {"version": "v2.0", "data": [{"title": "t", "paragraphs": [{"context": "a fox", "qas": questions}]}]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    (tmp_path / "b.json").write_text(json.dumps({"data": [{"question": "who?"}]}))
    found = read_squad(tmp_path / "a.json")

    assert found is not None
    assert [(r.number, r.values["id"], r.values["context"], r.values["answers"]) for r in found] == [
        (1, "1", "a fox", [{"text": "fox", "answer_start": 2}]),
        (2, "2", "a fox", []),
        (3, "3", "a fox", []),
    ]
    assert read_squad(tmp_path / "b.json") is None


def test_squad_1_has_no_impossible_questions(pieces: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    question = {"id": "1", "question": "who?", "answers": [{"text": "fox", "answer_start": 2}] * 2}
    paragraphs = [{"context": "a fox", "qas": [question]}, {"context": "a fox too", "qas": [question, question]}]
    content = {"version": "1.1", "data": [{"title": "t", "paragraphs": paragraphs}] * 2}
    (tmp_path / "a.json").write_text(json.dumps(content))
    found = list(read_squad(tmp_path / "a.json") or ())

    assert [record.number for record in found] == [1, 2, 3, 4, 5, 6]
    task = make(pieces)
    examples = [task.read(record, labelled=True) for record in found]
    assert all(example.target == [Answer("fox", 2)] * 2 for example in examples)
    assert task.fitted(examples, "a.json").settings.null_threshold is None


@pytest.mark.parametrize(
    "content",
    [[], {}, [{"question": "who?"}], {"data": []}, {"data": 3}, {"data": [1, 2]}, {"data": ["paragraphs"]}],
)
def test_other_json_is_not_squads(tmp_path: Path, content: Any) -> None:
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert read_squad(tmp_path / "a.json") is None


# --- predictions --------------------------------------------------------------------------------------------------


def test_the_likeliest_span_of_the_context_is_predicted(pieces: PreTrainedTokenizerFast) -> None:
    task, asked = make(pieces, length=128), example(" ".join(WORDS * 3))
    (features,) = task.features([asked])
    marks = features[0].marks
    assert marks is not None
    inside = np.flatnonzero(marks[:, 0] >= 0)
    logits = np.zeros((features[0].length, 2))
    logits[1] = 100  # the question, where no answer is
    logits[inside[4], 0], logits[inside[4] + 30, 1] = 50, 50  # too long a span
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


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.integers(1, 6), seed=st.integers(0, 2**16))
def test_no_span_of_any_window_is_likelier(pieces: PreTrainedTokenizerFast, size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    context = " ".join(rng.choice(WORDS, size * 4))
    task, asked = make(pieces), example(context)  # of at most 19 tokens a window, so that all starts and ends count
    (windows,) = task.features([asked])
    logits = [rng.normal(size=(window.length, 2)).astype(np.float32) for window in windows]
    found = task.predict(asked, windows, logits)

    scores = {}
    for window, each in zip(windows, logits, strict=True):
        assert window.marks is not None
        inside = np.flatnonzero(window.marks[:, 0] >= 0)
        for start in inside:
            for stop in inside[inside >= start]:
                span = context[window.marks[start, 0] : window.marks[stop, 1]]
                scores[each[start, 0] + each[stop, 1]] = span
    assert found["predicted"] == found["best_answer"] == scores[max(scores)]
    null = min(each[0].sum() for each in logits)
    assert found["null_difference"] == pytest.approx(null - max(scores), rel=1e-5, abs=1e-5)


def test_twenty_starts_and_ends_are_tried(pieces: PreTrainedTokenizerFast) -> None:
    """The likeliest ends come before all of the likeliest starts but one, the 19th."""
    task, asked = make(pieces, length=128), example(" ".join(WORDS * 3))
    ((window,),) = task.features([asked])
    assert window.marks is not None
    inside = np.flatnonzero(window.marks[:, 0] >= 0)
    logits = np.full((window.length, 2), -9.0)
    logits[inside[20:38], 0] = 5.0
    logits[inside[3], 0], logits[inside[4], 1] = 4.0, 5.0
    found = task.predict(asked, [window], [logits])
    assert found["predicted"] == asked.inputs[1][window.marks[inside[3], 0] : window.marks[inside[4], 1]]


@pytest.mark.parametrize(("settings", "longest"), [({}, 30), ({"max_answer_length": 42}, 42)])
def test_a_span_has_so_many_tokens_at_most(
    pieces: PreTrainedTokenizerFast, settings: dict[str, Any], longest: int
) -> None:
    task, asked = make(pieces, length=128, **settings), example("o" * 50)
    ((window,),) = task.features([asked])
    logits = np.zeros((window.length, 2))
    first = window.first_lengths[0]
    logits[first, 0], logits[first + longest - 1, 1], logits[first + longest, 1] = 5, 5, 6
    assert task.predict(asked, [window], [logits])["predicted"] == "o" * longest


@pytest.mark.parametrize(
    ("threshold", "predicted"), [(None, "fox"), (0.0, "fox"), (-2.0, "fox"), (-2.5, ""), (-3.0, "")]
)
def test_no_answer_is_given_above_the_threshold(
    pieces: PreTrainedTokenizerFast, threshold: float | None, predicted: str
) -> None:
    task, asked = make(pieces).with_settings(null_threshold=threshold), example("fox")
    ((window,),) = task.features([asked])
    logits = np.zeros((window.length, 2))
    logits[0], logits[window.first_lengths[0], 0], logits[window.length - 2, 1] = [1, 1], 2, 2
    found = task.predict(asked, [window], [logits])
    assert found == {"predicted": predicted, "best_answer": "fox", "null_difference": -2.0}


def test_a_context_without_tokens_has_no_answer(pieces: PreTrainedTokenizerFast) -> None:
    task, asked = make(pieces), example("\u200b")
    ((window,),) = task.features([asked])
    found = task.predict(asked, [window], [np.ones((window.length, 2))])
    assert found == {"predicted": "", "best_answer": "", "null_difference": 0.0}


def test_an_answer_of_articles_alone_is_right_without_any(pieces: PreTrainedTokenizerFast) -> None:
    task = make(pieces).with_settings(null_threshold=0.0)
    examples = [example("the fox", Answer("the", 0)), example("a fox", Answer("fox", 2))]
    predictions = [{"best_answer": "fox", "null_difference": -1.0}, {"best_answer": "red fox", "null_difference": 1.0}]
    task = task.tuned(examples, predictions)
    assert task.settings.null_threshold == -2.0
    assert task.scores(examples, predictions)["f1"] == 0.5


def test_a_threshold_that_is_not_there_is_not_tuned(pieces: PreTrainedTokenizerFast) -> None:
    task = make(pieces)
    tuned = task.tuned([example("a fox", Answer("fox", 2))], [{"best_answer": "a", "null_difference": 9.0}])
    assert tuned.settings.null_threshold is None


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
    for ours, theirs in (
        ("“好吃”", "好吃"),
        ("阿·卡尔", "阿卡尔"),
        ("1999～2001年", "1999-2001年"),
        ("『北京』…", "北京"),
    ):
        assert exact(ours, theirs) == 1
    assert f1("北京 大学", "北京大学") == 1
    assert f1("BERT模型", "bert 模型") == 1
    assert exact("京北", "北京") == 0
    assert f1("京北", "北京") == 1  # order does not count


def test_a_chinese_answer_is_found_and_predicted() -> None:
    characters = list("北京是中国的首都在哪里大学，。？")
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = BertTokenizer(vocab={token: index for index, token in enumerate([*specials, *characters])})
    task, context = make(tokenizer), "中国的首都是北京，" * 6 + "北京大学在北京。"
    answers = {"text": ["北京大学"], "answer_start": [context.index("北京大学")]}
    row = {"question": "大学在哪里？", "context": context, "answers": answers}
    asked = task.read(Record("a", 1, row), labelled=True)
    (windows,) = task.features([asked])
    targets = [window.target for window in windows if window.target is not None]
    assert sum(bool(target.any()) for target in targets) >= 1
    logits = [np.zeros((window.length, 2)) for window in windows]
    for each, (start, stop) in zip(logits, targets, strict=True):
        each[start, 0], each[stop, 1] = 5, 5
    found = task.predict(asked, windows, logits)
    assert found["best_answer"] == "北京大学"
    assert task.scores([asked], [found])["exact"] == 1


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
