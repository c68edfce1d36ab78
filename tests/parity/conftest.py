from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(autouse=True, scope="session")
def exact_products() -> Iterator[None]:
    """Float32 products in float32, on whatever device the tests run."""
    before = jax.config.jax_default_matmul_precision
    jax.config.update("jax_default_matmul_precision", "highest")
    yield
    jax.config.update("jax_default_matmul_precision", before)
