"""Labels of words: how they stand at tokens, and how they are read back."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from electra_jax.config import ElectraConfig, FinetuneConfig
from electra_jax.data.records import Record
from electra_jax.data.tokenizer import load_tokenizer
from electra_jax.errors import UserError
from electra_jax.finetuning.examples import IGNORED, EmptyFieldError, Example
from electra_jax.finetuning.tagging import Tagging
from electra_jax.finetuning.task import Task
from electra_jax.finetuning.tasks import make_task

LABELS = ("O", "B-X", "I-X")


@pytest.fixture(scope="module")
def pieces(tokenizer: Path) -> PreTrainedTokenizerFast:
    """Of which many words are several tokens."""
    return load_tokenizer(tokenizer)


def make(pieces: PreTrainedTokenizerFast, **changes: Any) -> Task:
    config = FinetuneConfig("model", Path("out"), task="tagging", **({"length": 16} | changes))
    return make_task(config, pieces, ElectraConfig()).with_settings(labels=LABELS)


def example(words: list[str], tags: list[str] | None = None) -> Example:
    return Example(Record("a.jsonl", 1, {}), (words,), tags)


def test_the_first_token_of_a_word_has_its_label_as_transformers_aligns_them(pieces: PreTrainedTokenizerFast) -> None:
    words, tags = ["quick", "foxes", "jumped", "ov"], ["B-X", "I-X", "O", "O"]
    ((feature,),) = make(pieces, length=64).features([example(words, tags)])
    encoded = pieces(words, is_split_into_words=True)

    assert feature.ids[0].tolist() == encoded["input_ids"]
    owners = encoded.word_ids()
    expected = [
        LABELS.index(tags[owner]) if owner is not None and owner != owners[i - 1] else IGNORED
        for i, owner in enumerate(owners)
    ]
    assert feature.target is not None
    assert feature.target.tolist() == expected
    assert len(owners) > len(words) + 2  # some have several tokens, or this shows nothing


WORDS = st.lists(st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=9), min_size=1, max_size=40)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=WORDS, numbers=st.randoms(use_true_random=False))
def test_every_word_is_read_once_however_many_windows(
    pieces: PreTrainedTokenizerFast, words: list[str], numbers: Any
) -> None:
    task = make(pieces)
    given_tags = [numbers.choice(LABELS) for _ in words]
    ((*windows,),) = task.features([example(words, given_tags)])
    assert all(window.length <= 16 for window in windows)
    # logits that say what the targets say, and at other tokens anything
    targets = [np.asarray(window.target) for window in windows]
    logits = [np.eye(3)[np.where(target == IGNORED, numbers.randint(0, 2), target)] for target in targets]
    assert task.predict(example(words), windows, logits)["predicted"] == given_tags


def test_a_word_without_tokens_is_unknown_and_keeps_its_label(pieces: PreTrainedTokenizerFast) -> None:
    ((feature,),) = make(pieces).features([example(["fox", "\u200b", "dogs"], ["O", "B-X", "O"])])
    assert feature.marks is not None
    assert feature.ids[0][feature.marks[1]] == pieces.unk_token_id


def test_a_word_longer_than_a_window_is_cut(pieces: PreTrainedTokenizerFast) -> None:
    ((first, second),) = make(pieces).features([example(["o" * 80, "fox"], ["B-X", "O"])])
    assert first.length <= 16
    assert first.marks is not None
    assert first.marks.tolist() == [1]
    assert second.length < 16


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=WORDS)
def test_windows_hold_whole_words_and_as_many_as_fit(pieces: PreTrainedTokenizerFast, words: list[str]) -> None:
    (windows,) = make(pieces).features([example(words)])
    sizes = [len(pieces(word, add_special_tokens=False)["input_ids"]) for word in words]
    held = [len(window.marks) for window in windows if window.marks is not None]
    bounds = np.cumsum([0, *held])
    assert bounds[-1] == len(words)
    for window, start, stop in zip(windows, bounds, bounds[1:], strict=False):
        assert window.length == 2 + sum(sizes[start:stop])  # no word of WORDS is longer than a window
        assert stop == len(words) or window.length + sizes[stop] > 16


@pytest.mark.parametrize("word", ["", " ", "\u200b", "\ufffd"])
def test_words_after_one_without_tokens_keep_their_labels(pieces: PreTrainedTokenizerFast, word: str) -> None:
    ((feature,),) = make(pieces).features([example([word, "fox", word, word, "a"], ["I-X", "B-X", "O", "B-X", "I-X"])])
    assert feature.target is not None
    assert feature.target[feature.marks].tolist() == [2, 1, 0, 1, 2]
    assert feature.ids[0].tolist().count(pieces.unk_token_id) == 3


@pytest.mark.parametrize("value", [["a", "fox"], "a fox", " a  fox "])
def test_words_are_a_list_or_stand_between_spaces(pieces: PreTrainedTokenizerFast, value: Any) -> None:
    found = make(pieces).read(Record("a.csv", 1, {"tokens": value, "tags": "O B-X"}), labelled=True)
    assert (found.inputs, found.target) == ((["a", "fox"],), ["O", "B-X"])


def test_what_is_wrong_is_told_with_its_place(pieces: PreTrainedTokenizerFast) -> None:
    task = make(pieces)
    with pytest.raises(UserError, match=r"a.csv: row 2, column 'tags': 1 labels for 2 words; give one for each"):
        task.read(Record("a.csv", 2, {"tokens": "a fox", "tags": "O"}), labelled=True)
    with pytest.raises(EmptyFieldError, match=r"a.csv: row 2, column 'tokens' is empty"):
        task.read(Record("a.csv", 2, {"tokens": "", "tags": ""}), labelled=True)
    with pytest.raises(UserError, match=r"a.jsonl: row 1, column 'tags': label 'B-Y' is none of training: O, B-X, I-X"):
        task.features([example(["fox"], ["B-Y"])])
    with pytest.raises(UserError, match=r"a.csv: column 'tags' has fewer than two labels"):
        task.fitted([example(["fox"], ["O"])], "a.csv")


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ({"tokens": None, "tags": ["O"]}, "tokens"),
        ({"tokens": [], "tags": []}, "tokens"),
        ({"tokens": ["a", None], "tags": ["O", "O"]}, "tokens"),
        ({"tokens": ["a"], "tags": None}, "tags"),
        ({"tokens": ["a"], "tags": [None]}, "tags"),
        ({"tokens": "a b", "tags": " "}, "tags"),
    ],
)
def test_a_row_that_lacks_words_or_labels_may_be_left_out(
    pieces: PreTrainedTokenizerFast, row: dict[str, Any], column: str
) -> None:
    with pytest.raises(EmptyFieldError, match=rf"a\.csv: row 2, column '{column}' .*empty"):
        make(pieces).read(Record("a.csv", 2, row), labelled=True)


@pytest.mark.parametrize(
    ("known", "tags", "labels"),
    [
        ((), ["B-X", "O", "A"], ("O", "A", "B-X")),
        ((), ["10", "2", "1"], ("1", "2", "10")),
        (("B-X", "I-X", "O", "A"), ["A", "O", "B-X"], ("B-X", "O", "A")),  # as a data set's classes have it
        (("B-X", "O"), ["A", "O", "B-X"], ("O", "A", "B-X")),
    ],
)
def test_labels_are_those_of_training(
    pieces: PreTrainedTokenizerFast, known: tuple[str, ...], tags: list[str], labels: tuple[str, ...]
) -> None:
    task = make(pieces).with_settings(labels=known)
    assert task.fitted([example(list("abc"), tags)], "a").settings.labels == labels


def test_a_sign_for_no_label_is_refused(pieces: PreTrainedTokenizerFast) -> None:
    row = {"tokens": ["a", "b"], "tags": [0, -100]}
    with pytest.raises(UserError, match=r"^a\.csv: row 2, column 'tags': -100 is no label; give one$"):
        make(pieces).read(Record("a.csv", 2, row), labelled=True)


def test_scores_are_of_chunks(pieces: PreTrainedTokenizerFast) -> None:
    true = [["B-X", "I-X", "O", "B-X"], ["O", "B-X"]]
    predicted = [["B-X", "I-X", "O", "O"], ["B-X", "B-X"]]  # 2 of 3 chunks found, 2 of 3 right
    scores = make(pieces).scores(
        [example(["w"] * len(tags), tags) for tags in true], [{"predicted": tags} for tags in predicted]
    )
    assert scores == pytest.approx({"f1": 2 / 3, "precision": 2 / 3, "recall": 2 / 3, "accuracy": 4 / 6})


def test_labels_that_mark_no_chunks_are_scored_by_accuracy(pieces: PreTrainedTokenizerFast) -> None:
    for labels in (("O", "M"), ("NOUN", "VERB")):
        task = make(pieces).with_settings(labels=labels)
        assert isinstance(task, Tagging)
        assert task.metrics == ("accuracy",)
    assert task.scores([example(["a", "b"], ["NOUN", "VERB"])], [{"predicted": ["NOUN", "NOUN"]}]) == {"accuracy": 0.5}


@pytest.mark.parametrize("kind", ["-X", ""])  # of words in a text, chunks have none
@pytest.mark.parametrize(("single", "inside", "last"), [("S", "I", "E"), ("U", "I", "L"), ("S", "M", "E")])
def test_neighbouring_chunks_of_one_kind_are_told_apart(
    pieces: PreTrainedTokenizerFast, single: str, inside: str, last: str, kind: str
) -> None:
    true = [marker + kind for marker in (single, single, "B", inside, last, single)]  # four chunks
    task = make(pieces).with_settings(labels=("O", *sorted(set(true))))
    predicted = [true[0], "O", *true[2:]]
    asked = [example(["w"] * len(true), true)]
    assert task.scores(asked, [{"predicted": true}])["f1"] == 1
    expected = {"f1": 6 / 7, "precision": 1, "recall": 3 / 4, "accuracy": 5 / 6}
    assert task.scores(asked, [{"predicted": predicted}]) == pytest.approx(expected)


@pytest.mark.filterwarnings("error")
def test_no_chunk_anywhere_scores_nothing(pieces: PreTrainedTokenizerFast) -> None:
    scores = make(pieces).scores([example(["a", "b"], ["O", "O"])], [{"predicted": ["O", "O"]}])
    assert scores == {"f1": 0, "precision": 0, "recall": 0, "accuracy": 1}
