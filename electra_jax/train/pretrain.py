"""A pretraining run, from prepared rows to checkpoints."""

import math
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cached_property, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from rich.console import Console
from rich.table import Table

from electra_jax.config import PretrainConfig
from electra_jax.data.batches import Shard, eval_batches, row_numbers, train_batches
from electra_jax.data.manifest import Manifest, without_sources
from electra_jax.data.rows import Rows, open_rows
from electra_jax.errors import RunError, StoppedError, UserError
from electra_jax.hub.names import flat, nested
from electra_jax.objectives.masking import SpecialTokens
from electra_jax.objectives.metrics import Counts, summarize
from electra_jax.report.progress import TrainingProgress, table
from electra_jax.report.sinks import MetricsLog, NoLog, read_metrics
from electra_jax.train.apart import holds_apart, put_together, take_apart
from electra_jax.train.check import check, check_mesh
from electra_jax.train.checkpoint import Checkpoints
from electra_jax.train.clock import Clock
from electra_jax.train.flops import measure_peak, step_flops
from electra_jax.train.kept import compile_step
from electra_jax.train.library import faster_in_bfloat16, takes_onednn
from electra_jax.train.memory import enough_memory, hand_back
from electra_jax.train.models import LEARNED, started_from_one
from electra_jax.train.optimizer import Params, count_parameters, schedule, updates_made
from electra_jax.train.processes import Stop, check_alike, checksum, ending_together, is_first, join, wait_for_all
from electra_jax.train.run import (
    APART,
    CHECKPOINTS,
    METRICS,
    TOKENIZER,
    is_run,
    newest_checkpoint,
    open_run,
    read_model,
    restore_params,
    settings,
)
from electra_jax.train.sharding import abstract, by_row, make_mesh, put_rows, replicated, shardings
from electra_jax.train.step import (
    State,
    abstract_params,
    abstract_state,
    freezes_generator,
    init_params,
    init_state,
    jit_step,
    make_evaluation,
    options_of,
)
from electra_jax.train.word_start import word_table


def pretrain(config: PretrainConfig, console: Console | None = None, *, keep_step: bool = False) -> dict[str, float]:
    """Train to `config.steps`, going on from the newest checkpoint in `config.out`.

    Returns the last held-out figures, and their step. The same seed, data and devices give the same bits, resumed or
    not. With `keep_step` the compiled step is looked for, and kept, by what the package and the settings say, as the
    command does: not for a program that changes the package's functions, or gives it an objective (`train/kept.py`).
    Raises UserError, before anything is written, for settings or data that don't fit each other; RunError where the run
    can't go on.
    """
    join(config.distributed)
    smaller = "give more parts (accumulate), a smaller batch_size or compute.remat; electra-jax plan tells what fits"
    with ending_together(), told(config.out), enough_memory(config.out, smaller):
        console = (console or Console(stderr=True, markup=False)) if is_first() else Console(quiet=True)
        return _pretrain(config, console, keep_step)


@contextmanager
def told(run: Path) -> Iterator[None]:
    """A file of the run that can't be written, as on a full disk, is told in one line; and any other, by its name."""
    try:
        yield
    except OSError as error:
        if error.filename and not Path(str(error.filename)).resolve().is_relative_to(run.resolve()):
            raise UserError(f"{error.filename}: {error.strerror}") from error
        raise RunError(
            f"{run}: can't be written: {error.strerror or error}; the checkpoints in it are whole"
        ) from error


def _pretrain(config: PretrainConfig, console: Console, keep_step: bool) -> dict[str, float]:
    manifests = [Manifest.read(folder) for folder in config.data]
    check(config, manifests)
    check_alike(settings(config, APART) | {"data": without_sources(manifests)})
    check_alike({"compute.products": "onednn" if takes_onednn(config) else "xla"})  # auto asks for AVX-512
    manifest = manifests[0]  # of what is asked of it, all say the same
    mesh = make_mesh(config.mesh, config.batch_size)
    check_mesh(config, mesh)
    rows = open_rows(config.data, "train"), open_rows(config.data, "eval")
    newest = _agreed_checkpoint(config.out)
    weights = {} if newest is not None else _agreed_weights(config, manifest, rows[0])
    scored = len(rows[1]) > 0 and config.checkpoint_every % config.eval_every == 0
    with (
        open_run(config, manifests, newest),
        jax.set_mesh(mesh),
        Checkpoints(config.out / CHECKPOINTS, config.checkpoints_kept, config.keep_best, scored) as checkpoints,
        Stop(config.max_time) as stop,
    ):
        trainer = Trainer(config, manifest, rows, mesh, checkpoints, stop, console, keep_step)
        return trainer.run(weights)


def _agreed_checkpoint(run: Path) -> int | None:
    """The step that `run` is to be resumed at, or None; raises UserError where not all processes see the same."""
    begun, saved = is_run(run), (run / CHECKPOINTS).is_dir()
    check_alike({"out": f"{'a' if begun else 'no'} run {'with' if saved else 'without'} checkpoints"})
    newest = newest_checkpoint(run)
    check_alike({"out": f"a run whose newest checkpoint is {newest}"})
    return newest


def _agreed_weights(config: PretrainConfig, manifest: Manifest, rows: Rows) -> Params:
    """What the run starts from; raises UserError where not all processes have the same."""
    check_alike({"init_from": "none" if config.init_from is None else "given"})  # orbax waits for all where it reads
    weights = _initial_weights(config, manifest, rows)
    check_alike({"word_start" if config.word_start == "neighbours" else "init_from": checksum(weights)})
    return weights


def _initial_weights(config: PretrainConfig, manifest: Manifest, rows: Rows) -> Params:
    """The parameters of `config.init_from`, of one tower or both, or the word table of `config.word_start`; or none."""
    weights = _read_weights(config, manifest) if config.init_from else {}
    if freezes_generator(config) and config.model.generator_kind in LEARNED and "generator" not in weights:
        raise UserError(
            "objective.generator_weight: 0 leaves the generator as it starts, and it would start at random; give "
            "init_from a run whose objective is mlm and whose encoder has the generator's size, or one with a generator"
        )
    return _word_start(config, manifest, rows) if config.word_start == "neighbours" else weights


def _word_start(config: PretrainConfig, manifest: Manifest, rows: Rows) -> Params:
    """Word tables from the rows' neighbours: the one that is shared, or each tower's own."""
    special = [manifest.pad_id, manifest.unk_id, manifest.cls_id, manifest.sep_id, manifest.mask_id]
    table = {"embeddings": {"word": word_table(rows, special, np.asarray(init_params(config)["embeddings"]["word"]))}}
    return table | {"generator": table}  # which a generator that shares the table has no use for


def _read_weights(config: PretrainConfig, manifest: Manifest) -> Params:
    run = config.init_from
    assert run is not None
    model, (_, params) = read_model(run), restore_params(run)
    shared = ["vocab_size", "embedding_size", "max_position_embeddings", "type_vocab_size", "layer_norm_eps"]
    shared += ["tie", "generator_kind"] if "generator" in params else []
    towers = ["discriminator"]
    towers += ["generator"] if "generator" in params and model.generator_kind in LEARNED else []  # others are no tower
    for name in (*shared, *towers):
        theirs, ours = getattr(model, name), getattr(config.model, name)
        if theirs != ours:
            raise UserError(f"{run}: its model.{name} is {theirs}, and this run's is {ours}; make them the same")
    if (run / TOKENIZER).is_dir() and _hash_of(run / TOKENIZER) != manifest.tokenizer_hash:
        raise UserError(
            f"{config.data[0]}: prepared with another tokenizer than {run} has; prepare it with {run / TOKENIZER}"
        )
    return params if "generator" in params else started_from_one(params, config.model, model.discriminator)


def _hash_of(tokenizer: Path) -> str:
    # Here, since it takes transformers, whose import would be a quarter of a start's.
    from electra_jax.data.tokenizer import load_tokenizer, tokenizer_hash

    return tokenizer_hash(load_tokenizer(tokenizer))


class Trainer:
    """The compiled functions of a run, and everything that it writes to."""

    def __init__(
        self,
        config: PretrainConfig,
        manifest: Manifest,
        rows: tuple[Rows, Rows],
        mesh: Mesh,
        checkpoints: Checkpoints,
        stop: Stop,
        console: Console,
        keep_step: bool,
    ):
        self.config, self.mesh, self.checkpoints, self.stop, self.console = config, mesh, checkpoints, stop, console
        self.rows, self.held_out = rows
        self.shard = Shard(jax.process_index(), jax.process_count())
        self.rate = schedule(config.optimizer, config.steps)
        self.onednn = takes_onednn(config)
        self.flops, self.peak = step_flops(config), measure_peak(config.compute.dtype, self.onednn)
        self.special, self.keep_step = SpecialTokens(manifest.cls_id, manifest.sep_id, manifest.mask_id), keep_step
        self.options = options_of(config)
        self.evaluate_batch = jax.jit(
            make_evaluation(config, self.special, mesh),
            in_shardings=(shardings(abstract_state(config)["params"], mesh), by_row(mesh), None),
            out_shardings=replicated(mesh),
            compiler_options=self.options,
        )
        self.add = jax.jit(partial(jax.tree.map, jnp.add), donate_argnums=0)

    def run(self, weights: Params) -> dict[str, float]:
        """Train from the newest checkpoint, or else from `weights`; returns the last held-out figures."""
        first = self.checkpoints.latest() or 0
        self.console.print(self._startup_table(first))
        state, window = self._start(weights)
        if first < self.config.steps:
            with (
                closing(MetricsLog(self.config.out, first) if is_first() else NoLog()) as log,
                TrainingProgress(self.console, first, self.config.steps) as progress,
            ):
                self._train(state, window, log, progress)
        elif is_first() and any(record["step"] > first for record in read_metrics(self.config.out / METRICS)):
            MetricsLog(self.config.out, first).close()  # which drops the records of steps that were gone back from
        wait_for_all("the metrics are written")
        held_out = [record for record in read_metrics(self.config.out / METRICS) if record["kind"] == "eval"]
        return {name: value for name, value in (held_out or [{}])[-1].items() if name != "kind"}

    def _train(self, state: State, window: Counts, log: MetricsLog | NoLog, progress: TrainingProgress) -> None:
        """The loop: a step, and what is due after it."""
        clock = Clock()
        for done, trained, counts in self._steps(state):
            window = self.add(window, counts)
            progress.advance(done)
            clock.tick(counts)
            if self._due(done, self.config.log_every):
                record, left = self._train_record(window, trained, clock), self.config.steps - done
                log.write("train", done, record)
                progress.train(done, record, left * clock.seconds_a_step)
                window = jax.tree.map(jnp.zeros_like, window)
                self._check_finite(trained)
            score = None
            if len(self.held_out) and self._due(done, self.config.eval_every):
                held_out = self._evaluate(trained["ema" if self.config.ema_decay else "params"])
                figures = self._summary(held_out)
                score = -figures["loss"]
                log.write("eval", done, figures)
                if "histogram" in held_out and math.isfinite(figures["loss"]):
                    log.write_histogram(done, np.asarray(held_out["histogram"]))
                progress.evaluation(done, figures)
                clock.restart()
            stops = self.stop.due(done)
            if self._due(done, self.config.checkpoint_every) or stops:
                self._check_finite(trained)
                if int(trained["bad_steps"]) and done < self.config.steps and not stops:
                    continue  # it may go wrong, and what would go wrong with it is not to push out what was saved
                self.checkpoints.save(done, put_together({**trained, "window": window}), score)
            if stops and done < self.config.steps:
                self.checkpoints.wait()
                raise StoppedError(f"{self.config.out}: saved at step {done}; run the same command again to go on")

    def _check_finite(self, state: State) -> None:
        """Raise RunError where too many steps in a row were bad; none of them has changed anything."""
        if int(state["bad_steps"]) >= self.config.max_bad_steps:
            last, rows = int(state["step"]), ", ".join(map(str, self._rows_of(int(state["step"]))))
            raise RunError(
                f"{self.config.out}: steps {last - self.config.max_bad_steps + 1} to {last} had a loss or gradient "
                f"that isn't finite; the last read rows {rows} of {', '.join(map(str, self.config.data))}. "
                f"Begin another run with a lower optimizer.learning_rate or more warmup_steps{self._from_newest()}"
            )

    def _from_newest(self) -> str:
        newest = self.checkpoints.latest()
        return "" if newest is None else f"; --init-from {self.config.out} takes what was learned by step {newest}"

    def _due(self, done: int, every: int) -> bool:
        return done % every == 0 or done == self.config.steps

    def _start(self, weights: Params) -> tuple[State, Counts]:
        """The state to go on from, and the counts since the last record."""
        newest = self.checkpoints.latest()
        fresh = abstract_state(self.config) | {"window": self._abstract_counts(newest or 0)}
        if newest is not None:
            state = self.checkpoints.restore(newest, abstract(jax.eval_shape(put_together, fresh), self.mesh))
            state = take_apart(state) if holds_apart(self.config.compute) else state
        else:
            places = shardings(abstract_params(self.config), self.mesh)
            params = jax.jit(partial(init_params, self.config), out_shardings=places, compiler_options=self.options)()
            leaves, all_places = flat(params), flat(places)
            given = {path: leaf for path, leaf in flat(weights).items() if path in leaves}  # heads may be others
            leaves |= jax.device_put(given, {path: all_places[path] for path in given})
            begin = jax.jit(
                partial(self._fresh, fresh["window"]),
                out_shardings=shardings(fresh, self.mesh),
                compiler_options=self.options,
            )
            state = begin(nested(leaves.items()))
        jax.block_until_ready(state)
        hand_back()  # what making it took, in which a step's intermediate results may not find room
        return state, state.pop("window")

    def _fresh(self, counts: Counts, params: Params) -> State:
        """What a checkpoint holds, before the first step; its layers apart where the run has them so."""
        return init_state(self.config, params) | {"window": jax.tree.map(lambda c: jnp.zeros(c.shape, c.dtype), counts)}

    @cached_property
    def step(self) -> jax.stages.Compiled:
        """The train step; compiled when it is asked for, since a run that is at its end has no use for it."""
        return compile_step(self.config, self.special, self.mesh, self._abstract_batch(), keep=self.keep_step)

    def _abstract_counts(self, first: int) -> Counts:
        """Shapes and dtypes of a step's counts."""
        if first < self.config.steps:
            return self.step.out_info[1]
        step = jit_step(self.config, self.special, self.mesh)
        return jax.eval_shape(step, abstract_state(self.config), self._abstract_batch())[1]

    def _abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes, dtypes and places of the batches to come."""
        size, place = self.config.batch_size, by_row(self.mesh)
        return {
            name: jax.ShapeDtypeStruct((size, *rows.shape[1:]), rows.dtype, sharding=place)
            for name, rows in self.rows.take([]).items()
        }

    def _steps(self, state: State) -> Iterator[tuple[int, State, Counts]]:
        """Train: after each update its number, the state (given away to the next) and the counts."""
        config, first = self.config, int(state["step"])
        batches = train_batches(self.rows, config.batch_size, config.seed, first, self.shard, config.data_weights)
        with closing(batches):
            for done in range(first + 1, config.steps + 1):
                state, counts = self.step(state, put_rows(next(batches), self.mesh))
                yield done, state, counts

    def _rows_of(self, step: int) -> list[int]:
        """Which rows the batch of a step was made of."""
        return row_numbers(self.rows, self.config.batch_size, self.config.seed, step, self.config.data_weights)

    def _evaluate(self, params: Params) -> Counts:
        """Counts over held-out rows."""
        batches = eval_batches(self.held_out, self.config.batch_size, self.config.eval_rows, self.shard)
        parts = [self.evaluate_batch(params, put_rows(batch, self.mesh), i) for i, batch in enumerate(batches)]
        return jax.tree.map(lambda *counts: np.sum(counts, axis=0), *jax.device_get(parts))

    def _train_record(self, window: Counts, trained: State, clock: Clock) -> dict[str, float]:
        """Figures over the good steps since the last record; those of speed leave the first, which compiles, out."""
        counts = jax.device_get(window)
        seconds, good = clock.lap(), counts["steps"] - counts["bad_steps"]
        last = max(0, int(updates_made(trained["optimizer"])) - 1)
        record = {"learning_rate": float(self.rate(last)), "bad_steps": float(counts["bad_steps"])}
        if not good:
            return record
        record = self._summary(counts) | record
        record |= {name: float(counts[name] / good) for name in counts if name.startswith("grad_norm")}
        if seconds > 0:
            if "tokens" in counts:  # an objective of one's own may not count them
                record["tokens_per_second"] = float(counts["tokens"] / good) / seconds
            record["peak_share"] = self.flops / seconds / self.peak
        return record

    def _summary(self, counts: Counts) -> dict[str, float]:
        return summarize(counts, self.config.objective)

    def _startup_table(self, first: int) -> Table:
        params = abstract_params(self.config)

        def size(name: str) -> str:
            return f"{count_parameters(params.get(name, {})):,} parameters"

        tokens = self.config.batch_size * self.config.length
        axes = ", ".join(f"{name}={size}" for name, size in self.mesh.shape.items())
        library = ", products by oneDNN" if self.onednn else ""
        rows = {
            "objective": self.config.objective.name,
            "discriminator": size("discriminator"),
            "generator": size("generator"),
            "shared embeddings": size("embeddings"),
            "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind} ({jax.default_backend()})",
            "mesh": axes,
            "compute": f"{self.config.compute.dtype}, measured peak {self.peak / 1e12:.3g} TFLOP/s{library}",
            "a step": f"{tokens:,} tokens, {self.flops:.3g} FLOP",
            "steps": f"{first:,} of {self.config.steps:,} done" if first else f"{self.config.steps:,}",
            "held-out rows": f"{len(self.held_out):,}" if len(self.held_out) else "none, so nothing is evaluated",
        }
        if faster_in_bfloat16(self.config):
            rows["faster"] = "in bfloat16 (--compute.dtype bfloat16)"
        if self.config.init_from is not None and not first:
            rows["starts from"] = str(self.config.init_from)
        return table(str(self.config.out), rows)
