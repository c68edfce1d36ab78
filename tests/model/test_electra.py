from collections import Counter
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from electra_jax.config import ComputeConfig, ModelConfig, TowerConfig
from electra_jax.model import Electra, Tokens
from electra_jax.model.encoder import Layer

CONFIG = ModelConfig(
    vocab_size=60,
    embedding_size=16,
    max_position_embeddings=24,
    discriminator=TowerConfig(num_hidden_layers=2, hidden_size=24, num_attention_heads=3, intermediate_size=40),
    generator=TowerConfig(num_hidden_layers=2, hidden_size=8, num_attention_heads=2, intermediate_size=20),
)
TIED = replace(CONFIG, generator=CONFIG.discriminator, tie="all")
LENGTHS = np.array([20, 13, 4])
POSITIONS = jnp.array([[1, 5, 19], [2, 12, 7], [1, 3, 2]])


def electra(dtype: str = "float32", scan_layers: bool = False, config: ModelConfig = CONFIG) -> Electra:
    """The same weights each time; all of them at random, biases too."""
    rng = np.random.default_rng(1)
    shapes = nnx.eval_shape(lambda: Electra(config, ComputeConfig(dtype, scan_layers), rngs=nnx.Rngs(0)))

    def drawn(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        mean = 1.0 if "scale" in jax.tree_util.keystr(path) else 0.0
        return jnp.asarray(rng.normal(mean, 0.1, leaf.shape), leaf.dtype)

    return jax.tree.map_with_path(drawn, shapes)


def tokens(length: int = 20, padding: int = 0) -> Tokens:
    mask = np.arange(length) < LENGTHS[:, None]
    ids = np.random.default_rng(0).integers(1, CONFIG.vocab_size, (3, 20))
    ids = np.where(mask, np.pad(ids, ((0, 0), (0, length - 20))), padding)
    return Tokens(jnp.asarray(ids), jnp.asarray(mask), jnp.asarray((mask & (np.arange(length) >= 9)).astype(np.int32)))


@jax.jit
def outputs(model: Electra, tokens: Tokens, key: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
    return model.generate(tokens, POSITIONS, key), model.discriminate(tokens, key)


@jax.jit
def discriminate_and_differentiate(model: Electra, tokens: Tokens, key: jax.Array) -> tuple[jax.Array, nnx.State]:
    def total(model: Electra) -> tuple[jax.Array, jax.Array]:
        logits = model.discriminate(tokens, key)
        return jnp.sum(jnp.sin(logits)), logits

    gradients, logits = jax.grad(total, has_aux=True)(model)
    return logits, nnx.to_pure_dict(nnx.state(gradients))


def test_scanned_layers_are_the_unrolled_ones() -> None:
    key = jax.random.key(2)
    scanned, unrolled = (
        discriminate_and_differentiate(electra(scan_layers=scan), tokens(), key) for scan in (True, False)
    )

    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5), scanned, unrolled)


@pytest.mark.parametrize("scan_layers", [False, True])
def test_layers_of_one_shape_are_traced_once(scan_layers: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """And once more the generator's last, which computes the picks alone."""
    traced, call = Counter[int](), Layer.__call__

    def counted(layer: Layer, x: jax.Array, *rest: Any) -> jax.Array:
        traced[x.shape[-1]] += 1
        return call(layer, x, *rest)

    monkeypatch.setattr(Layer, "__call__", counted)
    model = electra(scan_layers=scan_layers)
    jax.eval_shape(
        lambda key: (model.generate(tokens(), POSITIONS, key), model.discriminate(tokens(), key)), jax.random.key(0)
    )
    assert traced == {CONFIG.discriminator.hidden_size: 1, CONFIG.generator.hidden_size: 2}


def test_dropout_follows_the_key() -> None:
    model = electra()
    first, again, other = (outputs(model, tokens(), jax.random.key(seed)) for seed in (0, 0, 1))
    without = outputs(model, tokens())

    for tower in range(2):
        np.testing.assert_array_equal(first[tower], again[tower])
        assert np.abs(first[tower] - other[tower]).max() > 1e-3
        assert np.abs(first[tower] - without[tower]).max() > 1e-3


@pytest.mark.parametrize("changed", [tokens(padding=17), tokens(length=24)], ids=["other ids", "more of it"])
def test_padding_reaches_no_real_position(changed: Tokens) -> None:
    model = electra()
    generated, discriminated = outputs(model, tokens())
    generated_too, discriminated_too = outputs(model, changed)

    np.testing.assert_allclose(generated_too, generated, rtol=0, atol=1e-6)
    real = tokens().mask
    np.testing.assert_allclose(discriminated_too[:, :20][real], discriminated[real], rtol=0, atol=1e-6)


def test_the_generator_reads_the_given_positions_alone() -> None:
    model = electra()
    everywhere = jax.jit(lambda model: model.generator(model.embeddings, tokens()))(model)

    picked = np.take_along_axis(np.asarray(everywhere), np.asarray(POSITIONS)[..., None], axis=1)
    np.testing.assert_allclose(outputs(model, tokens())[0], picked, rtol=1e-5, atol=1e-5)


def test_logits_of_bfloat16_are_not_rounded_to_it() -> None:
    for logits in outputs(electra(dtype="bfloat16"), tokens()):
        rounded = logits.astype(jnp.bfloat16).astype(jnp.float32)
        assert np.mean(np.asarray(rounded == logits)) < 0.1


def test_bfloat16_gives_float32_logits_that_are_near() -> None:
    for half, full in zip(outputs(electra(dtype="bfloat16"), tokens()), outputs(electra(), tokens()), strict=True):
        assert half.dtype == jnp.float32
        assert np.abs(half - full).max() > 0
        np.testing.assert_allclose(half, full, rtol=0, atol=0.03 * np.abs(full).max())


def test_a_row_longer_than_the_positions_raises() -> None:
    ids = jnp.ones((1, CONFIG.max_position_embeddings + 1), jnp.int32)

    with pytest.raises(ValueError, match="25 tokens in a row, and the model has 24 positions"):
        electra().discriminate(Tokens(ids, ids > 0, ids * 0))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_parameters_are_one_set_of_embeddings_and_two_towers(dtype: str) -> None:
    params = nnx.to_pure_dict(nnx.state(electra(dtype=dtype)))

    assert params.keys() == {"embeddings", "generator", "discriminator"}
    assert params["embeddings"].keys() == {"word", "position", "type", "norm"}
    assert params["generator"].keys() == params["discriminator"].keys() == {"encoder", "head"}
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def test_a_tied_generator_has_a_head_alone_and_reads_by_the_discriminators_encoder() -> None:
    tied = electra(config=TIED)
    params = nnx.to_pure_dict(nnx.state(tied))
    untied = electra(config=replace(TIED, tie="embeddings"))
    encoder = params["discriminator"]["encoder"]
    nnx.update(untied, params | {"generator": params["generator"] | {"encoder": encoder}})

    assert params["generator"].keys() == {"head"}
    for ours, theirs in zip(outputs(tied, tokens()), outputs(untied, tokens()), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


def test_a_tied_encoder_learns_from_the_generator_too() -> None:
    def generated(model: Electra) -> jax.Array:
        return jnp.sum(jnp.sin(model.generate(tokens(), POSITIONS)))

    gradient = nnx.to_pure_dict(nnx.state(jax.jit(jax.grad(generated))(electra(config=TIED))))
    layers = gradient["discriminator"]["encoder"]["layers"]
    no_gradient = layers["attention"]["key"].pop("bias"), gradient["discriminator"]["head"]
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(layers))
    assert all(np.abs(leaf).max() == 0 for leaf in jax.tree.leaves(no_gradient))
