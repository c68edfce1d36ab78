"""Checkpoints by orbax: saved while training goes on, whole or not at all."""

import contextlib
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as policy

from electra_jax.errors import RunError, UserError, first_line
from electra_jax.train.optimizer import Params


class Checkpoints:
    """The checkpoints of a run: `state` (params, optimizer, step) and `meta` (JSON) by step.

    The newest `kept` stay (all, unless set), and with `keep_best` the one of the highest score, the earliest of equals.
    With `scored`, scores are saved for a later start that keeps the best.
    """

    def __init__(self, folder: Path, kept: int | None = None, keep_best: bool = False, scored: bool = False):
        policies: list[policy.PreservationPolicy] = [policy.LatestN(n=kept)]
        if keep_best:
            policies.append(policy.BestN(get_metric_fn=_rank, n=1, keep_checkpoints_without_metrics=False))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policy.AnyPreservationPolicy(policies),
            best_fn=_rank if keep_best or scored else None,  # used as a sort's key; without it no score is saved
            enable_async_checkpointing=True,
        )
        self.folder = folder
        handlers = {"state": ocp.StandardCheckpointHandler(), "meta": ocp.JsonCheckpointHandler()}
        self.manager = ocp.CheckpointManager(folder.resolve(), options=options, item_handlers=handlers)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        with self._told() if kind is None else contextlib.suppress(Exception):
            self.manager.close()  # waits for a save under way

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Tell of a save that fails in one line; earlier checkpoints are whole: one is renamed when it is done."""
        try:
            yield
        except Exception as error:  # whatever the file system and its libraries have
            reason = first_line(error)
            raise RunError(f"{self.folder}: a checkpoint can't be saved; earlier ones are whole: {reason}") from error

    def latest(self) -> int | None:
        """The newest step, or None."""
        return self.manager.latest_step()

    def save(self, step: int, state: Any, score: float | None = None) -> None:
        """Start to save; returns once the arrays are copied, so the step may be donated them."""
        if step not in self.manager.all_steps():
            items = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave({"step": step}))
            metrics = None if score is None else {"score": score, "step": step}
            with self._told():  # of this one, or the last, which was saved while training went on
                self.manager.save(step, args=items, metrics=metrics)

    def wait(self) -> None:
        """Return when what `save` started is done."""
        with self._told():
            self.manager.wait_until_finished()

    def restore(self, step: int, abstract_state: Any) -> Any:
        """The state of `step`, in the shapes, dtypes and places of `abstract_state`."""
        items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract_state))
        try:
            return self.manager.restore(step, args=items)["state"]
        except Exception as error:  # orbax and tensorstore have their own
            before = max((one for one in self.manager.all_steps() if one < step), default=None)
            mend = (
                "begin again in another folder" if before is None else f"delete it, and the run goes on from {before}"
            )
            said = "the checkpoint is damaged, or of other settings"
            raise UserError(f"{self.folder}/{step}: {said} ({first_line(error)}); {mend}") from None

    def restore_params(self, step: int) -> Params:
        """The parameters of `step` alone, or their average where one was kept, as NumPy arrays."""
        try:
            return self._restore_params(step)
        except Exception as error:  # as above
            reason = first_line(error)
            raise UserError(f"{self.folder}/{step}: the checkpoint is damaged, or cut short: {reason}") from None

    def _restore_params(self, step: int) -> Params:
        state = self.manager.item_metadata(step)["state"]
        name = "ema" if "ema" in state else "params"
        saved = state[name]
        params = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), saved)
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), params)
        items = {"item": {name: params}, "restore_args": {name: as_numpy}, "partial_restore": True}
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            path = self.folder.resolve() / str(step) / "state"
            return checkpointer.restore(path, args=ocp.args.PyTreeRestore(**items))[name]


def check_place(folder: Path) -> None:
    """Raise UserError where tensorstore would write a checkpoint's arrays elsewhere than in `folder`."""
    if "\\" in str(folder.absolute()):
        raise UserError(f"{folder}: checkpoints can't be written below a name with a backslash; choose another")


def _rank(metrics: dict[str, float]) -> tuple[float, float]:
    """Higher is better; of equal scores the earlier."""
    return comparable(metrics["score"]), -metrics["step"]


def comparable(score: float) -> float:
    """The score, or minus infinity for what is no number, which has no place in an order."""
    return -math.inf if math.isnan(score) else score


def drop_unfinished(folder: Path) -> None:
    """Delete what saves that were killed have left in a folder of checkpoints, which no process writes to now."""
    for path in folder.glob(f"*{ocp.utils.TMP_DIR_SUFFIX}*"):
        shutil.rmtree(path, ignore_errors=True)
