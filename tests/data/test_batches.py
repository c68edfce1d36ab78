from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, Features, List, Value

from electra_jax.data.batches import Rows, eval_batches, open_rows, train_batches
from electra_jax.data.manifest import Manifest
from electra_jax.errors import UserError

FEATURES = Features(
    {"input_ids": List(Value("uint16"), length=4), "length": Value("int32"), "first_length": Value("int32")}
)


def make_rows(count: int, folder: Path) -> Rows:
    """Rows whose ids, length and first_length are their number; in chunks of 7."""
    numbers = range(count)
    columns = {"input_ids": [[n] * 4 for n in numbers], "length": list(numbers), "first_length": list(numbers)}
    whole = Dataset.from_dict(columns, features=FEATURES)
    chunked = whole.map(lambda row: row, writer_batch_size=7, cache_file_name=str(folder / f"{count}.arrow"))
    return Rows(chunked)


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    return make_rows(30, tmp_path)


def take(rows: Rows, batch_size: int, seed: int, first_step: int, count: int) -> list[dict[str, np.ndarray]]:
    return list(islice(train_batches(rows, batch_size, seed, first_step), count))


def numbers(batches: list[dict[str, np.ndarray]]) -> list[int]:
    return [int(number) for batch in batches for number in batch["length"]]


def test_rows_are_found_in_their_chunks(rows: Rows):
    assert len(rows.column_chunks("length")) > 3
    assert [rows[i]["length"] for i in range(len(rows))] == list(range(30))
    assert [rows[i]["input_ids"][3] for i in range(len(rows))] == list(range(30))
    with pytest.raises(IndexError):
        rows[30]


def test_rows_are_views(rows: Rows):
    assert not rows[0]["input_ids"].flags.owndata


def test_shapes_and_types(prepared: tuple[Path, Manifest]):
    batch = next(train_batches(open_rows(prepared[0], "train"), 16, seed=0, first_step=0))
    assert {name: (array.shape, array.dtype) for name, array in batch.items()} == {
        "input_ids": ((16, 32), np.uint16),
        "length": ((16,), np.int32),
        "first_length": ((16,), np.int32),
    }


@pytest.mark.parametrize("batch_size", [1, 4, 7, 30, 64])
def test_each_epoch_holds_each_row_once(rows: Rows, batch_size: int):
    order = numbers(take(rows, batch_size, seed=3, first_step=0, count=120 // batch_size + 1))
    epochs = [order[start : start + 30] for start in range(0, 90, 30)]
    assert all(sorted(epoch) == list(range(30)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_columns_stay_together(rows: Rows):
    for batch in take(rows, 8, seed=0, first_step=0, count=5):
        assert (batch["input_ids"] == batch["length"][:, None]).all()
        assert (batch["first_length"] == batch["length"]).all()


@pytest.mark.parametrize("first_step", [1, 5, 100])
def test_a_batch_is_a_function_of_its_step(rows: Rows, first_step: int):
    whole = take(rows, 7, seed=5, first_step=0, count=first_step + 4)
    assert numbers(take(rows, 7, seed=5, first_step=first_step, count=4)) == numbers(whole[first_step:])


def test_the_seed_changes_the_order(rows: Rows):
    orders = {tuple(numbers(take(rows, 10, seed=seed, first_step=0, count=3))) for seed in range(5)}
    assert len(orders) == 5


def test_orders_are_even(rows: Rows):
    firsts = Counter(numbers(take(rows, 1, seed=seed, first_step=0, count=1))[0] for seed in range(100))
    assert len(firsts) > 20


def test_no_rows_to_train_on(tmp_path: Path):
    empty = Rows(Dataset.from_dict({name: [] for name in FEATURES}, features=FEATURES))
    with pytest.raises(UserError, match="no rows"):
        train_batches(empty, 4, seed=0)
    assert list(eval_batches(empty, 4, max_rows=10)) == []


def test_evaluation_is_in_order_and_of_one_shape(rows: Rows):
    batches = list(eval_batches(rows, 8, max_rows=100))
    assert [batch["input_ids"].shape for batch in batches] == [(8, 4)] * 4
    assert numbers(batches) == [*range(30), 0, 0]
    assert (batches[-1]["input_ids"][-2:] == 0).all()
    assert batches[-1]["input_ids"].dtype == np.uint16
    assert numbers(list(eval_batches(rows, 8, max_rows=10))) == [*range(10), 0, 0, 0, 0, 0, 0]


def test_an_iterator_can_be_closed(rows: Rows):
    batches = train_batches(rows, 4, seed=0)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    with pytest.raises(StopIteration):
        next(batches)
