"""Where a step's time goes: a trace for TensorBoard or Perfetto, and a table of the time by part.

    python tools/profile_step.py --out FOLDER [--preset small --batch-size 16 --length 128 --steps 5 --data ROWS]

Writes the trace to FOLDER/plugins/profile (`tensorboard --logdir FOLDER`, or open the .trace.json.gz in
https://ui.perfetto.dev), the compiled program to FOLDER/step.hlo.txt and the table to FOLDER/parts.json. (Named so, and
not profile.py, because Python's cProfile imports a module of that name from the script's folder.)

Each operation of the compiled step is told to its part by the scopes that its name holds (`jax.named_scope` in
objectives/electra.py, model/ and train/step.py), forward and backward alike; a fusion goes where its last one does.
On a CPU, operations run on several threads at a time, and on a GPU on several streams: a part's time is what its
operations were busy, so the parts are shares of the sum, which may be more than the step took. Input is the host's time
for the next batch, beside the device's.
"""

import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice, repeat
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro
from jax.profiler import ProfileData
from rich.console import Console
from rich.table import Table

from electra_jax.config import PretrainConfig
from electra_jax.data.batches import open_rows, train_batches
from electra_jax.data.manifest import Manifest
from electra_jax.errors import UserError
from electra_jax.files import check_absent
from electra_jax.objectives.masking import SpecialTokens
from electra_jax.presets import load_config
from electra_jax.train.cache import Options, compile_now, keep_compiled
from electra_jax.train.check import check, check_mesh, check_settings
from electra_jax.train.memory import keep_memory
from electra_jax.train.sharding import make_mesh, put_rows
from electra_jax.train.step import State, abstract_state, init_params, init_state, jit_step

INPUT = "input"
PARTS = {
    "optimizer": "optimizer",
    "sampling": "sampling",
    "generator's head": "generator.*head|cloze",
    "discriminator's head": "discriminator.*head",
    "generator": "generator",
    "discriminator": "discriminator",
    "losses and counts": "losses|counts",
    "masking": "masking",
}
"""Parts by what an operation's name holds; the first that fits. Anything else is "other"."""
INSTRUCTION = re.compile(
    r"^\s*(?:ROOT )?%?(?P<name>[\w.\-]+) = .*? (?P<opcode>[a-z][\w\-]*)\((?P<operands>[^)]*)\)(?P<rest>.*)$"
)
COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
OP_NAME, CALLED = re.compile(r'op_name="([^"]*)"'), re.compile(r"calls=%?([\w.\-]+)")
CALLERS = {"while", "call", "conditional"}
"""Opcodes whose time is that of the operations they call, which have events of their own."""


@dataclass(frozen=True)
class Arguments:
    """What is run."""

    out: Path
    """Folder for the trace and the table; a new one."""
    preset: str = "small"
    """TOML file, or name of a preset."""
    data: Path | None = None
    """Prepared rows; random ids, unless given."""
    batch_size: int | None = None
    length: int | None = None
    dtype: Literal["float32", "bfloat16"] | None = None
    """The preset's, these three, unless given."""
    steps: int = 5


def main(arguments: Arguments, console: Console) -> None:
    """Trace some steps; write and print the table."""
    if arguments.steps < 1:
        raise UserError(f"steps: {arguments.steps} is not above 0")
    check_absent(arguments.out)
    # On a GPU, kernels that are launched as one graph tell no operation of theirs. Read when JAX is first used.
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_enable_command_buffer="
    config = settings(arguments)
    manifest = None if arguments.data is None else Manifest.read(arguments.data)
    if manifest:
        check(config, [manifest])
    else:
        check_settings(config)
    keep_compiled()
    keep_memory()
    mesh = make_mesh(config.mesh, config.batch_size)
    check_mesh(config, mesh)
    with jax.set_mesh(mesh), closing(batches(config, arguments.data)) as some:
        batch = put_rows(next(some), mesh)
        # Of the time of products by oneDNN or Eigen, as Intel's processors have them, a trace tells a part at most.
        options: Options | None = {} if jax.default_backend() == "cpu" else None
        step = jit_step(config, special_tokens(manifest), mesh, options)
        compiled = compile_now(step, abstract_state(config), batch)
        hlo = compiled.as_text() or ""
        state = jax.device_put(init_state(config, init_params(config)), compiled.input_shardings[0][0])
        state, _ = compiled(state, batch)  # the first step touches its memory for the first time
        jax.block_until_ready(state)
        with jax.profiler.trace(str(arguments.out), profiler_options=trace_options()):
            seconds = run(compiled, state, islice(some, arguments.steps), mesh) / arguments.steps
    (arguments.out / "step.hlo.txt").write_text(hlo, encoding="utf-8")
    found = report(times(arguments.out), parts_of(hlo), arguments.steps, seconds)
    found = {"preset": arguments.preset, "batch_size": config.batch_size, "length": config.length} | found
    (arguments.out / "parts.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    console.print(table(found))


def settings(arguments: Arguments) -> PretrainConfig:
    """The preset with what the arguments change."""
    given = {"batch_size": arguments.batch_size, "length": arguments.length}
    changes = {name: value for name, value in given.items() if value is not None}
    config = load_config(arguments.preset, data=(arguments.data or Path("random"),), out=arguments.out, **changes)
    dtype = arguments.dtype or config.compute.dtype
    return replace(config, compute=replace(config.compute, dtype=dtype))


def special_tokens(manifest: Manifest | None) -> SpecialTokens:
    """Of the rows; of random ones, BERT's."""
    if manifest is None:
        return SpecialTokens(101, 102, 103)
    return SpecialTokens(manifest.cls_id, manifest.sep_id, manifest.mask_id)


def batches(config: PretrainConfig, data: Path | None) -> Generator[dict[str, np.ndarray], None, None]:
    """Batches of the rows, or the same full random rows again and again."""
    if data is not None:
        yield from train_batches(open_rows((data,), "train"), config.batch_size, config.seed)
    shape = config.batch_size, config.length
    ids = np.random.default_rng(0).integers(min(1000, config.model.vocab_size // 2), config.model.vocab_size, shape)
    full = np.full(config.batch_size, config.length, np.int32)
    yield from repeat({"input_ids": ids.astype(np.int32), "length": full, "first_length": full // 2})


def trace_options() -> jax.profiler.ProfileOptions:
    """With an event for each operation on a CPU, and none for Python's calls."""
    options = jax.profiler.ProfileOptions()
    options.host_tracer_level, options.python_tracer_level = 3, 0
    return options


def run(
    step: jax.stages.Compiled, state: State, some: Iterator[dict[str, np.ndarray]], mesh: jax.sharding.Mesh
) -> float:
    """Take a step for each batch; returns the seconds of all."""
    start = time.perf_counter()
    while True:
        with jax.profiler.TraceAnnotation(INPUT):
            batch = next(some, None)
            if batch is None:
                break
            placed = put_rows(batch, mesh)
        state, _ = step(state, placed)
        jax.block_until_ready(state)
    return time.perf_counter() - start


def parts_of(hlo: str) -> dict[str, str]:
    """The part of each operation of a compiled program, by its name; those that only call others are left out."""
    found: dict[str, str] = {}
    within, inside = "", {}  # the computation being read, and what the last name in each one tells
    for line in hlo.splitlines():
        if header := COMPUTATION.match(line):
            within = header[1]
        elif match := INSTRUCTION.match(line):
            name, called = OP_NAME.search(match["rest"]), CALLED.search(match["rest"])
            if name:
                inside[within] = name[1]
            # A fusion or copy that XLA made itself has no name: what it fuses has, or what it copies.
            tells = name[1] if name else inside.get(called[1], "") if called else match["operands"]
            if match["opcode"] not in CALLERS:
                found[match["name"]] = part_of(tells)
    return found


def part_of(op_name: str) -> str:
    """The part that an operation's name tells of, as "jit(step)/transpose(jvp(generator))/dot_general"."""
    return next((part for part, pattern in PARTS.items() if re.search(pattern, op_name)), "other")


def times(folder: Path) -> Counter[str]:
    """Nanoseconds of each operation in the trace, by its name in the compiled program."""
    (file,) = folder.glob("plugins/profile/*/*.xplane.pb")
    found = Counter[str]()
    for plane in ProfileData.from_file(str(file)).planes:
        for line in plane.lines:
            for event in line.events:
                found[operation(event)] += int(event.duration_ns)
    return found


def operation(event: Any) -> str:
    """The operation that an event is of: a GPU's kernels have names of their own, and tell the operation beside."""
    return next((str(value) for name, value in event.stats if name == "hlo_op"), event.name)


def report(spent: Counter[str], parts: dict[str, str], steps: int, seconds: float) -> dict[str, Any]:
    """Milliseconds a step, and the share of the sum, of each part."""
    busy = Counter[str]()
    for name, nanoseconds in spent.items():
        if name in parts:
            busy[parts[name]] += nanoseconds
    total = busy.total() or 1
    milliseconds = 1e-6 / steps
    return {
        "device": jax.devices()[0].device_kind,
        "steps": steps,
        "step_ms": 1e3 * seconds,
        "busy_ms": busy.total() * milliseconds,
        "input_ms": spent[INPUT] * milliseconds,
        "parts": {part: {"ms": ns * milliseconds, "share": ns / total} for part, ns in busy.most_common()},
    }


def table(found: dict[str, Any]) -> Table:
    """The report, for people."""
    title = f"{found['preset']}, {found['batch_size']} x {found['length']} on {found['device']}"
    rows = Table("part", "ms a step", "share of the busy time", title=title)
    for part, one in found["parts"].items():
        rows.add_row(part, f"{one['ms']:.1f}", f"{one['share']:.1%}")
    rows.add_section()
    rows.add_row("all parts", f"{found['busy_ms']:.1f}", "")
    rows.add_row("a step, by the clock", f"{found['step_ms']:.1f}", "")
    rows.add_row("input (host)", f"{found['input_ms']:.2f}", "")
    return rows


if __name__ == "__main__":
    try:
        main(tyro.cli(Arguments), Console())
    except UserError as error:
        print(f"profile_step: {error}", file=sys.stderr)
        sys.exit(error.status)
