"""Documents to two-segment rows ([G] build_pretraining_dataset.py, ExampleBuilder)."""

import random
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

SHORTEST = 5
"""Tokens of the shortest random target, and of the shortest row that holds two segments."""
ONE_SEGMENT_SPECIALS = 2
TWO_SEGMENT_SPECIALS = 3


class Row(NamedTuple):
    """Bounds of a row within its document: tokens start to middle are segment A, middle to stop segment B."""

    start: int
    middle: int
    stop: int


def build_rows(
    sentence_lengths: Sequence[int],
    length: int,
    rng: random.Random,
    single_segment_prob: float = 0.1,
    short_row_prob: float = 0.05,
) -> Iterator[Row]:
    """Cut one document, given as the token counts of its sentences, into rows of at most `length` tokens (L >= 5).

    Sentences gather until a target length is reached, and are divided into segments A and B; A is cut to L-2
    tokens and B to L-|A|-3, which leaves room for `[CLS] A [SEP]` and `B [SEP]`. The target is L, or with
    probability `short_row_prob` a random length in [5, L]. As in [G], but for two things:

    - What a cut leaves over begins the next row, where [G] throws it away. Each row starts where the last one
      stopped, so no token is lost or repeated.
    - Once B has begun, A is closed. [G] lets a later sentence that still fits fall back into A, out of order.
    """
    ends = [end for end, count in zip(accumulate(sentence_lengths), sentence_lengths, strict=True) if count]
    start = 0
    while ends and start < ends[-1]:
        target = rng.randint(SHORTEST, length) if rng.random() < short_row_prob else length
        gathered = _gather(ends, start, target)
        one_segment = rng.random() < single_segment_prob
        limit = ends[-1] + 1 if one_segment else (target - TWO_SEGMENT_SPECIALS) // 2
        middle = min(_first_segment(gathered, start, limit, rng), start + length - ONE_SEGMENT_SPECIALS)
        room = max(0, length - (middle - start) - TWO_SEGMENT_SPECIALS)
        stop = min(gathered[-1], middle + room)
        yield Row(start, middle, stop)
        start = stop


def _gather(ends: list[int], start: int, target: int) -> list[int]:
    """Ends of the sentences from `start` on, up to the one that reaches `target` tokens or the document's end."""
    first = bisect_right(ends, start)
    last = min(bisect_left(ends, start + target, lo=first), len(ends) - 1)
    return ends[first : last + 1]


def _first_segment(ends: list[int], start: int, limit: int, rng: random.Random) -> int:
    """Where segment A ends: after its first sentence and those that fit below `limit`, and perhaps one that doesn't."""
    middle = ends[0]
    for end in ends[1:]:
        fits = end - start < limit
        if not fits and not (middle - start < limit and rng.random() < 0.5):
            break
        middle = end
    return middle
