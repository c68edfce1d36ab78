"""Question answering: the span of a context that answers a question, if any does (SQuAD 1.1 and 2.0)."""

import collections
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int
from tokenizers import Encoding

from electra_jax.data.records import Record, has_lines_of_json, read_json
from electra_jax.errors import UserError
from electra_jax.finetuning import losses
from electra_jax.finetuning.examples import (
    EmptyFieldError,
    Example,
    Feature,
    bit_of,
    is_missing,
    sequence_of,
    written,
)
from electra_jax.finetuning.task import Prediction, Scores, Task
from electra_jax.hub.configs import TaskHead

LONGEST_QUESTION = 64  # tokens; [G] configure_finetuning.py, max_query_length
BEST = 20  # starts and ends that are combined ([G] n_best_size)
SPECIAL_TOKENS = 3  # [CLS] question [SEP] context [SEP]
OUTSIDE = -1  # where a token is none of the context


class Answer(NamedTuple):
    """An answer, and the character of the context where it starts."""

    text: str
    start: int


class QuestionAnswering(Task):
    """`question-answering`. A long context is read in windows that overlap by `stride` tokens."""

    name = "question-answering"
    text = ("question", "context")
    label = ("answers",)
    texts_allowed = (2,)
    length = 512  # [G] configure_finetuning.py
    epochs = 2

    @property
    def head(self) -> TaskHead:  # noqa: D102
        return TaskHead("span")

    @property
    def metrics(self) -> tuple[str, ...]:  # noqa: D102
        return ("f1", "exact")

    def read(self, record: Record, labelled: bool) -> Example:  # noqa: D102
        question, context = self.texts(record)
        answers = self._answers(record, context) if labelled else None
        return Example(record, (question.strip(), context), answers)

    def fitted(self, examples: Sequence[Example], source: str) -> "QuestionAnswering":  # noqa: D102
        some_have_none = any(not example.target for example in examples)
        return self.with_settings(null_threshold=0.0 if some_have_none else None)

    def features(self, examples: Sequence[Example]) -> list[list[Feature]]:  # noqa: D102
        length = self.settings.length
        longest_question = min(LONGEST_QUESTION, length // 3)
        stride = min(self.settings.stride, (length - longest_question - SPECIAL_TOKENS) // 2)
        encoded = self.tokenizer(
            [self._cut(example.inputs[0], longest_question) for example in examples],
            [example.inputs[1] for example in examples],
            truncation="only_second",
            max_length=length,
            stride=stride,
            return_overflowing_tokens=True,
        )
        assert encoded.encodings is not None
        windows: list[list[Feature]] = [[] for _ in examples]
        for owner, encoding in zip(encoded["overflow_to_sample_mapping"], encoded.encodings, strict=True):
            windows[owner].append(_window(encoding, examples[owner].target))
        return windows

    def notes(self, features: Sequence[Feature]) -> dict[str, str]:  # noqa: D102
        longest = self.settings.max_answer_length
        spans = np.array([feature.target for feature in features])
        long = int(np.sum(spans[:, 1] - spans[:, 0] >= longest))
        return {"too long": f"{long:,} answers, of more than {longest} tokens; see --max-answer-length"} if long else {}

    def loss(self, logits: Float[Array, "B L 2"], batch: dict[str, Array]) -> tuple[losses.Scalar, losses.Scalar]:  # noqa: D102
        return losses.span_cross_entropy(logits, batch["target"], batch["length"], batch["weight"])

    def predict(  # noqa: D102
        self, example: Example, features: Sequence[Feature], logits: Sequence[Float[np.ndarray, "L 2"]]
    ) -> Prediction:
        longest = self.settings.max_answer_length
        spans = [span for window in zip(features, logits, strict=True) if (span := _best_span(*window, longest))]
        null = min(float(window[0].sum()) for window in logits)
        best = max(spans, key=lambda span: span.score, default=Span(null, 0, 0))
        text, difference = example.inputs[1][best.start : best.stop], null - best.score
        return {"predicted": self._unless_null(text, difference), "best_answer": text, "null_difference": difference}

    def tuned(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> "QuestionAnswering":
        """With the threshold of the best F1 ([SQuAD 2.0] evaluate-v2.0.py, find_best_thresh)."""
        if self.settings.null_threshold is None:
            return self
        # Going up through the differences, one example after the other gets its answer.
        pairs = sorted(zip(predictions, examples, strict=True), key=lambda pair: pair[0]["null_difference"])
        differences = [prediction["null_difference"] for prediction, _ in pairs]
        gains = [_best(f1, p["best_answer"], e.target) - _best(f1, "", e.target) for p, e in pairs]
        totals = np.cumsum([0.0, *gains])
        tied = [False, *np.equal(differences[:-1], differences[1:]), False]  # no threshold divides equal differences
        answered = int(np.argmax(np.where(tied, -np.inf, totals)))
        if answered == 0:
            return self.with_settings(null_threshold=differences[0] - 1.0)
        following = differences[answered] if answered < len(differences) else differences[-1]
        return self.with_settings(null_threshold=(differences[answered - 1] + following) / 2)

    def scores(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> Scores:  # noqa: D102
        texts = [self._unless_null(p["best_answer"], p["null_difference"]) for p in predictions]
        found = {}
        for name, measure in (("f1", f1), ("exact", exact)):
            each = [_best(measure, text, example.target) for text, example in zip(texts, examples, strict=True)]
            found[name] = float(np.mean(each))
            for kind, wanted in (("answerable", True), ("unanswerable", False)):
                some = [score for score, example in zip(each, examples, strict=True) if bool(example.target) == wanted]
                if 0 < len(some) < len(each):
                    found[f"{name}_{kind}"] = float(np.mean(some))
        return found

    def _unless_null(self, text: str, difference: float) -> str:
        threshold = self.settings.null_threshold
        return "" if threshold is not None and difference > threshold else text

    def _cut(self, question: str, longest: int) -> str:
        encodings = self.tokenizer(question, add_special_tokens=False, verbose=False).encodings
        assert encodings is not None
        offsets = encodings[0].offsets
        return question[: offsets[longest - 1][1]] if len(offsets) > longest else question

    def _answers(self, record: Record, context: str) -> list[Answer]:
        """Every answer given, as {"text": [...], "answer_start": [...]}, a list of pairs or texts, or one text.

        None is []. A text that the context doesn't hold may be any of these as JSON, or a list as Python writes it.
        """
        column = self.settings.label[0]
        impossible = record.values.get("is_impossible")
        if not is_missing(impossible) and impossible != "" and bit_of(record, "is_impossible"):
            return []
        value = record.get(column)
        if is_missing(value):
            raise EmptyFieldError(f"{record.where}, column {column!r} is empty; where there is no answer, give []")
        if isinstance(value, str) and value not in context:
            value = _written(value.strip())
        if isinstance(value, Mapping):
            value = _pairs(value, f"{record.where}, column {column!r}")
        elif isinstance(value, str):
            value = [{"text": value, "answer_start": None}] if value.strip() else []
        if not isinstance(value, list):
            raise UserError(f"{record.where}, column {column!r} holds {value!r}, and answers are wanted")
        answers = [_answer(answer, context, f"{record.where}, column {column!r}") for answer in value]
        return [answer for answer in answers if answer.text]


def read_squad(path: Path) -> Iterator[Record] | None:
    """The questions of a file in SQuAD's own format (1.1 or 2.0), a row each; None where it is another JSON file."""
    if has_lines_of_json(path):
        return None
    content = read_json(path)
    articles = content.get("data") if isinstance(content, dict) else None
    if not isinstance(articles, list) or not articles:
        return None
    if not all(isinstance(article, Mapping) and "paragraphs" in article for article in articles):
        return None
    return _squad_records(articles, path)


def _squad_records(articles: Sequence[Mapping[str, Any]], path: Path) -> Iterator[Record]:
    number = 0
    for article in articles:
        for paragraph in _objects(article["paragraphs"], f"{path}: paragraphs"):
            for question in _objects(paragraph.get("qas", []), f"{path}: qas"):
                number += 1
                values = {
                    "id": question.get("id", number),
                    "question": question.get("question"),
                    "context": paragraph.get("context"),
                }
                if question.get("is_impossible"):
                    values["answers"] = []
                elif "answers" in question:  # where they are left out, they aren't known
                    values["answers"] = question["answers"]
                yield Record(str(path), number, values)


def _written(text: str) -> Any:
    """The object or list, as JSON or Python writes it, that a cell of CSV holds; the text, where it is another."""
    for found in (written(text, "{}"), written(text, "[]")):
        if found is not None:
            return found
    return text


def _objects(value: Any, where: str) -> Sequence[Mapping[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(one, Mapping) for one in value):
        raise UserError(f"{where} is no list of objects, as SQuAD has it; correct the file")
    return value


def _pairs(columns: Mapping[str, Any], where: str) -> list[Any]:
    """The pairs of {"text": [...], "answer_start": [...]}; of {"text": "...", "answer_start": 0}, the one."""
    texts, starts = columns.get("text"), columns.get("answer_start")
    if isinstance(texts, str):
        return [columns]
    texts = [] if texts is None else texts
    starts = starts or [None] * len(texts)
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        raise UserError(f"{where} holds {columns!r}, and a list of texts and one of as many starts is wanted")
    return [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]


def _answer(answer: Any, context: str, where: str) -> Answer:
    """The answer, checked, and without white space around it, which no token holds; "" stands for none."""
    if isinstance(answer, str):
        answer = {"text": answer}
    if not isinstance(answer, Mapping) or not isinstance(answer.get("text"), str):
        raise UserError(f"{where} holds {answer!r}, and an answer is text and answer_start")
    text, start = answer["text"], answer.get("answer_start")
    if not text.strip():
        return Answer("", 0)
    found = context.find(text) if start is None else start
    if isinstance(found, float) and found.is_integer():  # as pandas has them beside missing ones
        found = int(found)
    if not isinstance(found, int) or found < 0 or context[found : found + len(text)] != text:
        place = "" if start is None else f" at character {start}"
        raise UserError(f"{where}: answer {text!r} does not occur in the context{place}; correct it")
    return Answer(text.strip(), found + len(text) - len(text.lstrip()))


def _window(encoding: Encoding, answers: Sequence[Answer] | None) -> Feature:
    """One window: the span of its tokens, and its target, which is [CLS] twice where it doesn't hold the answer."""
    ids, first = sequence_of(encoding)
    of_context = np.array([sequence == 1 for sequence in encoding.sequence_ids])
    marks = np.where(of_context[:, None], np.array(encoding.offsets), OUTSIDE)
    target = None if answers is None else np.array(_target(marks, answers[0] if answers else None), np.int32)
    return Feature((ids,), (first,), target, marks=marks)


def _target(marks: Int[np.ndarray, "L 2"], answer: Answer | None) -> tuple[int, int]:
    inside = np.flatnonzero(marks[:, 0] != OUTSIDE)
    if answer is None or len(inside) == 0:
        return 0, 0
    stop = answer.start + len(answer.text)
    if answer.start < marks[inside[0], 0] or stop > marks[inside[-1], 1]:
        return 0, 0
    start_token = inside[np.searchsorted(marks[inside, 1], answer.start, side="right")]
    stop_token = inside[np.searchsorted(marks[inside, 0], stop, side="left") - 1]
    return (int(start_token), int(stop_token)) if start_token <= stop_token else (0, 0)


class Span(NamedTuple):
    """A span of the context's characters, and the sum of its two logits."""

    score: float
    start: int
    stop: int


def _best_span(feature: Feature, logits: Float[np.ndarray, "L 2"], longest: int) -> Span | None:
    """The likeliest span of a window's context, at most `longest` tokens long."""
    marks = feature.marks
    assert marks is not None
    inside = np.flatnonzero(marks[:, 0] != OUTSIDE)
    if len(inside) == 0:
        return None
    starts, stops = (inside[np.argsort(-logits[inside, end], kind="stable")[:BEST]] for end in (0, 1))
    scores = logits[starts, 0][:, None] + logits[stops, 1]
    size = stops - starts[:, None]
    scores = np.where((size >= 0) & (size < longest), scores, -np.inf)
    start, stop = np.unravel_index(scores.argmax(), scores.shape)
    if not np.isfinite(scores[start, stop]):
        return None
    return Span(float(scores[start, stop]), int(marks[starts[start], 0]), int(marks[stops[stop], 1]))


# --- scores ([SQuAD 2.0] evaluate-v2.0.py) ------------------------------------------------------------------------

ARTICLES = re.compile(r"\b(a|an|the)\b")
WORD = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]|[^\s\u3400-\u9fff\uf900-\ufaff]+")
"""A word of the official script, but each Chinese character is one too. (CMRC 2018 has exact so; its f1 is another, of
the longest run that both have.)"""
PUNCTUATION = set(string.punctuation) | set("，。！？、；：（）《》「」『』“”‘’…·－～")


def words_of(text: str) -> list[str]:
    """Words in lower case, without punctuation and articles."""
    kept = "".join(character for character in text.lower() if character not in PUNCTUATION)
    return WORD.findall(ARTICLES.sub(" ", kept))


def exact(predicted: str, answer: str) -> float:
    """1 where both have the same words."""
    return float(words_of(predicted) == words_of(answer))


def f1(predicted: str, answer: str) -> float:
    """The harmonic mean of precision and recall of the words."""
    ours, theirs = words_of(predicted), words_of(answer)
    if not ours or not theirs:
        return float(ours == theirs)
    same = sum((collections.Counter(ours) & collections.Counter(theirs)).values())
    return 2 * same / (len(ours) + len(theirs))


def _best(measure: Any, predicted: str, answers: Sequence[Answer]) -> float:
    """Against the nearest of the answers; against "" where there is none that has a word (as the official script)."""
    texts = [answer.text for answer in answers if words_of(answer.text)]
    return max(measure(predicted, text) for text in texts or [""])
