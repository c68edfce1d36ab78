"""One cell of the benchmark: contestants on the same shapes, checked against each other, then measured in turn."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from workers import Answer, Worker, busy_seconds

from electra_jax.config import ComputeConfig, Dtype, PretrainConfig
from electra_jax.errors import RunError, UserError
from electra_jax.files import write_text
from electra_jax.presets import load_config, to_toml
from electra_jax.train.flops import dense_products, step_flops

HERE = Path(__file__).parent
OURS, THEIRS = str(HERE / "jax_electra.py"), str(HERE / "torch_electra.py")
Name = Literal["ours", "picks", "compiled", "everywhere"]
Device = Literal["cpu", "gpu"]
TORCH: dict[Name, tuple[str, ...]] = {
    "picks": ("--logits", "picks"),
    "compiled": ("--logits", "picks", "--compile"),
    "everywhere": ("--logits", "everywhere"),
}
"""The contestants in PyTorch, by their options of tools/torch_electra.py."""
DTYPES: dict[Device, Dtype] = {"cpu": "float32", "gpu": "bfloat16"}
"""What contestants compute in, unless told."""
TOLERANCE = 1e-4  # relative, of float32 losses
CHECKED_ROWS = 4  # which is enough to see any difference, and takes little time for the largest model


class Turn(NamedTuple):
    """What a turn found."""

    seconds: float
    """Of a step."""
    others: float
    """Share of the cores that other processes had meanwhile: a busy machine doesn't slow all contestants alike."""


@dataclass(frozen=True)
class Turns:
    """How contestants are measured."""

    contestants: tuple[Name, ...] = ("ours", "picks", "compiled", "everywhere")
    rounds: int = 5
    seconds: float = 10.0
    """Of a turn, at least a step."""
    device: Device = "cpu"
    sampler: Literal["gumbel", "inverse"] = "gumbel"
    """Of the contestants in PyTorch."""


def cell_config(size: str, length: int, rows: int, attention_dropout: float, compute: ComputeConfig) -> PretrainConfig:
    """A preset with the benchmark's shapes and AdamW, computed so."""
    config = load_config(size, data=(Path("made-up"),), out=Path("unused"), length=length, batch_size=rows)
    positions = config.model.max_position_embeddings
    if length > positions:
        raise UserError(f"lengths: {length} is more than the {positions} positions of {size}")
    if not config.objective.slots(length):
        raise UserError(f"lengths: {length} is too short for a pick in each row")
    if config.objective.disallow_correct or config.model.tie != "embeddings":
        raise UserError(f"sizes: {size} has an objective or ties that the contestants in PyTorch don't have")
    return replace(
        config,
        accumulate=1,
        mesh=None,
        model=replace(config.model, attention_probs_dropout_prob=attention_dropout),
        optimizer=replace(config.optimizer, name="adamw"),
        compute=compute,
    )


def find_device() -> Device:
    """What JAX has here; asked in another process, for this one to hold no device."""
    command = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    return "gpu" if found.strip() == "gpu" else "cpu"


def environment(device: Device, cache: Path) -> dict[str, str]:
    """Of a worker: one device, memory as it is needed, and caches of compiled programs that begin empty."""
    variables = {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH", "")])),
        "HF_HUB_OFFLINE": "1",
        "JAX_COMPILATION_CACHE_DIR": str(cache / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "torch"),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    if device == "cpu":
        return variables | {"JAX_PLATFORMS": "cpu"}
    return variables | {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]}


# --- the check ----------------------------------------------------------------------------------------------------


def check_losses(ours: PretrainConfig, theirs: PretrainConfig, logits: Iterable[str]) -> dict[str, float]:
    """The loss of each side, without dropout in float32, on the same weights, masks and samples.

    Raises RunError where they differ: speeds of two that compute different things can't be compared.
    """
    with tempfile.TemporaryDirectory() as folder:
        drawn, variables = Path(folder) / "drawn.npz", environment("cpu", Path(folder))
        files = [_write_config(_checked(config), Path(folder) / f"{i}.toml") for i, config in enumerate((ours, theirs))]
        losses = {"ours": _ask_once("ours", [OURS, "check", str(files[0]), str(drawn)], variables)}
        for name in dict.fromkeys(logits):
            command = [THEIRS, "check", str(files[1]), "--drawn", str(drawn), "--logits", name]
            losses[name] = _ask_once(name, command, variables)
    for name, loss in losses.items():
        if not abs(loss - losses["ours"]) <= TOLERANCE * abs(loss):
            said = f"on the same weights, masks and samples our loss is {losses['ours']:.6f}, and PyTorch's {loss:.6f}"
            raise RunError(f"{said} ({name}); nothing was measured")
    return losses


def _checked(config: PretrainConfig) -> PretrainConfig:
    compute = replace(config.compute, dtype="float32")
    return replace(config, compute=compute, batch_size=min(config.batch_size, CHECKED_ROWS))


def _write_config(config: PretrainConfig, path: Path) -> Path:
    write_text(path, to_toml(config))
    return path


def _ask_once(name: str, command: Sequence[str], variables: Mapping[str, str]) -> float:
    done = subprocess.run(
        [sys.executable, *command], env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RunError(f"{name}: the check ended with {(done.stderr.strip().splitlines() or ['nothing'])[-1]}")
    return json.loads(done.stdout.splitlines()[-1])["loss"]


# --- measuring ----------------------------------------------------------------------------------------------------


def measure(config: PretrainConfig, turns: Turns) -> dict[str, Any]:
    """Everything about a cell, as plain data."""
    names = [name for name in turns.contestants if name != "ours"]
    losses = check_losses(config, config, ["everywhere" if name == "everywhere" else "picks" for name in names])
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        file, variables = _write_config(config, Path(folder) / "config.toml"), environment(turns.device, Path(folder))
        cold = compile_cold(file, variables)
        workers = {name: stack.enter_context(start(name, file, variables, turns)) for name in turns.contestants}
        taken, products, memory = take_turns(workers, config, turns)
    flops, peaks = step_flops(config), [product["flops_per_second"] for product in products]
    seconds = {name: [turn.seconds for turn in some] for name, some in taken.items()}
    contestants = {name: figures(config, seconds[name], peaks) for name in workers}
    for name, worker in workers.items():
        contestants[name] |= {"compile_seconds": worker.ready["compile_seconds"], "peak_bytes": memory[name]}
    warm = {"compile_seconds_cached": workers["ours"].ready["compile_seconds"], "peak_bytes_cached": memory["ours"]}
    contestants["ours"] |= warm | cold
    return {
        "rows": config.batch_size,
        "length": config.length,
        "dtype": config.compute.dtype,
        "flops": flops,
        "losses": losses,
        "contestants": contestants,
        "ratios": ratios(seconds),
        "others": spread(turn.others for some in taken.values() for turn in some),
        "products": products,
    }


def compile_cold(file: Path, variables: Mapping[str, str]) -> Answer:
    """Our compile time, with the cache still empty, and the peak of memory of a process that compiles and trains."""
    with Worker("ours", [OURS, "run", str(file)], variables, file.with_name("cold.log")) as worker:
        worker.ask("run", steps=2)
        return worker.ready | worker.ask("memory")


def start(name: Name, file: Path, variables: Mapping[str, str], turns: Turns) -> Worker:
    """A contestant, compiled."""
    command = [OURS, "run", str(file)]
    if name != "ours":
        command = [THEIRS, "run", str(file), *TORCH[name], "--device", turns.device, "--sampler", turns.sampler]
    return Worker(name, command, variables, file.with_name(f"{name}.log"))


def take_turns(
    workers: Mapping[Any, Worker], config: PretrainConfig, turns: Turns
) -> tuple[dict[Any, list[Turn]], list[dict[str, float]], dict[Any, int]]:
    """The turns of each worker and the rate of matrix products, in each round; and each worker's peak of memory."""
    steps = {name: calibrate(worker, turns.seconds) for name, worker in workers.items()}
    memory = {name: worker.ask("memory")["peak_bytes"] for name, worker in workers.items()}  # products would add theirs
    taken: dict[Any, list[Turn]] = {name: [] for name in workers}
    products = measures_products(workers)
    time_products(products, config)  # compiles them
    found = []
    for _ in range(turns.rounds):
        for name, worker in workers.items():
            taken[name].append(run(worker, steps[name]))
        found.append(time_products(products, config))
    return taken, found, memory


def calibrate(worker: Worker, seconds: float) -> int:
    """How many steps fill a turn; two are run, and the first isn't counted."""
    run(worker, 1)
    return max(1, round(seconds / run(worker, 1).seconds))


def run(worker: Worker, steps: int) -> Turn:
    """Train for so many steps."""
    before = busy_seconds()
    answer = worker.ask("run", steps=steps)
    if not abs(answer["loss"]) < float("inf"):
        raise RunError(f"{worker.name}: the loss isn't finite")
    others = max(0.0, busy_seconds() - before - answer["processor_seconds"])
    return Turn(answer["seconds"] / steps, min(1.0, others / (answer["seconds"] * (os.cpu_count() or 1))))


def measures_products(workers: Mapping[Any, Worker]) -> list[Worker]:
    """Ours, and one in PyTorch."""
    theirs = [worker for name, worker in workers.items() if name != "ours"]
    return [workers["ours"], *theirs[:1]]


def time_products(workers: Sequence[Worker], config: PretrainConfig) -> dict[str, float]:
    """The rate of the dense layers' products, each at the better of the two libraries, and at either alone."""
    products = dense_products(config)
    shapes = [(product.m, product.k, product.n) for product in products]
    seconds = [worker.ask("products", shapes=shapes, dtype=config.compute.dtype)["seconds"] for worker in workers]
    flops = sum(product.flops * product.times for product in products)

    def rate(each: Iterable[float]) -> float:
        return flops / sum(one * product.times for one, product in zip(each, products, strict=True))

    found = {"flops_per_second": rate(map(min, zip(*seconds, strict=True)))}
    for library, each in zip(("xla", "torch"), seconds, strict=False):  # the first alone, where only ours is measured
        found[f"{library}_flops_per_second"] = rate(each)
    return found


def figures(config: PretrainConfig, seconds: Sequence[float], peaks: Sequence[float]) -> dict[str, Any]:
    """A contestant's, over the rounds."""
    flops, tokens = step_flops(config), config.batch_size * config.length
    return {
        "seconds_per_step": list(seconds),
        "tokens_per_second": spread(tokens / one for one in seconds),
        "flops_per_second": spread(flops / one for one in seconds),
        "peak_share": spread(flops / one / peak for one, peak in zip(seconds, peaks, strict=True)),
    }


def ratios(seconds: Mapping[Any, Sequence[float]]) -> dict[str, dict[str, float]]:
    """How many times as fast ours is, round by round: as the better of the two on the picks, and as everywhere."""
    found = {}
    on_picks = [seconds[name] for name in ("picks", "compiled") if name in seconds]
    if on_picks:
        best = [min(each) for each in zip(*on_picks, strict=True)]
        found["best_on_picks"] = spread(b / a for a, b in zip(seconds["ours"], best, strict=True))
    for name in ("picks", "compiled", "everywhere"):
        if name in seconds:
            found[name] = spread(b / a for a, b in zip(seconds["ours"], seconds[name], strict=True))
    return found


def spread(values: Iterable[float]) -> dict[str, float]:
    """Smallest, median and largest."""
    some = list(values)
    return {"min": min(some), "median": statistics.median(some), "max": max(some)}
