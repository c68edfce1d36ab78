"""What the presets take on a device, by mesh: a table for docs/, by XLA's analysis of the compiled step.

    python tools/memory_table.py [--out docs/memory.md]

Each cell is compiled in a process of its own, on as many virtual CPU devices as the mesh has.
"""

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from electra_jax.files import write_text
from electra_jax.presets import load_config
from electra_jax.train.plan import Plan, parse_memory, plan, virtual_devices

PRESETS = ("small", "base", "large")
MESHES = ("data=8", "data=2,fsdp=4", "fsdp=8")
BATCHES = (8, 32, 128)  # rows of a device at once
MEMORIES = ("16GB", "24GB", "40GB", "80GB")
ABOUT = """# Memory of a device

By `python tools/memory_table.py`, from XLA's memory analysis of the train step, compiled from shapes alone for eight
devices: float32, Adam, no remat, layers scanned, at each preset's own length. Compiled for CPU devices, so what a row
takes is an estimate of a GPU's; parameters and optimizer state are exact. "8 rows" are all bytes of a device that
computes so many at once (`batch_size` / devices / `accumulate`), "rows in 16GB" the most that fit.

"""


@dataclass(frozen=True)
class Arguments:
    """The table's file, or one cell of it."""

    out: Path = Path("docs/memory.md")
    cell: tuple[str, str] | None = None
    """Preset and mesh to print as JSON, for this tool's own use."""


def main(arguments: Arguments) -> None:
    """Write the table."""
    if arguments.cell is not None:
        print(json.dumps(take(*arguments.cell)))
        return
    head = ["preset, length", "mesh", "parameters and optimizer", *(f"{rows} rows" for rows in BATCHES)]
    head += [f"rows in {size}" for size in MEMORIES]
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    for preset in PRESETS:
        for mesh in MESHES:
            lines.append(" | ".join(line(preset, mesh)))
            print(lines[-1], flush=True)
    write_text(arguments.out, ABOUT + "\n".join(f"| {one} |" for one in lines) + "\n")


def line(preset: str, mesh: str) -> list[str]:
    """A preset's row of the table for a mesh."""
    command = [sys.executable, __file__, "--cell", preset, mesh]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    sizes = [found["state"], *(found["fixed"] + rows * found["row"] for rows in BATCHES)]
    rows = [f"{(parse_memory(memory) - found['fixed']) // found['row']:,}" for memory in MEMORIES]
    return [f"{preset}, {found['length']}", f"`{mesh}`", *(f"{size / 1e9:.3f} GB" for size in sizes), *rows]


def take(preset: str, mesh: str) -> dict[str, int]:
    """Bytes of a preset on a device of a mesh."""
    virtual_devices(mesh)
    config = load_config(preset, data=Path("data"), out=Path("out"), mesh=mesh)
    config = replace(config, compute=replace(config.compute, scan_layers=True))
    found: Plan = plan(config, MEMORIES[-1], peak=1.0, utilisation=1.0)
    return {"state": found.fixed.state, "fixed": found.fixed.total, "row": found.row, "length": config.length}


if __name__ == "__main__":
    main(tyro.cli(Arguments))
