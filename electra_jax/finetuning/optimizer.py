"""The learning rate of each layer ([G] model/optimization.py, _get_layer_lrs)."""

import re

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from electra_jax.config import FinetuneConfig, OptimizerConfig
from electra_jax.train.optimizer import Params, make_optimizer, paths

HEAD, LAYERS = re.compile(r"^head/"), re.compile(r"^encoder/layers/")
BELOW = re.compile(r"^(embeddings|encoder/project)/")


def finetune_optimizer(config: FinetuneConfig, steps: int, layers: int) -> optax.GradientTransformation:
    """Adam with warmup, linear decay to 0 and layer-wise decay of the learning rate."""
    optimizer = make_optimizer(optimizer_settings(config, steps), steps)
    return optax.chain(optimizer, scale_by_depth(config.layer_decay, layers))


def optimizer_settings(config: FinetuneConfig, steps: int) -> OptimizerConfig:
    """The same settings as pretraining has them."""
    return OptimizerConfig(
        name=config.optimizer,
        learning_rate=config.learning_rate,
        warmup_steps=round(config.warmup_fraction * steps),
        weight_decay=config.weight_decay,
        clip_norm=config.clip_norm,
    )


def scale_by_depth(decay: float, layers: int) -> optax.GradientTransformation:
    """Scale each update by decay^depth: 0 for the head, 2 for the last layer, layers + 2 for the embeddings."""

    def scale(path: str, update: Array) -> Array:
        matched = [bool(rule.search(path)) for rule in (HEAD, LAYERS, BELOW)]
        assert sum(matched) == 1, f"{path} is of no one depth"
        if matched[0]:
            return update
        if matched[2]:
            return update * decay ** (layers + 2)
        by_layer = decay ** (layers + 1 - jnp.arange(layers, dtype=update.dtype))
        return update * by_layer.reshape(-1, *[1] * (update.ndim - 1))

    def apply(
        updates: Params, state: optax.EmptyState, params: Params | None = None
    ) -> tuple[Params, optax.EmptyState]:
        return jax.tree.map(scale, paths(updates), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), apply)
