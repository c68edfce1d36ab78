"""Tagging: a label for each word of a list (named entities, parts of speech)."""

import re
import warnings
from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
from jaxtyping import Array, Float, Int
from seqeval import metrics as chunks

from electra_jax.data.records import Record
from electra_jax.errors import UserError
from electra_jax.finetuning import losses
from electra_jax.finetuning.examples import IGNORED, EmptyFieldError, Example, Feature, in_order, list_of
from electra_jax.finetuning.task import Prediction, Scores, Task
from electra_jax.hub.configs import TaskHead

CHUNK_LABEL = re.compile(r"O|[BIMESUL](-.+)?")
"""A label of a scheme that marks chunks of words, as IOB2 does; of words in a text, as BMES does, it has no kind."""
BIOES = {"L": "E", "U": "S", "M": "I"}
"""The markers of BILOU and BMES as seqeval knows them, which takes neighbouring U-X and U-X for one chunk."""
NO_LABEL = "-100"
"""Of a token that transformers leaves out of a loss."""


class Tagging(Task):
    """`tagging`. Each word's label is that of its first token; a long list is read in windows of whole words."""

    name = "tagging"
    text = ("tokens",)
    label = ("tags",)
    texts_allowed = (1,)

    @property
    def head(self) -> TaskHead:  # noqa: D102
        return TaskHead("token", self.settings.labels)

    @property
    def metrics(self) -> tuple[str, ...]:  # noqa: D102
        return ("f1", "precision", "recall", "accuracy") if self._marks_chunks() else ("accuracy",)

    def fitted(self, examples: Sequence[Example], source: str) -> "Tagging":  # noqa: D102
        found = {label for example in examples for label in example.target}
        if len(found) < 2:
            column = self.settings.label[0]
            raise UserError(f"{source}: column {column!r} has fewer than two labels; a tagger needs two or more")
        return self.with_settings(labels=in_order(found, self.settings.labels, first="O"))

    def read(self, record: Record, labelled: bool) -> Example:  # noqa: D102
        words = list_of(record, self.settings.text[0], separator=None)
        if not words:
            raise EmptyFieldError(f"{record.where}, column {self.settings.text[0]!r} is empty")
        if not labelled:
            return Example(record, (words,))
        tags = list_of(record, self.settings.label[0], separator=None)
        if not tags:
            raise EmptyFieldError(f"{record.where}, column {self.settings.label[0]!r} is empty")
        if NO_LABEL in tags:
            raise UserError(f"{record.where}, column {self.settings.label[0]!r}: {NO_LABEL} is no label; give one")
        if len(tags) != len(words):
            counts = f"{len(tags)} labels for {len(words)} words"
            raise UserError(f"{record.where}, column {self.settings.label[0]!r}: {counts}; give one for each")
        return Example(record, (words,), tags)

    def features(self, examples: Sequence[Example]) -> list[list[Feature]]:  # noqa: D102
        pieces = self._pieces([example.inputs[0] for example in examples])
        return [list(self._windows(example, words)) for example, words in zip(examples, pieces, strict=True)]

    def loss(self, logits: Float[Array, "B L C"], batch: dict[str, Array]) -> tuple[losses.Scalar, losses.Scalar]:  # noqa: D102
        return losses.token_cross_entropy(logits, batch["target"], batch["weight"])

    def predict(  # noqa: D102
        self, example: Example, features: Sequence[Feature], logits: Sequence[Float[np.ndarray, "L C"]]
    ) -> Prediction:
        best = chain.from_iterable(
            window[feature.marks].argmax(-1) for feature, window in zip(features, logits, strict=True)
        )
        return {"predicted": [self.settings.labels[index] for index in best]}

    def scores(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> Scores:  # noqa: D102
        true = [example.target for example in examples]
        predicted = [prediction["predicted"] for prediction in predictions]
        accuracy = {"accuracy": float(chunks.accuracy_score(true, predicted))}
        if not self._marks_chunks():
            return accuracy
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a score over no chunk, which is 0
            measures = {"f1": chunks.f1_score, "precision": chunks.precision_score, "recall": chunks.recall_score}
            both = [[[BIOES.get(tag[0], tag[0]) + tag[1:] for tag in tags] for tags in s] for s in (true, predicted)]
            return {name: float(measure(*both)) for name, measure in measures.items()} | accuracy

    def _marks_chunks(self) -> bool:
        labels = self.settings.labels
        begins = any(label[0] in "BISU" for label in labels)  # or else O alone, or parts of speech of one letter
        return all(map(CHUNK_LABEL.fullmatch, labels)) and (begins or not labels)

    def _pieces(self, lists: Sequence[Sequence[str]]) -> list[list[list[int]]]:
        """The ids of each word; of one that has none (white space, say), [UNK]."""
        encodings = self.tokenizer(
            [list(words) for words in lists], is_split_into_words=True, add_special_tokens=False, verbose=False
        ).encodings
        assert encodings is not None
        found = []
        for words, encoding in zip(lists, encodings, strict=True):
            pieces: list[list[int]] = [[] for _ in words]
            for word, token in zip(encoding.word_ids, encoding.ids, strict=True):
                pieces[word].append(token)
            found.append([piece or [self.tokenizer.unk_token_id] for piece in pieces])
        return found

    def _windows(self, example: Example, pieces: Sequence[Sequence[int]]) -> Iterator[Feature]:
        """`[CLS] words [SEP]` of as many whole words as fit; of a word longer than that, its first tokens."""
        room, start = self.settings.length - 2, 0
        while start < len(pieces):
            stop, used = start, 0
            while stop < len(pieces) and (used == 0 or used + len(pieces[stop]) <= room):
                used += len(pieces[stop])
                stop += 1
            yield self._window(example, pieces[start:stop], start, room)
            start = stop

    def _window(self, example: Example, pieces: Sequence[Sequence[int]], start: int, room: int) -> Feature:
        tokens = list(chain.from_iterable(pieces))[:room]
        ids = np.array([self.tokenizer.cls_token_id, *tokens, self.tokenizer.sep_token_id], np.int32)
        marks: Int[np.ndarray, " words"] = 1 + np.cumsum([0, *map(len, pieces[:-1])])
        target = None
        if example.target is not None:
            target = np.full(len(ids), IGNORED, np.int32)
            target[marks] = [self._index(example, word) for word in range(start, start + len(pieces))]
        return Feature((ids,), (len(ids),), target, target_per_token=True, marks=marks)

    def _index(self, example: Example, word: int) -> int:
        tag = example.target[word]
        if tag not in self.settings.labels:
            place = f"{example.record.where}, column {self.settings.label[0]!r}"
            raise UserError(f"{place}: label {tag!r} is none of training: {', '.join(self.settings.labels)}")
        return self.settings.labels.index(tag)
