"""The folder of a run: what it was made from, and where its outputs stand.

config.toml     every setting
manifest.json   of the rows it trains on; a list, where they are of several folders
tokenizer/
checkpoints/    by orbax, one folder a step
metrics.jsonl   a line a record
histogram.json  what the discriminator said of the held-out tokens at the newest evaluation
tensorboard/    the same as event files
lock            held by the process that trains
"""

import dataclasses
import shutil
import time
import tomllib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from electra_jax.config import ModelConfig, ObjectiveConfig, PretrainConfig
from electra_jax.data.manifest import Manifest, read_manifests, same_rows, write_manifests
from electra_jax.errors import UserError
from electra_jax.files import LOCK, check_absent, hold, new_folder, write_text
from electra_jax.presets import parse, parse_fields, to_toml
from electra_jax.train.checkpoint import Checkpoints, drop_unfinished
from electra_jax.train.optimizer import Params
from electra_jax.train.processes import is_first, wait_for_all

CONFIG, MANIFEST, TOKENIZER = "config.toml", "manifest.json", "tokenizer"
CHECKPOINTS, METRICS = "checkpoints", "metrics.jsonl"
SEEN = 60
"""Seconds until a folder that one process has made must be seen by all; NFS keeps what it knows as long."""
# What may differ between a run and its resumption; anything else would make it another run.
FREE = {"data", "out", "init_from", "steps", "log_every", "eval_every", "eval_rows"}
FREE |= {"checkpoint_every", "checkpoints_kept", "compute", "mesh", "accumulate", "max_bad_steps"}
FREE |= {"keep_best", "max_time", "distributed"}
APART = {"data", "out", "init_from", "max_time", "distributed"}
"""What may differ between the processes of a run: paths, of which each node may have its own, and who they are."""


@contextmanager
def open_run(config: PretrainConfig, manifests: Sequence[Manifest], newest: int | None) -> Iterator[None]:
    """Make the folder `config.out`, or check that the run which it holds is this one; no other trains in it meanwhile.

    `newest` is its `newest_checkpoint`. Raises UserError where the folder holds something else, or a run of other
    settings or data, or one that another process trains (where the file system has locks).
    """
    begun_from = config.init_from
    if is_run(config.out):
        begun_from = _check_same(config, manifests, newest).init_from
    else:
        check_absent(config.out)
        wait_for_all("the folder is asked for")  # by all, before one makes it
        if is_first():
            _make(config, manifests)
        wait_for_all("the folder is made")
        _wait_to_see(config.out)
    if not is_first():
        yield
        return
    with (config.out / LOCK).open("w") as lock:
        with suppress(OSError):  # without locks
            hold(lock, config.out)
            drop_unfinished(config.out / CHECKPOINTS)
        write_text(config.out / CONFIG, to_toml(replace(config, init_from=begun_from)))
        yield


def _make(config: PretrainConfig, manifests: Sequence[Manifest]) -> None:
    if not (config.data[0] / TOKENIZER).is_dir():
        raise UserError(f"{config.data[0]}: its {TOKENIZER}/ is missing; copy it too, or prepare the rows again")
    with new_folder(config.out) as folder:
        write_text(folder / CONFIG, to_toml(config))
        write_manifests(folder, manifests)
        (folder / TOKENIZER).mkdir()
        for file in (config.data[0] / TOKENIZER).iterdir():  # not copytree, which has no error of the disk's
            shutil.copyfile(file, folder / TOKENIZER / file.name)


def _wait_to_see(run: Path) -> None:
    """Return when this process sees the folder that the first one made, which a network's file system may tell late."""
    end = time.monotonic() + SEEN
    while not is_run(run):
        if time.monotonic() > end:
            raise UserError(f"{run}: the first process has made it, and this one can't see it; name a shared folder")
        time.sleep(0.5)


def is_run(folder: Path) -> bool:
    """Whether `folder` is one that this module makes."""
    return (folder / CONFIG).is_file()


def newest_checkpoint(run: Path) -> int | None:
    """The step that a run in `run` would be resumed at, or None where it would be begun."""
    if not is_run(run) or not (run / CHECKPOINTS).is_dir():
        return None
    with Checkpoints(run / CHECKPOINTS) as checkpoints:
        return checkpoints.latest()


def read_model(run: Path) -> ModelConfig:
    """The shapes of a run's two towers. Raises UserError where `run` is no run."""
    return parse(ModelConfig, _read_table(run).get("model", {}), f"{run / CONFIG}: model")


def read_objective(run: Path) -> str | None:
    """The name of what a run minimises, where that is not electra."""
    fields = parse_fields(ObjectiveConfig, _read_table(run).get("objective", {}), f"{run / CONFIG}: objective")
    name = fields.get("name", ObjectiveConfig.name)
    return None if name == ObjectiveConfig.name else name


def restore_params(run: Path, step: int | None = None) -> tuple[int, Params]:
    """A step that was saved (the newest, unless named) and its parameters, as NumPy arrays.

    Raises UserError where `run` is no run, or has no such checkpoint.
    """
    _read_table(run)
    if not (run / CHECKPOINTS).is_dir():
        raise UserError(f"{run}: holds no checkpoint yet")
    with Checkpoints(run / CHECKPOINTS) as checkpoints:
        steps = sorted(checkpoints.manager.all_steps())
        if not steps:
            raise UserError(f"{run}: holds no checkpoint yet")
        step = steps[-1] if step is None else step
        if step not in steps:
            raise UserError(f"{run}: has no checkpoint of step {step}; there are {', '.join(map(str, steps))}")
        return step, checkpoints.restore_params(step)


def _read_table(run: Path) -> dict[str, Any]:
    if not is_run(run):
        raise UserError(f"{run}: not a folder that `electra-jax pretrain` or `electra-jax import` wrote")
    try:
        return tomllib.loads((run / CONFIG).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{run / CONFIG}: not a TOML file: {error}") from None


def _check_same(config: PretrainConfig, manifests: Sequence[Manifest], newest: int | None) -> PretrainConfig:
    """The settings of the folder's run. Raises UserError at the first that makes `config` another run."""
    run = config.out
    table = _read_table(run)
    if "data" not in table:
        raise UserError(
            f"{run}: holds imported weights, no run; name another folder, and start it with --init-from {run}"
        )
    before = parse(PretrainConfig, table, str(run / CONFIG))
    for path, old, new in differences(before, config, FREE):
        raise UserError(f"{run}: this run has {path} = {old!r}, not {new!r}; name another folder, or give {old!r}")
    if newest is None and config.init_from != before.init_from:  # of which nothing is saved yet
        old, new = (f"init_from {one}" if one else "no init_from" for one in (before.init_from, config.init_from))
        raise UserError(f"{run}: this run began with {old}, not with {new}; name another folder, or give what it had")
    if newest is not None and config.steps < newest:
        raise UserError(f"steps: {config.steps}, and {run} has trained {newest} already; give no fewer")
    if not same_rows(read_manifests(run), manifests):
        data = ", ".join(map(str, config.data))
        raise UserError(f"{run}: this run trained on other rows than {data} holds; name another folder")
    return before


def differences(before: Any, now: Any, free: Collection[str]) -> list[tuple[str, Any, Any]]:
    """The fields that differ between two settings, as (dotted name, old, new), but for those that are `free` to."""
    new = settings(now, free)
    return [(path, old, new[path]) for path, old in settings(before, free).items() if old != new[path]]


def settings(config: Any, but: Collection[str], prefix: str = "") -> dict[str, Any]:
    """The fields of a dataclass and of those in it by their dotted names, `but` for some."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        path, value = prefix + field.name, getattr(config, field.name)
        if path not in but:
            found |= settings(value, but, path + ".") if dataclasses.is_dataclass(value) else {path: value}
    return found
