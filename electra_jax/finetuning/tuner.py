"""One fine-tuning after another, each from its own seed, by one compiled step."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import safetensors.numpy
from flax import nnx
from rich.console import Console
from rich.table import Table

from electra_jax.config import ElectraConfig, FinetuneConfig
from electra_jax.errors import UserError
from electra_jax.files import write_text
from electra_jax.finetuning.buckets import fit_buckets, padding_share, train_plans
from electra_jax.finetuning.data import FinetuneData
from electra_jax.finetuning.examples import Batch, collate
from electra_jax.finetuning.model import IN_WINDOWS, FineTuned, Forward, decode, graph_of
from electra_jax.finetuning.optimizer import finetune_optimizer, optimizer_settings
from electra_jax.finetuning.task import Scores, Task
from electra_jax.finetuning.tasks import epochs_of
from electra_jax.hub.names import flat, nested
from electra_jax.hub.weights import write_state
from electra_jax.model import TaskModel
from electra_jax.report.progress import TrainingProgress, table
from electra_jax.report.sinks import MetricsLog, read_metrics
from electra_jax.train.cache import compiler_options
from electra_jax.train.checkpoint import Checkpoints, comparable
from electra_jax.train.clock import Clock
from electra_jax.train.optimizer import Params, count_parameters, schedule
from electra_jax.train.run import CHECKPOINTS, METRICS
from electra_jax.train.sharding import abstract, by_row, make_mesh, put_batch, replicated
from electra_jax.train.step import State, read_tokens, step_key

RESULT, WEIGHTS = "result.json", "best.safetensors"


@dataclass(frozen=True)
class Result:
    """What one seed came to."""

    seed: int
    step: int
    """Of the checkpoint that was kept."""
    scores: Scores
    """On the held-out examples; empty where there are none."""
    null_threshold: float | None = None


class Tuner:
    """The compiled functions of a run, and the data that they are fed."""

    def __init__(
        self, config: FinetuneConfig, model: ElectraConfig, body: Params, data: FinetuneData, console: Console
    ):
        self.config, self.model, self.body, self.data, self.console = config, model, body, data, console
        self.task, self.features, self.lengths = data.task, data.train.flat, data.train.lengths
        self.steps_per_epoch = -(-len(self.features) // config.batch_size)
        self.steps = max(1, round(epochs_of(config) * self.steps_per_epoch))
        if self.steps >= 2**31:
            raise UserError(f"epochs: {epochs_of(config):g} are {self.steps:g} steps, more than 2**31; give fewer")
        self.buckets = fit_buckets(self.lengths, self.steps_per_epoch)
        self.mesh = make_mesh(None, config.batch_size)
        self.graph = graph_of(model, self.task.head, config.compute)
        self.forward = Forward(self.graph, self.mesh, config.batch_size)
        self.metric = self.task.settings.metric
        self.rate = schedule(optimizer_settings(config, self.steps), self.steps)
        self.optimizer = finetune_optimizer(config, self.steps, model.num_hidden_layers)
        whole, split = replicated(self.mesh), by_row(self.mesh)
        self.step = jax.jit(
            self._step,
            in_shardings=(whole, split, None),
            out_shardings=whole,
            donate_argnums=0,
            compiler_options=compiler_options(),
        )
        self.start = jax.jit(self._start, out_shardings=whole)

    def run(self, seed: int, folder: Path) -> Result:
        """Fine-tune from `seed` in `folder`, going on from its newest checkpoint; the best weights stay there."""
        if (folder / RESULT).is_file():
            return Result(**json.loads((folder / RESULT).read_text(encoding="utf-8")))
        folder.mkdir(parents=True, exist_ok=True)
        scored = bool(self.data.eval.examples)
        with Checkpoints(folder / CHECKPOINTS, kept=1, keep_best=scored) as checkpoints:
            state = self._resume(seed, checkpoints)
            first = int(state["step"])
            with (
                closing(MetricsLog(folder, first)) as log,
                TrainingProgress(self.console, first, self.steps) as progress,
            ):
                self._train(seed, state, log, progress, checkpoints)
        with Checkpoints(folder / CHECKPOINTS) as checkpoints:
            step = self._best_step(folder) if scored else checkpoints.manager.latest_step()
            params = checkpoints.restore_params(step)
        return self._keep(seed, step, params, folder)

    def best_params(self, folder: Path) -> Params:
        """The weights that `run` left in `folder`."""
        return nested(safetensors.numpy.load_file(folder / WEIGHTS).items())

    # --- the step ---------------------------------------------------------------------------------------------

    def _step(self, state: State, batch: dict[str, jax.Array], seed: jax.Array) -> State:
        """One update; the loss is added to the state's window."""
        tokens, key = read_tokens(batch), step_key(seed, state["step"])

        def loss(params: Params) -> jax.Array:
            total, count = self.task.loss(nnx.merge(self.graph, params)(tokens, key), batch)
            return total / jnp.maximum(count, 1)

        value, gradients = jax.value_and_grad(loss)(state["params"])
        updates, optimizer = self.optimizer.update(gradients, state["optimizer"], state["params"])
        return {
            "step": state["step"] + 1,
            "params": optax.apply_updates(state["params"], updates),
            "optimizer": optimizer,
            "window": state["window"] + jnp.stack([value, jnp.ones_like(value)]),
        }

    def _start(self, seed: jax.Array, body: Params) -> State:
        """The state before the first step: the pretrained weights, and a head drawn by the seed."""
        key = jax.random.fold_in(jax.random.key(seed), 2**32 - 1)  # apart from the steps' keys
        head = self.task.head
        fresh = TaskModel(self.model, head.kind, head.outputs, self.config.compute, rngs=nnx.Rngs(key))
        params = body | {"head": nnx.to_pure_dict(nnx.state(fresh, nnx.Param))["head"]}
        return {
            "step": jnp.zeros((), jnp.int32),
            "params": params,
            "optimizer": self.optimizer.init(params),
            "window": jnp.zeros(2),
        }

    # --- the loop ---------------------------------------------------------------------------------------------

    def _resume(self, seed: int, checkpoints: Checkpoints) -> State:
        newest = checkpoints.latest()
        if newest is None:
            return self.start(np.uint32(seed), self.body)
        shapes = jax.eval_shape(self._start, np.uint32(seed), self.body)
        return checkpoints.restore(newest, abstract(shapes, self.mesh))

    def _train(
        self, seed: int, state: State, log: MetricsLog, progress: TrainingProgress, checkpoints: Checkpoints
    ) -> None:
        clock, every = Clock(), self.config.eval_every or self.steps_per_epoch
        done, scores = int(state["step"]), _eval_scores(log.file)
        batches = self._batches(seed, done)
        while done < self.steps and not self._gave_up(scores):
            state = self.step(state, put_batch(next(batches), self.mesh), np.uint32(seed))
            done += 1
            clock.tick(state["window"])
            progress.advance(done)
            if done % self.config.log_every == 0 or done == self.steps:
                state |= {"window": self._record(state, done, clock, log, progress)}
            if done % every == 0 or done == self.steps:
                scores += self._evaluate(state["params"], done, log, progress)
                checkpoints.save(done, state, scores[-1] if scores else None)
                clock.restart()

    def _record(self, state: State, done: int, clock: Clock, log: MetricsLog, progress: TrainingProgress) -> jax.Array:
        """Write the mean loss since the last record; returns an empty window."""
        total, steps = np.asarray(state["window"])
        seconds = clock.lap()
        record = {"loss": float(total / steps), "learning_rate": float(self.rate(done - 1))}
        if seconds > 0:
            record["examples_per_second"] = self.config.batch_size / seconds
        log.write("train", done, record)
        progress.train(done, record, (self.steps - done) * clock.seconds_a_step)
        return jnp.zeros_like(state["window"])

    def _evaluate(self, params: Params, done: int, log: MetricsLog, progress: TrainingProgress) -> list[float]:
        """The score, written down; nothing where no example is held out."""
        if not self.data.eval.examples:
            return []
        scores = self._scores(self.task, params)[1]
        figures = {"score": scores[self.metric], **scores}
        log.write("eval", done, figures)
        progress.evaluation(done, figures)
        return [figures["score"]]

    def _scores(self, task: Task, params: Params) -> tuple[list[dict[str, Any]], Scores]:
        split = self.data.eval
        buckets = fit_buckets(split.lengths, -(-len(split.flat) // self.config.batch_size))
        buckets = tuple(sorted({self._compiled_length(length) for length in buckets}))
        predictions = decode(task, split.examples, split.features, partial(self.forward, params, buckets=buckets))
        return predictions, task.scores(split.examples, predictions)

    def _compiled_length(self, length: int) -> int:
        """The training bucket that holds `length`, so that few shapes are compiled; itself if it is longer."""
        return min((bucket for bucket in self.buckets if bucket >= length), default=length)

    def _batches(self, seed: int, first: int) -> Iterator[Batch]:
        """Batches from that of step `first` on, epoch after epoch."""
        epoch, skip = divmod(first, self.steps_per_epoch)
        while True:
            plans = train_plans(self.lengths, self.buckets, self.config.batch_size, seed, epoch)
            for plan in plans[skip:]:
                yield collate([self.features[i] for i in plan.indices], self.config.batch_size, plan.length)
            epoch, skip = epoch + 1, 0

    def _gave_up(self, scores: Sequence[float]) -> bool:
        """Whether `patience` evaluations in a row were no better than the best before them."""
        if self.config.patience is None or not scores:
            return False
        return len(scores) - 1 - int(np.argmax([comparable(score) for score in scores])) >= self.config.patience

    def _best_step(self, folder: Path) -> int:
        """The evaluation of the highest score, the first of equals."""
        records = _eval_records(folder / METRICS)
        return max(records, key=lambda record: (comparable(record["score"]), -record["step"]))["step"]

    def _keep(self, seed: int, step: int, params: Params, folder: Path) -> Result:
        """Write the best weights and then the result, and drop the checkpoints, which served resuming."""
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params)):
            raise UserError(
                f"seed {seed}: its weights are no numbers; learning_rate {self.config.learning_rate} is too high"
            )
        task, scores = self.task, {}
        if self.data.eval.examples:
            placed = jax.device_put(params, replicated(self.mesh))
            predictions, _ = self._scores(task, placed)
            task = task.tuned(self.data.eval.examples, predictions)
            scores = task.scores(self.data.eval.examples, predictions)
        write_state(flat(params), folder / WEIGHTS)
        result = Result(seed, step, scores, task.settings.null_threshold)
        write_text(folder / RESULT, json.dumps(result.__dict__) + "\n")
        shutil.rmtree(folder / CHECKPOINTS)
        return result

    # --- for people -------------------------------------------------------------------------------------------

    def startup_table(self) -> Table:
        """What is going to be done."""
        plans = train_plans(self.lengths, self.buckets, self.config.batch_size, self.config.seed, epoch=0)
        rows = {
            "task": f"{self.config.task}, metric {self.metric}",
            "labels": self._labels_told(),
            "model": f"{self.config.model}: {count_parameters(self.body):,} parameters below the head",
            "examples": f"{len(self.data.train.examples):,} to train, {len(self.data.eval.examples):,} to evaluate",
            "left out": f"{len(self.data.skipped):,} rows with empty fields",
            "steps": f"{self.steps:,} of {self.config.batch_size} rows, {self.config.seeds} seed(s)",
            "lengths": f"{', '.join(map(str, self.buckets))}; {padding_share(self.lengths, plans):.1%} padding",
            "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind} ({jax.default_backend()})",
        }
        full = np.mean(self.lengths >= self.task.settings.length)
        if full and self.task.head.kind not in IN_WINDOWS:
            rows["cut"] = f"{full:.1%} of the examples to {self.task.settings.length} tokens, where they are longer"
        return table(str(self.config.out), rows | self.task.notes(self.data.train.flat))

    def _labels_told(self) -> str:
        """Each label with how often the training examples have it, which shows what was mistyped."""
        targets = [example.target for example in self.data.train.examples]
        counts = Counter(label for target in targets for label in (target if isinstance(target, list) else [target]))
        return ", ".join(f"{label} ({counts[label]:,})" for label in self.task.settings.labels) or "none"

    def model_of(self, result: Result, folder: Path) -> FineTuned:
        """The model that a seed left in `folder`."""
        task = self.task.with_settings(null_threshold=result.null_threshold)
        return FineTuned(self.model, self.best_params(folder), task, self.config.compute)


def _eval_records(file: Path) -> list[dict[str, Any]]:
    return [record for record in read_metrics(file) if record["kind"] == "eval"]


def _eval_scores(file: Path) -> list[float]:
    return [record["score"] for record in _eval_records(file)]
