from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def exact_products() -> Iterator[None]:
    """Float32 products in float32, on whatever device the tests run."""
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(autouse=True, scope="module")
def optimized(quick_compilation: None) -> Iterator[None]:
    """Programs as users compile them."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)
