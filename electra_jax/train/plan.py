"""What a run would take: memory, communication, time; from the compiled step of a mesh, and no run."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import inf, prod
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from electra_jax.config import PretrainConfig
from electra_jax.errors import UserError
from electra_jax.model.kernels import anywhere
from electra_jax.objectives.masking import SpecialTokens
from electra_jax.train.cache import compile_now
from electra_jax.train.check import check_mesh, check_settings
from electra_jax.train.flops import step_flops
from electra_jax.train.sharding import make_mesh, parse_mesh
from electra_jax.train.step import abstract_params, abstract_state, empty_batch, jit_step

BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8}
COLLECTIVE = re.compile(
    r" = (?P<shapes>.*?) (?P<kind>all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(-start)?\("
)
SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
GROUPS = re.compile(
    r"replica_groups=(?:\[\d+,(?P<size>\d+)\]<=|\{\{(?P<first>[\d,]+)\}|mesh\[(?P<mesh>.*?)\] \{(?P<axes>[^}]*)\})"
)
UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
PROBES = (1, 3)  # rows a device and part; what a step takes grows by the same for each row
DAY = 24 * 3600


class Collective(NamedTuple):
    """One operation of a compiled program that moves bytes between devices."""

    kind: str
    shapes: tuple[tuple[int, ...], ...]
    """Of its results on a device."""
    moved: float
    """Bytes that a device sends, by the ring's count: (n-1)/n of the whole, and twice that for an all-reduce."""


@dataclass(frozen=True)
class Memory:
    """Bytes on a device, by XLA's analysis of the compiled step."""

    state: int
    """Parameters, optimiser's state and what else a checkpoint holds."""
    step: int
    """What the step needs beside it, its batch included."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.state + self.step


@dataclass(frozen=True)
class Plan:
    """What a run takes on so many devices of so much memory."""

    devices: int
    fixed: Memory
    """At no rows: extrapolated from the probes."""
    row: int
    """Bytes for each row of a device's part."""
    rows: int
    """Most rows of a device's part (batch_size / devices / accumulate) that fit; 0: none do."""
    flops: float
    """A step's, over all devices."""
    tokens: int
    """A step's, padding included."""
    moved: float
    """Bytes that a device sends in a step."""
    least_moved: float
    """The fewest that the mesh allows."""
    days: float
    """For all steps, at the utilisation given."""


def plan(config: PretrainConfig, memory: str, peak: float, utilisation: float) -> Plan:
    """Compile the step for `config.mesh` at two sizes, and draw the line through what they take.

    `memory` is a device's ("80GB"); `peak` its FLOP/s, of which `utilisation` is used. The mesh may be larger than the
    machine: see `virtual_devices`. XLA's layout of buffers differs between backends, so on a CPU the figures are an
    estimate of a GPU's. Raises UserError for settings that no run can have.
    """
    limit = parse_memory(memory)
    for name, value in (("peak_tflops", peak), ("utilisation", utilisation)):
        if not 0 < value < inf:
            raise UserError(f"{name}: {value} is not a number above 0")
    check_settings(config)
    config = replace(config, compute=anywhere(config.compute))
    one_row = replace_rows(config, 1)
    mesh = make_mesh(config.mesh, one_row.batch_size)
    check_mesh(config, mesh)
    small, large = (compile_step(replace_rows(config, rows)) for rows in PROBES)
    at = [memory_of(compiled) for compiled in (small, large)]
    row = (at[1].step - at[0].step) // (PROBES[1] - PROBES[0])
    fixed = Memory(at[0].state, max(0, at[0].step - PROBES[0] * row))
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(abstract_params(config)))
    flops = step_flops(config)
    return Plan(
        devices=mesh.size,
        fixed=fixed,
        row=row,
        rows=max(0, (limit - fixed.total) // max(1, row)),
        flops=flops,
        tokens=config.batch_size * config.length,
        moved=sum((one.moved for one in collectives(large.as_text() or "")), start=0.0),
        least_moved=least_moved(size, mesh),
        days=config.steps * flops / (mesh.size * peak * utilisation) / DAY,
    )


def virtual_devices(mesh: str | None) -> None:
    """On a CPU, as many devices as a mesh takes; only before JAX is used for anything else in the process."""
    if mesh is not None:
        jax.config.update("jax_num_cpu_devices", prod(parse_mesh(mesh).values()))


def replace_rows(config: PretrainConfig, rows: int) -> PretrainConfig:
    """The same run with so many rows a device and part, of which two take what more would."""
    parts = min(config.accumulate, 2)
    return replace(config, batch_size=rows * parts * jax.device_count(), accumulate=parts)


def compile_step(config: PretrainConfig) -> jax.stages.Compiled:
    """The train step, compiled from shapes alone."""
    mesh = make_mesh(config.mesh, config.batch_size)
    special = SpecialTokens(0, 1, 2)  # which ids they are changes no shape
    with jax.set_mesh(mesh):
        batch = jax.eval_shape(lambda: empty_batch(config))
        return compile_now(jit_step(config, special, mesh), abstract_state(config), batch)


def memory_of(compiled: jax.stages.Compiled) -> Memory:
    """What a compiled step takes on each device."""
    analysis = compiled.memory_analysis()
    assert analysis is not None, "this backend has no analysis of memory"
    state = analysis.alias_size_in_bytes  # what is donated and updated in place
    outside = analysis.argument_size_in_bytes + analysis.output_size_in_bytes - 2 * state
    return Memory(state, analysis.temp_size_in_bytes + outside)


def collectives(program: str) -> Iterator[Collective]:
    """Of a program, as `jax.stages.Compiled.as_text` gives it."""
    for line in program.splitlines():
        if found := COLLECTIVE.search(line):
            sizes = SHAPE.findall(found["shapes"])
            shapes = [(kind, tuple(map(int, filter(None, size.split(","))))) for kind, size in sizes]
            size = sum(BYTES[kind] * prod(shape) for kind, shape in shapes)
            n = group_size(line)
            whole = size * n if found["kind"] == "reduce-scatter" else size
            rounds = 2 if found["kind"] == "all-reduce" else 1
            yield Collective(found["kind"], tuple(shape for _, shape in shapes), rounds * whole * (n - 1) / n)


def group_size(line: str) -> int:
    """Devices that take part in a collective together."""
    found = GROUPS.search(line)
    if found is None:
        return jax.device_count()
    if found["size"]:
        return int(found["size"])
    if found["first"]:
        return len(found["first"].split(","))
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", found["mesh"]))
    return prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", found["axes"]))


def least_moved(size: int, mesh: Mesh) -> float:
    """Bytes that a device must send in a step: to gather parameters of `size` bytes, and to sum their gradient."""
    data, fsdp = mesh.shape["data"], mesh.shape["fsdp"]
    return 2 * size * (fsdp - 1) / fsdp + 2 * size / fsdp * (data - 1) / data


def parse_memory(text: str) -> int:
    """Bytes of "80GB" or "16GiB". Raises UserError for anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]i?B)\s*", text)
    if found is None or float(found[1]) == 0:
        raise UserError(f"memory: {text!r} is no size; give one as 80GB or 16GiB")
    return int(float(found[1]) * UNITS[found[2]])


def describe(plan: Plan, memory: str, utilisation: float) -> dict[str, str]:
    """A plan by what each figure is, for people."""
    ratio = f", {plan.moved / plan.least_moved:.2f} times the fewest that can do" if plan.least_moved else ""
    return {
        "devices": str(plan.devices),
        "parameters and optimizer": f"{plan.fixed.state / 1e9:.3f} GB a device",
        "a row": f"{plan.row / 1e6:.1f} MB, and {plan.fixed.step / 1e9:.3f} GB for any number",
        f"rows in {memory}": f"{plan.rows:,} a device and accumulated part" if plan.rows else "none fit",
        "a step": f"{plan.tokens:,} tokens, {plan.flops:.3g} FLOP",
        "communication": f"{plan.moved / 1e9:.3f} GB sent by a device in a step{ratio}",
        "all steps": f"{plan.days:,.2f} days at {utilisation:.0%} of the peak",
    }
