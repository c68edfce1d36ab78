"""The joint loss and all its gradients are those of two PyTorch models over shared embeddings."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from transformers import ElectraForMaskedLM, ElectraForPreTraining, PreTrainedModel

from electra_jax.config import ModelConfig, ObjectiveConfig, TowerConfig
from electra_jax.hub.configs import to_hf
from electra_jax.hub.names import Kind
from electra_jax.hub.weights import to_state
from electra_jax.model import Electra, Tokens
from electra_jax.model.layers import row_keys, split_rows
from electra_jax.objectives.electra import electra
from electra_jax.objectives.masking import SpecialTokens, gather, mask, pick, scatter
from electra_jax.objectives.sampling import sample

CONFIG = ModelConfig(
    vocab_size=300,
    embedding_size=24,
    max_position_embeddings=64,
    discriminator=TowerConfig(num_hidden_layers=3, hidden_size=48, num_attention_heads=4, intermediate_size=96),
    generator=TowerConfig(num_hidden_layers=2, hidden_size=16, num_attention_heads=2, intermediate_size=40),
)
OBJECTIVE = ObjectiveConfig()
SPECIAL = SpecialTokens(cls=2, sep=3, mask=4)
KEY = jax.random.key(11)
CLASSES = {"discriminator": ElectraForPreTraining, "generator": ElectraForMaskedLM}


class Joint(NamedTuple):
    loss: float
    gradients: dict[Kind, dict[str, np.ndarray]]
    """Of each model's tensors, by their Hugging Face keys."""


@pytest.fixture(scope="module")
def model() -> Electra:
    """No parameter is zero or one, nor equal to another."""
    rng = np.random.default_rng(1)
    shapes = nnx.eval_shape(lambda: Electra(CONFIG, rngs=nnx.Rngs(0)))

    def drawn(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        mean = 1.0 if "scale" in jax.tree_util.keystr(path) else 0.0
        return jnp.asarray(rng.normal(mean, 0.05, leaf.shape), leaf.dtype)

    return jax.tree.map_with_path(drawn, shapes)


@pytest.fixture(scope="module")
def tokens() -> Tokens:
    """Rows of two segments, most of them padded."""
    lengths = np.array([64, 64, 50, 37, 21, 9, 5, 3])[:, None]
    position = np.arange(64)
    real = position < lengths
    ids = np.random.default_rng(0).integers(5, CONFIG.vocab_size, real.shape)
    ids = np.where((position == lengths - 1) | (position == lengths // 2), SPECIAL.sep, ids)
    ids = np.where(real, np.where(position == 0, SPECIAL.cls, ids), 0)
    return Tokens(jnp.asarray(ids), jnp.asarray(real), jnp.asarray((real & (position > lengths // 2)).astype(np.int32)))


def states(params: dict) -> dict[Kind, dict[str, np.ndarray]]:
    return {
        kind: to_state({"embeddings": params["embeddings"], **params[kind]}, CONFIG.tower(kind), kind)
        for kind in CLASSES
    }


@pytest.fixture(scope="module")
def ours(model: Electra, tokens: Tokens) -> Joint:
    @jax.jit
    def step(model: Electra) -> tuple[jax.Array, Electra]:
        return jax.value_and_grad(lambda model: electra(model, tokens, KEY, SPECIAL, OBJECTIVE, dropout=False)[0])(
            model
        )

    loss, gradients = step(model)
    return Joint(float(loss), states(nnx.to_pure_dict(nnx.state(gradients))))


def torch_models(model: Electra) -> dict[Kind, PreTrainedModel]:
    """The same weights, in models that share their embeddings."""
    models = {}
    for kind, state in states(nnx.to_pure_dict(nnx.state(model))).items():
        models[kind] = CLASSES[kind](to_hf(CONFIG.tower(kind), kind)).eval()
        tensors = {key: torch.from_numpy(value.copy()) for key, value in state.items()}
        missing, unexpected = models[kind].load_state_dict(tensors, strict=False)
        assert not unexpected
        assert set(missing) <= {"generator_lm_head.weight"}
    embeddings = models["discriminator"].electra.embeddings
    models["generator"].electra.embeddings = embeddings
    models["generator"].generator_lm_head.weight = embeddings.word_embeddings.weight
    return models


@pytest.fixture(scope="module")
def theirs(model: Electra, tokens: Tokens) -> Joint:
    pick_key, mask_key, sample_key, *_ = split_rows(row_keys(KEY, len(tokens.ids)), 5)
    picks = pick(pick_key, tokens, SPECIAL, OBJECTIVE)
    masked = mask(mask_key, tokens, picks, SPECIAL.mask, OBJECTIVE.mask_token_prob)
    sampled = sample(sample_key, jax.jit(Electra.generate)(model, masked, picks.positions))
    corrupted = scatter(tokens.ids, picks, sampled)
    targets, used = as_torch(gather(tokens.ids, picks)), as_torch(picks.used)
    real, replaced = as_torch(tokens.mask), as_torch(corrupted != tokens.ids)

    models = torch_models(model)
    shared = {"attention_mask": real.long(), "token_type_ids": as_torch(tokens.types)}
    logits = models["generator"](as_torch(masked.ids), **shared).logits
    logits = torch.take_along_dim(logits, as_torch(picks.positions)[..., None], dim=1)
    mlm = torch.nn.functional.cross_entropy(logits[used], targets[used])
    verdicts = models["discriminator"](as_torch(corrupted), **shared).logits
    discriminator = torch.nn.functional.binary_cross_entropy_with_logits(verdicts[real], replaced[real].float())
    loss = mlm + 50 * discriminator
    loss.backward()

    gradients = {
        kind: {name: parameter.grad.numpy() for name, parameter in torch_model.named_parameters()}
        for kind, torch_model in models.items()
    }
    return Joint(loss.item(), gradients)


def as_torch(array: jax.Array) -> torch.Tensor:
    array = np.asarray(array)
    return torch.from_numpy(array.astype(np.int64) if array.dtype == np.int32 else array.copy())


def test_the_losses_are_equal(ours: Joint, theirs: Joint) -> None:
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-5)


@pytest.mark.parametrize("kind", CLASSES)
def test_the_gradients_are_equal(ours: Joint, theirs: Joint, kind: Kind) -> None:
    assert ours.gradients[kind].keys() == theirs.gradients[kind].keys() - {"generator_lm_head.weight"}

    errors = {}
    for key, gradient in ours.gradients[kind].items():
        reference = theirs.gradients[kind][key]
        scale = np.linalg.norm(reference)
        if key.endswith("attention.self.key.bias"):  # no output depends on it, so its gradient is rounding alone
            scale = np.linalg.norm(theirs.gradients[kind][key.replace(".bias", ".weight")])
        errors[key] = np.linalg.norm(gradient - reference) / scale
    assert max(errors.values()) < 1e-4, max(errors, key=errors.get)
