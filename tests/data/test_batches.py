from collections import Counter
from collections.abc import Sequence
from itertools import accumulate, islice
from pathlib import Path

import grain
import numpy as np
import pytest
from datasets import Dataset, Features, List, Value

from electra_jax.data.batches import WHOLE, Rows, Shard, eval_batches, open_rows, train_batches
from electra_jax.data.manifest import Manifest
from electra_jax.errors import UserError

FEATURES = Features(
    {"input_ids": List(Value("uint16"), length=4), "length": Value("int32"), "first_length": Value("int32")}
)


def columns(numbers: Sequence[int]) -> dict[str, list]:
    """Rows whose ids, length and first_length are their number."""
    return {"input_ids": [[n] * 4 for n in numbers], "length": list(numbers), "first_length": list(numbers)}


def make_rows(folder: Path, *sizes: int) -> Rows:
    """Folders of rows that are numbered throughout; in chunks of 7."""
    stops = list(accumulate(sizes))
    datasets = []
    for size, stop in zip(sizes, stops, strict=True):
        whole = Dataset.from_dict(columns(range(stop - size, stop)), features=FEATURES)
        cache = str(folder / f"{stop}.arrow")
        datasets.append(whole.map(lambda row: row, writer_batch_size=7, cache_file_name=cache))
    return Rows(*datasets)


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    return make_rows(tmp_path, 30)


@pytest.fixture
def mixed(tmp_path: Path) -> Rows:
    """Three folders: rows 0 to 19, 20 to 29 and 30 to 64."""
    return make_rows(tmp_path, 20, 10, 35)


def take(
    rows: Rows,
    batch_size: int,
    seed: int,
    first_step: int,
    count: int,
    shard: Shard = WHOLE,
    weights: Sequence[float] = (),
) -> list[dict[str, np.ndarray]]:
    return list(islice(train_batches(rows, batch_size, seed, first_step, shard, weights), count))


def numbers(batches: list[dict[str, np.ndarray]]) -> list[int]:
    return [int(number) for batch in batches for number in batch["length"]]


def test_rows_are_found_in_their_chunks(rows: Rows):
    assert len(rows.column_chunks("length")) > 3
    wanted = [29, *range(30), 6, 7]
    assert rows.take(wanted)["length"].tolist() == wanted
    assert rows.take(wanted)["input_ids"][:, 3].tolist() == wanted
    assert rows.take([])["input_ids"].shape == (0, 4)
    for outside in (-1, 30):
        with pytest.raises(IndexError, match=f"row {outside} of 30"):
            rows.take([2, outside])


def test_columns_are_views(rows: Rows):
    assert not any(chunk.flags.owndata for name in FEATURES for chunk in rows.column_chunks(name))


def test_folders_lie_one_after_the_other(tmp_path: Path):
    rows = Rows(*(Dataset.from_dict(columns(some), features=FEATURES) for some in ([], range(9), [], range(9, 14))))
    assert (rows.sizes, len(rows)) == ((0, 9, 0, 5), 14)
    assert rows.take(range(14))["length"].tolist() == list(range(14))


def test_shapes_and_types(prepared: tuple[Path, Manifest]):
    batch = next(train_batches(open_rows([prepared[0]], "train"), 16, seed=0, first_step=0))
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


@pytest.mark.parametrize("seed", [0, 5, 2**32 - 1])
def test_one_folder_is_shuffled_and_repeated_by_grain(rows: Rows, seed: int):
    key = int(np.random.SeedSequence((seed, 0)).generate_state(1)[0])
    theirs = grain.MapDataset.range(30).shuffle(seed=key).repeat().batch(7, drop_remainder=True)
    assert numbers(take(rows, 7, seed, first_step=3, count=20)) == [n for step in range(3, 23) for n in theirs[step]]


def test_an_epoch_is_none_of_another_seed(rows: Rows):
    epochs = [numbers(take(rows, 6, seed, first_step=5 * epoch, count=5)) for seed in range(3) for epoch in range(4)]
    assert all(sorted(epoch) == list(range(30)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == len(epochs)


@pytest.mark.parametrize("first_step", [1, 5, 100])
def test_a_batch_is_a_function_of_its_step(rows: Rows, first_step: int):
    whole = take(rows, 7, seed=5, first_step=0, count=first_step + 4)
    assert numbers(take(rows, 7, seed=5, first_step=first_step, count=4)) == numbers(whole[first_step:])


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("first_step", [0, 6])
@pytest.mark.parametrize("batch_size", [4, 12])
def test_shards_are_the_batch_in_parts(mixed: Rows, count: int, first_step: int, batch_size: int):
    whole = take(mixed, batch_size, 1, first_step, 12)
    shards = [take(mixed, batch_size, 1, first_step, 12, Shard(index, count)) for index in range(count)]
    assert {len(batch["length"]) for shard in shards for batch in shard} == {batch_size // count}
    for batch, *parts in zip(whole, *shards, strict=True):
        for name in batch:
            np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), batch[name])


@pytest.mark.parametrize("count", [2, 3])
def test_shards_of_resumed_processes_hold_each_row_once_an_epoch(rows: Rows, count: int):
    before = [take(rows, 6, 1, 0, 2, Shard(index, count)) for index in range(count)]
    after = [take(rows, 6, 1, 2, 3, Shard(index, count)) for index in range(count)]
    assert sorted(numbers([batch for shard in before + after for batch in shard])) == list(range(30))


@pytest.mark.parametrize("count", [1, 2, 4])
def test_shards_of_an_evaluation_are_its_batches_in_parts(mixed: Rows, count: int):
    shards = [list(eval_batches(mixed, 8, 50, Shard(index, count))) for index in range(count)]
    for batch, *parts in zip(eval_batches(mixed, 8, 50), *shards, strict=True):
        for name in batch:
            np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), batch[name])


def given_by(rows: Rows, order: Sequence[int]) -> list[list[int]]:
    """The rows of `order` that each folder gave."""
    stops = list(accumulate(rows.sizes))
    return [[n for n in order if stop - size <= n < stop] for size, stop in zip(rows.sizes, stops, strict=True)]


@pytest.mark.parametrize("weights", [(0.7, 0.2, 0.1), (1, 2, 1), (1e-3, 5.0, 1 / 3), (1 / 3, 2e9, 2e9)])
def test_the_shares_of_a_mixture_are_its_weights(weights: tuple[float, ...]):
    folders = (range(4000), range(4000, 6000), range(6000, 13_000))  # grain draws from few rows slowly
    rows = Rows(*(Dataset.from_dict(columns(some), features=FEATURES) for some in folders))
    order = numbers(take(rows, 64, 0, 0, 100, weights=weights))
    for length in (64, 1000, len(order)):
        found = [len(given) for given in given_by(rows, order[:length])]
        expected = [length * weight / sum(weights) for weight in weights]
        assert found == pytest.approx(expected, abs=len(weights) - 1)


def test_without_weights_an_epoch_of_the_mixture_is_one_of_each_folder(mixed: Rows):
    order = numbers(take(mixed, 13, 0, 0, 15))
    epochs = [order[start : start + 65] for start in range(0, 195, 65)]
    assert all(sorted(epoch) == list(range(65)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_each_folder_gives_all_its_rows_before_it_gives_one_again(mixed: Rows):
    order = numbers(take(mixed, 8, 2, 0, 60, weights=(0.5, 0.3, 0.2)))
    for given, size in zip(given_by(mixed, order), mixed.sizes, strict=True):
        epochs = [given[start : start + size] for start in range(0, len(given) - size + 1, size)]
        assert len(epochs) > 1
        assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs)
        assert all(len(set(epoch)) == size for epoch in epochs)
        assert epochs[0] != epochs[1]


@pytest.mark.parametrize("first_step", [1, 5, 100])
def test_a_batch_of_a_mixture_is_a_function_of_its_step(mixed: Rows, first_step: int):
    weights = (0.5, 0.3, 0.2)
    whole = take(mixed, 7, 5, 0, first_step + 4, weights=weights)
    assert numbers(take(mixed, 7, 5, first_step, 4, weights=weights)) == numbers(whole[first_step:])


def test_folders_of_equal_size_have_orders_of_their_own(tmp_path: Path):
    order = numbers(take(make_rows(tmp_path, 30, 30), 12, 0, 0, 10))
    first, second = order[::2], [n - 30 for n in order[1::2]]
    assert sorted(first[:30]) == sorted(second[:30]) == list(range(30))
    assert first != second
    assert first[30:] != second[:30]


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
    with pytest.raises(UserError, match="no rows"):
        train_batches(make_rows(tmp_path, 3, 0), 4, seed=0)
    assert list(eval_batches(empty, 4, max_rows=10)) == []


def test_evaluation_is_in_order_and_of_one_shape(rows: Rows):
    batches = list(eval_batches(rows, 8, max_rows=100))
    assert [batch["input_ids"].shape for batch in batches] == [(8, 4)] * 4
    assert numbers(batches) == [*range(30), 0, 0]
    assert (batches[-1]["input_ids"][-2:] == 0).all()
    assert batches[-1]["input_ids"].dtype == np.uint16
    assert numbers(list(eval_batches(rows, 8, max_rows=10))) == [*range(10), 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(("max_rows", "taken"), [(100, (20, 10, 35)), (13, (4, 2, 7)), (1, (0, 0, 1))])
def test_evaluation_takes_rows_of_each_folder(mixed: Rows, max_rows: int, taken: tuple[int, ...]):
    found = numbers(list(eval_batches(mixed, 1, max_rows)))
    assert found == [start + i for start, count in zip((0, 20, 30), taken, strict=True) for i in range(count)]


def test_an_iterator_can_be_closed(rows: Rows):
    batches = train_batches(rows, 4, seed=0)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    with pytest.raises(StopIteration):
        next(batches)
