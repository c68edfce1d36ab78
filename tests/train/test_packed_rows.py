"""What packed rows are to the model and the objective: each example as if it were alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest
from flax import nnx

from electra_jax.config import ComputeConfig, ModelConfig, ObjectiveConfig, TowerConfig
from electra_jax.data.packing import fit, pack
from electra_jax.data.rows import view
from electra_jax.model import Electra, Tokens
from electra_jax.objectives.electra import electra
from electra_jax.objectives.losses import count, replaced_token_loss
from electra_jax.objectives.masking import SpecialTokens
from electra_jax.train.step import Batch, read_tokens

LENGTH, VOCABULARY = 32, 60
PAD, UNK, CLS, SEP, MASK, FIRST_WORD = range(6)
LENGTHS, FIRSTS = np.array([20, 8, 12, 3, 25, 7]), np.array([11, 8, 5, 3, 25, 4])
MODEL = ModelConfig(
    vocab_size=VOCABULARY,
    embedding_size=16,
    max_position_embeddings=LENGTH,
    discriminator=TowerConfig(num_hidden_layers=2, hidden_size=24, num_attention_heads=3, intermediate_size=40),
    generator=TowerConfig(num_hidden_layers=2, hidden_size=8, num_attention_heads=2, intermediate_size=20),
)


@pytest.fixture(scope="module")
def model() -> Electra:
    """All of its weights at random, so that position, type and example matter."""
    rng = np.random.default_rng(1)
    shapes = nnx.eval_shape(lambda: Electra(MODEL, ComputeConfig(), rngs=nnx.Rngs(0)))
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(scale=0.3, size=leaf.shape), leaf.dtype), shapes)


def padded() -> Batch:
    """An example a row."""
    position = np.arange(LENGTH)
    ids = np.random.default_rng(0).integers(FIRST_WORD, VOCABULARY, (len(LENGTHS), LENGTH))
    ids[:, 0] = CLS
    ids[np.arange(len(ids)), LENGTHS - 1] = ids[np.arange(len(ids)), FIRSTS - 1] = SEP
    ids = np.where(position < LENGTHS[:, None], ids, PAD).astype(np.uint16)
    return {"input_ids": ids, "length": LENGTHS.astype(np.int32), "first_length": FIRSTS.astype(np.int32)}


def packed() -> Batch:
    """The same examples in fewer rows, as `prepare` writes them, and a row that fills up a batch."""
    batch = padded()
    ids = pa.FixedSizeListArray.from_arrays(pa.array(batch["input_ids"].reshape(-1)), LENGTH)
    table = pack(pa.table({**batch, "input_ids": ids}), PAD)
    columns = {name: view(table[name].combine_chunks()) for name in table.column_names}
    assert len(columns["length"]) < len(LENGTHS)
    return {name: np.pad(column, [(0, 1)] + [(0, 0)] * (column.ndim - 1)) for name, column in columns.items()}


def places() -> list[tuple[int, slice]]:
    """Where each example is: its packed row, and the positions in it."""
    found: dict[int, tuple[int, slice]] = {}
    for number, row in enumerate(fit(LENGTHS.tolist(), LENGTH)):
        stops = np.cumsum(LENGTHS[row]).tolist()
        found |= {
            example: (number, slice(stop - LENGTHS[example], stop)) for example, stop in zip(row, stops, strict=True)
        }
    return [found[example] for example in range(len(LENGTHS))]


@jax.jit
def logits(model: Electra, tokens: Tokens) -> tuple[jax.Array, jax.Array]:
    """Of both towers at every position."""
    everywhere = jnp.broadcast_to(jnp.arange(tokens.ids.shape[1]), tokens.ids.shape)
    return model.generate(tokens, everywhere), model.discriminate(tokens)


def test_a_packed_batch_says_what_each_token_is() -> None:
    batch = {
        "input_ids": np.array([[2, 9, 3, 2, 8, 3, 7, 3, 0], [0] * 9], np.uint16),
        "length": np.array([8, 0], np.int32),
        "segments": np.array([[1, 1, 1, 3, 3, 3, 4, 4, 0], [0] * 9], np.uint8),
    }
    tokens = read_tokens(batch)

    np.testing.assert_array_equal(tokens.ids, batch["input_ids"])
    np.testing.assert_array_equal(tokens.mask, batch["segments"] > 0)
    np.testing.assert_array_equal(tokens.types, [[0, 0, 0, 0, 0, 0, 1, 1, 0], [0] * 9])
    np.testing.assert_array_equal(tokens.examples[0], [0, 0, 0, 1, 1, 1, 1, 1, -1])
    np.testing.assert_array_equal(tokens.positions[0, :8], [0, 1, 2, 0, 1, 2, 3, 4])
    own = np.zeros((9, 9), bool)
    own[:3, :3] = own[3:8, 3:8] = True
    np.testing.assert_array_equal(tokens.attended, [own, np.zeros((9, 9), bool)])


def test_every_example_is_as_in_a_row_of_its_own(model: Electra) -> None:
    alone, together = logits(model, read_tokens(padded())), logits(model, read_tokens(packed()))

    for tower in range(2):
        for example, (row, span) in enumerate(places()):
            theirs, ours = alone[tower][example, : LENGTHS[example]], together[tower][row, span]
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
        assert jnp.isfinite(together[tower]).all()  # at padding too


def test_an_example_is_not_seen_by_its_neighbours(model: Electra) -> None:
    batch = packed()
    row, span = places()[1]
    ids = batch["input_ids"].copy()
    ids[row, span] = (ids[row, span] + 7) % VOCABULARY
    before, after = (logits(model, read_tokens({**batch, "input_ids": some})) for some in (batch["input_ids"], ids))

    others = batch["segments"] > 0
    others[row, span] = False
    for tower in range(2):
        np.testing.assert_array_equal(after[tower][others], before[tower][others])
        assert np.abs(after[tower][row, span] - before[tower][row, span]).max() > 0.01


def picked() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Two picks of each example, as (row, position) in the padded and in the packed batch."""
    examples, positions = np.repeat(np.arange(len(LENGTHS)), 2), np.tile([0, 1], len(LENGTHS))
    rows = np.array([places()[example][0] for example in examples])
    starts = np.array([places()[example][1].start for example in examples])
    return (examples, positions), (rows, starts + positions)


def losses(model: Electra, batch: Batch, picks: tuple[np.ndarray, np.ndarray], samples: np.ndarray) -> jax.Array:
    """The sums of both losses, where `samples` replace the picks."""
    tokens = read_tokens(batch)
    everywhere = jnp.broadcast_to(jnp.arange(LENGTH), tokens.ids.shape)
    used = jnp.zeros(tokens.ids.shape, bool).at[picks].set(True)
    generated = model.generate(tokens._replace(ids=jnp.where(used, MASK, tokens.ids)), everywhere)
    corrupted = tokens._replace(ids=tokens.ids.at[picks].set(samples))
    judged = replaced_token_loss(model.discriminate(corrupted), corrupted.ids != tokens.ids, tokens.mask)
    likelihood = jnp.take_along_axis(jax.nn.log_softmax(generated), tokens.ids[..., None], axis=-1)[..., 0]
    return jnp.stack([-jnp.sum(likelihood, where=used), judged[0]])


def test_losses_and_gradients_are_those_of_the_examples_alone(model: Electra) -> None:
    samples = np.random.default_rng(3).integers(FIRST_WORD, VOCABULARY, 2 * len(LENGTHS))
    alone, together = picked()

    @jax.jit
    def both(model: Electra, batch: Batch, picks: tuple) -> tuple[jax.Array, nnx.State]:
        def total(model: Electra) -> tuple[jax.Array, jax.Array]:
            sums = losses(model, batch, picks, samples)
            return sums.sum(), sums

        gradients, sums = jax.grad(total, has_aux=True)(model)
        return sums, nnx.to_pure_dict(nnx.state(gradients))

    expected, found = both(model, padded(), alone), both(model, packed(), together)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        found[1],
        expected[1],
    )


def test_picks_are_a_share_of_the_row(model: Electra) -> None:
    """As [G] counts them: of all its real tokens, without the special ones of every example."""
    tokens, special = read_tokens(packed()), SpecialTokens(CLS, SEP, MASK)
    totals = count(tokens, special, ObjectiveConfig())
    lengths = packed()["length"][:-1]
    assert totals.picks == np.clip(np.round(lengths * 0.15), 1, 4).sum()
    loss, counts = electra(model, tokens, jax.random.key(0), special, ObjectiveConfig(), dropout=True)
    assert (counts["picks"], counts["tokens"]) == (totals.picks, LENGTHS.sum())
    assert jnp.isfinite(loss)
