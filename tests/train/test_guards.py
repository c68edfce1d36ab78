"""What a run does when a step goes wrong, when it is told to stop, and what it keeps beside the parameters."""

import dataclasses
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import micro
import numpy as np
import pytest

from electra_jax.config import OptimizerConfig, PretrainConfig
from electra_jax.data.batches import eval_batches
from electra_jax.data.manifest import Manifest
from electra_jax.data.rows import open_rows
from electra_jax.errors import RunError, UserError
from electra_jax.hub.names import flat
from electra_jax.objectives.masking import SpecialTokens
from electra_jax.objectives.metrics import summarize
from electra_jax.presets import to_toml
from electra_jax.train.optimizer import Params, updates_made
from electra_jax.train.pretrain import pretrain
from electra_jax.train.processes import parse_time
from electra_jax.train.run import restore_params
from electra_jax.train.sharding import make_mesh
from electra_jax.train.step import Batch, State, init_params, init_state, make_evaluation, make_step


def batch_of(config: PretrainConfig, rows: Path) -> Batch:
    return open_rows([rows], "train").take(range(config.batch_size))


@cache
def step_of(config: PretrainConfig, rows: Path) -> jax.stages.Wrapped:
    manifest = Manifest.read(rows)
    special = SpecialTokens(manifest.cls_id, manifest.sep_id, manifest.mask_id)
    return jax.jit(make_step(config, special, make_mesh(None, config.batch_size)))


def poisoned(state: State, value: float) -> State:
    """The state with one number of a table that isn't finite."""
    word = state["params"]["embeddings"]["word"].at[5, 0].set(value)
    return state | {"params": state["params"] | {"embeddings": state["params"]["embeddings"] | {"word": word}}}


@pytest.mark.parametrize(("value", "optimizer"), [(np.nan, "adam"), (np.inf, "adam"), (np.nan, "lamb")])
def test_a_bad_step_changes_nothing_and_is_counted(value: float, optimizer: str, rows: Path) -> None:
    settings = OptimizerConfig(name=optimizer)
    config = micro.make_config(rows, Path("out"), ema_decay=0.9, max_bad_steps=2, optimizer=settings)
    step, batch = step_of(config, rows), batch_of(config, rows)
    good, _ = step(init_state(config, init_params(config)), batch)

    state = before = poisoned(good, value)
    for number in (1, 2):
        state, counts = step(state, batch)
        assert (int(state["step"]), int(state["bad_steps"])) == (1 + number, number)
        assert (float(counts["bad_steps"]), float(counts["mlm_sum"])) == (1.0, 0.0)
    last, counts = step(state, batch)

    assert (int(last["step"]), int(last["bad_steps"]), float(counts["steps"])) == (3, 2, 0.0)  # it waits to be noticed
    assert int(updates_made(last["optimizer"])) == 1  # by which the schedule goes on
    for name in ("params", "optimizer", "ema"):
        kept, given = (flat({"root": tree[name]}) for tree in (last, before))
        assert all(np.array_equal(kept[path], given[path], equal_nan=True) for path in given), name


def test_a_good_step_ends_a_row_of_bad_ones(rows: Path) -> None:
    config = micro.make_config(rows, Path("out"), ema_decay=0.9, max_bad_steps=2)
    step, batch = step_of(config, rows), batch_of(config, rows)
    fresh = init_state(config, init_params(config))
    bad, _ = step(poisoned(fresh, np.nan), batch)
    assert int(bad["bad_steps"]) == 1
    good, counts = step(bad | {"params": fresh["params"]}, batch)
    assert int(good["bad_steps"]) == 0
    assert float(counts["bad_steps"]) == 0.0


def test_a_run_that_diverges_stops_and_names_the_step_and_its_rows(rows: Path, tmp_path: Path) -> None:
    diverging = OptimizerConfig(learning_rate=1e38, warmup_steps=1, weight_decay=0.0)
    config = micro.make_config(rows, tmp_path / "run", optimizer=diverging, max_bad_steps=3, log_every=1)
    with pytest.raises(RunError, match=r"/run: steps 3 to 5 had a loss or gradient that isn't finite.* rows \d+, "):
        pretrain(config)
    *_, last = micro.records(config.out)
    assert last.keys() == {"kind", "step", "learning_rate", "bad_steps"}  # there is nothing to take a mean of
    assert last["bad_steps"] == 1.0
    assert not any(path.is_dir() and path.name.isdecimal() for path in (config.out / "checkpoints").iterdir())


def test_what_may_be_going_wrong_is_not_saved(rows: Path, tmp_path: Path) -> None:
    """It would push out what was saved before; and the line names what is there to start another run from."""
    diverging = OptimizerConfig(learning_rate=1e30, warmup_steps=1, weight_decay=0.0, name="adamw")
    config = micro.make_config(rows, tmp_path / "run", steps=40, optimizer=diverging, max_bad_steps=10)
    config = dataclasses.replace(config, checkpoint_every=1, checkpoints_kept=1)
    with pytest.raises(RunError, match=r"more warmup_steps; --init-from .*/run takes what was learned by step \d+$"):
        pretrain(config)
    (newest,) = (int(path.name) for path in (config.out / "checkpoints").iterdir() if path.name.isdecimal())
    assert micro.saved_state(config.out, newest)["bad_steps"] == 0


def test_the_average_is_that_of_the_parameters_and_is_what_is_exported(rows: Path, tmp_path: Path) -> None:
    config = micro.make_config(rows, tmp_path / "run", ema_decay=0.75, steps=3, checkpoint_every=1, checkpoints_kept=9)
    pretrain(config)
    expected = flat(jax.device_get(init_params(config)))
    for step in (1, 2, 3):
        saved = micro.saved_state(config.out, step)
        expected = {path: 0.75 * value + 0.25 * saved[f"params/{path}"] for path, value in expected.items()}
    _, exported = restore_params(config.out)
    for path, leaf in flat(exported).items():
        np.testing.assert_allclose(leaf, expected[path], rtol=1e-5, atol=1e-7)
    *_, evaluated = micro.records(config.out)
    assert evaluated["loss"] == pytest.approx(held_out_loss(config, exported), rel=1e-5)


def held_out_loss(config: PretrainConfig, params: Params) -> float:
    """Of all held-out batches, each with masks and samples of its own."""
    manifest = Manifest.read(config.data[0])
    special = SpecialTokens(manifest.cls_id, manifest.sep_id, manifest.mask_id)
    evaluate = jax.jit(make_evaluation(config, special, make_mesh(None, config.batch_size)))
    batches = eval_batches(open_rows(config.data, "eval"), config.batch_size, config.eval_rows)
    counts = [evaluate(params, batch, jnp.int32(i)) for i, batch in enumerate(batches)]
    return summarize(jax.tree.map(lambda *parts: sum(parts), *counts), config.objective)["loss"]


def test_the_best_checkpoint_stays(rows: Path, tmp_path: Path) -> None:
    rising = OptimizerConfig(learning_rate=3e-2, warmup_steps=1, b2=0.9)  # learns, then goes to pieces
    config = micro.make_config(rows, tmp_path / "run", steps=16, eval_every=2, checkpoint_every=2, optimizer=rising)
    pretrain(dataclasses.replace(config, checkpoints_kept=9))
    config = dataclasses.replace(config, steps=20, keep_best=True, checkpoints_kept=1)  # which is asked for later
    pretrain(config)
    held_out = {line["step"]: line["loss"] for line in micro.records(config.out) if line["kind"] == "eval"}
    steps = {int(path.name) for path in (config.out / "checkpoints").iterdir() if path.name.isdecimal()}
    best = min(held_out, key=lambda step: held_out[step])
    assert best <= 16
    assert steps == {best, config.steps}


# --- told to stop -------------------------------------------------------------------------------------------------


def run_slowly(config: PretrainConfig, folder: Path, *options: str) -> subprocess.Popen[str]:
    """The command of a run of a million steps."""
    preset = folder / "preset.toml"
    preset.write_text(to_toml(dataclasses.replace(config, steps=1_000_000, checkpoint_every=1_000_000)))
    arguments = [sys.executable, "-m", "electra_jax", "pretrain", "--config", str(preset), *options]
    return subprocess.Popen(arguments, env=micro.environment(), stderr=subprocess.PIPE, text=True)


def wait_for_steps(run: Path, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 120
    while not (run / "metrics.jsonl").exists() or not micro.records(run):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.05)


def saved_steps(run: Path) -> list[int]:
    return [int(path.name) for path in (run / "checkpoints").iterdir() if path.name.isdecimal()]


def test_sigterm_saves_what_the_same_command_goes_on_from(rows: Path, tmp_path: Path) -> None:
    config = micro.make_config(rows, tmp_path / "run")
    process = run_slowly(config, tmp_path)
    wait_for_steps(config.out, process)
    process.send_signal(signal.SIGTERM)
    written = process.communicate(timeout=60)[1]
    (step,) = saved_steps(config.out)
    assert process.returncode == 75
    assert f"saved at step {step}; run the same command again to go on" in written


def test_a_time_limit_saves_and_stops(rows: Path, tmp_path: Path) -> None:
    config = micro.make_config(rows, tmp_path / "run")
    process = run_slowly(config, tmp_path, "--max-time", "3s")
    written = process.communicate(timeout=120)[1]
    (step,) = saved_steps(config.out)
    assert process.returncode == 75
    assert f"saved at step {step}" in written


@pytest.mark.parametrize(
    ("text", "seconds"), [("23:50:00", 85800), ("1:30", 90), ("90m", 5400), ("2h", 7200), ("1.5d", 129600), ("30s", 30)]
)
def test_times(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "1:2:3:4", "soon", "-1h", "0s", "90", "nans"])
def test_what_is_no_time_is_told(text: str) -> None:
    with pytest.raises(UserError, match=r"max_time: .* is no time"):
        parse_time(text)
