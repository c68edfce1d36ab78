"""Products that oneDNN makes beside NumPy's and XLA's."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from electra_jax.model import onednn
from electra_jax.model.attention import attend
from electra_jax.model.layers import dot, matmul, transposed_product
from electra_jax.train.cache import compile_now
from electra_jax.train.library import has_onednn
from electra_jax.train.processor import has_fast_bfloat16

pytestmark = pytest.mark.skipif(not has_onednn(), reason="XLA here has no oneDNN")
with_bfloat16 = pytest.mark.skipif(not has_fast_bfloat16(), reason="this processor multiplies no bfloat16")

sizes = st.integers(1, 40)


def random(*shape: int, seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def computed(function: Callable, *arguments: jax.Array, by_onednn: bool) -> tuple[list[np.ndarray], int]:
    """The function's value and its gradients for random weights, and how many of the products oneDNN made."""

    @jax.jit
    def with_gradients(*arguments: jax.Array) -> list[jax.Array]:
        value, pull_back = jax.vjp(function, *arguments)
        return [value, *pull_back(random(*value.shape, seed=9).astype(value.dtype))]

    compiled = compile_now(with_gradients, *arguments, onednn=by_onednn)
    return list(map(np.asarray, compiled(*arguments))), (compiled.as_text() or "").count(f'"{onednn.CALL}"')


@given(st.lists(st.integers(1, 3), max_size=2), sizes, sizes, sizes, st.booleans(), st.booleans())
@settings(max_examples=40, deadline=None)
def test_products_are_numpys(batch: list[int], rows: int, inner: int, columns: int, of_a: bool, of_b: bool) -> None:
    a, b = random(*batch, rows, inner), random(*batch, inner, columns, seed=1)
    given = [x.mT if turned else x for x, turned in ((a, of_a), (b, of_b))]
    product = jax.jit(lambda a, b: onednn.matmul(a, b, transpose_a=of_a, transpose_b=of_b))
    found = compile_now(product, *given, onednn=True)(*given)
    np.testing.assert_allclose(found, np.asarray(a, np.float64) @ np.asarray(b, np.float64), rtol=0, atol=2e-5)


def test_a_product_of_each_entry_of_a_further_axis() -> None:
    a, b = random(3, 2, 5, 7), random(3, 2, 7, 4, seed=1)
    product = jax.jit(jax.vmap(lambda a, b: onednn.matmul(a, b)))
    np.testing.assert_allclose(compile_now(product, a, b, onednn=True)(a, b), a @ b, atol=1e-5)
    one = jax.jit(jax.vmap(lambda a: onednn.matmul(a, b[0])))
    np.testing.assert_allclose(compile_now(one, a, onednn=True)(a), a @ b[0], atol=1e-5)


@pytest.mark.parametrize(
    ("of_a", "of_b", "dtype"),
    [
        ((2, 3), (4, 2), "float32"),
        ((3, 4), (2, 4, 5), "float32"),
        ((2, 3, 4), (3, 4, 5), "float32"),
        ((2, 0), (0, 4), "float32"),
        ((2, 3), (3, 4), "float16"),
    ],
)
def test_what_onednn_has_no_product_of_is_told(of_a: tuple[int, ...], of_b: tuple[int, ...], dtype: str) -> None:
    with pytest.raises(ValueError, match="oneDNN makes no product of"):
        onednn.matmul(jnp.ones(of_a, dtype), jnp.ones(of_b, dtype))


def test_what_it_has_no_product_of_is_left_to_xla() -> None:
    with_batch = compile_now(jax.jit(matmul), jnp.ones((2, 3, 4)), jnp.ones((4, 5)), onednn=True)
    assert (with_batch(jnp.ones((2, 3, 4)), jnp.ones((4, 5))) == 4 * jnp.ones((2, 3, 5))).all()
    of_nothing = compile_now(jax.jit(transposed_product), jnp.ones((0, 8)), jnp.ones((0, 4)), onednn=True)
    assert (of_nothing(jnp.ones((0, 8)), jnp.ones((0, 4))) == jnp.zeros((8, 4))).all()


def test_attention_is_xlas_and_all_its_products_are_onednns() -> None:
    query, key, value = (random(2, 24, 3, 16, seed=seed) for seed in range(3))
    attended = jnp.arange(24)[None, None] < jnp.array([24, 17])[:, None, None]
    words = jax.random.bits(jax.random.key(3), (2, 2))

    def function(*arguments: jax.Array) -> jax.Array:
        return attend(0.1, *arguments, attended, words)

    expected, none = computed(function, query, key, value, by_onednn=False)
    found, all_six = computed(function, query, key, value, by_onednn=True)
    assert (none, all_six) == (0, 6)
    for ours, xlas in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, xlas, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "features", "made"),
    [
        (32, 48, 3),
        (32, onednn.NARROW, 3),
        (32, onednn.NARROW + 1, 1),
        (onednn.NARROW + 1, onednn.NARROWEST + 1, 2),
        (onednn.NARROW + 1, onednn.NARROWEST, 3),
    ],
    ids=["narrow", "widest", "wide", "long", "long and narrow"],
)
def test_a_dense_layer_is_xlas_and_onednn_makes_products_at_which_it_is_as_quick(
    size: int, features: int, made: int
) -> None:
    x, kernel = random(2, 20, size), random(size, features, seed=1)
    expected, none = computed(dot, x, kernel, by_onednn=False)
    found, some = computed(dot, x, kernel, by_onednn=True)
    assert (none, some) == (0, made)
    for ours, xlas in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, xlas, rtol=1e-5, atol=1e-4)


@with_bfloat16
@given(sizes, sizes, sizes, st.booleans(), st.booleans(), st.sampled_from([None, jnp.float32]))
@settings(max_examples=40, deadline=None)
def test_products_of_bfloat16_are_numpys_summed_in_float32(
    rows: int, inner: int, columns: int, of_a: bool, of_b: bool, dtype: jnp.dtype | None
) -> None:
    a, b = (x.astype(jnp.bfloat16) for x in (random(2, rows, inner), random(2, inner, columns, seed=1)))
    given = [x.mT if turned else x for x, turned in ((a, of_a), (b, of_b))]
    product = jax.jit(lambda a, b: onednn.matmul(a, b, transpose_a=of_a, transpose_b=of_b, dtype=dtype))
    found = compile_now(product, *given, onednn=True)(*given)
    assert found.dtype == (dtype or jnp.bfloat16)
    expected = np.asarray(a, np.float64) @ np.asarray(b, np.float64)
    np.testing.assert_allclose(found.astype(jnp.float32), expected, rtol=0 if dtype else 2**-8, atol=2e-5)


@with_bfloat16
@pytest.mark.parametrize("features", [48, onednn.NARROW + 1])
def test_in_bfloat16_it_makes_all_products_of_a_dense_layer(features: int) -> None:
    x, kernel = (a.astype(jnp.bfloat16) for a in (random(2, 20, 32), random(32, features, seed=1)))
    expected, none = computed(dot, x, kernel, by_onednn=False)
    found, all_three = computed(dot, x, kernel, by_onednn=True)
    assert (none, all_three) == (0, 3)
    for ours, xlas in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours.astype(np.float32), xlas.astype(np.float32), rtol=2**-7, atol=2**-7)


def test_what_is_of_two_dtypes_or_of_another_is_left_to_xla() -> None:
    x, kernel = random(8, 16), random(16, 8)
    with onednn.asked_for(True):
        assert onednn.takes(x, kernel)
        assert onednn.takes(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))
        assert not onednn.takes(x, kernel.astype(jnp.bfloat16))
        assert not onednn.takes(x.astype(jnp.float16), kernel.astype(jnp.float16))
    assert not onednn.takes(x, kernel)
