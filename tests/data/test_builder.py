import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from electra_jax.data.builder import Row, build_rows


@given(
    lengths=st.lists(st.integers(0, 60), max_size=30),
    length=st.integers(5, 64),
    seed=st.integers(0, 2**16),
    single=st.sampled_from([0.0, 0.1, 1.0]),
    short=st.sampled_from([0.0, 0.05, 1.0]),
)
def test_rows_fit_and_follow_one_another(lengths: list[int], length: int, seed: int, single: float, short: float):
    rows = list(build_rows(lengths, length, random.Random(seed), single, short))
    bounds = [row.start for row in rows] + [rows[-1].stop] if rows else [0]
    assert bounds[0] == 0
    assert bounds[-1] == sum(lengths)  # with the next line: no token is lost or repeated
    assert all(row.stop == start for row, start in zip(rows, bounds[1:], strict=True))
    for start, middle, stop in rows:
        assert start < middle <= stop
        assert stop - start + (3 if stop > middle else 2) <= length


@given(lengths=st.lists(st.integers(0, 60), max_size=30), seed=st.integers(0, 2**16))
def test_empty_sentences_change_nothing(lengths: list[int], seed: int):
    full = [count for count in lengths if count]
    assert list(build_rows(lengths, 32, random.Random(seed))) == list(build_rows(full, 32, random.Random(seed)))


def test_one_giant_sentence():
    rows = list(build_rows([1_000_003], 128, random.Random(0)))
    assert all(row.middle == row.stop for row in rows)
    assert all(row.stop - row.start == 126 for row in rows[:-1])


def test_nothing_gives_no_rows():
    assert list(build_rows([], 128, random.Random(0))) == []
    assert list(build_rows([0, 0], 128, random.Random(0))) == []


def test_segments_end_where_sentences_do_unless_they_are_cut():
    # Targets of 128 and (128-3)//2 = 62: six sentences of 10 fit in A; the seventh joins A by a coin.
    middles = {next(build_rows([10] * 50, 128, random.Random(seed), 0, 0)).middle for seed in range(40)}
    assert middles == {60, 70}
    assert next(build_rows([10] * 50, 128, random.Random(0), 0, 0)).stop == 125


def test_the_first_segment_has_half_of_what_two_leave():
    """Below (128 - 3) // 2 = 62 tokens, and by a coin one sentence more; here of one token each."""
    middles = {next(build_rows([1] * 200, 128, random.Random(seed), 0, 0)).middle for seed in range(60)}
    assert middles == {61, 62}


def test_a_single_segment_by_choice_takes_all():
    assert next(build_rows([10] * 50, 128, random.Random(0), 1, 0)) == Row(0, 126, 126)


def test_the_share_of_single_segments():
    rows = [row for seed in range(40) for row in build_rows([3] * 4000, 128, random.Random(seed), 0.1, 0)][:-1]
    share = statistics.mean(row.middle == row.stop for row in rows)
    assert share == pytest.approx(0.1, abs=0.025)  # 5 standard deviations of about 3,800 rows


def test_the_share_and_spread_of_short_rows():
    def rows(seed: int) -> list[Row]:
        return list(build_rows([1] * 12_000, 128, random.Random(seed), 0, 0.05))[:-1]

    sizes = [row.stop - row.start for seed in range(40) for row in rows(seed)]
    short = [size for size in sizes if size < 125]
    # A target of 125 or more fills the row: (1 - 4/124) of the targets are seen as short.
    assert len(short) / len(sizes) == pytest.approx(0.05 * 120 / 124, abs=0.017)
    assert min(short) == 5
    assert statistics.mean(short) == pytest.approx((5 + 124) / 2, abs=15)


def test_short_documents_have_short_rows_as_often():
    firsts = [next(build_rows([1] * 130, 128, random.Random(seed), 0, 0.05)) for seed in range(8000)]
    share = statistics.mean(row.stop - row.start < 125 for row in firsts)
    assert share == pytest.approx(0.05 * 120 / 124, abs=0.012)  # 5 standard deviations
