"""Fine-tuning by this package and by the PyTorch Trainer in turn: examples a second, and accuracy.

    python tools/bench_finetune.py MODEL TRAIN.csv TEST.csv [--rounds 3 --epochs 3 ...]

Both start from the same folder, see the same examples in batches of the same size, and use the same threads. Whole
processes are timed, each after the other's, so start and compilation count; the rates of training alone stand beside.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro
from tyro.conf import Positional

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Arguments:
    """What is compared, and how often."""

    model: Positional[Path]
    train: Positional[Path]
    test: Positional[Path]
    rounds: int = 3
    epochs: float = 3
    learning_rate: float = 5e-4
    layer_decay: float = 1.0
    """Of this package; the Trainer has none."""
    batch_size: int = 32
    length: int = 128
    """Most tokens of an example, in both."""


@dataclass(frozen=True)
class Round:
    """One process."""

    seconds: float
    """From start to end."""
    rate: float
    """Examples a second in training."""
    accuracy: float
    """On the test examples."""


def main(arguments: Arguments) -> None:
    """Take turns, and print the medians and their ratio."""
    rounds: dict[str, list[Round]] = {"electra_jax": [], "transformers": []}
    for seed in range(arguments.rounds):
        for name, run in (("electra_jax", ours), ("transformers", theirs)):
            rounds[name].append(run(arguments, seed))
            print(name, rounds[name][-1], flush=True)
    medians = {
        name: {what: statistics.median(getattr(r, what) for r in some) for what in ("seconds", "rate", "accuracy")}
        for name, some in rounds.items()
    }
    print(json.dumps(medians, indent=2))
    us, them = medians["electra_jax"], medians["transformers"]
    whole, training = them["seconds"] / us["seconds"], us["rate"] / them["rate"]
    print(f"electra_jax is {whole:.2f} times as fast as a whole process, and {training:.2f} times in training")


def ours(arguments: Arguments, seed: int) -> Round:
    """`electra-jax finetune`, scored on the test examples at the end."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        options = {
            "--model": arguments.model,
            "--train": arguments.train,
            "--eval": arguments.test,
            "--out": out,
            "--epochs": arguments.epochs,
            "--learning-rate": arguments.learning_rate,
            "--layer-decay": arguments.layer_decay,
            "--batch-size": arguments.batch_size,
            "--length": arguments.length,
            "--optimizer": "adamw",
            "--seed": seed,
            "--eval-every": 10**9,  # at the end, as the other does
        }
        words = [str(word) for option in options.items() for word in option]
        seconds = _time([sys.executable, "-m", "electra_jax", "finetune", *words])
        scores = json.loads((out / "scores.json").read_text())["seeds"][0]["scores"]
        lines = (out / "seeds" / str(seed) / "metrics.jsonl").read_text().splitlines()
        rates = [r["examples_per_second"] for r in map(json.loads, lines) if "examples_per_second" in r]
        return Round(seconds, statistics.median(rates), scores["accuracy"])


def theirs(arguments: Arguments, seed: int) -> Round:
    """tools/hf_trainer.py."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        paths = [str(path) for path in (arguments.model, arguments.train, arguments.test, out)]
        options = ["--epochs", arguments.epochs, "--learning-rate", arguments.learning_rate, "--seed", seed]
        options += ["--batch-size", arguments.batch_size, "--length", arguments.length]
        options += ["--threads", len(os.sched_getaffinity(0))]  # as many as XLA takes
        seconds = _time([sys.executable, str(HERE / "hf_trainer.py"), *paths, *map(str, options)])
        result = json.loads(out.read_text())
        return Round(seconds, result["examples_per_second"], result["accuracy"])


def _time(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    main(tyro.cli(Arguments))
