"""Figures of speed: what a record's are counted of."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

from electra_jax.config import OptimizerConfig
from electra_jax.train import clock, flops
from electra_jax.train.clock import Clock
from electra_jax.train.optimizer import make_optimizer
from electra_jax.train.pretrain import Trainer


def test_a_lap_is_of_the_steps_since_the_last_and_the_first_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([100.0, 103.0, 103.0, 104.0, 104.0, 104.0])
    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=lambda: next(now)))
    ours = Clock()
    for _ in range(1 + 6):  # the first, which compiles, ends at 100
        ours.tick(jnp.zeros(()))
    assert ours.lap() == 0.5
    for _ in range(2):
        ours.tick(jnp.zeros(()))
    assert ours.lap() == 0.5
    assert ours.lap() == 0.0  # of no step
    assert ours.seconds_a_step == 0.5


def test_the_peak_is_that_of_the_quickest_product_on_all_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 0.0, 0.0, 0.2, 0.2, 0.2, 0.25, 0.4])
    monkeypatch.setattr(flops, "time", SimpleNamespace(perf_counter=lambda: next(now)))
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    assert flops.measure_peak("float32") == pytest.approx(8 * 2 * 1024**3 / 0.05)


def test_speed_is_of_a_good_steps_tokens_and_operations() -> None:
    rates = {0: 0.1, 1: 0.2, 2: 0.3}
    trainer: Any = SimpleNamespace(rate=rates.__getitem__, flops=6e9, peak=2e12, _summary=lambda counts: {})
    window = {"steps": jnp.float32(4), "bad_steps": jnp.float32(1), "tokens": jnp.float32(300)}
    lap: Any = SimpleNamespace(lap=lambda: 0.5)
    optimizer = make_optimizer(OptimizerConfig(), 10)
    state = optax.tree.set(optimizer.init({"weight": jnp.zeros(2)}), count=jnp.int32(3))
    record = Trainer._train_record(trainer, window, {"optimizer": state}, lap)
    assert record["tokens_per_second"] == pytest.approx(300 / 3 / 0.5)
    assert record["peak_share"] == pytest.approx(6e9 / 0.5 / 2e12)
    assert record["learning_rate"] == 0.3  # of the last of three updates
