import re
from collections.abc import Callable
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.stats import norm

from electra_jax.config import ComputeConfig, ElectraConfig
from electra_jax.model.attention import attend
from electra_jax.model.encoder import Encoder
from electra_jax.model.layers import (
    NARROW_KERNEL,
    LayerNorm,
    add_bias,
    dot,
    dropout,
    gelu,
    in_parts,
    keep_mask,
    normalize,
    outline,
    products,
    words_of,
)
from electra_jax.train.step import step_key

X = np.linspace(-10, 10, 4001)
SQUARE = 512, 512
SIZE = 2**18
SIGMAS = 5


def seed_of(number: int) -> jax.Array:
    return jax.random.bits(jax.random.key(number), (2,))


def mask_of(*words: int, rate: float = 0.1) -> np.ndarray:
    return np.asarray(keep_mask(jnp.array(words, jnp.uint32), SQUARE, rate)).ravel()


def correlation_in_sigmas(a: np.ndarray, b: np.ndarray) -> float:
    return abs(np.corrcoef(a, b)[0, 1]) * len(a) ** 0.5


# --- gelu ---------------------------------------------------------------------------------------------------------


def test_gelu_is_x_times_the_normal_distribution() -> None:
    np.testing.assert_allclose(gelu(jnp.asarray(X, jnp.float32)), X * norm.cdf(X), rtol=1e-6, atol=1e-6)


def test_the_gradient_of_gelu_is_its_derivative() -> None:
    cotangent = np.random.default_rng(0).normal(size=X.shape)
    _, pull = jax.vjp(gelu, jnp.asarray(X, jnp.float32))

    (gradient,) = pull(jnp.asarray(cotangent, jnp.float32))

    np.testing.assert_allclose(gradient, cotangent * (norm.cdf(X) + X * norm.pdf(X)), rtol=1e-5, atol=1e-6)


def test_gelu_keeps_bfloat16_and_its_precision() -> None:
    x = jnp.asarray(X, jnp.bfloat16)
    exact = np.asarray(x, np.float64)
    y, pull = jax.vjp(gelu, x)
    (gradient,) = pull(jnp.ones_like(x))

    assert y.dtype == gradient.dtype == jnp.bfloat16
    # What is left of 1 + erf in float32, far below, is within a billionth.
    np.testing.assert_allclose(y.astype(jnp.float32), exact * norm.cdf(exact), rtol=2**-8, atol=1e-6)
    derivative = norm.cdf(exact) + exact * norm.pdf(exact)
    np.testing.assert_allclose(gradient.astype(jnp.float32), derivative, rtol=2**-8, atol=1e-6)


# --- derivatives that are written out: against those that JAX takes of the definition ------------------------------


def assert_same_gradients(ours: Callable, definition: Callable, *arguments: jax.Array) -> None:
    """Of a random projection, by all arguments; float32."""
    shape = jax.eval_shape(definition, *arguments).shape
    cotangent = jax.random.normal(jax.random.key(9), shape)
    found, expected = (jax.vjp(function, *arguments) for function in (ours, definition))
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5, atol=1e-5)
    for one, other in zip(found[1](cotangent), expected[1](cotangent), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def normals(*shapes: tuple[int, ...]) -> list[jax.Array]:
    return [jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(shapes)]


@pytest.mark.parametrize(("size", "features"), [(5, 12), (12, 5), (7, 7)])
def test_the_gradients_of_a_product(size: int, features: int) -> None:
    assert_same_gradients(dot, jnp.matmul, *normals((3, 4, size), (size, features)))


def test_the_gradient_of_a_bias_is_summed_up_in_float32() -> None:
    assert_same_gradients(add_bias, jnp.add, *normals((3, 4, 5), (5,)))
    bias, g = jnp.ones(5), jax.random.normal(jax.random.key(2), (64, 32, 5), jnp.bfloat16)
    y, pull_back = jax.vjp(add_bias, jnp.ones(g.shape, jnp.bfloat16), bias)
    assert y.dtype == jnp.bfloat16
    of_x, of_bias = pull_back(g)
    assert (of_x == g).all()
    np.testing.assert_allclose(of_bias, np.asarray(g, np.float64).sum((0, 1)), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("sizes", [(96, 5, 7), (96, 300, 7), (7, 5, 7), (64, 1500, 1500)])
def test_a_product_in_parts_is_the_product(sizes: tuple[int, int, int]) -> None:
    rows, size, features = sizes
    x, g = normals((rows, size), (rows, features))
    np.testing.assert_allclose(in_parts(x, g), x.T @ g, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("features", [7, NARROW_KERNEL + 1])
def test_the_gradients_of_products_of_the_same(features: int, joined: bool) -> None:
    def ours(x: jax.Array, *kernels: jax.Array) -> jax.Array:
        (first, second), x = products(joined, x, kernels)
        return jnp.concatenate([first, second * first, x], -1)

    def definition(x: jax.Array, first: jax.Array, second: jax.Array) -> jax.Array:
        return jnp.concatenate([x @ first, (x @ second) * (x @ first), x], -1)

    assert_same_gradients(ours, definition, *normals((3, 4, 5), (5, features), (5, features)))


def test_the_gradients_of_a_layer_norm() -> None:
    def definition(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-12) * scale + bias

    assert_same_gradients(lambda *a: normalize(1e-12, *a), definition, *normals((3, 4, 16), (16,), (16,)))


def test_a_layer_norm_of_bfloat16_is_taken_in_float32() -> None:
    x = 100 + 8 * jax.random.normal(jax.random.key(0), (64, 16)).astype(jnp.bfloat16)
    exact = np.asarray(x, np.float64)
    expected = (exact - exact.mean(-1, keepdims=True)) / exact.std(-1, keepdims=True)

    found = LayerNorm(16, 1e-12, jnp.dtype("bfloat16"))(x)

    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(jnp.float32), expected, rtol=0.005, atol=0.001)


@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("rows", [1, 6])
def test_the_gradients_of_attention(rate: float, rows: int) -> None:
    attended = jax.random.bernoulli(jax.random.key(5), 0.6, (2, rows, 6)).at[..., 0].set(True)
    seed = jax.random.bits(jax.random.key(6), (2, 2))

    def definition(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        scores = jnp.einsum("BLND,BMND->BNLM", query, key) / 8**0.5
        weights = jax.nn.softmax(jnp.where(attended[:, None], scores, -1e30))
        weights = jnp.where(keep_mask(seed, weights.shape, rate), weights / (1 - rate), 0)
        return jnp.einsum("BNLM,BMND->BLND", weights, value)

    assert_same_gradients(lambda *a: attend(rate, *a, attended, seed), definition, *normals(*[(2, 6, 3, 8)] * 3))


def test_scores_of_bfloat16_are_float32() -> None:
    query, key, value = (x.astype(jnp.bfloat16) for x in normals(*[(2, 64, 1, 16)] * 3))
    of_heads, attended = (16 * query, key, value), jnp.ones((2, 1, 64), bool)
    found, expected = (attend(0.0, *map(cast, of_heads), attended, None) for cast in (jnp.asarray, jnp.float32))
    np.testing.assert_allclose(found.astype(jnp.float32), expected, rtol=0.02, atol=0.02)


# --- dropout ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.01])
def test_dropout_drops_at_its_rate(rate: float) -> None:
    deviation = (rate * (1 - rate) / SIZE) ** 0.5

    for number in range(8):
        dropped = 1 - np.asarray(keep_mask(seed_of(number), SQUARE, rate)).mean()
        assert abs(dropped - rate) < SIGMAS * deviation, number


def test_dropout_scales_what_it_keeps() -> None:
    x = jax.random.normal(jax.random.key(0), (64, 64))
    y = dropout(x, seed_of(0), 0.1)

    kept = np.asarray(keep_mask(seed_of(0), x.shape, 0.1))
    np.testing.assert_allclose(y, np.where(kept, np.asarray(x) / 0.9, 0), rtol=1e-6)


def test_the_gradient_passes_the_mask_of_the_forward_pass() -> None:
    ones = jnp.ones((64, 64))
    cotangent = jax.random.normal(jax.random.key(1), ones.shape)
    y, pull = jax.vjp(lambda x: dropout(x, seed_of(0), 0.3), ones)

    (gradient,) = pull(cotangent)

    np.testing.assert_allclose(gradient, cotangent * y, rtol=1e-6)


@pytest.mark.parametrize(("number", "rate"), [(None, 0.1), (0, 0.0)])
def test_without_a_seed_or_a_rate_dropout_is_the_identity(number: int | None, rate: float) -> None:
    x = jax.random.normal(jax.random.key(0), (32, 32))

    np.testing.assert_array_equal(dropout(x, None if number is None else seed_of(number), rate), x)


def test_dropout_keeps_bfloat16_and_the_mean() -> None:
    x = jax.random.normal(jax.random.key(0), (64, 64), jnp.bfloat16)
    y, kept = dropout(x, seed_of(0), 0.1), keep_mask(seed_of(0), x.shape, 0.1)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, jnp.where(kept, x.astype(jnp.float32) / 0.9, 0).astype(jnp.bfloat16))


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 8, 16, 64, 127, 128, 256, 511, 512, 513, 768, 1024, 4096, 2**15, 2**16])
def test_neighbours_are_dropped_independently(lag: int) -> None:
    for number in range(4):
        mask = mask_of(*seed_of(number).tolist())
        assert correlation_in_sigmas(mask[:-lag], mask[lag:]) < SIGMAS, number


@pytest.mark.parametrize("near", [(8, 5), (7, 6), (7, 4), (6, 5), (2**31 + 7, 5), (7, 2**31 + 5), (5, 7)])
def test_seeds_that_differ_a_little_give_independent_masks(near: tuple[int, int]) -> None:
    assert correlation_in_sigmas(mask_of(7, 5), mask_of(*near)) < SIGMAS


def test_drawn_seeds_give_independent_masks() -> None:
    masks = [mask_of(*seed_of(number).tolist()) for number in range(8)]

    for one, other in combinations(masks, 2):
        assert correlation_in_sigmas(one, other) < SIGMAS


@pytest.mark.parametrize("rate", [0.1, 0.5])
@pytest.mark.parametrize("along", ["lines", "columns"])
def test_every_pattern_of_neighbours_is_as_frequent_as_its_chance(rate: float, along: str) -> None:
    """Of six in a row; a line of multiples, which also passes every test of pairs, misses by thousands of sigmas."""
    kept_in_pattern = np.array([number.bit_count() for number in range(64)])
    chances = (1 - rate) ** kept_in_pattern * rate ** (6 - kept_in_pattern)
    for number in range(4):
        mask = mask_of(*seed_of(number).tolist(), rate=rate).reshape(SQUARE)
        patterns = (mask if along == "lines" else mask.T)[:, :510].reshape(-1, 6) @ (1 << np.arange(6))
        expected = chances * len(patterns)
        often = expected > 5
        found = ((np.bincount(patterns, minlength=64) - expected) ** 2 / expected)[often].sum()
        assert abs(found - often.sum() + 1) < SIGMAS * (2 * (often.sum() - 1)) ** 0.5, number


def test_no_two_lines_and_no_two_columns_are_alike() -> None:
    for number in range(4):
        mask = mask_of(*seed_of(number).tolist()).reshape(SQUARE) - 0.9
        for one in (mask, mask.T):
            pairs = np.triu(one @ one.T, 1) / (0.09 * 512**0.5)
            assert np.abs(pairs).max() < 8  # sigmas; of 130,000 pairs of skewed sums the largest is at 6


def test_the_masks_of_two_seeds_are_no_permutations_of_each_other() -> None:
    line = np.arange(512)
    undone = line ^ (9 ^ 300)  # what the first word does, were it the only one
    shuffled = mask_of(9, 1000).reshape(SQUARE)[undone]

    assert correlation_in_sigmas(mask_of(300, 2000), shuffled.ravel()) < SIGMAS


@pytest.mark.parametrize("shape", [(3, 5), (3, 2, 4), (3, 2, 4, 5)])
@pytest.mark.parametrize("rows", [(), (3,)])
def test_words_give_the_mask_of_their_seed(shape: tuple[int, ...], rows: tuple[int, ...]) -> None:
    """Also where they are of more lines than the array has: of all positions, where only some are computed."""
    seed = jax.random.bits(jax.random.key(0), (*rows, 2))
    words = words_of(seed, 40, shape[-1])

    np.testing.assert_array_equal(keep_mask(words, shape, 0.5), keep_mask(seed, shape, 0.5))


def test_words_drop_the_gradient_too() -> None:
    seed, x = jax.random.bits(jax.random.key(0), (3, 2)), jnp.ones((3, 4, 5))
    of_words, of_seed = (jax.grad(lambda x, s=s: dropout(x, s, 0.5).sum())(x) for s in (words_of(seed, 4, 5), seed))

    np.testing.assert_array_equal(of_words, of_seed)
    assert 0 < np.count_nonzero(of_seed) < of_seed.size


# --- calls --------------------------------------------------------------------------------------------------------


def test_what_is_outlined_is_one_call_and_what_it_calls_is_none() -> None:
    def rate(count: jax.Array) -> jax.Array:
        return jnp.clip(count, 0, 9) ** 0.5  # functions that JAX has compiled by themselves

    def both(count: jax.Array, x: jax.Array) -> tuple[jax.Array, ...]:
        one = outline(rate)(count)
        return one * x, one + jnp.sin(x)

    count, x = jnp.float32(4), jnp.arange(8.0)
    program = jax.jit(both).lower(count, x).compile()

    assert len(re.findall(r" call\(", program.as_text())) == 1
    for found, expected in zip(program(count, x), (2 * x, 2 + jnp.sin(x)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6)


# --- layers of an encoder ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    config = ElectraConfig(hidden_size=8, embedding_size=8, intermediate_size=8, num_hidden_layers=24)
    return Encoder(config, ComputeConfig(), rngs=nnx.Rngs(0))


ROWS = 2


def seeds_at(encoder: Encoder, key: jax.Array) -> set[tuple[int, int]]:
    first, layers = encoder._seeds(key, ROWS)
    return {tuple(seed) for seed in np.concatenate([first, layers.reshape(-1, 2)]).tolist()}


def test_every_row_of_every_mask_of_an_encoder_has_a_seed_of_its_own(encoder: Encoder) -> None:
    assert len(seeds_at(encoder, jax.random.key(0))) == ROWS * (1 + 3 * 24)


def test_every_step_and_every_run_has_seeds_of_its_own(encoder: Encoder) -> None:
    keys = [step_key(seed, jnp.int32(step)) for seed in (0, 1) for step in (0, 1, 2)]

    assert len(set.union(*(seeds_at(encoder, key) for key in keys))) == len(keys) * ROWS * (1 + 3 * 24)


def test_every_layer_starts_from_weights_of_its_own(encoder: Encoder) -> None:
    kernels = np.asarray(encoder.layers.attention.query.kernel[...])

    assert len(np.unique(kernels, axis=0)) == 24


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("rows", [1, 12])
def test_the_last_layer_at_some_positions_is_that_of_all(scan: bool, rows: int) -> None:
    config = ElectraConfig(hidden_size=8, embedding_size=8, intermediate_size=16, num_hidden_layers=3)
    encoder = Encoder(config, ComputeConfig(scan_layers=scan), rngs=nnx.Rngs(0))
    embedded = jax.random.normal(jax.random.key(1), (2, 12, 8))
    attended = jax.random.bernoulli(jax.random.key(2), 0.7, (2, rows, 12)).at[..., 0].set(True)
    positions = jnp.array([[3, 0, 11], [7, 7, 1]])

    some = encoder(embedded, attended, positions=positions)

    whole = jnp.take_along_axis(encoder(embedded, attended), positions[..., None], axis=1)
    np.testing.assert_allclose(some, whole, rtol=1e-5, atol=1e-5)
