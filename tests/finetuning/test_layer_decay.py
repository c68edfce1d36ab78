"""The learning rate of each layer."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from electra_jax.config import ElectraConfig, FinetuneConfig
from electra_jax.finetuning.optimizer import finetune_optimizer, scale_by_depth
from electra_jax.hub.names import flat
from electra_jax.model import TaskModel
from electra_jax.model.task import HeadKind

LAYERS, DECAY = 3, 0.8
CONFIG = ElectraConfig(
    vocab_size=20,
    embedding_size=8,
    hidden_size=12,
    num_hidden_layers=LAYERS,
    num_attention_heads=2,
    intermediate_size=16,
    max_position_embeddings=10,
)


@pytest.fixture(scope="module")
def params() -> dict[str, Any]:
    return nnx.to_pure_dict(nnx.state(TaskModel(CONFIG, "sequence", 2, rngs=nnx.Rngs(0)), nnx.Param))


def depths(path: str) -> list[int]:
    """From the head, as [G] counts: embeddings 0, layer i is i + 1, the head layers + 2, turned round."""
    if path.startswith("head/"):
        return [0]
    if path.startswith("encoder/layers/"):
        return [LAYERS + 2 - (i + 1) for i in range(LAYERS)]
    assert re.match("embeddings/|encoder/project/", path)
    return [LAYERS + 2]


def test_each_layer_has_its_power_of_the_decay(params: dict[str, Any]) -> None:
    scale = scale_by_depth(DECAY, LAYERS)
    updates = flat(scale.update(jax.tree.map(jnp.ones_like, params), scale.init(params))[0])
    for path, update in updates.items():
        for depth, part in zip(depths(path), update if len(depths(path)) > 1 else [update], strict=True):
            np.testing.assert_allclose(part, DECAY**depth, rtol=1e-6)


@pytest.mark.parametrize("kind", ["sequence", "token", "span", "choice"])
@pytest.mark.parametrize("layers", [1, 4])
def test_depths_by_hand_for_every_head(kind: HeadKind, layers: int) -> None:
    config = replace(CONFIG, num_hidden_layers=layers)
    model = nnx.eval_shape(lambda: TaskModel(config, kind, 2, rngs=nnx.Rngs(0)))
    ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    scale = scale_by_depth(0.5, layers)
    updates = flat(scale.update(ones, scale.init(ones))[0])

    below = {1: 1 / 8, 4: 1 / 64}[layers]
    stack = {1: [1 / 4], 4: [1 / 32, 1 / 16, 1 / 8, 1 / 4]}[layers]
    for path, update in updates.items():
        part = path.split("/layers/")[0].split("/")[0]
        if "/layers/" in path:
            assert [set(np.ravel(layer).tolist()) for layer in update] == [{factor} for factor in stack]
        else:
            assert set(np.ravel(update).tolist()) == {{"head": 1.0, "embeddings": below, "encoder": below}[part]}
    assert {path.split("/")[0] for path in updates} == {"embeddings", "encoder", "head"}
    assert any(path.startswith("encoder/project/") for path in updates)


@pytest.mark.parametrize("name", ["pooler/kernel", "heads/bias", "encoder/norm/scale", "decoder/head/bias"])
def test_a_parameter_of_no_depth_is_not_passed_over(name: str) -> None:
    *folders, leaf = name.split("/")
    updates: dict[str, Any] = {leaf: jnp.ones(2)}
    for folder in reversed(folders):
        updates = {folder: updates}
    with pytest.raises(AssertionError, match="is of no one depth"):
        scale_by_depth(DECAY, LAYERS).update(updates, optax.EmptyState())


@pytest.mark.parametrize("clip_norm", [1e9, 1.0])
def test_an_update_is_adam_of_the_layers_own_rate(params: dict[str, Any], clip_norm: float) -> None:
    config = FinetuneConfig("model", Path("out"), learning_rate=1e-2, layer_decay=DECAY, clip_norm=clip_norm)
    optimizer, steps = finetune_optimizer(config, 20, LAYERS), 20
    update, rng = jax.jit(optimizer.update), np.random.default_rng(0)
    state, ours = optimizer.init(params), params
    theirs = {path: np.asarray(leaf, np.float64) for path, leaf in flat(params).items()}
    m, v = ({path: np.zeros_like(leaf) for path, leaf in theirs.items()} for _ in range(2))
    for t in range(4):
        gradients = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), params)
        updates, state = update(gradients, state, ours)
        norm = np.sqrt(sum(float((np.asarray(leaf, np.float64) ** 2).sum()) for leaf in jax.tree.leaves(gradients)))
        ours = optax.apply_updates(ours, updates)
        rate = 1e-2 * (1 - t / steps) * min(1, t / 2)  # two of twenty steps warm up
        for path, gradient in flat(gradients).items():
            g = np.asarray(gradient, np.float64) / max(1, norm / clip_norm)  # before the layers' factors
            m[path] = 0.9 * m[path] + 0.1 * g
            v[path] = 0.999 * v[path] + 0.001 * g * g
            decay = 0.0 if re.search(r"bias$|norm/scale$", path) else 0.01
            own = DECAY ** np.array(depths(path), float).reshape(-1, *[1] * (g.ndim - 1))
            own = own if len(depths(path)) > 1 else own.item()
            theirs[path] = theirs[path] - rate * own * (m[path] / (np.sqrt(v[path]) + 1e-6) + decay * theirs[path])
    for path, leaf in flat(ours).items():
        np.testing.assert_allclose(leaf, theirs[path], rtol=2e-5, atol=1e-6)
