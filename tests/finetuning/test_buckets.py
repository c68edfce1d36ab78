"""Batches of like lengths: all examples, few shapes, little padding."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from electra_jax.finetuning.buckets import (
    MOST_BUCKETS,
    PADDING,
    Plan,
    eval_plans,
    fit_buckets,
    fixed_buckets,
    padding_share,
    train_plans,
)

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=40).map(np.array)
RNG = np.random.default_rng(0)
REALISTIC = {
    "uniform": RNG.integers(3, 129, 5000),
    "log-normal": np.clip(RNG.lognormal(3.5, 0.8, 5000).astype(int), 3, 128),
    "short": np.clip(RNG.poisson(12, 5000), 3, 128),
    "long": np.clip(RNG.lognormal(5, 0.8, 5000).astype(int), 3, 512),
    "mostly cut": np.minimum(RNG.lognormal(5, 0.7, 5000).astype(int) + 3, 128),
}


def waste(lengths: np.ndarray, buckets: tuple[int, ...]) -> int:
    return int(np.sum(np.array(buckets)[np.searchsorted(buckets, lengths)] - lengths))


@given(lengths=LENGTHS, batches=st.integers(1, 20))
def test_every_length_has_a_bucket(lengths: np.ndarray, batches: int) -> None:
    buckets = fit_buckets(lengths, batches)
    assert list(buckets) == sorted(set(buckets))
    assert buckets[-1] == lengths.max()
    assert len(buckets) <= min(MOST_BUCKETS, batches)


@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=12).map(np.array), batches=st.integers(1, 5))
def test_no_other_buckets_of_that_number_waste_less(lengths: np.ndarray, batches: int) -> None:
    buckets = fit_buckets(lengths, batches)
    others = combinations(sorted(set(lengths.tolist()) - {int(lengths.max())}), len(buckets) - 1)
    assert waste(lengths, buckets) == min(waste(lengths, (*some, int(lengths.max()))) for some in others)


@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=12).map(np.array))
def test_fewer_buckets_would_leave_too_much_padding(lengths: np.ndarray) -> None:
    buckets = fit_buckets(lengths, MOST_BUCKETS)
    longest = int(lengths.max())
    assert waste(lengths, buckets) <= PADDING / (1 - PADDING) * lengths.sum()
    for some in combinations(sorted(set(lengths.tolist()) - {longest}), max(0, len(buckets) - 2)):
        if len(buckets) > 1:
            assert waste(lengths, (*some, longest)) > PADDING / (1 - PADDING) * lengths.sum()


def test_padding_is_counted_in_the_rows_of_examples() -> None:
    plans = [Plan(np.array([0, 1]), 5), Plan(np.array([2]), 10)]
    assert padding_share(np.array([3, 5, 8]), plans) == pytest.approx(1 - 16 / 20)


@pytest.mark.parametrize("name", REALISTIC)
@pytest.mark.parametrize("batch_size", [16, 32])
def test_batches_have_under_a_tenth_of_padding_and_few_shapes(name: str, batch_size: int) -> None:
    lengths = REALISTIC[name]
    buckets = fit_buckets(lengths, -(-len(lengths) // batch_size))
    for epoch in range(3):
        plans = train_plans(lengths, buckets, batch_size, seed=0, epoch=epoch)
        assert padding_share(lengths, plans) < 0.10
        assert {plan.length for plan in plans} <= set(buckets)
    assert len(buckets) <= MOST_BUCKETS
    assert waste(lengths, buckets) <= PADDING / (1 - PADDING) * lengths.sum() or len(buckets) == MOST_BUCKETS


@given(lengths=LENGTHS, batch_size=st.integers(1, 9), seed=st.integers(0, 5), epoch=st.integers(0, 3))
def test_an_epoch_has_every_example_once(lengths: np.ndarray, batch_size: int, seed: int, epoch: int) -> None:
    plans = train_plans(lengths, fit_buckets(lengths, 4), batch_size, seed, epoch)
    assert sorted(np.concatenate([plan.indices for plan in plans]).tolist()) == list(range(len(lengths)))
    assert all(lengths[plan.indices].max() <= plan.length for plan in plans)
    assert sorted(len(plan.indices) for plan in plans)[1:] == [batch_size] * (len(plans) - 1)


def test_seed_and_epoch_alone_decide_the_order() -> None:
    lengths = REALISTIC["uniform"][:300]
    buckets = fit_buckets(lengths, 10)

    def order(seed: int, epoch: int) -> bytes:
        return np.concatenate([plan.indices for plan in train_plans(lengths, buckets, 32, seed, epoch)]).tobytes()

    assert order(0, 0) == order(0, 0)
    assert len({order(0, 0), order(0, 1), order(1, 0)}) == 3


@given(lengths=LENGTHS, batch_size=st.integers(1, 9))
def test_an_evaluation_has_every_example_once(lengths: np.ndarray, batch_size: int) -> None:
    plans = eval_plans(lengths, fixed_buckets(60), batch_size)
    assert sorted(np.concatenate([plan.indices for plan in plans]).tolist()) == list(range(len(lengths)))
    assert all(lengths[plan.indices].max() <= plan.length for plan in plans)
    assert sorted(len(plan.indices) for plan in plans)[1:] == [batch_size] * (len(plans) - 1)
    assert (np.diff(lengths[np.concatenate([plan.indices for plan in plans])]) >= 0).all()


def test_any_two_examples_of_a_length_meet_as_often_as_chance_has_it() -> None:
    epochs, size = 300, 8
    lengths = np.full(64, 20)
    met = np.zeros(64)
    for epoch in range(epochs):
        plans = train_plans(lengths, (20,), size, seed=1, epoch=epoch)
        (batch,) = [plan.indices for plan in plans if 0 in plan.indices]
        met[batch] += 1
    chance = (size - 1) / (len(lengths) - 1)
    assert met[0] == epochs
    assert np.abs(met[1:] - epochs * chance).max() < 5 * np.sqrt(epochs * chance * (1 - chance))


def test_short_and_long_batches_are_mixed_over_an_epoch() -> None:
    lengths, epochs = np.repeat([10, 20], 160), 200
    places = [
        np.flatnonzero([plan.length == 20 for plan in train_plans(lengths, (10, 20), 8, seed=2, epoch=epoch)]).mean()
        for epoch in range(epochs)
    ]
    deviation = np.sqrt((40 + 1) * (40 - 20) / (12 * 20))  # of the mean of 20 of 40 places, none drawn twice
    assert abs(np.mean(places) - 19.5) < 4 * deviation / np.sqrt(epochs)
    assert np.std(places) == pytest.approx(deviation, rel=0.25)
