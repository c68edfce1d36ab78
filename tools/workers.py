"""Processes that take turns: the benchmark asks, a worker answers, each in a line of JSON.

A contestant lives in a process of its own, so that its peak of memory and its compiled programs are its own, and waits
in between without using the processor.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from signal import SIGKILL
from typing import IO, Any, Protocol

import numpy as np

from electra_jax.config import PretrainConfig
from electra_jax.errors import RunError

Answer = dict[str, Any]
PAD, UNK, CLS, SEP, MASK, WORDS = range(6)
"""Ids of made-up rows."""
MOST_CALLS = 100  # in a try at a small product
PATIENCE = 10  # seconds for a worker to end by itself
BATCHES = 8
"""Made up once, and read in turn."""


class Worker:
    """The asking side of a process."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path):
        self.name, self.log = name, log
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                env=os.environ | environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self.ready = self._read()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(BrokenPipeError):  # of one that has ended, which the answer that it owed has told
            _pipe(self.process.stdin).close()
        try:
            self.process.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def ask(self, do: str, **what: Any) -> Answer:
        """The answer to a question, with the processor's time; raises RunError where the process ends instead."""
        pipe = _pipe(self.process.stdin)
        with suppress(BrokenPipeError):  # told by the missing answer
            print(json.dumps({"do": do, **what}), file=pipe, flush=True)
        return self._read()

    def _read(self) -> Answer:
        line = _pipe(self.process.stdout).readline()
        if not line:
            said, status = self.log.read_text().strip().splitlines() or ["nothing on stderr"], self.process.wait()
            mend = "; it was killed, as when memory runs out: give fewer contestants" if status == -SIGKILL else ""
            raise RunError(f"{self.name}: ended with status {status}: {said[-1]}{mend}")
        return json.loads(line)


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


class Contestant(Protocol):
    """The answering side of a process."""

    ready: Answer
    """What it says first: compile_seconds."""

    def run(self, steps: int) -> Answer:
        """Train for so many steps: seconds, and the last loss."""

    def products(self, shapes: list[tuple[int, int, int]], dtype: str) -> Answer:
        """Seconds of the matrix product of each shape (m, k, n)."""

    def memory(self) -> Answer:
        """peak_bytes, so far."""


def serve(start: Callable[[], Contestant]) -> None:
    """Answer until nobody asks any more."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer
    contestant = start()
    print(json.dumps(contestant.ready), file=channel, flush=True)
    for line in sys.stdin:
        question, begin = json.loads(line), time.process_time()
        answer = getattr(contestant, question.pop("do"))(**question)
        answer["processor_seconds"] = time.process_time() - begin
        print(json.dumps(answer), file=channel, flush=True)


def busy_seconds() -> float:
    """What all processes of the machine together have used of its cores; 0 where the system doesn't tell."""
    file = Path("/proc/stat")
    if not file.exists():
        return 0.0
    user, nice, system, idle, waiting, *interrupts = map(int, file.read_text().splitlines()[0].split()[1:9])
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")


def peak_resident_bytes() -> int:
    """Most resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def time_product(start: Callable[[], Any], wait: Callable[[], Any], flops: float, enough: float) -> float:
    """Seconds of a call: the best of three tries, each of so many calls as make `enough` operations."""
    calls = min(MOST_CALLS, max(1, round(enough / flops)))
    start()
    wait()
    tries = []
    for _ in range(3):
        begin = time.perf_counter()
        for _ in range(calls):
            start()
        wait()
        tries.append((time.perf_counter() - begin) / calls)
    return min(tries)


def enough_operations(device: str) -> float:
    """What takes a few milliseconds."""
    return 5e8 if device == "cpu" else 2e12


def made_up_batches(config: PretrainConfig, number: int = BATCHES, padded: bool = False) -> list[dict[str, np.ndarray]]:
    """Rows of random words in two segments, as batches are stored; full ones, or of many lengths."""
    rng = np.random.default_rng(config.seed)
    return [_made_up_batch(rng, config, padded) for _ in range(number)]


def _made_up_batch(rng: np.random.Generator, config: PretrainConfig, padded: bool) -> dict[str, np.ndarray]:
    rows, length = config.batch_size, config.length
    lengths = rng.integers(length // 2, length + 1, rows) if padded else np.full(rows, length)
    first = lengths // 2
    position = np.arange(length)
    ids = rng.integers(WORDS, config.model.vocab_size, (rows, length))
    ids[(position == lengths[:, None] - 1) | (position == first[:, None] - 1)] = SEP
    ids[:, 0] = CLS
    ids[position >= lengths[:, None]] = PAD
    batch = {"input_ids": ids, "length": lengths, "first_length": first}
    return {name: array.astype(np.int32) for name, array in batch.items()}
