"""Batches of like lengths: all examples, few shapes, little padding."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from electra_jax.finetuning.buckets import (
    MOST_BUCKETS,
    PADDING,
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


@pytest.mark.parametrize("name", REALISTIC)
def test_batches_have_under_a_tenth_of_padding_and_few_shapes(name: str) -> None:
    lengths = REALISTIC[name]
    buckets = fit_buckets(lengths, len(lengths) // 32)
    plans = train_plans(lengths, buckets, 32, seed=0, epoch=0)
    assert padding_share(lengths, plans) < 0.10
    assert len({plan.length for plan in plans}) <= MOST_BUCKETS
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
