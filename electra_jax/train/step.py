"""One update of everything: a pure function of the state and the batch."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Int, PRNGKeyArray, UInt32

from electra_jax.config import PretrainConfig
from electra_jax.model import Electra, Tokens
from electra_jax.objectives.electra import electra
from electra_jax.objectives.masking import SpecialTokens
from electra_jax.objectives.metrics import Counts
from electra_jax.train.optimizer import Params, make_optimizer

Batch = Mapping[str, Any]
"""Integer arrays: input_ids [B, L]; length [B], real tokens; first_length [B], those of [CLS] A [SEP]."""
State = dict[str, Any]
"""step (int32), params (float32), optimizer (optax's state)."""


def read_tokens(batch: Batch) -> Tokens:
    """A stored batch as an encoder reads it."""
    position = jnp.arange(batch["input_ids"].shape[1])
    mask = position < batch["length"][:, None]
    types = mask & (position >= batch["first_length"][:, None])
    return Tokens(jnp.asarray(batch["input_ids"], jnp.int32), mask, types.astype(jnp.int32))


def empty_batch(config: PretrainConfig) -> Batch:
    """The shapes of a batch."""
    rows = jnp.zeros(config.batch_size, jnp.int32)
    return {"input_ids": jnp.zeros((config.batch_size, config.length), jnp.int32), "length": rows, "first_length": rows}


def step_key(seed: int | UInt32[Array, ""], step: Int[Array, ""]) -> PRNGKeyArray:
    """The key of a step follows from its number, so a resumed run is the same run."""
    return jax.random.fold_in(jax.random.key(seed), step)


def graph_of(config: PretrainConfig) -> nnx.GraphDef:
    """The model without its numbers: merged with parameters inside the step, at no cost outside it."""
    return nnx.graphdef(nnx.eval_shape(lambda: Electra(config.model, config.compute, rngs=nnx.Rngs(0))))


def init_params(config: PretrainConfig) -> Params:
    """Parameters as the paper's towers start; keyed by `config.seed`."""
    # fold_in keeps these draws apart from those of the steps, which count from 0.
    key = jax.random.fold_in(jax.random.key(config.seed), 2**32 - 1)
    return nnx.to_pure_dict(nnx.state(Electra(config.model, config.compute, rngs=nnx.Rngs(key))))


def init_state(config: PretrainConfig, params: Params) -> State:
    """The state before the first step."""
    optimizer = make_optimizer(config.optimizer, config.steps)
    return {"step": jnp.zeros((), jnp.int32), "params": params, "optimizer": optimizer.init(params)}


def make_step(config: PretrainConfig, special: SpecialTokens) -> Callable[[State, Batch], tuple[State, Counts]]:
    """The train step, to be jitted with its state donated."""
    graph, optimizer = graph_of(config), make_optimizer(config.optimizer, config.steps)

    def step(state: State, batch: Batch) -> tuple[State, Counts]:
        tokens, key = read_tokens(batch), step_key(config.seed, state["step"])

        def loss(params: Params) -> tuple[Array, Counts]:
            return electra(nnx.merge(graph, params), tokens, key, special, config.objective, dropout=True)

        gradients, counts = jax.grad(loss, has_aux=True)(state["params"])
        updates, optimizer_state = optimizer.update(gradients, state["optimizer"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        return {"step": state["step"] + 1, "params": params, "optimizer": optimizer_state}, counts

    return step


def make_evaluation(config: PretrainConfig, special: SpecialTokens) -> Callable[[Params, Batch, Array], Counts]:
    """Counts of held-out batch number `index`, without dropout; its masks and samples are the same every time."""
    graph = graph_of(config)

    def evaluate(params: Params, batch: Batch, index: Int[Array, ""]) -> Counts:
        key = step_key(config.seed, index)
        return electra(nnx.merge(graph, params), read_tokens(batch), key, special, config.objective, dropout=False)[1]

    return evaluate
