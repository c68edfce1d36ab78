"""A fine-tuning run: from a file of examples to a folder that transformers loads."""

import hashlib
import json
import math
import os
import shutil
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from electra_jax.config import FinetuneConfig
from electra_jax.data.tokenizer import tokenizer_hash
from electra_jax.errors import UserError
from electra_jax.files import LOCK, check_absent, held_folder, room_for, write_text
from electra_jax.finetuning.card import finetuned_card
from electra_jax.finetuning.data import load_data
from electra_jax.finetuning.model import write_fine_tuned
from electra_jax.finetuning.start import load_start
from electra_jax.finetuning.task import Task
from electra_jax.finetuning.tasks import make_task
from electra_jax.finetuning.tuner import RESULT, WEIGHTS, Result, Tuner
from electra_jax.hub.names import flat
from electra_jax.presets import check_types, read_toml, to_toml
from electra_jax.report.progress import table
from electra_jax.train.check import check_compute
from electra_jax.train.checkpoint import check_place
from electra_jax.train.memory import enough_memory
from electra_jax.train.optimizer import Params
from electra_jax.train.run import CHECKPOINTS, differences

SETTINGS, SCORES, SEEDS, DATA = "finetune.toml", "scores.json", "seeds", "data.json"
FREE = {"out", "log_every", "train", "eval", "model"}
"""What may differ between a run and its resumption: the last three are paths, and what they hold is compared."""
POSITIVE = (
    "batch_size",
    "seeds",
    "log_every",
    "learning_rate",
    "clip_norm",
    "layer_decay",
    "epochs",
    "eval_every",
    "patience",
)


@dataclass(frozen=True)
class FinetuneResult:
    """What a run came to."""

    folder: Path
    metric: str
    results: tuple[Result, ...]
    """Of each seed."""
    best: Result
    """The seed whose model is in `folder`."""

    @property
    def scores(self) -> list[float]:
        """Each seed's score by `metric`; none where nothing was held out."""
        return [result.scores[self.metric] for result in self.results if result.scores]

    @property
    def median(self) -> float | None:
        """Of the scores."""
        return statistics.median(self.scores) if self.scores else None


def finetune(config: FinetuneConfig, console: Console | None = None) -> FinetuneResult:
    """Fine-tune `config.model` from one seed or several, and write the best to the new folder `config.out`.

    The folder appears when all is done; until then `OUT.partial` beside it holds what there is, from where the same
    call goes on. The same seed, data and devices give the same bits, resumed or not. Raises UserError, before
    anything is written, for settings or data that can't be used; RunError where there is no room.
    """
    console = console or Console(stderr=True, markup=False)
    _check(config)
    check_absent(config.out)
    check_place(config.out)
    model, body, tokenizer = load_start(config.model)
    if config.dropout is not None:
        model = replace(model, hidden_dropout_prob=config.dropout, attention_probs_dropout_prob=config.dropout)
    data = load_data(config, make_task(config, tokenizer, model))
    data = replace(data, task=_with_metric(data.task))
    tuner = Tuner(config, model, body, data, console)
    begun_with = {"train": data.train.fingerprint, "eval": data.eval.fingerprint}
    begun_with |= {"model": _digest(body), "tokenizer": tokenizer_hash(tokenizer)}
    smaller = "give a smaller batch_size or length"
    with _open_work(config, begun_with) as work, room_for(config.out), enough_memory(config.out, smaller):
        console.print(tuner.startup_table())
        for line in data.skipped:
            console.print(f"left out: {line}", soft_wrap=True, highlight=False)
        with jax.set_mesh(tuner.mesh):
            seeds = range(config.seed, config.seed + config.seeds)
            results = [tuner.run(seed, work / SEEDS / str(seed)) for seed in seeds]
        best = max(results, key=lambda result: result.scores.get(tuner.metric, 0.0))
        outcome = FinetuneResult(config.out, tuner.metric, tuple(results), best)
        _publish(config, tuner, outcome, work)
    console.print(_table(outcome))
    return outcome


def _check(config: FinetuneConfig) -> None:
    check_types(config)
    check_compute(config.compute)
    for name in POSITIVE:
        value = getattr(config, name)
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"{name}: {value} is not a number above 0")
    if not 0 <= config.weight_decay < math.inf:
        raise UserError(f"weight_decay: {config.weight_decay} is not a number of at least 0")
    if config.dropout is not None and not 0 <= config.dropout < 1:
        raise UserError(f"dropout: {config.dropout} is not from 0 to below 1")
    if not 0 <= config.warmup_fraction <= 1:
        raise UserError(f"warmup_fraction: {config.warmup_fraction} is not from 0 to 1")
    if not 0 <= config.seed <= 2**32 - 1 - config.seeds:
        raise UserError(f"seed: {config.seed} is not between 0 and 2**32 - 2 less the seeds")


def _with_metric(task: Task) -> Task:
    metric = task.settings.metric or task.metrics[0]
    if metric not in task.metrics:
        raise UserError(f"metric: {metric!r} is none of this task's: {', '.join(task.metrics)}")
    return task.with_settings(metric=metric)


@contextmanager
def _open_work(config: FinetuneConfig, begun_with: dict[str, str]) -> Iterator[Path]:
    """The folder of a run under way, a new one or that of the same run, held against other processes."""
    work = config.out.with_name(config.out.name + ".partial")
    if not (work / LOCK).is_file():
        check_absent(work)
    with held_folder(work, config.out):
        _begin(work, config, begun_with)
        yield work


def _digest(params: Params) -> str:
    """SHA-256 (hexadecimal) of weights."""
    digest = hashlib.sha256()
    for path, leaf in sorted(flat(params).items()):
        digest.update(path.encode() + np.asarray(leaf).tobytes())
    return digest.hexdigest()


def _begin(work: Path, config: FinetuneConfig, begun_with: dict[str, str]) -> None:
    """Note what the run is, or, where it has begun, raise UserError unless it is the same."""
    if not (work / DATA).is_file():
        write_text(work / SETTINGS, to_toml(config))
        write_text(work / DATA, json.dumps(begun_with))
    for path, old, new in differences(read_toml(FinetuneConfig, work / SETTINGS), config, FREE):
        raise UserError(f"{work}: this run has {path} = {old!r}, not {new!r}; give {old!r}, or delete the folder")
    before = json.loads((work / DATA).read_text(encoding="utf-8"))
    said = {
        "train": "other examples",
        "eval": "other examples",
        "model": "other weights",
        "tokenizer": "another tokenizer",
    }
    for name, what in said.items():
        if before.get(name) != begun_with[name]:
            raise UserError(f"{work}: this run began with {what}; delete the folder, or name another")


def _publish(config: FinetuneConfig, tuner: Tuner, outcome: FinetuneResult, work: Path) -> None:
    """Put the best model's files into the work folder, rename it, and only then drop what served resuming."""
    folder = work / SEEDS / str(outcome.best.seed)
    fine_tuned = tuner.model_of(outcome.best, folder)
    write_fine_tuned(work, fine_tuned, finetuned_card(config, fine_tuned, outcome.best, outcome.scores))
    write_text(work / SCORES, json.dumps(_scores(outcome), indent=2) + "\n")
    os.replace(work, config.out)  # an empty folder there is replaced
    for seed in (config.out / SEEDS).iterdir():
        (seed / WEIGHTS).unlink()
        (seed / RESULT).unlink()
        shutil.rmtree(seed / CHECKPOINTS, ignore_errors=True)  # of a seed killed just before it dropped them
    (config.out / DATA).unlink()
    (config.out / LOCK).unlink()


def _scores(outcome: FinetuneResult) -> dict[str, Any]:
    return {
        "metric": outcome.metric,
        "median": outcome.median,
        "best_seed": outcome.best.seed,
        "seeds": [{"seed": r.seed, "step": r.step, "scores": r.scores} for r in outcome.results],
    }


def _table(outcome: FinetuneResult) -> Any:
    if not outcome.scores:
        return table(str(outcome.folder), {"model": "of the last step; nothing was held out to score it"})
    rows = {
        f"seed {r.seed}": f"{outcome.metric} {r.scores[outcome.metric]:.4f} (step {r.step})" for r in outcome.results
    }
    return table(str(outcome.folder), rows | {"median": f"{outcome.metric} {outcome.median:.4f}"})
