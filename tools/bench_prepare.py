"""Whether `prepare` keeps up with the tokenizer: its speed beside that of `tokenizers` alone, and its memory.

    python tools/bench_prepare.py TEXT... --tokenizer FOLDER [--megabytes 100 --workers 1 --rounds 3 ...]

The texts are repeated into a file of so many megabytes. Then two processes take turns at it: one prepares it, the other
encodes its lines in batches by `encode_batch_fast`, on all cores, and throws the ids away. Time counts from the first
read to the last write, without starting Python. Memory is the most that the process and its children had resident at a
time, sampled five times a second: the sum of their own pages, and beside it that with the pages of mapped files, as
which the finished rows are read once; the system takes those back when it needs them.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import tyro
from tyro.conf import Positional

SPEED_GOAL = 0.8
"""Of `tokenizers` alone, at least."""
MEMORY_GOAL = 1000
"""Megabytes, at most."""
LINES_AT_ONCE = 1000
PREPARE = """
import json, sys, time
from pathlib import Path
from electra_jax.config import PrepareConfig
from electra_jax.data.prepare import prepare
settings = json.loads(sys.argv[1])
start = time.perf_counter()
prepare(PrepareConfig(**settings | {"sources": tuple(settings["sources"]), "out": Path(settings["out"])}))
print(time.perf_counter() - start)
"""


@dataclass(frozen=True)
class Arguments:
    """What is prepared, and how often."""

    texts: Positional[tuple[Path, ...]]
    """UTF-8 text, a sentence a line."""
    tokenizer: str
    """Folder, or name on the hub."""
    megabytes: int = 100
    workers: int = 1
    rounds: int = 3
    length: int = 128
    documents: Literal["paragraph", "line"] = "paragraph"
    encode: Path | None = None
    """Only encode this file, for this tool's own use."""


@dataclass(frozen=True)
class Run:
    """One process."""

    rate: float
    """Megabytes of text a second."""
    peak: float
    """Megabytes, without those of mapped files."""
    peak_with_files: float


def main(arguments: Arguments) -> None:
    """Print the figures as JSON and as a line; exits with status 1 where a goal is missed."""
    if arguments.encode is not None:
        print(encode(arguments.encode, arguments.tokenizer))
        return
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.txt"
        write_text(text, arguments.texts, arguments.megabytes * 10**6)
        runs = [
            (run(prepare_command(arguments, text), text), run(encode_command(arguments, text), text))
            for _ in range(arguments.rounds)
        ]
    ours, theirs = zip(*runs, strict=True)
    ratios = [one.rate / two.rate for one, two in runs]
    found = {
        "megabytes": arguments.megabytes,
        "workers": arguments.workers,
        "cores": len(os.sched_getaffinity(0)),
        "prepare": [round(one.rate, 2) for one in ours],
        "tokenizers": [round(one.rate, 2) for one in theirs],
        "ratios": [round(ratio, 3) for ratio in ratios],
        "ratio": statistics.median(ratios),
        "peak_megabytes": max(one.peak for one in ours),
        "peak_megabytes_with_mapped_files": max(one.peak_with_files for one in ours),
    }
    print(json.dumps(found, indent=2))
    print(
        f"prepare: {statistics.median(one.rate for one in ours):.1f} MB/s, {found['ratio']:.0%} of tokenizers alone "
        f"({min(ratios):.0%} to {max(ratios):.0%}), at most {found['peak_megabytes']:.0f} MB resident, "
        f"{found['peak_megabytes_with_mapped_files']:.0f} MB with mapped files"
    )
    if found["ratio"] < SPEED_GOAL or found["peak_megabytes"] > MEMORY_GOAL:
        sys.exit(f"a goal is missed: {SPEED_GOAL:.0%}, {MEMORY_GOAL} MB")


def write_text(path: Path, texts: Sequence[Path], size: int) -> None:
    """All texts, again and again, to a file of `size` bytes or little more."""
    contents = [text.read_bytes().rstrip(b"\n") + b"\n\n" for text in texts]
    with path.open("wb") as file:
        while file.tell() < size:
            for content in contents:
                file.write(content)


def prepare_command(arguments: Arguments, text: Path) -> list[str]:
    """To prepare `text` into a folder that isn't there yet."""
    settings = {
        "sources": [str(text)],
        "tokenizer": arguments.tokenizer,
        "out": tempfile.mkdtemp(dir=text.parent),
        "length": arguments.length,
        "workers": arguments.workers,
        "documents": arguments.documents,
        "max_unk_rate": 1.0,
    }
    return [sys.executable, "-c", PREPARE, json.dumps(settings)]


def encode_command(arguments: Arguments, text: Path) -> list[str]:
    """To encode the lines of `text`."""
    return [sys.executable, __file__, str(text), "--tokenizer", arguments.tokenizer, "--encode", str(text)]


def encode(text: Path, tokenizer: str) -> float:
    """Seconds in which `tokenizers` encodes the lines of a file."""
    from electra_jax.data.tokenizer import load_tokenizer

    backend = load_tokenizer(tokenizer).backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    start = time.perf_counter()
    with text.open(encoding="utf-8") as lines:
        while some := list(islice(lines, LINES_AT_ONCE)):
            backend.encode_batch_fast(some, add_special_tokens=False)
    return time.perf_counter() - start


def run(command: list[str], text: Path) -> Run:
    """Run a process that prints its seconds, and watch its memory."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    seen = [(0.0, 0.0)]

    def watch() -> None:
        while process.poll() is None:
            sizes = [resident(one) for one in family(process.pid) or [process.pid]]
            own, files = (sum(each) for each in zip(*sizes, strict=True))
            seen.append((own, own + files))
            time.sleep(0.2)

    watcher = threading.Thread(target=watch)
    watcher.start()
    written, _ = process.communicate()
    watcher.join()
    if process.returncode:
        sys.exit(f"{command[1]} failed with status {process.returncode}")
    return Run(text.stat().st_size / 1e6 / float(written), max(own for own, _ in seen), max(both for _, both in seen))


def family(process: int) -> list[int]:
    """A process and all that it started."""
    try:
        tasks = Path(f"/proc/{process}/task").glob("*/children")
        children = [int(child) for task in tasks for child in task.read_text().split()]
    except OSError:  # it has ended
        return []
    return [process, *(one for child in children for one in family(child))]


def resident(process: int) -> tuple[float, float]:
    """Megabytes of a process in memory, shared ones by its part: its own, and those of mapped files."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended
        return 0.0, 0.0
    pss = [line.split() for line in lines if line.startswith(("Pss_Anon:", "Pss_File:"))]  # none where it is ending
    sizes = {name: int(kilobytes) / 1e3 for name, kilobytes, _ in pss}
    return sizes.get("Pss_Anon:", 0.0), sizes.get("Pss_File:", 0.0)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
