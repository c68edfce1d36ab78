"""Several examples in a row: none is lost, none cut, and hardly any room is left."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from electra_jax.data.packing import fit, pack
from electra_jax.data.rows import row_features, segment_dtype, view

PAD, CLS, SEP = 0, 2, 3


def examples(lengths: Sequence[tuple[int, int]], length: int) -> pa.Table:
    """Examples of so many tokens in segment A and in B, all of them different."""
    ids, firsts, totals, word = np.full((len(lengths), length), PAD, np.uint16), [], [], 10
    for row, (first, second) in zip(ids, lengths, strict=True):
        words = list(range(word, word + first + second))
        tokens = [CLS, *words[:first], SEP, *([*words[first:], SEP] if second else [])]
        row[: len(tokens)] = tokens
        firsts.append(first + 2)
        totals.append(len(tokens))
        word += first + second
    columns = [
        pa.FixedSizeListArray.from_arrays(pa.array(ids.reshape(-1)), length),
        pa.array(totals, pa.int32()),
        pa.array(firsts, pa.int32()),
    ]
    return pa.table(dict(zip(("input_ids", "length", "first_length"), columns, strict=True)))


def arrays(table: pa.Table) -> list[np.ndarray]:
    return [view(column.combine_chunks()) for column in table.columns]


@given(st.lists(st.integers(1, 64), max_size=200))
def test_each_example_is_in_one_row_and_rows_are_not_too_long(lengths: list[int]):
    rows = fit(lengths, 64)
    assert sorted(example for row in rows for example in row) == list(range(len(lengths)))
    totals = [sum(lengths[example] for example in row) for row in rows]
    assert all(0 < total <= 64 for total in totals)
    assert all(row == sorted(row) for row in rows)
    assert rows == fit(lengths, 64)
    # No example of a row would fit in what is left of another, or it would be there.
    assert sum(2 * total <= 64 for total in totals) <= 1
    assert len(rows) <= -(-11 * sum(lengths) // (9 * 64)) + sum(3 * one > 64 for one in lengths) + 1


@pytest.mark.parametrize("mean", [8, 20, 40, 60])
def test_rows_of_short_documents_have_hardly_any_padding(mean: int):
    """Lengths as those of reviews: log-normal."""
    rng = np.random.default_rng(mean)
    lengths = np.clip(rng.lognormal(np.log(mean), 0.7, 5000), 3, 128).astype(int).tolist()
    rows = fit(lengths, 128)
    assert 1 - sum(lengths) / (128 * len(rows)) < 0.01


def test_an_example_goes_where_it_leaves_the_least_room():
    assert fit([6, 5, 4, 3, 2], 10) == [[0, 2], [1, 3, 4]]
    assert fit([8, 5, 2, 5], 10) == [[0, 2], [1, 3]]


def test_the_first_rows_are_like_all():
    lengths = np.random.default_rng(0).integers(3, 100, 4000).tolist()
    rows = fit(lengths, 128)
    for some in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):
        assert np.mean([len(row) for row in some]) == pytest.approx(len(lengths) / len(rows), rel=0.1)


@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), max_size=40),
    st.sampled_from([16, 40, 128]),
)
def test_every_token_and_its_segment_is_kept(lengths: list[tuple[int, int]], length: int):
    given = examples([(a, b) for a, b in lengths if a + b + 3 <= length], length)
    packed = pack(given, PAD).cast(row_features(length, "uint16", packed=True).arrow_schema)
    found = []
    for ids, total, segments in zip(*arrays(packed), strict=True):
        assert (segments[:total] > 0).all()
        assert (segments[total:] == 0).all()
        assert (ids[total:] == PAD).all()
        assert (np.diff(segments[:total].astype(int)) >= 0).all()
        for number in range((int(segments.max()) + 1) // 2):
            a, b = (ids[segments == 2 * number + segment].tolist() for segment in (1, 2))
            found.append((a + b, len(a)))
    expected = [(ids[:total].tolist(), first) for ids, total, first in zip(*arrays(given), strict=True)]
    assert sorted(found) == sorted(expected)


def test_a_row_in_full():
    ids, lengths, segments = arrays(pack(examples([(1, 0), (2, 1)], 12), PAD))
    assert ids.tolist() == [[2, 10, 3, 2, 11, 12, 3, 13, 3, 0, 0, 0]]
    assert lengths.tolist() == [9]
    assert segments.tolist() == [[1, 1, 1, 3, 3, 3, 3, 4, 4, 0, 0, 0]]


@pytest.mark.parametrize("length", [8, 128, 383, 384, 512, 4096])
def test_the_type_of_segments_holds_the_most_of_them(length: int):
    assert 2 * (length // 3) <= np.iinfo(segment_dtype(length)).max
