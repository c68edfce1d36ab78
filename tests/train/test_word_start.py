"""The word table that a run may start from."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import micro
import numpy as np
import pytest
from datasets import Dataset
from scipy.sparse import csr_array

from electra_jax.config import OptimizerConfig, PretrainConfig
from electra_jax.data.rows import Rows, open_rows, row_features
from electra_jax.train import word_start
from electra_jax.train.pretrain import pretrain
from electra_jax.train.run import restore_params
from electra_jax.train.step import init_params
from electra_jax.train.word_start import WINDOW, count_pairs, mutual_information, word_table

SPECIAL = [0, 1, 2, 3, 4]
CLS, SEP, LENGTH, ENTRIES = 2, 3, 40, 30


def make_rows(documents: list[list[int]], a_row: int = 1) -> Rows:
    """One document a row, or several, packed."""
    columns: dict[str, list] = {name: [] for name in row_features(LENGTH, "uint16", packed=a_row > 1)}
    for i in range(0, len(documents), a_row):
        some = [[CLS, *document, SEP] for document in documents[i : i + a_row]]
        ids = [token for one in some for token in one]
        padding = [0] * (LENGTH - len(ids))
        columns["input_ids"].append(ids + padding)
        columns["length"].append(len(ids))
        if a_row > 1:
            columns["segments"].append([2 * n + 1 for n, one in enumerate(some) for _ in one] + padding)
        else:
            columns["first_length"].append(len(ids))
    return Rows(Dataset.from_dict(columns, features=row_features(LENGTH, "uint16", packed=a_row > 1)))


def draw(rng: np.random.Generator, documents: int = 20) -> list[list[int]]:
    return [rng.integers(5, ENTRIES, rng.integers(3, 16)).tolist() for _ in range(documents)]


@pytest.mark.parametrize("a_row", [1, 2])
def test_pairs_are_those_near_each_other_in_a_document(a_row: int):
    documents = draw(np.random.default_rng(0))
    counted = count_pairs(make_rows(documents, a_row), SPECIAL, ENTRIES).toarray()
    expected = np.zeros_like(counted)
    near = Counter(
        (i, j) for d in documents for m, i in enumerate(d) for n, j in enumerate(d) if 0 < abs(m - n) <= WINDOW
    )
    for pair, times in near.items():
        expected[pair] = times
    np.testing.assert_array_equal(counted, expected)


def test_all_rows_are_read_or_as_many_at_equal_distances(monkeypatch: pytest.MonkeyPatch):
    documents = draw(np.random.default_rng(1))
    whole = count_pairs(make_rows(documents), SPECIAL, ENTRIES).toarray()
    monkeypatch.setattr(word_start, "READ_AT_ONCE", 3)
    np.testing.assert_array_equal(count_pairs(make_rows(documents), SPECIAL, ENTRIES).toarray(), whole)
    monkeypatch.setattr(word_start, "MOST_TOKENS", 7 * LENGTH)  # 20 rows: every third
    third = count_pairs(make_rows(documents[::3]), SPECIAL, ENTRIES).toarray()
    np.testing.assert_array_equal(count_pairs(make_rows(documents), SPECIAL, ENTRIES).toarray(), third)


def test_mutual_information_is_of_smoothed_contexts():
    counts = np.array([[0, 4, 1], [4, 2, 0], [1, 0, 8]], float)
    totals = counts.sum(1)
    contexts = totals**0.75 / (totals**0.75).sum()
    with np.errstate(divide="ignore"):
        expected = np.maximum(np.log(counts / totals[:, None] / contexts), 0)
    found = mutual_information(csr_array(counts)).toarray()
    np.testing.assert_allclose(found, np.where(counts > 0, expected, 0), rtol=1e-6)


def test_rows_without_neighbours_leave_the_table_as_it_is():
    start = np.random.default_rng(0).normal(size=(ENTRIES, 8)).astype(np.float32)
    np.testing.assert_array_equal(word_table(make_rows([[7], [9]]), SPECIAL, start), start)


def test_both_towers_start_from_it_where_they_share_no_table(finished: PretrainConfig, tmp_path: Path):
    still = OptimizerConfig(learning_rate=0.0)
    changes = {"steps": 1, "checkpoint_every": 1, "eval_every": 1, "optimizer": still, "word_start": "neighbours"}
    model = replace(finished.model, tie="none")
    pretrain(replace(finished, out=tmp_path / "run", model=model, **changes))
    params = restore_params(tmp_path / "run")[1]
    table = params["embeddings"]["word"]
    np.testing.assert_array_equal(params["generator"]["embeddings"]["word"], table)
    assert not np.array_equal(table, init_params(finished)["embeddings"]["word"])


def test_tokens_of_the_same_neighbours_start_alike():
    """Two topics of ten words each, in documents of one of them: the nearest vectors are of the own topic."""
    rng = np.random.default_rng(0)
    topics = np.arange(5, 15), np.arange(15, 25)
    documents = [rng.choice(topics[i % 2], 12).tolist() for i in range(400)]
    start = rng.normal(size=(ENTRIES, 8)).astype(np.float32) * 0.02
    table = word_table(make_rows(documents), SPECIAL, start)
    seen = table[5:25] / np.linalg.norm(table[5:25], axis=1, keepdims=True)
    alike = seen @ seen.T - np.eye(20)
    assert (alike.argmax(1) // 10 == np.arange(20) // 10).all()
    unseen = [*SPECIAL, *range(25, ENTRIES)]
    np.testing.assert_array_equal(table[unseen], start[unseen])
    scale = np.sqrt(np.mean(np.sum(start**2, axis=1)))
    np.testing.assert_allclose(np.linalg.norm(table[5:25], axis=1), scale, rtol=1e-5)


def test_a_run_starts_from_it(rows: Path, tmp_path: Path):
    config = micro.make_config(
        rows,
        tmp_path / "run",
        word_start="neighbours",
        steps=1,
        optimizer=OptimizerConfig(learning_rate=0.0, warmup_steps=1),
    )
    pretrain(config)
    ours = np.asarray(restore_params(config.out)[1]["embeddings"]["word"])
    random = np.asarray(init_params(replace(config, word_start="random"))["embeddings"]["word"])
    ids, times = np.unique(open_rows([rows], "train").column_chunks("input_ids")[0], return_counts=True)
    frequent = ids[(ids >= 5) & (times > 50)]
    assert len(frequent)
    assert not np.isclose(ours[frequent], random[frequent]).all(axis=1).any()
    np.testing.assert_array_equal(ours[SPECIAL], random[SPECIAL])
