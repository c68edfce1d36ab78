"""What tokenizes shards: this process, several, or a Ray cluster. The files are the same."""

import importlib.util
import logging
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

from electra_jax.config import PrepareConfig
from electra_jax.data.ahead import one_ahead
from electra_jax.data.encoding import Encoder
from electra_jax.data.shards import TextShard, write_shard
from electra_jax.errors import RunError, UserError, first_line

Work = tuple[TextShard, Path]
RAY_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_NUM_REDIS_GET_RETRIES": "1",  # a wrong address is told after 40 seconds, and not after a quarter of an hour
}
"""Of Ray's environment, where nothing else is set there."""


def check_engine(config: PrepareConfig) -> None:
    """Raise UserError where the engine lacks its package."""
    if config.engine == "ray" and importlib.util.find_spec("ray") is None:
        raise UserError("engine ray: the package ray is not installed; pip install 'electra-jax[ray]'")


def write_shards(work: Iterable[Work], encoder: Encoder, config: PrepareConfig) -> None:
    """Write each shard to its file, on the engine of `config`.

    Shards are drawn from `work` as they can be taken, so that few of them are in memory. Raises UserError where
    there is no Ray cluster at the address that Ray's settings name, RunError where a worker was killed.
    """
    if config.engine == "ray":
        _write_by_ray(work, encoder)
    elif config.workers > 1:
        _write_by_processes(work, encoder, config.workers)
    else:
        for shard, file in one_ahead(work):
            write_shard(shard, encoder, file)


def _write_by_processes(work: Iterable[Work], encoder: Encoder, workers: int) -> None:
    def submit(shard: TextShard, file: Path) -> Future[None]:
        return pool.submit(write_shard, shard, encoder, file)

    try:
        with ProcessPoolExecutor(workers, initializer=_start_worker) as pool:
            _keep_busy(work, submit, Future.result, workers + 1)
    except BrokenProcessPool as error:
        said = "a worker was killed, perhaps for want of memory; run the same command again, or with fewer workers"
        raise RunError(said) from error


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, and the shards at work are finished
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Leave when the parent is gone: a worker whose parent was killed would wait for work for ever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _write_by_ray(work: Iterable[Work], encoder: Encoder) -> None:
    os.environ.update(RAY_SETTINGS | os.environ)  # before the import, which reads them
    import ray

    with _ray_cluster():
        task, shared = ray.remote(_write_on_node), ray.put(encoder)
        window = 2 * int(ray.cluster_resources().get("CPU", 1))
        _keep_busy(work, lambda shard, file: task.remote(shard, shared, file.absolute()), ray.get, window)


def _write_on_node(shard: TextShard, encoder: Encoder, file: Path) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a task has one core
    write_shard(shard, encoder, file)


@contextmanager
def _ray_cluster() -> Iterator[None]:
    """The cluster that this process is connected to, or RAY_ADDRESS names, or runs here; else one for the block."""
    import ray

    if ray.is_initialized():
        yield
        return
    try:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray has bare ones too
        reason = first_line(error)
        raise UserError(f"engine ray: no cluster can be reached or started: {reason}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _keep_busy(
    work: Iterable[Work], submit: Callable[[TextShard, Path], Any], wait: Callable[[Any], object], window: int
) -> None:
    """Submit all of `work`, with at most `window` shards that aren't waited for; none is at work at the end."""
    pending: deque[Any] = deque()
    try:
        for shard, file in work:
            if len(pending) == window:
                wait(pending.popleft())
            pending.append(submit(shard, file))
    finally:
        while pending:
            wait(pending.popleft())
