import jax
import jax.numpy as jnp
import numpy as np
import pytest
from examples import CLS, MASK, PAD, SEP, SPECIAL, UNK, as_tokens, rows
from scipy.stats import chi2

from electra_jax.config import ObjectiveConfig
from electra_jax.model import Tokens
from electra_jax.objectives.masking import Picks, gather, mask, pick, scatter

CONFIG = ObjectiveConfig()
SIGMAS = 5


def pick_many(tokens: Tokens, seed: int = 0, config: ObjectiveConfig = CONFIG) -> Picks:
    return jax.tree.map(np.asarray, pick(jax.random.key(seed), tokens, SPECIAL, config))


def repeated(ids: list[int], real: int, times: int) -> Tokens:
    """The same row many times over."""
    return as_tokens(np.tile(ids, (times, 1)), np.tile(np.arange(len(ids)) < real, (times, 1)))


@pytest.mark.parametrize(("length", "mask_prob", "slots"), [(128, 0.15, 19), (512, 0.15, 79), (512, 0.25, 130)])
def test_slots_are_those_of_the_reference(length: int, mask_prob: float, slots: int) -> None:
    config = ObjectiveConfig(mask_prob=mask_prob)

    assert config.slots(length) == slots
    assert pick_many(rows([length], length), config=config).positions.shape == (1, slots)


@pytest.mark.parametrize(("width", "mask_prob"), [(128, 0.15), (512, 0.15), (512, 0.25)])
def test_a_row_of_any_length_has_its_share_of_picks(width: int, mask_prob: float) -> None:
    config = ObjectiveConfig(mask_prob=mask_prob)
    lengths = np.arange(3, width + 1)

    used = pick_many(rows(lengths, width), config=config).used

    shares = np.round(lengths.astype(np.float32) * np.float32(mask_prob))  # in float32, as the reference has it
    np.testing.assert_array_equal(used.sum(1), np.clip(shares, 1, config.slots(width)))


def test_picks_are_words_of_their_row() -> None:
    tokens = rows(np.arange(3, 129), 128)
    picks = pick_many(tokens)

    picked = np.asarray(gather(tokens.ids, picks))[picks.used]
    assert not np.isin(picked, [PAD, CLS, SEP, MASK]).any()


def test_separators_and_masks_inside_a_row_are_not_picked() -> None:
    tokens = repeated([CLS, 9, SEP, MASK, 8, SEP, SEP, MASK, PAD, PAD], real=8, times=500)
    picks = pick_many(tokens)

    assert set(picks.positions[picks.used].tolist()) == {1, 4}


def test_unknown_tokens_are_picked() -> None:
    picks = pick_many(repeated([CLS, UNK, SEP, PAD, PAD, PAD, PAD], real=3, times=1))

    assert (picks.positions[0, 0], picks.used[0, 0]) == (1, True)


def test_no_position_is_picked_twice() -> None:
    picks = pick_many(rows(np.arange(3, 129), 128))

    for positions, used in zip(*picks, strict=True):
        assert len(set(positions[used].tolist())) == used.sum()


def test_there_are_no_more_picks_than_candidates() -> None:
    ids = [CLS, 9, *[SEP] * 30]
    picks = pick_many(repeated(ids, real=32, times=10))

    np.testing.assert_array_equal(picks.used.sum(1), 1)


@pytest.mark.parametrize("ids", [[CLS, SEP], [CLS, MASK, SEP], [MASK, MASK, MASK, MASK], []])
def test_a_row_without_candidates_has_no_pick(ids: list[int]) -> None:
    tokens = repeated([*ids, *[PAD] * (16 - len(ids))], real=len(ids), times=2)
    picks = pick_many(tokens)

    assert not picks.used.any()
    masked = mask(jax.random.key(0), tokens, picks, MASK, 1.0)
    np.testing.assert_array_equal(masked.ids, tokens.ids)


@pytest.mark.parametrize("seed", range(4))
def test_every_candidate_is_as_likely(seed: int) -> None:
    times, real = 5000, 40
    picks = pick_many(rows(np.full(times, real), 48), seed)

    counts = np.bincount(picks.positions[picks.used], minlength=48)[1 : real - 1]
    candidates, share = real - 2, 6 / (real - 2)
    assert counts.sum() == 6 * times
    # Draws without replacement vary less than independent ones, by the factor in front.
    statistic = (1 - 1 / candidates) * np.sum((counts - times * share) ** 2) / (times * share * (1 - share))
    assert chi2.sf(statistic, candidates - 1) > 1e-4
    assert chi2.cdf(statistic, candidates - 1) > 1e-4


def test_rows_are_picked_independently() -> None:
    picks = pick_many(rows(np.full(4000, 20), 32))
    hit = np.zeros((4000, 32), bool)
    np.put_along_axis(hit, picks.positions, picks.used, axis=1)

    correlation = np.corrcoef(hit[:-1, 1:19].ravel(), hit[1:, 1:19].ravel())[0, 1]
    assert abs(correlation) < SIGMAS / (3999 * 18) ** 0.5


def test_another_key_picks_others() -> None:
    tokens = rows(np.full(4, 128), 128)

    assert not np.array_equal(pick_many(tokens, 0).positions, pick_many(tokens, 1).positions)


@pytest.mark.parametrize("mask_token_prob", [0.85, 0.5, 0.0, 1.0])
def test_picks_are_masked_with_the_given_probability_and_else_kept(mask_token_prob: float) -> None:
    tokens = rows(np.full(2000, 128), 128)
    picks = pick_many(tokens)
    masked = mask(jax.random.key(7), tokens, picks, MASK, mask_token_prob)

    before, after = (np.asarray(gather(ids, picks))[picks.used] for ids in (tokens.ids, masked.ids))
    replaced = after == MASK
    np.testing.assert_array_equal(after[~replaced], before[~replaced])
    deviation = (mask_token_prob * (1 - mask_token_prob) / replaced.size) ** 0.5
    assert abs(replaced.mean() - mask_token_prob) <= SIGMAS * deviation


def test_masking_changes_picks_alone() -> None:
    tokens = rows(np.arange(129), 128)
    picks = pick_many(tokens)
    masked = mask(jax.random.key(7), tokens, picks, MASK, 1.0)

    expected = np.array(tokens.ids)
    for row, (positions, used) in enumerate(zip(*picks, strict=True)):
        expected[row, positions[used]] = MASK
    np.testing.assert_array_equal(masked.ids, expected)
    assert masked.mask is tokens.mask
    assert masked.types is tokens.types


def test_unused_slots_write_nothing() -> None:
    ids = jnp.array([[10, 11, 12, 13], [20, 21, 22, 23]])
    picks = Picks(jnp.array([[2, 0, 0], [0, 0, 0]]), jnp.array([[True, False, False], [True, False, False]]))

    written = scatter(ids, picks, jnp.array([[1, 2, 3], [4, 5, 6]]))

    np.testing.assert_array_equal(written, [[10, 11, 1, 13], [4, 21, 22, 23]])
