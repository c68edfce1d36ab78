"""A run small enough to compile and train in seconds."""

import json
import os
import random
import resource
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tensorboardX.proto.event_pb2 import Event

from electra_jax.config import ComputeConfig, ModelConfig, OptimizerConfig, PretrainConfig, TowerConfig
from electra_jax.data.manifest import Manifest
from electra_jax.hub.names import flat
from electra_jax.train.checkpoint import Checkpoints

WORDS = "the quick brown fox jumps over lazy dogs while running near quiet rivers and small towns under grey skies"
LENGTH = 16
Failing = Callable[..., str]
"""Runs a command that must fail; see the fixture `fail`."""
INTEL, AMD = b"vendor_id\t: GenuineIntel", b"vendor_id\t: AuthenticAMD"
"""What Linux tells of who made a processor."""
SPEED = {"tokens_per_second", "peak_share"}
WITHOUT_TORCH = str(Path(__file__).parent / "without_torch")


def make_text(seed: int = 0, documents: int = 150) -> str:
    """Documents of one to five sentences, between blank lines."""
    rng = random.Random(seed)

    def sentence() -> str:
        return " ".join(rng.choices(WORDS.split(), k=rng.randint(3, 9))) + "."

    return "\n\n".join("\n".join(sentence() for _ in range(rng.randint(1, 5))) for _ in range(documents)) + "\n"


def make_config(rows: Path, out: Path, **changes: Any) -> PretrainConfig:
    """Twenty steps with checkpoints at 10 and 20, and records that fall between; scanned, to compile faster."""
    model = ModelConfig(
        vocab_size=Manifest.read(rows).vocab_size,
        embedding_size=16,
        max_position_embeddings=LENGTH,
        discriminator=TowerConfig(2, 32, 2, 64),
        generator=TowerConfig(1, 16, 1, 32),
    )
    settings: dict[str, Any] = {
        "length": LENGTH,
        "batch_size": 8,
        "steps": 20,
        "log_every": 4,
        "eval_every": 10,
        "eval_rows": 50,
        "checkpoint_every": 10,
        "checkpoints_kept": 2,
        "model": model,
        "compute": ComputeConfig(scan_layers=True),
        "optimizer": OptimizerConfig(learning_rate=2e-3, warmup_steps=5),
    }
    return PretrainConfig(data=(rows,), out=out, **(settings | changes))


def records(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without the figures of speed."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name not in SPEED} for line in lines]


def saved_state(run: Path, step: int) -> dict[str, np.ndarray]:
    """Every array of a checkpoint by its path: parameters, optimizer's state, step and counts."""
    with Checkpoints(run / "checkpoints") as checkpoints:
        saved = checkpoints.manager.item_metadata(step)["state"]
        here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=here), dict(saved))
        return {path: np.asarray(leaf) for path, leaf in flat(checkpoints.restore(step, shapes)).items()}


def equal_bits(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> bool:
    return left.keys() == right.keys() and all(left[path].tobytes() == right[path].tobytes() for path in left)


def files(folder: Path) -> dict[str, bytes]:
    """Every file below `folder` by its name, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def events(run: Path) -> Iterator[Event]:
    """What the run's TensorBoard files hold, read by their format: length, checksum, record, checksum."""
    for path in sorted((run / "tensorboard").iterdir()):
        content = path.read_bytes()
        while content:
            (size,) = struct.unpack("<Q", content[:8])
            yield Event.FromString(content[12 : 12 + size])
            content = content[16 + size :]


def take_own_cores(worker: int, workers: int) -> None:
    """Leave the other cores to the other workers: each runs as many threads as it sees cores, and they wait in turn."""
    cores = sorted(os.sched_getaffinity(0))
    if workers <= len(cores):
        os.sched_setaffinity(0, cores[worker % workers :: workers])


def python(*arguments: str, devices: int = 1, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run this Python anew, on so many virtual devices, with other variables of the environment."""
    env = environment(devices) | variables
    return subprocess.run([sys.executable, *arguments], env=env, capture_output=True, text=True)


def environment(devices: int = 1, torch: bool = False) -> dict[str, str]:
    """Of a process that has so many virtual devices, torch or none, and writes lines as long as they are."""
    path = (None if torch else WITHOUT_TORCH, os.environ.get("PYTHONPATH"))
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}",
        "COLUMNS": "200",
    }


@contextmanager
def little_room(size: int) -> Iterator[None]:
    """Files of this process can't be made larger than `size` bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))  # Python ignores the signal, so writes fail
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def held(file: Path) -> Iterator[None]:
    """Another process holds a lock meanwhile."""
    code = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    command = [sys.executable, "-c", code, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield
        process.communicate(b"\n")


def complaint(command: str, error: str) -> str:
    """What the only line on stderr says after the command's name."""
    assert error.count("\n") == 1, error
    assert error.startswith(f"electra-jax {command}: ")
    return error.removeprefix(f"electra-jax {command}: ").rstrip("\n")
