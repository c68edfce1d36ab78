"""The compiled train step: what it holds, when it compiles, what decides its numbers."""

import dataclasses
import re
import warnings
from functools import partial
from math import prod
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from electra_jax.config import ModelConfig, ObjectiveConfig, OptimizerConfig, PretrainConfig, TowerConfig
from electra_jax.model.layers import row_keys
from electra_jax.objectives.electra import electra
from electra_jax.objectives.masking import SpecialTokens
from electra_jax.presets import load_config
from electra_jax.train.flops import step_flops
from electra_jax.train.sharding import make_mesh, replicated
from electra_jax.train.step import (
    Batch,
    State,
    empty_batch,
    graph_of,
    init_params,
    init_state,
    make_evaluation,
    make_step,
    read_tokens,
    step_key,
)

MESH = make_mesh(None, batch_size=3)
SPECIAL = SpecialTokens(cls=2, sep=3, mask=4)
CONFIG = PretrainConfig(
    data=Path("data"),
    out=Path("out"),
    length=40,
    batch_size=3,
    steps=100,
    model=ModelConfig(
        vocab_size=1021,
        embedding_size=16,
        max_position_embeddings=40,
        discriminator=TowerConfig(num_hidden_layers=1, hidden_size=24, num_attention_heads=3, intermediate_size=40),
        generator=TowerConfig(num_hidden_layers=1, hidden_size=8, num_attention_heads=2, intermediate_size=20),
    ),
)
ALL_LOGITS = CONFIG.batch_size * CONFIG.length * CONFIG.model.vocab_size


def compiled(config: PretrainConfig) -> jax.stages.Compiled:
    step, batch = jax.jit(make_step(config, SPECIAL, MESH), donate_argnums=0), empty_batch(config)
    return step.lower(jax.eval_shape(lambda: init_state(config, init_params(config))), batch).compile()


def batch_of(seed: int) -> Batch:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, CONFIG.length + 1, CONFIG.batch_size).astype(np.int32)
    ids = rng.integers(5, CONFIG.model.vocab_size, (CONFIG.batch_size, CONFIG.length)).astype(np.int32)
    ids = np.where(np.arange(CONFIG.length) < lengths[:, None], ids, 0)
    return {"input_ids": ids, "length": lengths, "first_length": lengths // 2}


@pytest.fixture(scope="module")
def step() -> jax.stages.Wrapped:
    return jax.jit(make_step(CONFIG, SPECIAL, MESH), donate_argnums=0)


def fresh_state() -> State:
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: init_params(CONFIG))
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(scale=0.1, size=leaf.shape), leaf.dtype), shapes)
    return jax.device_put(init_state(CONFIG, params), replicated(MESH))


# --- what the program holds ---------------------------------------------------------------------------------------


def largest_array(program: jax.stages.Compiled) -> int:
    """Most elements of an array that the compiled program names."""
    shapes = re.findall(r"\b(?:f32|bf16|f16|f64|pred|[su]\d+)\[([\d,]+)\]", program.as_text())
    return max(prod(int(size) for size in shape.split(",")) for shape in shapes)


def test_the_step_holds_no_logits_of_every_position(step: jax.stages.Wrapped) -> None:
    assert largest_array(step.lower(fresh_state(), batch_of(0)).compile()) < ALL_LOGITS


def test_logits_of_every_position_would_be_seen() -> None:
    model = nnx.eval_shape(lambda: nnx.merge(graph_of(CONFIG), init_params(CONFIG)))

    def everywhere(model: nnx.Module, batch: Batch) -> jax.Array:
        tokens = read_tokens(batch)
        return jax.nn.logsumexp(model.generator(model.embeddings, tokens), axis=-1).sum()

    program = jax.jit(jax.grad(everywhere)).lower(model, empty_batch(CONFIG)).compile()

    assert largest_array(program) >= ALL_LOGITS


def test_no_layer_norm_is_computed_again_to_be_transposed(step: jax.stages.Wrapped) -> None:
    """As it was inside the copy of a kernel's gradient's operand: column by column, ten times as slow."""
    program = step.lower(fresh_state(), batch_of(0)).compile().as_text()
    rows, widths = CONFIG.batch_size * CONFIG.length, "24|40|8|20"
    transposed = [one for one in program.split("\n\n") if re.search(rf"-> f32\[({widths}),{rows}\] {{", one)]

    assert not [one for one in transposed if "subtract(" in one]


def test_the_step_of_the_small_model_fits_in_memory() -> None:
    small = load_config("small", data=Path("data"), out=Path("out"), batch_size=16)

    assert compiled(small).memory_analysis().temp_size_in_bytes < 1.5e9


def times(opcode: str, config: PretrainConfig) -> int:
    """How often the compiled step has an operation."""
    return len(re.findall(rf" {opcode}\(", compiled(config).as_text()))


def test_the_words_of_masks_are_made_for_all_layers_at_once() -> None:
    """XLA would make them anew in each fusion that drops something."""

    def of_layers(number: int) -> PretrainConfig:
        model = CONFIG.model
        towers = {
            "discriminator": dataclasses.replace(model.discriminator, num_hidden_layers=number),
            "generator": dataclasses.replace(model.generator, num_hidden_layers=number),
        }
        return dataclasses.replace(CONFIG, model=dataclasses.replace(model, **towers))

    assert times("xor", of_layers(2)) == times("xor", of_layers(4)) > 0


def test_whether_a_step_is_good_is_asked_once() -> None:
    """XLA would ask for each array of the state."""
    assert times("is-finite", CONFIG) == 2  # the gradient's norm, and the losses


def test_two_parts_take_less_memory_than_one() -> None:
    """XLA inlines a loop of one round, and would compute what came before it at the same time."""
    one, two = (dataclasses.replace(CONFIG, batch_size=64, accumulate=parts) for parts in (1, 2))
    whole, halves = (compiled(config).memory_analysis().temp_size_in_bytes for config in (one, two))
    assert halves < 0.7 * whole


@pytest.mark.parametrize(
    ("objective", "layers", "near"),
    [
        (ObjectiveConfig(), 2, 0.1),
        (ObjectiveConfig(generator_weight=0.0), 2, 0.1),  # nothing is computed of a generator's gradient
        (ObjectiveConfig(name="electric"), 4, 0.1),
        (ObjectiveConfig(name="all-tokens-mlm"), 4, 0.1),
        (ObjectiveConfig(name="replace-mlm"), 4, 0.2),  # the last layer at the picks alone
        (ObjectiveConfig(name="mlm"), 4, 0.2),
    ],
)
def test_flops_are_near_what_the_compiler_counts(objective: ObjectiveConfig, layers: int, near: float) -> None:
    model = ModelConfig(
        vocab_size=8000,
        embedding_size=128,
        generator_kind="two-tower" if objective.name == "electric" else "masked-lm",
        discriminator=TowerConfig(layers, hidden_size=256, num_attention_heads=4, intermediate_size=1024),
        generator=TowerConfig(layers, hidden_size=128, num_attention_heads=2, intermediate_size=512),
    )
    config = dataclasses.replace(CONFIG, model=model, objective=objective, length=128, batch_size=8)
    assert step_flops(config) == pytest.approx(compiled(config).cost_analysis()["flops"], rel=near)


# --- compilation and donation -------------------------------------------------------------------------------------


def test_the_step_is_compiled_once(step: jax.stages.Wrapped) -> None:
    state = fresh_state()
    for number in range(4):
        state, _ = step(state, batch_of(number))

    assert state["step"] == 4
    assert step._cache_size() == 1


def test_the_state_is_updated_in_place(step: jax.stages.Wrapped) -> None:
    state = fresh_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of JAX, for a donated array without use
        step(state, batch_of(0))

    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize("name", ["adam", "adamw", "lamb"])
def test_nothing_of_the_state_is_copied(name: str) -> None:
    """XLA copied each moment, to write it anew while the parameters' update still read the old one."""
    config = dataclasses.replace(CONFIG, optimizer=OptimizerConfig(name=name), ema_decay=0.9)
    copied = re.findall(r" = (\w+\[[\d,]*\])\S* copy\(%(state__\w+)", compiled(config).as_text())
    assert not [leaf for shape, leaf in copied if "," in shape]  # the numbers of steps are


# --- the gradient's norms -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [1, 3])
def test_the_norms_are_those_of_the_gradient_before_it_is_clipped(parts: int) -> None:
    state, batch = fresh_state(), batch_of(0)

    @jax.jit
    def gradient(params: dict) -> dict:
        def loss(params: dict) -> jax.Array:
            model, keys = nnx.merge(graph_of(CONFIG), params), row_keys(step_key(CONFIG.seed, 0), CONFIG.batch_size)
            return electra(model, read_tokens(batch), keys, SPECIAL, CONFIG.objective, dropout=True)[0]

        return jax.grad(loss)(params)

    def norm(tree: dict) -> float:
        return np.linalg.norm(np.concatenate([np.ravel(leaf).astype(np.float64) for leaf in jax.tree.leaves(tree)]))

    gradients = gradient(state["params"])
    counts = jax.jit(make_step(dataclasses.replace(CONFIG, accumulate=parts), SPECIAL, MESH))(state, batch)[1]

    expected = {"grad_norm": norm(gradients)} | {f"grad_norm_{part}": norm(gradients[part]) for part in gradients}
    found = {name: float(value) for name, value in counts.items() if name.startswith("grad_norm")}
    assert found == pytest.approx(expected, rel=1e-5)
    assert len(set(found.values())) == 4
    assert found["grad_norm"] > 2 * CONFIG.optimizer.clip_norm


def test_a_step_that_is_not_finite_adds_no_norm() -> None:
    state = fresh_state()
    state["params"]["discriminator"]["head"]["dense"]["bias"] += jnp.inf
    counts = jax.jit(make_step(CONFIG, SPECIAL, MESH))(state, batch_of(0))[1]

    assert counts["bad_steps"] == 1
    assert [float(counts[name]) for name in counts if name.startswith("grad_norm")] == [0.0] * 4


# --- what decides the numbers -------------------------------------------------------------------------------------


def bits_after(step: jax.stages.Wrapped) -> bytes:
    state = fresh_state()
    for number in range(3):
        state, _ = step(state, batch_of(number))
    return b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state))


def test_a_seed_gives_the_same_bits_and_another_seed_others(step: jax.stages.Wrapped) -> None:
    reseeded = jax.jit(make_step(dataclasses.replace(CONFIG, seed=1), SPECIAL, MESH), donate_argnums=0)

    assert bits_after(step) == bits_after(step)
    assert bits_after(step) != bits_after(reseeded)


def test_a_seed_decides_the_weights() -> None:
    weights = [init_params(dataclasses.replace(CONFIG, seed=seed))["embeddings"]["word"] for seed in (0, 0, 1)]

    np.testing.assert_array_equal(weights[0], weights[1])
    assert np.abs(weights[0] - weights[2]).max() > 0.02


def test_every_step_draws_its_own_masks(step: jax.stages.Wrapped) -> None:
    state, first = step(fresh_state(), batch_of(0))
    state, second = step(state, batch_of(0))  # the same weights: the first step's rate is 0

    assert first["picks"] == second["picks"]
    assert first["mlm_sum"] != second["mlm_sum"]


def test_an_evaluation_is_the_same_every_time() -> None:
    evaluate, params = jax.jit(make_evaluation(CONFIG, SPECIAL, MESH)), fresh_state()["params"]
    first, again, other = (evaluate(params, batch_of(0), jnp.int32(index)) for index in (0, 0, 1))

    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert first["mlm_sum"] != other["mlm_sum"]


def test_an_evaluation_is_of_the_objective_without_dropout() -> None:
    params, keys = fresh_state()["params"], row_keys(step_key(CONFIG.seed, jnp.int32(5)), CONFIG.batch_size)
    found = jax.jit(make_evaluation(CONFIG, SPECIAL, MESH))(params, batch_of(0), jnp.int32(5))

    @jax.jit
    def counts(params: dict) -> dict:
        model = nnx.merge(graph_of(CONFIG), params)
        return electra(model, read_tokens(batch_of(0)), keys, SPECIAL, CONFIG.objective, dropout=False)[1]

    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), found, counts(params))


def test_an_evaluation_takes_as_many_rows_at_once_as_the_step() -> None:
    params, batch, index = fresh_state()["params"], batch_of(0), jnp.int32(0)

    def evaluated(parts: int) -> tuple[dict, int]:
        config = dataclasses.replace(CONFIG, accumulate=parts)
        program = jax.jit(make_evaluation(config, SPECIAL, MESH)).lower(params, batch, index).compile()
        return program(params, batch, index), program.memory_analysis().temp_size_in_bytes

    (whole, most), (parts, least) = evaluated(1), evaluated(CONFIG.batch_size)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), parts, whole)
    assert least < most / 2


def test_weights_are_drawn_by_a_key_of_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    rngs = nnx.Rngs
    monkeypatch.setattr(nnx, "Rngs", lambda key: drawn.append(key) or rngs(key))
    init_params(CONFIG)
    keys = jax.vmap(lambda step: jax.random.key_data(step_key(CONFIG.seed, step)))(jnp.arange(1000))
    assert not (keys == jax.random.key_data(drawn[0])).all(axis=1).any()


# --- what a batch means -------------------------------------------------------------------------------------------


def test_a_stored_batch_says_what_is_real_and_which_segment_it_is() -> None:
    batch = {"input_ids": np.array([[2, 9, 3, 8, 3, 0]]), "length": np.array([5]), "first_length": np.array([3])}
    tokens = read_tokens(batch)

    np.testing.assert_array_equal(tokens.ids, batch["input_ids"])
    np.testing.assert_array_equal(tokens.mask, [[True, True, True, True, True, False]])
    np.testing.assert_array_equal(tokens.types, [[0, 0, 0, 1, 1, 0]])
