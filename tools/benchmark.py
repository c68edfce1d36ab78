"""The train step beside PyTorch's, measured in turn: tokens a second, memory, compile time.

    python tools/benchmark.py --out FOLDER [--sizes small --lengths 128 --rounds 5 ...]
    python tools/benchmark.py --out FOLDER --sweep

PyTorch's step is made of transformers' classes, in three ways: with the generator's head on the picks only, the same
under torch.compile, and with logits at every position. Each contestant is a process of its own, on the same shapes,
dtype and dropout; before they are measured their losses must agree on the same weights, masks and samples. Rounds take
turns, and ratios are of the turns of one round: on a machine that others use, no other ratio says anything.

Writes benchmark.json and benchmark.png into FOLDER; with --sweep, how our step's cost grows, performance-sweep.json and
performance-sweep.png. What is measured already is kept there, so the command goes on where it was stopped.
"""

import json
import os
import platform
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import tyro
from benchmark_cells import DTYPES, Device, Name, Turns, cell_config, find_device, measure
from benchmark_report import cell_table, plot_cells, plot_sweep, sweep_table
from benchmark_sweep import SERIES, measure_series, sweep_config
from rich.console import Console

from electra_jax.config import ComputeConfig, Dtype, ProductLibrary
from electra_jax.errors import UserError
from electra_jax.files import can_be_made, write_text

BATCH_TOKENS: dict[Device, int] = {"cpu": 2048, "gpu": 16384}
WIDTH = 160  # of tables in a file
INTERRUPTED = 130  # what a shell gives for SIGINT
Results = dict[str, Any]


@dataclass(frozen=True)
class Arguments:
    """What is measured, and how often."""

    out: Path
    """Folder of the results; goes on from those that it holds."""
    sizes: tuple[str, ...] = ("tiny", "small", "base")
    """Presets, or TOML files of such. The sweep takes the first, or small."""
    lengths: tuple[int, ...] = (128, 512)
    contestants: tuple[Name, ...] = get_args(Name)
    """ours; picks: PyTorch, head on the picks; compiled: that under torch.compile; everywhere: logits everywhere."""
    rounds: int = 5
    seconds_per_round: float = 10.0
    """Of each contestant's turn; at least a step."""
    batch_tokens: int | None = None
    """Tokens in a step; 2,048 on a CPU, 16,384 on a GPU."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    dtype: Dtype | None = None
    """Of all contestants' products and activations; float32 on a CPU, bfloat16 on a GPU."""
    attention_dropout: float = 0.1
    """Of all contestants."""
    sampler: Literal["gumbel", "inverse"] = "gumbel"
    """How PyTorch draws replacements: by Gumbel noise, or by the inverse of the cumulative distribution."""
    products: ProductLibrary = "auto"
    """Who makes ours on a CPU: auto is as in a run of the preset's steps."""
    sweep: bool = False
    """Measure how our step's cost grows with length, batch and width instead."""


def main(arguments: Arguments) -> None:
    """Measure what is missing, and report all."""
    device = check(arguments)
    turns = Turns(arguments.contestants, arguments.rounds, arguments.seconds_per_round, device, arguments.sampler)
    with can_be_made(arguments.out):
        arguments.out.mkdir(parents=True, exist_ok=True)
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    (sweep if arguments.sweep else compare)(arguments, turns, console)


def check(arguments: Arguments) -> Device:
    """The device; raises UserError for arguments that can't be."""
    if "ours" not in arguments.contestants:
        raise UserError("contestants: ours must be among them, since all ratios are to it")
    for name in ("rounds", "seconds_per_round", "batch_tokens"):
        value = getattr(arguments, name)
        if value is not None and not value > 0:
            raise UserError(f"{name}: {value} is not above 0")
    if not 0 <= arguments.attention_dropout < 1:
        raise UserError(f"attention_dropout: {arguments.attention_dropout} is not in [0, 1)")
    if not arguments.sizes or not arguments.lengths:
        raise UserError(f"{'lengths' if arguments.sizes else 'sizes'}: give at least one")
    if arguments.device == "cpu":
        return "cpu"
    found = find_device()
    if arguments.device == "gpu" != found:
        raise UserError("device: JAX has no GPU here; install electra-jax[cuda], or give --device cpu")
    return found


def compare(arguments: Arguments, turns: Turns, console: Console) -> None:
    """Every size at every length."""
    tokens, compute = arguments.batch_tokens or BATCH_TOKENS[turns.device], compute_config(arguments, turns.device)
    cells: dict[str, Callable[[], Results]] = {}
    for size in arguments.sizes:
        for length in arguments.lengths:
            rows = max(1, tokens // length)
            config = cell_config(size, length, rows, arguments.attention_dropout, compute)
            cells[f"{Path(size).stem}-{length}"] = lambda config=config: measure(config, turns)  # type: ignore[misc]
    settings = settings_of(arguments, turns, compute) | {"batch_tokens": tokens}

    def report(found: Mapping[str, Results]) -> None:
        plot_cells(found, arguments.out / "benchmark.png")

    found = fill(arguments.out / "benchmark.json", cells, settings, report, console)
    for name in cells:
        console.print(cell_table(name, found[name]))


def sweep(arguments: Arguments, turns: Turns, console: Console) -> None:
    """Every series of our step alone."""
    size = "small" if arguments.sizes == Arguments.sizes else arguments.sizes[0]
    compute = compute_config(arguments, turns.device)
    config = sweep_config(size, arguments.attention_dropout, compute)
    parts = {name: lambda one=one: measure_series(one, config, turns) for name, one in SERIES.items()}
    settings = settings_of(arguments, turns, compute) | {"contestants": ("ours",), "size": size}

    def report(found: Mapping[str, Results]) -> None:
        plot_sweep(found, arguments.out / "performance-sweep.png")

    console.print(sweep_table(fill(arguments.out / "performance-sweep.json", parts, settings, report, console)))


def compute_config(arguments: Arguments, device: Device) -> ComputeConfig:
    """How the contestants compute."""
    return ComputeConfig(dtype=arguments.dtype or DTYPES[device], products=arguments.products)


def settings_of(arguments: Arguments, turns: Turns, compute: ComputeConfig) -> Results:
    """What the figures of both are kept with."""
    how = {"dtype": compute.dtype, "products": compute.products}
    return {**asdict(turns), "attention_dropout": arguments.attention_dropout, **how}


def fill(
    file: Path,
    parts: Mapping[str, Callable[[], Results]],
    settings: Results,
    report: Callable[[Mapping[str, Results]], None],
    console: Console,
) -> dict[str, Results]:
    """Measure the parts that `file` lacks, or has of other settings or another machine; written after each."""
    plain = json.loads(json.dumps({**settings, "machine": machine()}))
    found = read_parts(file)
    for name, measure_part in parts.items():
        if found.get(name, {}).get("settings") != plain:
            console.print(f"measuring {name}; load of the machine {os.getloadavg()[0]:.1f}", highlight=False)
            found[name] = {"settings": plain, "load": os.getloadavg()[0], **measure_part()}
            write_text(file, json.dumps({"parts": found}, indent=2) + "\n")
        report(_alike(found, plain))
    return _alike(found, plain)


def _alike(parts: Mapping[str, Results], settings: Results) -> dict[str, Results]:
    """Those that were measured with these settings."""
    return {name: part for name, part in parts.items() if part["settings"] == settings}


def read_parts(file: Path) -> dict[str, Results]:
    """What was measured before; raises UserError where the file is something else."""
    if not file.exists():
        return {}
    try:
        return json.loads(file.read_text(encoding="utf-8"))["parts"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: holds no results of this command; delete it, or give another --out") from error


def machine() -> Results:
    """What the figures depend on, and no more."""
    packages = [name for name in ("jax", "jaxlib", "torch", "transformers") if find_spec(name)]
    return {"processor": processor(), "cores": os.cpu_count(), "versions": {name: version(name) for name in packages}}


def processor() -> str:
    """Its name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    try:
        main(tyro.cli(Arguments))
    except UserError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        sys.exit(error.status)
    except KeyboardInterrupt:
        print("benchmark: interrupted; run the same command again to go on", file=sys.stderr)
        sys.exit(INTERRUPTED)
