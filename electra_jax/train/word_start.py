"""A word table to start from, of which tokens stand near each other: what the first steps would learn, at once.

Rows are singular vectors of the positive pointwise mutual information of tokens within a few positions of each other,
which is what word2vec factorises (Levy, Goldberg & Dagan, 2015, whose smoothing of contexts and weights of singular
values these are). A short run on little text gets nowhere near them: its encoder learns first from neighbours.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_array, csr_array
from scipy.sparse.linalg import svds

from electra_jax.data.rows import Rows

WINDOW = 8
"""Positions to each side that count as near."""
MOST_TOKENS = 2**25
"""Read of the rows, which are in the text's order; of more rows than that, as many at equal distances."""
READ_AT_ONCE = 2**12
SMOOTHING = 0.75
"""Exponent of the contexts' frequencies, without which rare contexts count too much."""


def word_table(rows: Rows, special: Sequence[int], start: Float[np.ndarray, "V E"]) -> Float[np.ndarray, "V E"]:
    """`start` with the rows of the tokens that have neighbours in `rows` replaced, by ones as long as its own.

    Tokens of the ids in `special` are nobody's neighbours.
    """
    vectors = factors(mutual_information(count_pairs(rows, special, len(start))), start.shape[1])
    lengths, length = np.linalg.norm(vectors, axis=1, keepdims=True), np.sqrt(np.mean(np.sum(start**2, axis=1)))
    known = lengths > 1e-6  # what is less is rounding, of tokens without neighbours
    return np.where(known, vectors / np.where(known, lengths, 1) * length, start).astype(np.float32)


def count_pairs(rows: Rows, special: Sequence[int], entries: int) -> csr_array:
    """[V, V] float64: how often two tokens stand at most WINDOW positions apart in one example; symmetric."""
    counts = csr_array((entries, entries))
    for ids, example in _examples(rows):
        counted = (example >= 0) & ~np.isin(ids, special)
        pairs = [_pairs(ids, example, counted, distance) for distance in range(1, min(WINDOW, ids.shape[1] - 1) + 1)]
        first, second = (np.concatenate(side) for side in zip(*pairs, strict=True))
        counts = counts + coo_array((np.ones(len(first)), (first, second)), (entries, entries)).tocsr()
    return counts + counts.T


def mutual_information(counts: csr_array) -> csr_array:
    """max(0, log(p(token, context) / (p(token) p(context)))), contexts smoothed; 0 where nothing was counted."""
    pairs, totals = counts.tocoo(), np.asarray(counts.sum(axis=1)).ravel()
    contexts = totals**SMOOTHING / max(np.sum(totals**SMOOTHING), 1)
    expected = totals[pairs.coords[0]] * contexts[pairs.coords[1]]
    return coo_array((np.maximum(np.log(pairs.data / expected), 0), pairs.coords), counts.shape).tocsr()


def factors(matrix: csr_array, width: int) -> Float[np.ndarray, "V E"]:
    """The first `width` left singular vectors, as columns; zeros where the matrix has fewer."""
    size = matrix.shape[0]
    if not matrix.count_nonzero():
        return np.zeros((size, width))
    found = min(width, size - 1)
    vectors = svds(matrix, k=found, v0=np.ones(size) / np.sqrt(size))[0][:, ::-1]  # v0: the same each time
    return np.pad(vectors, [(0, 0), (0, width - found)])


def _examples(rows: Rows) -> Iterator[tuple[Int[np.ndarray, "n L"], Int[np.ndarray, "n L"]]]:
    """The ids of some rows at a time, and the number of each token's example in its row, -1 at padding."""
    length = rows.take([0])["input_ids"].shape[1]
    every = -(-len(rows) * length // MOST_TOKENS)
    numbers = np.arange(0, len(rows), every)
    for i in range(0, len(numbers), READ_AT_ONCE):
        batch = rows.take(numbers[i : i + READ_AT_ONCE])
        if "segments" in batch:
            example = (batch["segments"].astype(np.int32) + 1) // 2 - 1
        else:
            example = np.where(np.arange(length) < batch["length"][:, None], 0, -1)
        yield batch["input_ids"].astype(np.int64), example


def _pairs(
    ids: Int[np.ndarray, "n L"], example: Int[np.ndarray, "n L"], counted: Bool[np.ndarray, "n L"], distance: int
) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]:
    """Of all tokens that far apart in one example, the one and the other."""
    left, right = np.s_[:, :-distance], np.s_[:, distance:]
    both = counted[left] & counted[right] & (example[left] == example[right])
    return ids[left][both], ids[right][both]
