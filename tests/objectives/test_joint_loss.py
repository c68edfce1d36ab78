"""The objective as a whole: what is learned from what, and how it starts."""

import dataclasses
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from examples import SPECIAL, rows
from flax import nnx
from scipy.special import log_expit, log_softmax

from electra_jax.config import ComputeConfig, ModelConfig, ObjectiveConfig, TowerConfig
from electra_jax.hub.names import flat
from electra_jax.model import Electra, Tokens
from electra_jax.model.layers import row_keys, split_rows
from electra_jax.objectives.electra import electra
from electra_jax.objectives.masking import gather, mask, pick
from electra_jax.objectives.sampling import sample
from electra_jax.presets import load_config

VOCABULARY = 12  # so few that samples are often right
MODEL = ModelConfig(
    vocab_size=VOCABULARY,
    embedding_size=16,
    max_position_embeddings=40,
    discriminator=TowerConfig(num_hidden_layers=1, hidden_size=24, num_attention_heads=3, intermediate_size=40),
    generator=TowerConfig(num_hidden_layers=1, hidden_size=8, num_attention_heads=2, intermediate_size=20),
)
TOKENS = rows(np.array([40, 33, 12, 3, 2, 0]), 40, VOCABULARY)
KEY = jax.random.key(5)


@pytest.fixture(scope="module")
def model() -> Electra:
    rng = np.random.default_rng(0)
    shapes = nnx.eval_shape(lambda: Electra(MODEL, rngs=nnx.Rngs(0)))
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(scale=0.1, size=leaf.shape), jnp.float32), shapes)


@partial(jax.jit, static_argnums=(1, 3))
def joint(model: Electra, config: ObjectiveConfig, key: jax.Array = KEY, dropout: bool = False) -> tuple:
    return electra(model, TOKENS, key, SPECIAL, config, dropout=dropout)


@jax.jit
def gradient(model: Electra, generator_weight: float, discriminator_weight: float) -> nnx.State:
    config = ObjectiveConfig(generator_weight=generator_weight, discriminator_weight=discriminator_weight)
    return nnx.state(jax.grad(lambda model: electra(model, TOKENS, KEY, SPECIAL, config, dropout=False)[0])(model))


def norms(model: Electra, generator_weight: float, discriminator_weight: float) -> dict[str, float]:
    """Of the gradient, a parameter, but of the keys' biases, which no output depends on."""
    leaves = flat(nnx.to_pure_dict(gradient(model, generator_weight, discriminator_weight)))
    return {path: float(jnp.linalg.norm(leaf)) for path, leaf in leaves.items() if not path.endswith("key/bias")}


def test_loss_and_counts_are_those_of_the_pieces(model: Electra) -> None:
    config = ObjectiveConfig(mask_prob=0.3, temperature=0.7)
    loss, counts = joint(model, config)

    pick_key, mask_key, sample_key, *_ = split_rows(row_keys(KEY, len(TOKENS.ids)), 5)
    picks = pick(pick_key, TOKENS, SPECIAL, config)
    masked = mask(mask_key, TOKENS, picks, SPECIAL.mask, config.mask_token_prob)
    logits = jax.jit(Electra.generate)(model, masked, picks.positions)
    sampled, targets = np.asarray(sample(sample_key, logits, config.temperature)), np.asarray(gather(TOKENS.ids, picks))
    used = np.asarray(picks.used)

    corrupted, replaced = np.array(TOKENS.ids), np.zeros(TOKENS.ids.shape, bool)
    for row, slot in zip(*np.nonzero(used), strict=True):
        position = picks.positions[row, slot]
        corrupted[row, position] = sampled[row, slot]
        replaced[row, position] = sampled[row, slot] != targets[row, slot]
    verdicts = jax.jit(Electra.discriminate)(model, TOKENS._replace(ids=jnp.asarray(corrupted)))
    verdicts = np.asarray(verdicts, np.float64)

    nll = -np.take_along_axis(log_softmax(np.asarray(logits, np.float64), axis=-1), targets[..., None], -1)[..., 0]
    sigmoid_nll = -np.where(replaced, log_expit(verdicts), log_expit(-verdicts))
    real = np.asarray(TOKENS.mask)
    expected = nll[used].mean() + 50 * sigmoid_nll[real].mean()

    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert counts["picks"] == used.sum()
    assert counts["tokens"] == real.sum()
    assert counts["replaced"] == replaced.sum()
    np.testing.assert_allclose(counts["mlm_sum"], nll[used].sum(), rtol=1e-5)
    np.testing.assert_allclose(counts["discriminator_sum"], sigmoid_nll[real].sum(), rtol=1e-5)


def test_a_sample_that_hits_the_original_is_labelled_original(model: Electra) -> None:
    _, counts = joint(model, ObjectiveConfig(mask_prob=0.3))

    assert 0 < counts["samples_correct"] < counts["picks"]
    assert counts["replaced"] == counts["picks"] - counts["samples_correct"]


def test_disallow_correct_replaces_every_pick(model: Electra) -> None:
    _, counts = joint(model, ObjectiveConfig(mask_prob=0.3, disallow_correct=True))

    assert counts["samples_correct"] == 0
    assert counts["replaced"] == counts["picks"] > 0


def test_the_discriminators_loss_teaches_no_generator(model: Electra) -> None:
    gradients = norms(model, 0.0, 50.0)

    assert {norm for path, norm in gradients.items() if path.startswith("generator/")} == {0.0}
    assert min(norm for path, norm in gradients.items() if path.startswith("embeddings/")) > 0


def test_the_generators_loss_teaches_no_discriminator(model: Electra) -> None:
    gradients = norms(model, 1.0, 0.0)

    assert {norm for path, norm in gradients.items() if path.startswith("discriminator/")} == {0.0}
    assert min(norm for path, norm in gradients.items() if path.startswith("embeddings/")) > 0


def test_the_joint_loss_teaches_every_parameter(model: Electra) -> None:
    assert min(norms(model, 1.0, 50.0).values()) > 0


def test_the_key_decides_masks_samples_and_dropout(model: Electra) -> None:
    config = ObjectiveConfig()
    losses = [float(joint(model, config, jax.random.key(seed), dropout)[0]) for seed in (0, 1) for dropout in (0, 1)]

    assert len(set(losses)) == 4
    assert losses[0] == joint(model, config, jax.random.key(0))[0]


@pytest.mark.parametrize(("preset", "size"), [("tiny", 32), pytest.param("small", 8, marks=pytest.mark.slow)])
def test_training_starts_at_the_loss_of_a_guess(preset: str, size: int) -> None:
    config = load_config(preset, data=Path(), out=Path(), compute=ComputeConfig(scan_layers=True))
    config = dataclasses.replace(config, batch_size=size)
    vocabulary = config.model.vocab_size
    tokens = rows(np.full(size, config.length), config.length, vocabulary)

    @jax.jit
    def first_loss(key: jax.Array, tokens: Tokens) -> jax.Array:
        model = Electra(config.model, config.compute, rngs=nnx.Rngs(key))
        return electra(model, tokens, key, SPECIAL, config.objective, dropout=True)[0]

    guess = np.log(vocabulary) + 50 * np.log(2)
    losses = [first_loss(jax.random.key(seed), tokens) for seed in range(4)]

    np.testing.assert_allclose(losses, guess, rtol=0.02)
