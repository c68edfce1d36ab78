"""Examples as arrays: padding, weights and targets; and the columns that they are read from."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from electra_jax.data.records import Record
from electra_jax.errors import UserError
from electra_jax.finetuning.examples import IGNORED, EmptyFieldError, Feature, collate, list_of, text_of

# --- collate ------------------------------------------------------------------------------------------------------


def feature(*sequences: list[int], target: Any = None, **fields: Any) -> Feature:
    """Of sequences of ids, whose first segment is all but the last token."""
    ids = tuple(np.array(sequence, np.int32) for sequence in sequences)
    target = None if target is None else np.array(target)
    return Feature(ids, tuple(len(sequence) - 1 for sequence in sequences), target, **fields)


def test_a_batch_is_padded_and_filled_up() -> None:
    batch = collate([feature([2, 7, 3], target=1), feature([2, 3], target=2)], rows=3, length=4)
    assert {name: array.tolist() for name, array in batch.items()} == {
        "input_ids": [[2, 7, 3, 0], [2, 3, 0, 0], [0, 0, 0, 0]],
        "length": [3, 2, 0],
        "first_length": [2, 1, 0],
        "weight": [1.0, 1.0, 0.0],
        "target": [1, 2, 0],
    }
    assert {name: str(array.dtype) for name, array in batch.items() if name != "target"} == {
        "input_ids": "int32",
        "length": "int32",
        "first_length": "int32",
        "weight": "float32",
    }


def test_a_choices_sequences_stand_one_below_the_other() -> None:
    features = [feature([2, 5, 3], [2, 6, 6, 3], target=1), feature([2, 3], [2, 8, 3], target=0)]
    batch = collate(features, rows=3, length=4)
    ids = [[2, 5, 3, 0], [2, 6, 6, 3], [2, 3, 0, 0], [2, 8, 3, 0], [0] * 4, [0] * 4]
    assert batch["input_ids"].tolist() == ids
    assert batch["length"].tolist() == [3, 4, 2, 3, 0, 0]
    assert batch["first_length"].tolist() == [2, 3, 1, 2, 0, 0]
    assert batch["weight"].tolist() == [1, 1, 0]
    assert batch["target"].tolist() == [1, 0, 0]


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_targets_of_an_example_keep_their_shape_and_kind(kind: type) -> None:
    for shape in ((), (2,), (3, 2)):
        values = np.arange(2 * np.prod(shape, dtype=int), dtype=kind).reshape(2, *shape) + 1
        features = [Feature((np.array([2, 3]),), (2,), target) for target in values]
        target = collate(features, rows=4, length=5)["target"]
        assert target.dtype == kind
        assert target.shape == (4, *shape)
        np.testing.assert_array_equal(target[:2], values)
        np.testing.assert_array_equal(target[2:], 0)


def test_targets_of_tokens_are_ignored_in_the_padding() -> None:
    features = [
        feature([2, 7, 3], target=[IGNORED, 4, IGNORED], target_per_token=True),
        feature([2, 3], target=[IGNORED, 0], target_per_token=True),
    ]
    batch = collate(features, rows=3, length=5)
    assert batch["target"][:2].tolist() == [[-1, 4, -1, -1, -1], [-1, 0, -1, -1, -1]]
    assert batch["weight"][2] == 0  # whatever its targets are


def test_without_targets_there_are_none_in_the_batch() -> None:
    assert "target" not in collate([feature([2, 3])], rows=1, length=2)


@settings(max_examples=50, deadline=None)
@given(data=st.data(), sequences=st.integers(1, 3), filling=st.integers(0, 3), spare=st.integers(0, 3))
def test_every_token_stands_where_it_should_and_nothing_else(
    data: st.DataObject, sequences: int, filling: int, spare: int
) -> None:
    tokens = st.lists(st.integers(1, 99), min_size=1, max_size=6)
    example = st.lists(tokens, min_size=sequences, max_size=sequences)
    examples = data.draw(st.lists(example, min_size=1, max_size=4))
    features = [feature(*one) for one in examples]
    length = max(one.length for one in features) + spare
    batch = collate(features, len(features) + filling, length)

    lists = [sequence for one in examples for sequence in one]
    assert batch["input_ids"].shape == ((len(examples) + filling) * sequences, length)
    assert [ids[:n].tolist() for ids, n in zip(batch["input_ids"], batch["length"], strict=True) if n] == lists
    assert batch["input_ids"].sum() == sum(map(sum, lists))
    assert batch["weight"].tolist() == [1] * len(examples) + [0] * filling


def test_a_features_length_is_that_of_its_longest_sequence() -> None:
    assert feature([2, 3], [2, 5, 6, 3], [2, 5, 3]).length == 4


# --- columns ------------------------------------------------------------------------------------------------------


def record(value: Any) -> Record:
    return Record("a.csv", 7, {"column": value})


@pytest.mark.parametrize(("value", "text"), [("a b", "a b"), (" a ", " a "), (3, "3"), (0, "0"), (False, "False")])
def test_a_value_is_text(value: Any, text: str) -> None:
    assert text_of(record(value), "column") == text


@pytest.mark.parametrize("value", [None, "", " \t\n", "\u3000"])
def test_no_text_is_empty(value: Any) -> None:
    with pytest.raises(EmptyFieldError, match=r"^a\.csv: row 7, column 'column' is empty$"):
        text_of(record(value), "column")


@pytest.mark.parametrize(("value", "kind"), [(["a"], "list"), ([], "list"), ({"a": 1}, "dict"), (b"a", "bytes")])
def test_what_is_no_text_is_told(value: Any, kind: str) -> None:
    with pytest.raises(UserError, match=rf"^a\.csv: row 7, column 'column' holds a {kind}, and a text is wanted$") as e:
        text_of(record(value), "column")
    assert not isinstance(e.value, EmptyFieldError)  # such a row is wrong, and never left out


@pytest.mark.parametrize(
    ("value", "separator", "parts"),
    [
        (["a", 1, ""], ",", ["a", "1", ""]),
        ("a, b c ,,d", ",", ["a", "b c", "d"]),
        ("  a\tb\n c\u3000d ", None, ["a", "b", "c", "d"]),
        ("a|b", "|", ["a", "b"]),
        ("", ",", []),
        ([], ",", []),
        ('["a, b", "c", 1]', ",", ["a, b", "c", "1"]),  # JSON
        (" ['a b', \"it's\", 2.5] ", None, ["a b", "it's", "2.5"]),  # Python, and so pandas
        ("[]", None, []),
        ("['a','b']", ",", ["a", "b"]),
        ("[ 'a, b' ,\"c\" ]", ",", ["a, b", "c"]),
        ("['[a]', '(b)']", None, ["[a]", "(b)"]),
        ("[a] [b]", None, ["[a]", "[b]"]),
        ("[{[]}]", None, ["[{[]}]"]),
    ],
)
def test_a_value_is_a_list_or_divided(value: Any, separator: str | None, parts: list[str]) -> None:
    assert list_of(record(value), "column", separator) == parts


@pytest.mark.parametrize(
    ("value", "kind", "says"),
    [
        (None, EmptyFieldError, "is empty"),
        (math.nan, EmptyFieldError, "is empty"),
        (["a", None], EmptyFieldError, "has an empty entry"),
        (["a", math.nan], EmptyFieldError, "has an empty entry"),
        (3, UserError, "holds 3, and a list is wanted"),
        ({"a": 1}, UserError, "holds {'a': 1}, and a list is wanted"),
        *[
            (written, UserError, f"holds {written!r}, a list that is neither JSON's nor Python's; write it as JSON")
            for written in (
                "['a' 'b']",
                "[\"it's\" 'b']",
                "[np.str_('a')]",
                "{'a', 'b'}",
                "('a',)",
                "['a', 'b]",
                "['a'\n 'b']",
            )
        ],
    ],
)
def test_what_is_no_list_is_told(value: Any, kind: type[UserError], says: str) -> None:
    with pytest.raises(UserError) as error:
        list_of(record(value), "column", ",")
    assert type(error.value) is kind
    assert str(error.value) == f"a.csv: row 7, column 'column' {says}"


@pytest.mark.parametrize("read", [text_of, lambda record, column: list_of(record, column, ",")])
def test_a_column_that_is_not_there_and_broken_text_are_told(read: Any) -> None:
    with pytest.raises(UserError, match=r"row 7: has no column 'other'; there are: column"):
        read(record("a"), "other")
    with pytest.raises(UserError, match=r"row 7, column 'column': byte 0xE9 is not UTF-8"):
        read(record("caf\udce9"), "column")
    with pytest.raises(UserError, match=r"row 7, column 'column': byte 0xE9 is not UTF-8"):
        list_of(record(["a", "caf\udce9"]), "column", ",")
