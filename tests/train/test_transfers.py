"""Between records a step costs the host nothing but its launch: nothing is compiled, read back or waited for.

What is seen: compilations, by JAX's own events; implicit copies to the device, by `jax.transfer_guard`; and values that
Python reads (float, int, bool, item, tolist, str, device_get) or waits for (block_until_ready). On a CPU the guard lets
reads pass, since nothing is copied, and `numpy.asarray` takes the array's memory unseen; on a GPU the guard sees both.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import pytest
from jax._src.array import ArrayImpl

from electra_jax.config import PretrainConfig
from electra_jax.train.cache import compile_now
from electra_jax.train.pretrain import Trainer, pretrain
from electra_jax.train.step import State

STEPS = 12
STEP, COMPILED, READ = "step", "compiled", "read"
READERS = ("__array__", "item", "tolist", "block_until_ready", "copy_to_host_async")


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What happens, in order: each step's launch, each compilation, each read or wait."""
    events: list[str] = []

    def watched(function: Callable, *arguments: Any, **named: Any) -> Any:
        events.append(READ)
        return function(*arguments, **named)

    def compiled(name: str, *_: object, **__: object) -> None:
        if name == "/jax/core/compile/backend_compile_duration":
            events.append(COMPILED)

    for name in READERS:
        reader = getattr(ArrayImpl, name)
        monkeypatch.setattr(ArrayImpl, name, lambda self, *a, _f=reader, **k: watched(_f, self, *a, **k))
    monkeypatch.setattr(ArrayImpl, "_value", property(partial(watched, ArrayImpl._value.fget)))  # type: ignore[attr-defined]
    monkeypatch.setattr(jax, "block_until_ready", partial(watched, jax.block_until_ready))
    monkeypatch.setattr("electra_jax.train.kept.compile_now", noting_steps(compile_now, events))
    jax.monitoring.register_event_duration_secs_listener(compiled)
    yield events
    jax.config.update("jax_transfer_guard", None)
    jax.monitoring.unregister_event_duration_listener(compiled)


def noting_steps(compile_now: Callable, events: list[str]) -> Callable:
    """`compile_now`, of a step that is noted at each launch; those between the first and the last are guarded."""

    def compile_noting(*arguments: Any, **options: Any) -> Callable:
        step = compile_now(*arguments, **options)

        def noted(state: State, batch: Any) -> Any:
            events.append(STEP)
            launched = events.count(STEP)
            jax.config.update("jax_transfer_guard", "disallow" if 1 < launched < STEPS else None)
            return step(state, batch)

        noted.out_info = step.out_info  # type: ignore[attr-defined]
        return noted

    return compile_noting


def settings(finished: PretrainConfig, folder: Path) -> PretrainConfig:
    """A run with nothing due before its last step."""
    return replace(finished, out=folder / "run", steps=STEPS, log_every=STEPS, eval_every=STEPS, checkpoint_every=STEPS)


def between(events: list[str]) -> list[str]:
    """What happened from the second step's launch to the last one's."""
    launches = [i for i, event in enumerate(events) if event == STEP]
    assert len(launches) == STEPS
    return events[launches[1] : launches[-1]]


def slipping(slip: Callable[[Any], object]) -> Callable:
    """`Trainer._start`, with a loop that does something more after each step."""
    start = Trainer._start

    def begin(trainer: Trainer, weights: Any) -> Any:
        adding = trainer.add
        trainer.add = lambda window, counts: (slip(counts), adding(window, counts))[1]  # type: ignore[assignment]
        return start(trainer, weights)

    return begin


def test_between_records_steps_are_only_launched(finished: PretrainConfig, seen: list[str], tmp_path: Path) -> None:
    pretrain(settings(finished, tmp_path))
    assert between(seen) == [STEP] * (STEPS - 2)
    assert {COMPILED, READ} <= set(seen)  # at the start and at the record, so both would have been seen


@pytest.mark.parametrize(
    ("slip", "event"),
    [
        (lambda counts: float(counts["tokens"]), READ),
        (lambda counts: jax.device_get(counts), READ),
        (lambda counts: counts["tokens"].item(), READ),
        (lambda counts: jax.block_until_ready(counts), READ),
        (lambda counts: jax.jit(lambda x: x + x)(counts["tokens"]), COMPILED),
    ],
)
def test_a_slip_would_be_seen(
    slip: Callable,
    event: str,
    finished: PretrainConfig,
    seen: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Trainer, "_start", slipping(slip))
    pretrain(settings(finished, tmp_path))
    assert event in between(seen)


def test_a_copy_to_the_device_would_be_refused(
    finished: PretrainConfig, seen: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "_start", slipping(lambda counts: counts["tokens"] + 1))
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        pretrain(settings(finished, tmp_path))
