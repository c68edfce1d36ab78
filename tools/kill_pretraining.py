"""Pretraining that is killed (kill -9) at random moments, again and again, against one that is not.

    python tools/kill_pretraining.py ROWS FOLDER [--kills 20 --steps 400 --config tiny ...]

After each kill the newest checkpoint must be whole, and no older than before. In the end both runs must have the same
parameters, optimiser state and metrics to the last bit: then no row was skipped or read twice either. Checkpoints are
made so often that most kills fall into a save.
"""

import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from tyro.conf import Positional

from electra_jax.hub.names import flat
from electra_jax.report.sinks import read_metrics
from electra_jax.train.checkpoint import Checkpoints

IN_TRAINING = 0.8  # of the kills; the others fall into starting, compiling and restoring
SPEED = ("tokens_per_second", "peak_share")


@dataclass(frozen=True)
class Arguments:
    """What is killed, and how often."""

    rows: Positional[Path]
    """A folder that `electra-jax prepare` wrote."""
    folder: Positional[Path]
    """A new folder for both runs."""
    kills: int = 20
    steps: int = 400
    checkpoint_every: int = 3
    config: str = "tiny"
    options: tuple[str, ...] = ()
    """More of the command's, as --batch-size=8."""
    seed: int = 0


def main(arguments: Arguments) -> None:
    """Run both, kill one, compare."""
    whole, killed = arguments.folder / "whole", arguments.folder / "killed"
    begun, took = finish(arguments, whole)
    share = (took - begun) / arguments.kills  # of the training, so that the run outlives all kills
    rng, newest = random.Random(arguments.seed), 0
    for kill in range(arguments.kills):
        in_training = rng.random() < IN_TRAINING
        moment = rng.uniform(0, 2 * share if in_training else begun)
        if not kill_after(arguments, killed, moment, in_training):
            sys.exit(f"the run ended before kill {kill + 1}; give more --steps")
        before, newest = newest, newest_checkpoint(killed)
        when = "of training" if in_training else "of starting"
        print(f"kill {kill + 1} after {moment:.1f} s {when}: checkpoint {newest}", flush=True)
        if newest < before:
            sys.exit(f"{killed}: checkpoint {before} is lost")
    finish(arguments, killed)
    compare(whole, killed, arguments.steps)
    same = f"parameters, optimizer state and metrics of step {arguments.steps} are the same bits"
    print(f"{arguments.kills} kills: {same}")


def run(arguments: Arguments, out: Path) -> subprocess.Popen[str]:
    """Start the command; it goes on where the last one was killed."""
    options = ["--config", arguments.config, "--data", str(arguments.rows), "--out", str(out)]
    options += ["--steps", str(arguments.steps), "--checkpoint-every", str(arguments.checkpoint_every)]
    options += ["--log-every", "1", *arguments.options]
    command = [sys.executable, "-m", "electra_jax", "pretrain", *options]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def finish(arguments: Arguments, out: Path) -> tuple[float, float]:
    """Run to the end; returns the seconds until its first metrics, and until its end."""
    start, process = time.perf_counter(), run(arguments, out)
    while process.poll() is None and not ((out / "metrics.jsonl").exists() and metrics(out)):
        time.sleep(0.1)
    begun = time.perf_counter() - start
    written = process.communicate()[1]
    if process.returncode:
        sys.exit(written)
    return begun, time.perf_counter() - start


def kill_after(arguments: Arguments, out: Path, seconds: float, in_training: bool) -> bool:
    """Kill the run so long after its start, or that of its training; False where it ended before."""
    before, process = written_at(out), run(arguments, out)
    while in_training and process.poll() is None and written_at(out) == before:
        time.sleep(0.05)
    try:
        written = process.communicate(timeout=seconds)[1]
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return True
    if process.returncode:
        sys.exit(written)
    return False


def written_at(out: Path) -> float:
    """When the metrics were written last; training begins with it."""
    file = out / "metrics.jsonl"
    return file.stat().st_mtime if file.exists() else 0.0


def newest_checkpoint(out: Path) -> int:
    """The step of the newest checkpoint, which must be readable as a whole; 0 where there is none yet."""
    if not (out / "checkpoints").is_dir():
        return 0
    with Checkpoints(out / "checkpoints") as checkpoints:
        step = checkpoints.latest()
    if step is None:
        return 0
    saved(out, step)
    return step


def saved(out: Path, step: int) -> dict[str, np.ndarray]:
    """Every array of a checkpoint."""
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with Checkpoints(out / "checkpoints") as checkpoints:
        shapes = dict(checkpoints.manager.item_metadata(step)["state"])
        places = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=here), shapes)
        return {path: np.asarray(leaf) for path, leaf in flat(checkpoints.restore(step, places)).items()}


def metrics(out: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without the figures of speed."""
    lines = read_metrics(out / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name not in SPEED} for line in lines]


def compare(whole: Path, killed: Path, step: int) -> None:
    """End with what differs, if anything does."""
    left, right = saved(whole, step), saved(killed, step)
    differing = [path for path in left.keys() | right.keys() if left[path].tobytes() != right[path].tobytes()]
    if differing:
        sys.exit(f"arrays that differ after the kills: {', '.join(sorted(differing))}")
    if metrics(whole) != metrics(killed):
        sys.exit("the metrics differ after the kills")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
