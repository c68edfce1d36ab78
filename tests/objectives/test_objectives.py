"""Each objective against a NumPy reference of its loss, and what each part of it teaches whom."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from examples import SPECIAL, rows
from flax import nnx
from scipy.special import expit, log_expit, log_softmax, softmax

from electra_jax.config import ModelConfig, ObjectiveConfig, TowerConfig
from electra_jax.hub.names import flat
from electra_jax.model import Electra, Tokens
from electra_jax.model.layers import row_keys
from electra_jax.objectives.adversary import adversarial_sum
from electra_jax.objectives.corruption import Corrupted, corrupt, draw_keys
from electra_jax.objectives.losses import count
from electra_jax.objectives.masking import candidates, gather, pick, scatter
from electra_jax.objectives.registry import OBJECTIVES
from electra_jax.objectives.sampling import sample

VOCABULARY = 12  # so few that samples are often right
SIZE = TowerConfig(num_hidden_layers=1, hidden_size=24, num_attention_heads=3, intermediate_size=40)
MODEL = ModelConfig(
    vocab_size=VOCABULARY,
    embedding_size=16,
    max_position_embeddings=40,
    discriminator=SIZE,
    generator=TowerConfig(num_hidden_layers=1, hidden_size=8, num_attention_heads=2, intermediate_size=20),
)
TWO_TOWER = replace(MODEL, generator_kind="two-tower")
TOKENS = rows(np.array([40, 33, 12, 3, 2, 0]), 40, VOCABULARY)
REAL = np.asarray(TOKENS.mask)
KEY = jax.random.key(5)
MASKED = ObjectiveConfig(mask_prob=0.3)


@cache
def model_of(objective: str, config: ModelConfig = MODEL) -> Electra:
    """Of random parameters, none of which is zero."""
    rng, parts = np.random.default_rng(0), OBJECTIVES[objective].parts
    shapes = nnx.eval_shape(lambda: Electra(config, parts=parts, rngs=nnx.Rngs(0)))
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(scale=0.3, size=leaf.shape), jnp.float32), shapes)


def loss_of(objective: ObjectiveConfig, model: Electra) -> tuple:
    loss = OBJECTIVES[objective.name].loss
    return jax.jit(lambda model: loss(model, TOKENS, KEY, SPECIAL, objective, dropout=False))(model)


def gradients(objective: ObjectiveConfig, model: Electra, **traced: float) -> dict[str, np.ndarray]:
    """Path to gradient of the loss, but of the keys' biases, which no output depends on.

    What is `traced` are fields of the objective that the program doesn't know: a weight of 0 leaves nothing out of it.
    """
    graph, params = nnx.split(model)
    loss = OBJECTIVES[objective.name].loss

    @jax.jit
    def gradient(params: nnx.State, traced: dict[str, float]) -> nnx.State:
        def scalar(params: nnx.State) -> jax.Array:
            config = replace(objective, **traced)
            return loss(nnx.merge(graph, params), TOKENS, KEY, SPECIAL, config, dropout=False)[0]

        return jax.grad(scalar)(params)

    leaves = flat(nnx.to_pure_dict(gradient(params, traced)))
    return {path: np.asarray(leaf) for path, leaf in leaves.items() if not path.endswith("key/bias")}


def moved(gradient: dict[str, np.ndarray]) -> set[str]:
    """The parameters whose gradient is not exactly zero."""
    return {path for path, leaf in gradient.items() if leaf.any()}


def corrupted_by(model: Electra, objective: ObjectiveConfig) -> Corrupted:
    return corrupt(model, TOKENS, draw_keys(KEY, len(REAL), dropout=False), SPECIAL, objective)


def predictions(model: Electra, tokens, positions=None) -> np.ndarray:
    """Log-probabilities of the kept encoder's masked-language-model head, in float64."""
    states = model.discriminator.lm_states(model.hidden(tokens, positions=positions))
    table, bias = (np.asarray(a, np.float64) for a in model.prediction)
    return log_softmax(np.asarray(states, np.float64) @ table.T + bias, axis=-1)


def nll(log_p: np.ndarray, ids: np.ndarray) -> np.ndarray:
    return -np.take_along_axis(log_p, np.asarray(ids)[..., None], axis=-1)[..., 0]


def generator_loss(model: Electra, made: Corrupted) -> float:
    logits = np.asarray(model.generate(made.masked, made.picks.positions), np.float64)
    return nll(log_softmax(logits, axis=-1), made.targets)[np.asarray(made.picks.used)].mean()


def sigmoid_nll(logits: np.ndarray, true: np.ndarray) -> np.ndarray:
    return np.where(true, -log_expit(logits), -log_expit(-logits))


# --- parts of a batch ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*OBJECTIVES, "adversarial"])
def test_gradients_of_parts_add_up_to_those_of_the_batch(name: str) -> None:
    """As accumulated parts and devices have them: each with the whole's totals and its own rows' keys."""
    weights = {"adversarial_weight": 1.0} if name == "adversarial" else {}
    objective = replace(MASKED, name="electra" if name == "adversarial" else name, **weights)
    model = model_of(objective.name, TWO_TOWER if name == "electric" else MODEL)
    graph, params = nnx.split(model)
    keys, totals = row_keys(KEY, len(REAL)), count(TOKENS, SPECIAL, objective)

    @jax.jit
    @jax.grad
    def gradient(params: nnx.State, tokens: Tokens, keys: jax.Array) -> jax.Array:
        model = nnx.merge(graph, params)
        return OBJECTIVES[objective.name].loss(model, tokens, keys, SPECIAL, objective, dropout=True, totals=totals)[0]

    def of_rows(first: int, end: int) -> nnx.State:
        return gradient(params, *jax.tree.map(lambda leaf: leaf[first:end], (TOKENS, keys)))

    parts = of_rows(0, 2), of_rows(2, 4), of_rows(4, 6)  # of very unequal numbers of tokens, and one without any
    leaves, expected = map(jax.tree.leaves, (jax.tree.map(lambda *each: sum(each), *parts), of_rows(0, 6)))
    largest = max(np.abs(leaf).max() for leaf in expected)
    for leaf, its_own in zip(leaves, expected, strict=True):
        np.testing.assert_allclose(leaf, its_own, rtol=1e-4, atol=1e-6 * largest)


# --- losses -------------------------------------------------------------------------------------------------------


def test_electra_15_judges_the_picks_alone() -> None:
    objective, model = replace(MASKED, name="electra-15"), model_of("electra-15")
    made = corrupted_by(model, objective)
    logits, used = np.asarray(model.discriminate(made.tokens), np.float64), np.asarray(made.picks.used)
    rows_, _ = np.nonzero(used)
    at = rows_, np.asarray(made.picks.positions)[used]

    loss, counts = loss_of(objective, model)

    expected = generator_loss(model, made) + 50 * sigmoid_nll(logits[at], np.asarray(made.replaced)[at]).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert counts["judged"] == counts["picks"] == used.sum()
    assert counts["tokens"] == REAL.sum()


def test_mlm_predicts_the_picks_from_masks() -> None:
    objective, model = replace(MASKED, name="mlm"), model_of("mlm")
    keys = draw_keys(KEY, len(REAL), dropout=False)
    picks = pick(keys.pick, TOKENS, SPECIAL, objective)
    with_generator = corrupted_by(model_of("electra"), objective)  # draws the same picks and masks
    used, targets = np.asarray(picks.used), with_generator.targets
    wrong = nll(predictions(model, with_generator.masked, picks.positions), targets)

    loss, counts = loss_of(objective, model)

    np.testing.assert_allclose(loss, wrong[used].mean(), rtol=1e-5)
    assert counts["predicted_tokens"] == used.sum()
    assert "mlm_sum" not in counts
    assert "discriminator_sum" not in counts


def test_replace_mlm_predicts_the_picks_from_samples() -> None:
    objective, model = replace(MASKED, name="replace-mlm"), model_of("replace-mlm")
    made = corrupted_by(model, objective)
    log_p, used = predictions(model, made.tokens, made.picks.positions), np.asarray(made.picks.used)

    loss, counts = loss_of(objective, model)

    np.testing.assert_allclose(loss, generator_loss(model, made) + nll(log_p, made.targets)[used].mean(), rtol=1e-5)
    assert counts["encoder_correct"] == (log_p.argmax(-1) == made.targets)[used].sum()


def test_all_tokens_mlm_predicts_every_token_by_copy_or_softmax() -> None:
    objective, model = replace(MASKED, name="all-tokens-mlm"), nnx.clone(model_of("all-tokens-mlm"))
    made = corrupted_by(model, objective)
    gate = model.discriminator.head.prediction  # which copies half of them, and hardly any of the others
    gate.bias[...] -= jnp.median(model.discriminate(made.tokens))
    gate.kernel[...], gate.bias[...] = 500 * gate.kernel[...], 500 * gate.bias[...]
    copy = expit(-np.asarray(model.discriminate(made.tokens), np.float64))
    every = (1 - copy)[..., None] * softmax(predictions(model, made.tokens), axis=-1)
    np.add.at(every, (*np.indices(copy.shape), np.asarray(made.tokens.ids)), copy)
    p = np.take_along_axis(every, np.asarray(TOKENS.ids)[..., None], axis=-1)[..., 0]

    loss, counts = loss_of(objective, model)

    np.testing.assert_allclose(loss, generator_loss(model, made) - np.log(p)[REAL].mean(), rtol=1e-5)
    assert counts["predicted_tokens"] == REAL.sum()
    assert 0 < ((copy > 0.5) & REAL).sum() < REAL.sum()
    assert counts["encoder_correct"] == (every.argmax(-1) == TOKENS.ids)[REAL].sum()


def test_the_probabilities_of_all_tokens_mlm_add_up_to_1() -> None:
    from electra_jax.objectives.all_tokens_mlm import with_copies

    rng = np.random.default_rng(2)
    log_softmax_, logit = log_softmax(rng.normal(size=(1, 7))), np.full((1, 7), 0.7)
    copied = np.arange(7)[None] == 3

    p = np.exp(with_copies(jnp.asarray(log_softmax_), jnp.asarray(logit), jnp.asarray(copied)))

    assert p.sum() == pytest.approx(1, abs=1e-6)


def test_electric_contrasts_data_with_samples_by_their_noise() -> None:
    weights = {"generator_weight": 2.0, "discriminator_weight": 20.0}
    objective, model = replace(MASKED, name="electric", **weights), model_of("electric", TWO_TOWER)
    keys = draw_keys(KEY, len(REAL), dropout=False)
    picks = pick(keys.pick, TOKENS, SPECIAL, objective)
    logits = model.generate(TOKENS, jnp.broadcast_to(jnp.arange(40), TOKENS.ids.shape))
    log_q = log_softmax(np.asarray(logits, np.float64), axis=-1)
    noised = TOKENS._replace(ids=scatter(TOKENS.ids, picks, gather(sample(keys.sample, logits), picks)))
    chosen, may = np.zeros(REAL.shape, bool), np.asarray(candidates(TOKENS, SPECIAL))
    rows_, _ = np.nonzero(picks.used)
    chosen[rows_, np.asarray(picks.positions)[np.asarray(picks.used)]] = True

    loss, counts = loss_of(objective, model)

    energies = np.asarray(model.discriminate(noised), np.float64)
    k, n = 0.3, 1.0
    data = (n - k) * np.exp(-energies)
    noise = k * np.exp(-nll(log_q, noised.ids))
    of_tokens = np.where(chosen, -np.log(noise / (data + noise)), -np.log(data / (data + noise)))
    expected = 2 * nll(log_q, TOKENS.ids)[may].mean() + 20 * of_tokens[REAL].mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
    assert counts["sampled"] == chosen.sum() == picks.used.sum()
    assert counts["replaced"] == chosen.sum()  # a sample is noise even where it hits the original
    assert counts["picks"] == may.sum()
    assert counts["samples_correct"] == (chosen & (noised.ids == TOKENS.ids)).sum() > 0


def test_an_adversarial_generator_follows_its_samples_rewards() -> None:
    objective, model = replace(MASKED, adversarial_weight=1.0, temperature=2.0), model_of("electra")
    made = corrupted_by(model, objective)
    logits, used = model.discriminate(made.tokens), np.asarray(made.picks.used)
    rewards = np.take_along_axis(
        sigmoid_nll(np.asarray(logits, np.float64), np.asarray(made.replaced)), np.asarray(made.picks.positions), axis=1
    )
    log_p = -nll(log_softmax(np.asarray(model.generate(made.masked, made.picks.positions)) / 2, axis=-1), made.sampled)
    expected = 0.0
    for row in range(len(used)):
        chosen = np.flatnonzero(used[row])
        for one in chosen if len(chosen) > 1 else []:
            baseline = np.mean([rewards[row, other] for other in chosen if other != one])
            expected -= (rewards[row, one] - baseline) * log_p[row, one]

    found = adversarial_sum(model, made, logits, objective)

    np.testing.assert_allclose(found, expected, rtol=1e-3)
    loud = loss_of(replace(objective, adversarial_weight=1e4), model)[0]
    difference = loud - loss_of(replace(objective, adversarial_weight=0.0), model)[0]
    np.testing.assert_allclose(difference, 1e4 * expected / used.sum(), rtol=1e-3)


# --- who learns ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name != "electric"])
def test_every_parameter_of_an_objectives_model_learns(name: str) -> None:
    found = gradients(replace(MASKED, name=name), model_of(name))

    assert moved(found) == set(found)


def test_every_parameter_of_electric_learns() -> None:
    found = gradients(replace(MASKED, name="electric"), model_of("electric", TWO_TOWER))

    assert moved(found) == set(found)


@pytest.mark.parametrize("name", ["electra", "electra-15", "replace-mlm", "all-tokens-mlm", "electric"])
def test_no_gradient_goes_through_the_samples(name: str) -> None:
    config = replace(TWO_TOWER if name == "electric" else MODEL, tie="none")
    found = gradients(replace(MASKED, name=name), model_of(name, config), generator_weight=0.0)

    assert not [path for path in moved(found) if path.startswith("generator/")]
    assert [path for path in moved(found) if path.startswith("discriminator/")]


def test_the_adversary_moves_the_generator_and_not_the_discriminator() -> None:
    weights = {"generator_weight": 0.0, "discriminator_weight": 0.0, "adversarial_weight": 1.0}
    found = gradients(replace(MASKED, **weights), model_of("electra", replace(MODEL, tie="none")))

    assert moved(found) == {path for path in found if path.startswith("generator/")}


# --- what the towers share ----------------------------------------------------------------------------------------


def test_with_gdes_the_generator_alone_moves_the_shared_tables() -> None:
    model = model_of("electra", replace(MODEL, tie="gdes"))

    by_generator = moved(gradients(replace(MASKED, discriminator_weight=0.0), model))
    by_discriminator = moved(gradients(replace(MASKED, generator_weight=0.0), model))

    assert {path.split("/")[0] for path in by_generator} == {"embeddings", "generator"}
    assert {path.split("/")[0] for path in by_discriminator} == {"discriminator"}
    assert {f"discriminator/embeddings/{table}" for table in ("word", "position", "type")} <= by_discriminator


def test_with_gdes_the_discriminator_starts_from_the_shared_tables() -> None:
    gdes = Electra(replace(MODEL, tie="gdes"), rngs=nnx.Rngs(0))
    differences = gdes.discriminator.embeddings

    assert differences is not None
    np.testing.assert_array_equal(differences.over(TOKENS, gdes.embeddings), gdes.embeddings(TOKENS))
    np.testing.assert_array_equal(differences.word_table(gdes.embeddings), gdes.embeddings.word[...])


def test_with_gdes_the_encoder_predicts_by_a_table_that_moves_its_own_alone() -> None:
    model = model_of("replace-mlm", replace(MODEL, tie="gdes"))

    found = moved(gradients(replace(MASKED, name="replace-mlm", generator_weight=0.0), model))

    assert {path.split("/")[0] for path in found} == {"discriminator"}
    differences = model.discriminator.embeddings
    assert differences is not None
    np.testing.assert_array_equal(model.prediction[0], model.embeddings.word[...] + differences.word[...])


@pytest.mark.parametrize("tie", ["none", "gdes"])
def test_gdes_and_no_tie_keep_apart_what_embeddings_share(tie: str) -> None:
    model = model_of("electra", replace(MODEL, tie=tie))

    found = gradients(replace(MASKED, generator_weight=0.0), model)

    read_by_generator = "embeddings" if tie == "gdes" else "generator/embeddings"
    assert not [path for path in moved(found) if path.startswith(read_by_generator)]


# --- generators ---------------------------------------------------------------------------------------------------


def test_two_towers_see_every_token_but_the_one_they_predict() -> None:
    model = model_of("electric", TWO_TOWER)
    graph, params = nnx.split(model)
    length, row = 12, 2
    position = jnp.full((1, 1), 5)

    @jax.jit
    def logits(ids: jax.Array) -> jax.Array:
        tokens = jax.tree.map(lambda a: a[row : row + 1], TOKENS)._replace(ids=ids[None])
        return nnx.merge(graph, params).generate(tokens, position)[0, 0]

    before = logits(TOKENS.ids[row])
    changed = [i for i in range(length) if not np.array_equal(logits(TOKENS.ids[row].at[i].add(1)), before)]

    assert changed == [i for i in range(length) if i != 5]


def test_two_towers_see_no_other_example_of_a_packed_row() -> None:
    model = model_of("electric", TWO_TOWER)
    alone = jax.tree.map(lambda a: a[2:3, :12], TOKENS)
    numbers = jnp.asarray([[0] * 12 + [1] * 12])
    pair = jax.tree.map(lambda a: jnp.concatenate([a, a], axis=1), alone)
    packed = pair._replace(examples=numbers, positions=jnp.arange(24)[None] % 12)

    expected, states = model.states(alone, None), model.states(packed, None)

    np.testing.assert_allclose(states[:, :12], expected, atol=1e-5)
    np.testing.assert_allclose(states[:, 12:], expected, atol=1e-5)


def test_a_unigram_generator_learns_the_frequencies() -> None:
    import optax

    objective, config = (
        ObjectiveConfig(mask_prob=0.3, discriminator_weight=0.0),
        replace(MODEL, generator_kind="unigram"),
    )
    tokens = rows(np.full(64, 40), 40, VOCABULARY)
    tokens = tokens._replace(ids=jnp.where(tokens.ids >= 9, 9, tokens.ids))  # one word is as frequent as three
    graph, params = nnx.split(Electra(config, rngs=nnx.Rngs(0)))
    optimizer = optax.adam(0.1)

    @jax.jit
    def step(params, state, key):
        def loss(params):
            model = nnx.merge(graph, params)
            return OBJECTIVES["electra"].loss(model, tokens, key, SPECIAL, objective, dropout=False)[0]

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for number in range(150):
        params, state = step(params, state, jax.random.key(number))

    model = nnx.merge(graph, params)
    words = np.asarray(tokens.ids)[np.asarray(candidates(tokens, SPECIAL))]
    frequencies = np.bincount(words, minlength=VOCABULARY) / len(words)
    probabilities = jax.nn.softmax(model.generate(tokens, jnp.zeros((64, 1), int))[0, 0])
    np.testing.assert_allclose(probabilities, frequencies, atol=0.02)


def test_a_uniform_generator_proposes_every_entry_alike() -> None:
    model = model_of("electra", replace(MODEL, generator_kind="uniform"))
    tokens = rows(np.full(512, 40), 40, VOCABULARY)

    made = corrupt(model, tokens, draw_keys(KEY, 512, dropout=False), SPECIAL, MASKED)

    drawn = np.bincount(np.asarray(made.sampled)[np.asarray(made.picks.used)], minlength=VOCABULARY)
    assert drawn.sum() > 5000
    np.testing.assert_allclose(drawn / drawn.sum(), 1 / VOCABULARY, atol=5 * np.sqrt(1 / VOCABULARY / drawn.sum()))
