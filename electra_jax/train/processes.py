"""Several processes that train as one: how they find each other, and how they end together."""

import functools
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from electra_jax.config import DistributedConfig
from electra_jax.errors import INTERRUPTED, UserError, first_line

MEETING = 300
"""Seconds for all processes to start in."""
LOST = re.compile(r"gloo|nccl|coordination|heartbeat|barrier|connection (reset|closed|refused)", re.IGNORECASE)
"""What the libraries say of another process that is gone."""
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def names_others(config: DistributedConfig) -> bool:
    """Whether the settings name other processes to train with."""
    return config.cluster or any(value is not None for value in (config.coordinator, config.processes, config.process))


def join(config: DistributedConfig) -> None:
    """Meet the other processes, before JAX is used for anything else; nothing where the settings name none.

    Raises UserError where they name half of what is needed, and where the processes don't meet, or have unlike numbers
    of devices.
    """
    named = (config.coordinator, config.processes, config.process)
    if jax.distributed.is_initialized() or not names_others(config):
        return
    if not config.cluster and any(value is None for value in named):
        raise UserError("distributed: coordinator, processes and process go together; or give cluster alone")
    if config.timeout < 1:
        raise UserError(f"distributed.timeout: {config.timeout} is not above 0")
    if config.process is not None and config.processes is not None and not 0 <= config.process < config.processes:
        raise UserError(f"distributed.process: {config.process} is none of {config.processes}, numbered from 0")
    if config.coordinator is not None:
        address = _host_and_port(config.coordinator)
        where = f"process {config.process} of {config.processes}"
        print(f"{where}: meeting the others at {config.coordinator}", file=sys.stderr, flush=True)
        if config.process:
            _wait_for(address)
        else:
            _check_free(address[1])
    try:
        jax.distributed.initialize(
            *named,
            _only_device(),
            initialization_timeout=MEETING,
            heartbeat_timeout_seconds=config.timeout,
            shutdown_timeout_seconds=config.timeout,
        )
    except (ValueError, RuntimeError) as error:
        if config.cluster and "coordinator_address should be defined" in str(error):
            raise UserError(
                "distributed.cluster: no Slurm, Open MPI or Kubernetes (with the extra k8s) is found here; start it by "
                "srun or mpirun, or give coordinator, processes and process"
            ) from None
        raise UserError(f"distributed: the processes do not meet: {first_line(error)}") from None
    _check_devices()


def _check_devices() -> None:
    """Raise UserError, in every process, where not all have the same number: each takes as many rows of a batch."""
    counts = sorted(Counter(device.process_index for device in jax.devices()).items())
    if len({count for _, count in counts}) > 1:
        each = ", ".join(f"{process}: {count}" for process, count in counts)
        raise UserError(f"distributed: the processes have unlike numbers of devices ({each}); give all the same number")


def _only_device() -> list[int] | None:
    """The one GPU that a cluster shows this process; where it shows several, JAX finds out which to take.

    JAX takes the one whose number is the process's on its node, which is there only if each process sees all.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return [0] if visible and "," not in visible else None


def _host_and_port(coordinator: str) -> tuple[str, int]:
    host, _, port = coordinator.rpartition(":")
    if not (host and port.isascii() and port.isdigit() and 0 < int(port) < 2**16):
        raise UserError(f"distributed.coordinator: {coordinator!r} is not host:port, with a port from 1 to 65535")
    return host.strip("[]"), int(port)


def _check_free(port: int) -> None:
    """Raise UserError where process 0 can't listen. JAX would end it with a trace of C++."""
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was left a moment ago is free
        try:
            listening.bind(("", port))
        except OSError as error:
            raise UserError(
                f"distributed.coordinator: process 0 can't listen at port {port} ({error.strerror}); name another, and "
                f"start one process 0 only"
            ) from None


def _wait_for(address: tuple[str, int]) -> None:
    """Return when process 0 can be reached. JAX would end this one with a trace of C++ if it can't."""
    end = time.monotonic() + MEETING
    while True:
        try:
            return socket.create_connection(address, timeout=10).close()
        except OSError as error:
            if time.monotonic() > end:
                raise UserError(
                    f"distributed.coordinator: process 0 didn't answer at {address[0]}:{address[1]} within {MEETING} "
                    f"seconds ({error}); start it, or give the address at which this machine reaches it"
                ) from None
        time.sleep(1)


def is_first() -> bool:
    """Whether this is the process that writes what is written once."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Return when every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def check_alike(values: Mapping[str, Any]) -> None:
    """Raise UserError, in every process, for the first value that isn't the same in all; their names are."""
    if jax.process_count() == 1:
        return
    ours = np.array([zlib.crc32(repr(value).encode()) for value in values.values()], np.uint32)
    for (name, value), hashes in zip(values.items(), multihost_utils.process_allgather(ours).T, strict=True):
        if len(set(hashes.tolist())) > 1:
            raise UserError(f"{name}: not all processes have the same, this one {_short(value)}; give all of them one")


def checksum(weights: Any) -> int | None:
    """That of a tree of arrays, to be compared with other processes; None where there are none, or no arrays."""
    if jax.process_count() == 1 or not (leaves := jax.tree.leaves(weights)):
        return None
    return functools.reduce(lambda before, leaf: zlib.crc32(np.ascontiguousarray(leaf).data, before), leaves, 0)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 80 else "another"


@contextmanager
def ending_together() -> Iterator[None]:
    """Among several processes, one that fails ends at once: the others would wait for it, and end when it is lost."""
    try:
        yield
    except BaseException as error:
        if jax.process_count() == 1:
            raise
        where = f"process {jax.process_index()} of {jax.process_count()}"
        said, status = _ending(error)
        print(f"{where}: {said}\n{where} ends, and with it the others", file=sys.stderr, flush=True)
        os._exit(status)


def _ending(error: BaseException) -> tuple[str, int]:
    """What a process says that ends by `error`, and its status."""
    if isinstance(error, UserError):
        return str(error), error.status
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; run the same command again to go on from the newest checkpoint", INTERRUPTED
    if isinstance(error, ValueError | RuntimeError) and LOST.search(str(error)):  # JAX's are both
        return f"another process is lost, which may have said why ({first_line(error)[:200]})", 1
    return "".join(traceback.format_exception(error)), 1


class Stop:
    """Whether to save and stop, as every process is told at the same step: by SIGTERM, or when the time is over."""

    def __init__(self, max_time: str | None):
        self.told = False
        self._timer: threading.Timer | None = None
        self._before: Any = None
        self._seconds = None if max_time is None else parse_time(max_time)

    def __enter__(self) -> "Stop":
        # jax.distributed has a handler of its own, which lets the processes agree on a step.
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._tell)
        if self._seconds is not None and is_first():
            self._timer = threading.Timer(self._seconds, self._time_is_over)
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _tell(self, *_: object) -> None:
        self.told = True

    def _time_is_over(self) -> None:
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)
        self._tell()

    def due(self, step: int) -> bool:
        """Whether to stop after `step`; asked by every process after every step."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self.told


def parse_time(text: str) -> float:
    """Seconds of "23:50:00", "50:00", "90m", "2h", "1d" or "30s". Raises UserError for anything else."""
    try:
        if text[-1:] in UNITS:
            seconds = float(text[:-1]) * UNITS[text[-1]]
        else:
            parts = [int(part) for part in text.split(":")]
            if not 2 <= len(parts) <= 3:
                raise ValueError
            seconds = float(sum(part * 60**place for place, part in enumerate(reversed(parts))))
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < threading.TIMEOUT_MAX:
        raise UserError(f"max_time: {text!r} is no time; give one as 23:50:00, 90m or 2h")
    return seconds
