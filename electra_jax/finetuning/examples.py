"""What a model is fine-tuned on: examples, and the arrays made of them."""

import ast
import json
import math
import re
from collections.abc import Sequence, Set
from io import StringIO
from token import STRING
from tokenize import TokenError, generate_tokens
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from tokenizers import Encoding

from electra_jax.data.records import Record
from electra_jax.errors import UserError

IGNORED = -1
"""The target of a token that has none."""

BITS = {"0", "1", "0.0", "1.0", "true", "false"}
"""What says yes or no, in any case: Excel writes TRUE."""
LIKE_A_LIST = re.compile(r"""\[(['"]|np\.|array\().*\]|[({]['"].*['"],?[)}]""", re.DOTALL)
"""What NumPy, or Python of a tuple or a set, writes as text."""

Batch = dict[str, np.ndarray]
"""input_ids [B*S, L], length [B*S], first_length [B*S] (see `electra_jax.train.step.Batch`); weight [B], 1 for an
example and 0 for a row that fills the batch up; target, its first axis B. S sequences make an example: one a choice."""


class Example(NamedTuple):
    """A row as a task reads it."""

    record: Record
    inputs: tuple[Any, ...]
    """Texts, or lists of words or choices."""
    target: Any = None
    """As the row gives it; None where it isn't asked for."""


class Feature(NamedTuple):
    """What the model reads at once: an example, or a window of a long one."""

    ids: tuple[Int[np.ndarray, " L"], ...]
    """One sequence; for a choice of several, one each."""
    first_lengths: tuple[int, ...]
    """Tokens of `[CLS] A [SEP]`, from where on the token type is 1."""
    target: np.ndarray | None = None
    target_per_token: bool = False
    marks: Int[np.ndarray, "n ..."] | None = None
    """Where its tokens stand in the text, as the task needs it."""

    @property
    def length(self) -> int:
        """Tokens of the longest sequence."""
        return max(len(ids) for ids in self.ids)


class EmptyFieldError(UserError):
    """A row whose text or label is empty, which may be left out."""


def check_several(texts: Sequence[str]) -> None:
    """Raise TypeError for a text, whose characters would each be taken for one, and for what isn't one."""
    if isinstance(texts, str):
        raise TypeError(f"texts: {texts[:20]!r} is one text; give a list of texts")
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"texts: {text!r} is no text")


def is_missing(value: Any) -> bool:
    """Whether there is none: null, or NaN, as a table of pandas has it."""
    return value is None or value != value


def text_of(record: Record, column: str) -> str:
    """A column's text. Raises EmptyFieldError where there is none, UserError where it is no text."""
    value = record.get(column)
    if is_missing(value) or (isinstance(value, str) and not value.strip()):
        raise EmptyFieldError(f"{record.where}, column {column!r} is empty")
    if isinstance(value, (list, dict, bytes)):
        raise UserError(f"{record.where}, column {column!r} holds a {type(value).__name__}, and a text is wanted")
    return str(value)


def list_of(record: Record, column: str, separator: str | None) -> list[str]:
    """A column's list, or its text divided by `separator` (white space where it is None). Raises as `text_of` does.

    A text may be a list as JSON, or Python (and so pandas), writes it too; one that another, such as NumPy, wrote is
    told, whose parts would be no more than pieces of it.
    """
    value = record.get(column)
    if is_missing(value):
        raise EmptyFieldError(f"{record.where}, column {column!r} is empty")
    if isinstance(value, str):
        read = written(value.strip(), "[]")
        if read is None and LIKE_A_LIST.fullmatch(value.strip()):
            place = f"{record.where}, column {column!r}"
            raise UserError(f"{place} holds {value!r}, a list that is neither JSON's nor Python's; write it as JSON")
        value = [part.strip() for part in value.split(separator) if part.strip()] if read is None else read
    if not isinstance(value, list):
        raise UserError(f"{record.where}, column {column!r} holds {value!r}, and a list is wanted")
    if any(map(is_missing, value)):
        raise EmptyFieldError(f"{record.where}, column {column!r} has an empty entry")
    return [str(part) for part in value]


def bit_of(record: Record, column: str) -> bool:
    """Whether a column holds 1, and not 0. Raises EmptyFieldError where it is empty, UserError where it is neither."""
    value = text_of(record, column).strip()
    if value.lower() not in BITS:
        raise UserError(f"{record.where}, column {column!r} is {value!r}, and 0 or 1 is wanted")
    return value.lower() in ("1", "1.0", "true")


def written(text: str, brackets: Literal["[]", "{}"]) -> Any:
    """The list, or the object, that JSON or Python wrote as this text; None where it is another."""
    if not (text.startswith(brackets[0]) and text.endswith(brackets[1])):
        return None
    for read in (json.loads, _python_literal):
        try:
            return read(text)
        except (ValueError, TypeError, SyntaxError, RecursionError, TokenError):
            continue
    return None


def _python_literal(text: str) -> Any:
    tree = ast.parse(text, mode="eval")
    strings = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    tokens = [token for token in generate_tokens(StringIO(text).readline) if token.type == STRING]
    if len(tokens) != len(strings):  # NumPy leaves the commas out, and Python would take 'a' 'b' for 'ab'
        raise ValueError("is not as Python writes it")
    return ast.literal_eval(tree)


def in_order(labels: Set[str], known: Sequence[str], first: str | None = None) -> tuple[str, ...]:
    """Labels in the order of those known, if that has all of them; else `first`, then numbers, then words, sorted."""
    if labels <= {*known}:
        return tuple(label for label in known if label in labels)
    return tuple(sorted(labels, key=lambda label: (label != first, _rank(label))))


def _rank(label: str) -> tuple[int, float, str]:
    """Sorts "2" before "10", and numbers before words."""
    try:
        number = float(label)
    except ValueError:
        number = math.nan
    return (1, 0.0, label) if math.isnan(number) else (0, number, label)  # a label "nan" is a word: it has no order


def sequence_of(encoding: Encoding) -> tuple[Int[np.ndarray, " L"], int]:
    """Ids and first length of what the tokenizer made of one or two segments."""
    return np.array(encoding.ids, np.int32), len(encoding.ids) - sum(encoding.type_ids)


def collate(features: Sequence[Feature], rows: int, length: int) -> Batch:
    """A batch of `rows` examples, filled up with empty ones, padded to `length` tokens.

    Padding of ids is 0, which a model's mask hides; targets of tokens are padded with IGNORED.
    """
    sequences = len(features[0].ids)
    ids = np.zeros((rows * sequences, length), np.int32)
    lengths, firsts = np.zeros(rows * sequences, np.int32), np.zeros(rows * sequences, np.int32)
    weight: Float[np.ndarray, " B"] = (np.arange(rows) < len(features)).astype(np.float32)
    row = 0
    for feature in features:
        for sequence, first in zip(feature.ids, feature.first_lengths, strict=True):
            ids[row, : len(sequence)] = sequence
            lengths[row], firsts[row] = len(sequence), first
            row += 1
    batch = {"input_ids": ids, "length": lengths, "first_length": firsts, "weight": weight}
    if features[0].target is not None:
        batch["target"] = _targets(features, rows, length)
    return batch


def _targets(features: Sequence[Feature], rows: int, length: int) -> np.ndarray:
    targets = [np.asarray(feature.target) for feature in features]
    if features[0].target_per_token:
        targets = [np.pad(target, (0, length - len(target)), constant_values=IGNORED) for target in targets]
    missing = [(0, rows - len(targets))] + [(0, 0)] * targets[0].ndim
    return np.pad(np.stack(targets), missing)
