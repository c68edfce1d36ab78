"""How the cost of our step grows with length, batch and width."""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from benchmark_cells import Turns, calibrate, cell_config, environment, run, spread, start

from electra_jax.config import ComputeConfig, PretrainConfig, TowerConfig
from electra_jax.files import write_text
from electra_jax.presets import to_toml
from electra_jax.train.flops import step_flops

HEAD = 64  # wide


@dataclass(frozen=True)
class Series:
    """One thing that varies while the others stand."""

    about: str
    values: tuple[int, ...]
    make: Callable[[PretrainConfig, int], PretrainConfig]


def with_length(config: PretrainConfig, length: int) -> PretrainConfig:
    """Rows so long, and as many positions as that takes."""
    positions = max(length, config.model.max_position_embeddings)
    return replace(config, length=length, model=replace(config.model, max_position_embeddings=positions))


def with_batch(config: PretrainConfig, rows: int) -> PretrainConfig:
    """So many rows."""
    return replace(config, batch_size=rows)


def with_width(config: PretrainConfig, width: int) -> PretrainConfig:
    """A discriminator so wide, with heads of 64, and a generator of a quarter of it."""

    def tower(before: TowerConfig, hidden: int) -> TowerConfig:
        return TowerConfig(before.num_hidden_layers, hidden, max(1, hidden // HEAD), 4 * hidden)

    model = config.model
    discriminator, generator = tower(model.discriminator, width), tower(model.generator, width // 4)
    return replace(config, model=replace(model, discriminator=discriminator, generator=generator))


SERIES = {
    "length": Series("4 rows", (64, 128, 256, 512, 1024, 2048), lambda c, n: with_length(with_batch(c, 4), n)),
    "batch": Series("rows of 128", (4, 8, 16, 32, 64), with_batch),
    "width": Series("16 rows of 128", (128, 256, 384, 512, 768), with_width),
}


def sweep_config(size: str, attention_dropout: float, compute: ComputeConfig) -> PretrainConfig:
    """What stands while one thing varies."""
    return cell_config(size, 128, 16, attention_dropout, compute)


def measure_series(series: Series, config: PretrainConfig, turns: Turns) -> dict[str, Any]:
    """A series' points, measured in turn, and the power of the value that fits their best seconds."""
    configs = [series.make(config, value) for value in series.values]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        workers = []
        for value, one in zip(series.values, configs, strict=True):
            file = Path(folder) / str(value) / "config.toml"
            file.parent.mkdir()
            write_text(file, to_toml(one))
            workers.append(stack.enter_context(start("ours", file, environment(turns.device, Path(folder)), turns)))
        steps = [calibrate(worker, turns.seconds) for worker in workers]
        rounds = [
            [run(worker, n).seconds for worker, n in zip(workers, steps, strict=True)] for _ in range(turns.rounds)
        ]
        memory = [worker.ask("memory")["peak_bytes"] for worker in workers]
    seconds, flops = [spread(each) for each in zip(*rounds, strict=True)], [step_flops(one) for one in configs]
    names = ("value", "rows", "length", "seconds", "flops", "peak_bytes", "compile_seconds")
    columns = (series.values, (c.batch_size for c in configs), (c.length for c in configs), seconds, flops, memory)
    compiling = (worker.ready["compile_seconds"] for worker in workers)
    points = [dict(zip(names, point, strict=True)) for point in zip(*columns, compiling, strict=True)]
    exponent, factor = fit(series.values, [one["min"] for one in seconds])
    return {
        "about": series.about,
        "exponent": exponent,
        "factor": factor,
        "flops_exponent": fit(series.values, flops)[0],
        "points": points,
    }


def fit(values: Sequence[float], costs: Sequence[float]) -> tuple[float, float]:
    """Exponent and factor of cost = factor * value^exponent, by least squares of the logarithms."""
    exponent, logarithm = np.polyfit(np.log(values), np.log(costs), 1)
    return float(exponent), float(np.exp(logarithm))
