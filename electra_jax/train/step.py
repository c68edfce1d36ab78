"""One update of everything: a pure function of the state and the batch."""

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Int, PRNGKeyArray, UInt32

from electra_jax.config import ComputeConfig, ModelConfig, PretrainConfig
from electra_jax.data.rows import id_dtype
from electra_jax.model import Electra, Parts, Tokens
from electra_jax.model.layers import outline, row_keys
from electra_jax.objectives.losses import Totals, count
from electra_jax.objectives.masking import SpecialTokens
from electra_jax.objectives.metrics import Counts
from electra_jax.objectives.registry import Objective, find
from electra_jax.train.apart import holds_apart, put_together, take_apart
from electra_jax.train.cache import Options, compiler_options
from electra_jax.train.flops import run_flops
from electra_jax.train.library import LONG
from electra_jax.train.optimizer import Params, count_parameters, make_optimizer, select, squared_norm
from electra_jax.train.sharding import AXES, add_up, by_row, gather, replicated, shardings, specs

Batch = Mapping[str, Any]
"""Integer arrays: input_ids [B, L]; length [B], real tokens; first_length [B], those of [CLS] A [SEP]. Packed rows have
segments [B, L] in place of the last, see `electra_jax.data.rows.Rows`."""
State = dict[str, Any]
"""step, bad_steps (int32: how many in a row), params (float32), optimizer (optax's state), and ema with `ema_decay`.
Layers of the last three may be held apart, see `electra_jax.train.apart`."""

FEW = 5_000_000
"""Parameters. With more, compiling takes less memory than PyTorch does for the same steps (docs/performance.md)."""


def read_tokens(batch: Batch) -> Tokens:
    """A stored batch as an encoder reads it."""
    ids, position = jnp.asarray(batch["input_ids"], jnp.int32), jnp.arange(batch["input_ids"].shape[1])
    mask = position < batch["length"][:, None]
    if "segments" not in batch:
        types = mask & (position >= batch["first_length"][:, None])
        return Tokens(ids, mask, types.astype(jnp.int32))
    segments = jnp.asarray(batch["segments"], jnp.int32)
    examples = (segments - 1) // 2  # -1 at padding
    begins = examples != jnp.roll(examples, 1, axis=1)
    starts = jax.lax.cummax(jnp.where(begins, position, 0), axis=1)
    types = mask & (segments % 2 == 0)
    return Tokens(ids, mask, types.astype(jnp.int32), examples, position - starts)


def empty_batch(config: PretrainConfig) -> Batch:
    """The shapes of a batch of rows that aren't packed."""
    ids = jnp.zeros((config.batch_size, config.length), id_dtype(config.model.vocab_size))
    rows = jnp.zeros(config.batch_size, jnp.int32)
    return {"input_ids": ids, "length": rows, "first_length": rows}


def step_key(seed: int | UInt32[Array, ""], step: Int[Array, ""]) -> PRNGKeyArray:
    """The key of a step follows from its number, so a resumed run is the same run."""
    return jax.random.fold_in(jax.random.key(seed), step)


def objective(config: PretrainConfig) -> Objective:
    """What the run minimises."""
    return find(config.objective.name)


@cache
def abstract_model(model: ModelConfig, compute: ComputeConfig, parts: Parts) -> Electra:
    """The model with shapes in place of its numbers; made once, because that takes a tenth of a second."""
    return nnx.eval_shape(lambda: Electra(model, compute, parts, rngs=nnx.Rngs(0)))


def graph_of(config: PretrainConfig) -> nnx.GraphDef:
    """The model without its numbers: merged with parameters inside the step, at no cost outside it."""
    return nnx.graphdef(abstract_model(config.model, config.compute, objective(config).parts))


def init_params(config: PretrainConfig) -> Params:
    """Parameters as the paper's towers start; keyed by `config.seed`."""
    # fold_in keeps these draws apart from those of the steps, which count from 0.
    key = jax.random.fold_in(jax.random.key(config.seed), 2**32 - 1)
    model = Electra(config.model, config.compute, objective(config).parts, rngs=nnx.Rngs(key))
    return nnx.to_pure_dict(nnx.state(model))


def abstract_params(config: PretrainConfig) -> Params:
    """Shapes and dtypes of the parameters."""
    return nnx.to_pure_dict(nnx.state(abstract_model(config.model, config.compute, objective(config).parts)))


def freezes_generator(config: PretrainConfig) -> bool:
    """Whether there is a generator, and it has no loss."""
    return objective(config).parts.generator and not config.objective.trains_generator


def optimizer_of(config: PretrainConfig) -> optax.GradientTransformation:
    """The run's optimiser. A generator that is not trained does not decay either, nor do tables of its own."""
    tables = ("embeddings",) if config.model.tie == "gdes" else ()
    frozen = ("generator", *tables) if freezes_generator(config) else ()
    return make_optimizer(config.optimizer, config.steps, frozen)


def init_state(config: PretrainConfig, params: Params) -> State:
    """The state before the first step."""
    if holds_apart(config.compute):
        params = take_apart(params)
    optimizer = optimizer_of(config)
    step, bad_steps = jnp.zeros((2,), jnp.int32)  # arrays of their own: both are donated
    state = {"step": step, "bad_steps": bad_steps, "params": params, "optimizer": optimizer.init(params)}
    return state | ({"ema": jax.tree.map(jnp.copy, params)} if config.ema_decay else {})


def abstract_state(config: PretrainConfig) -> State:
    """Shapes and dtypes of a state."""
    return jax.eval_shape(partial(init_state, config), abstract_params(config))


def options_of(config: PretrainConfig) -> Options:
    """How the compiler makes the run's programs: in less memory, where that would be most of what a short run takes."""
    few = count_parameters(abstract_params(config)) < FEW
    return compiler_options(lean=few and run_flops(config) < LONG["float32"])


def make_step(
    config: PretrainConfig, special: SpecialTokens, mesh: Mesh
) -> Callable[[State, Batch], tuple[State, Counts]]:
    """The train step, to be jitted with its state donated.

    A step whose loss or gradient isn't finite changes nothing but its own number, and is counted; after
    `config.max_bad_steps` of them in a row not even that changes.
    """
    optimizer, differentiate = optimizer_of(config), make_gradient(config, special, mesh)

    def step(state: State, batch: Batch) -> tuple[State, Counts]:
        gradients, counts = differentiate(state["params"], batch, state["step"])
        with jax.named_scope("optimizer"):
            counts |= gradient_norms(gradients)
            goes_on = state["bad_steps"] < config.max_bad_steps
            good = outline(lambda counts: goes_on & all_finite(counts))(counts)
            updates, optimizer_state = optimizer.update(gradients, state["optimizer"], state["params"], good=good)
            params = optax.apply_updates(state["params"], updates)
            new = {"params": select(good, params, state["params"]), "optimizer": optimizer_state}
            if config.ema_decay:
                average = optax.incremental_update(new["params"], state["ema"], 1 - config.ema_decay)
                new["ema"] = select(good, average, state["ema"])
            counts = select(good, counts, jax.tree.map(jnp.zeros_like, counts))
        new["step"] = state["step"] + goes_on
        new["bad_steps"] = jnp.where(goes_on, jnp.where(good, 0, state["bad_steps"] + 1), state["bad_steps"])
        steps = {"steps": goes_on.astype(jnp.float32), "bad_steps": (goes_on & ~good).astype(jnp.float32)}
        return new, counts | steps

    return step


def jit_step(
    config: PretrainConfig, special: SpecialTokens, mesh: Mesh, options: Options | None = None
) -> jax.stages.Wrapped:
    """`make_step` as runs and plans compile it: each array where the mesh has it, and the state's memory used again.

    With `options` of the compiler in place of `options_of` the run.
    """
    places, whole = shardings(abstract_state(config), mesh), replicated(mesh)
    step = make_step(config, special, mesh)
    return jax.jit(
        step,
        in_shardings=(places, by_row(mesh)),
        out_shardings=(places, whole),
        donate_argnums=0,
        compiler_options=options_of(config) if options is None else options,
    )


def make_gradient(
    config: PretrainConfig, special: SpecialTokens, mesh: Mesh
) -> Callable[[Params, Batch, Int[Array, ""]], tuple[Params, Counts]]:
    """The gradient of a batch's loss, and its counts: each device's rows, part after part, and the sum over devices.

    Left to itself, XLA sums the gradient of each use of a shared table over the devices, and that of each part.
    """
    graph, rows, loss_of = graph_of(config), by_row(mesh).spec, objective(config).loss

    def on_device(
        places: Any, params: Params, batch: Batch, keys: PRNGKeyArray, totals: Totals
    ) -> tuple[Params, Counts]:
        whole = gather(params, places)

        def loss(params: Params, batch: Batch, keys: PRNGKeyArray) -> tuple[Array, Counts]:
            model, tokens = nnx.merge(graph, put_together(params)), read_tokens(batch)
            return loss_of(model, tokens, keys, special, config.objective, dropout=True, totals=totals)

        gradient, counts = accumulate(partial(jax.grad(loss, has_aux=True), whole), (batch, keys), config.accumulate)
        return add_up(gradient, places), jax.lax.psum(counts, AXES)

    def gradient(params: Params, batch: Batch, step: Int[Array, ""]) -> tuple[Params, Counts]:
        places = specs(params, mesh)
        on_devices = jax.shard_map(
            partial(on_device, places),
            mesh=mesh,
            in_specs=(places, rows, rows, PartitionSpec()),
            out_specs=(places, PartitionSpec()),
            check_vma=False,
        )
        keys = row_keys(step_key(config.seed, step), config.batch_size)
        return on_devices(params, batch, keys, count(read_tokens(batch), special, config.objective))

    return gradient


def accumulate(function: Callable, rows: Any, parts: int) -> Any:
    """The sum of `function` over so many parts of `rows` (arrays with the same first axis), one after the other.

    All parts are the loop's: a first one before it would be compiled by itself, and computed beside a second.
    """
    if parts == 1:
        return function(*rows)
    divided = jax.tree.map(lambda a: a.reshape(parts, -1, *a.shape[1:]), rows)
    function = jax.jit(function)  # traced once, for the shapes of what it returns and for the loop
    shapes = jax.eval_shape(function, *jax.tree.map(lambda a: a[0], divided))

    def add(total: Any, part: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, function(*part)), None

    return jax.lax.scan(add, jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes), divided)[0]


def gradient_norms(gradients: Params) -> Counts:
    """The gradient's norm before it is clipped: `grad_norm`, and of each top-level part, as `grad_norm_generator`.

    These are the sums of squares that clipping takes too, so the compiled step reads each gradient no oftener.
    """
    squares = {f"grad_norm_{part}": squared_norm(gradient) for part, gradient in gradients.items()}
    return jax.tree.map(jnp.sqrt, {"grad_norm": sum(squares.values()), **squares})


def all_finite(counts: Counts) -> Bool[Array, ""]:
    """Whether a step may be taken."""
    losses = [total for name, total in counts.items() if name.endswith("_sum")]
    return jnp.isfinite(counts["grad_norm"]) & jnp.isfinite(sum(losses))


def make_evaluation(
    config: PretrainConfig, special: SpecialTokens, mesh: Mesh
) -> Callable[[Params, Batch, Array], Counts]:
    """Counts of held-out batch number `index`, without dropout; its masks and samples are the same every time.

    As many rows are computed at once as by the step, in whose memory it fits.
    """
    graph, rows, loss_of = graph_of(config), by_row(mesh).spec, objective(config).loss

    def on_device(places: Any, params: Params, batch: Batch, keys: PRNGKeyArray) -> Counts:
        whole = put_together(gather(params, places))

        def counts_of(batch: Batch, keys: PRNGKeyArray) -> Counts:
            model = nnx.merge(graph, whole)
            return loss_of(model, read_tokens(batch), keys, special, config.objective, dropout=False)[1]

        return jax.lax.psum(accumulate(counts_of, (batch, keys), config.accumulate), AXES)

    def evaluate(params: Params, batch: Batch, index: Int[Array, ""]) -> Counts:
        places = specs(params, mesh)
        on_devices = jax.shard_map(
            partial(on_device, places),
            mesh=mesh,
            in_specs=(places, rows, rows),
            out_specs=PartitionSpec(),
            check_vma=False,
        )
        return on_devices(params, batch, row_keys(step_key(config.seed, index), config.batch_size))

    return evaluate
