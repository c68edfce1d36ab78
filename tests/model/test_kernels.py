"""Kernels for GPUs beside what XLA makes of the same: interpreted here, or compiled where there is such a GPU."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from electra_jax.config import ComputeConfig, ModelConfig, ObjectiveConfig, PretrainConfig, TowerConfig
from electra_jax.model import attention, kernels, lookup
from electra_jax.model.attention import attend, implementation
from electra_jax.model.kernels import anywhere, can_call, has_triton
from electra_jax.model.layers import dropout, normalize
from electra_jax.model.lookup import add_by_id, take_positions, take_rows
from electra_jax.model.triton.attention import fused_attend
from electra_jax.model.triton.norm import fused_norm
from electra_jax.model.triton.sums import sum_sorted
from electra_jax.objectives.calibration import BINS
from electra_jax.objectives.masking import SpecialTokens
from electra_jax.objectives.registry import OBJECTIVES
from electra_jax.train.optimizer import Params, paths
from electra_jax.train.sharding import make_mesh
from electra_jax.train.step import init_params, make_gradient

SPECIAL = SpecialTokens(cls=2, sep=3, mask=4)
ROWS, LENGTH = 2, 24
CONFIG = PretrainConfig(
    data=Path("data"),
    out=Path("out"),
    length=LENGTH,
    batch_size=ROWS,
    steps=100,
    model=ModelConfig(
        vocab_size=61,
        embedding_size=16,
        max_position_embeddings=LENGTH,
        hidden_dropout_prob=0.2,
        layer_norm_eps=1e-3,
        discriminator=TowerConfig(num_hidden_layers=2, hidden_size=48, num_attention_heads=3, intermediate_size=40),
        generator=TowerConfig(num_hidden_layers=2, hidden_size=16, num_attention_heads=1, intermediate_size=20),
    ),
)


def with_gradients(function: Callable, *arguments: jax.Array) -> list[np.ndarray]:
    """Its value, and the gradient of each argument for random weights of the value's entries."""
    value, pull_back = jax.vjp(function, *arguments)
    weights = jax.random.normal(jax.random.key(1), value.shape)
    return [np.asarray(array) for array in (value, *pull_back(weights))]


def random_arrays(*shapes: tuple[int, ...]) -> list[jax.Array]:
    keys = jax.random.split(jax.random.key(0), len(shapes))
    return [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]


@pytest.fixture(autouse=True)
def exactly() -> Iterator[None]:
    """Products of float32 in float32, on a GPU too."""
    with jax.default_matmul_precision("highest"):
        yield


# queries, keys, heads and their width; whether each query has a mask of its own: one block of each, a block of queries
# and several of keys, several of both, lengths that fill no block, and the few queries of a generator's last layer.
@pytest.mark.parametrize(
    "sizes",
    [
        (64, 64, 2, 16, False),
        (128, 128, 1, 32, True),
        (200, 200, 2, 16, True),
        (200, 200, 1, 16, False),
        (19, 128, 2, 16, False),
        (40, 40, 1, 64, True),
    ],
)
@pytest.mark.parametrize("rate", [0.0, 0.25])
def test_fused_attention_is_attention(sizes: tuple[int, int, int, int, bool], rate: float) -> None:
    queries, keys, heads, width, own = sizes
    of_heads = random_arrays(*((2, length, heads, width) for length in (queries, keys, keys)))
    attended = jax.random.bernoulli(jax.random.key(2), 0.7, (2, queries if own else 1, keys)).at[..., 0].set(True)
    seed = jax.random.bits(jax.random.key(3), (2, 2)) if rate else None
    found, expected = (
        with_gradients(lambda *x, f=f: f(rate, *x, attended, seed), *of_heads) for f in (fused_attend, attend)
    )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=3e-6)


@pytest.mark.parametrize("sizes", [(64, 32), (130, 48), (3, 100), (7, 520)])
@pytest.mark.parametrize("rate", [0.0, 0.25])
def test_fused_norm_is_dropout_residual_and_layer_norm(sizes: tuple[int, int], rate: float) -> None:
    length, features = sizes
    arrays = random_arrays(*[(2, length, features)] * 2, *[(features,)] * 3)
    seed = jax.random.bits(jax.random.key(3), (2, 2)) if rate else None

    def by_xla(x: jax.Array, y: jax.Array, y_bias: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        return normalize(1e-12, x + dropout(y + y_bias, seed, rate), scale, bias)

    found = with_gradients(lambda *x: fused_norm(1e-12, rate, *x, seed), *arrays)
    for one, other in zip(found, with_gradients(by_xla, *arrays), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_a_step_with_kernels_has_the_gradient_of_one_without() -> None:
    """The discriminator's heads of 16 among 48 features, and both towers' masks of dropout, are the very same."""
    rng = np.random.default_rng(0)
    ids = rng.integers(5, 61, (ROWS, LENGTH)).astype(np.int32)
    batch = {"input_ids": ids, "length": np.array([24, 17], np.int32), "first_length": np.array([12, 5], np.int32)}
    params = init_params(CONFIG)

    def gradient(by: str) -> Params:
        compute = ComputeConfig(attention=by, layer_norm=by)  # type: ignore[arg-type]
        mesh = make_mesh(None, ROWS)
        with jax.set_mesh(mesh):
            return jax.jit(make_gradient(replace(CONFIG, compute=compute), SPECIAL, mesh))(params, batch, jnp.int32(3))[
                0
            ]

    found, expected, names = map(jax.tree.leaves, (gradient("triton"), gradient("xla"), paths(params)))
    for one, other, name in zip(found, expected, names, strict=True):
        largest = np.abs(other).max()
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=max(1e-5 * largest, 1e-8), err_msg=name)


# --- lookup -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(1000, 96, 50), (64, 128, 200), (300, 200, 7), (5, 16, 9)])
def test_rows_are_added_up_by_id(monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, int, int]) -> None:
    """Also where one id takes many blocks, another none, and the last block is not full."""
    number, features, entries = sizes
    rng = np.random.default_rng(0)
    ids, rows = np.minimum(rng.zipf(1.3, number) - 1, entries - 1), rng.normal(size=(number, features))
    expected = np.zeros((entries, features))
    np.add.at(expected, ids, rows)
    given = jnp.asarray(ids), jnp.asarray(rows, jnp.float32)
    np.testing.assert_allclose(sum_sorted(*given, entries), expected, rtol=1e-5, atol=1e-5)
    for kernel in (False, True):
        monkeypatch.setattr(lookup, "can_call", lambda kernel=kernel: kernel)
        np.testing.assert_allclose(add_by_id(jnp.ones((entries, features)), *given), 1 + expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kernel", [False, True])
def test_taking_rows_is_indexing(monkeypatch: pytest.MonkeyPatch, kernel: bool) -> None:
    if kernel:
        monkeypatch.setattr(lookup, "add_by_id", lambda total, ids, rows: total + sum_sorted(ids, rows, len(total)))
    (table,) = random_arrays((30, 16))
    ids = jax.random.randint(jax.random.key(1), (4, 20), 0, 30)
    found, expected = (
        with_gradients(f, table) for f in (lambda table: take_rows(table, ids), lambda table: table[ids])
    )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_taking_positions_is_indexing_each_row() -> None:
    """Unused slots all take position 0, whose gradient is their sum."""
    (x,) = random_arrays((3, 20, 8))
    positions = jnp.array([[4, 2, 19, 0, 0], [0, 0, 0, 0, 0], [5, 6, 7, 8, 9]])
    found = with_gradients(lambda x: take_positions(x, positions), x)
    expected = with_gradients(lambda x: jnp.take_along_axis(x, positions[..., None], axis=1), x)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def primitives(jaxpr: Any) -> Iterator[Any]:
    """Every equation, of inner functions too."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from primitives(inner)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
@pytest.mark.parametrize("packed", [False, True])
def test_on_a_gpu_nothing_is_added_up_as_threads_come(monkeypatch: pytest.MonkeyPatch, name: str, packed: bool) -> None:
    """Or what is, are whole numbers, or added to once: XLA has a GPU's threads race for each entry of a scatter."""
    monkeypatch.setattr(lookup, "can_call", lambda: True)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    kind = "two-tower" if name == "electric" else "masked-lm"
    config = replace(CONFIG, objective=ObjectiveConfig(name=name), model=replace(CONFIG.model, generator_kind=kind))
    shape = (ROWS, LENGTH)
    batch = {"input_ids": np.full(shape, 7, np.int32), "length": np.full(ROWS, LENGTH, np.int32)}
    batch |= {"segments": np.ones(shape, np.int32)} if packed else {"first_length": np.full(ROWS, 9, np.int32)}
    params = jax.eval_shape(lambda: init_params(config))
    jaxpr = jax.make_jaxpr(make_gradient(config, SPECIAL, make_mesh(None, ROWS)))(params, batch, jnp.int32(0))
    added = [e.outvars[0].aval for e in primitives(jaxpr.jaxpr) if e.primitive.name == "scatter-add"]
    sums = {a.shape for a in added if jnp.issubdtype(a.dtype, jnp.floating)}
    whole_numbers = {(2, BINS), (CONFIG.model.vocab_size,)}
    once = {(ROWS * LENGTH, CONFIG.model.vocab_size)}  # the logit of each position's token
    assert sums <= whole_numbers | once, sums


# --- the choice ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "head_size", "rate", "there", "computes"),
    [
        ("auto", 64, 0.1, True, fused_attend),
        ("auto", 64, 0.1, False, attend),
        ("auto", 24, 0.1, True, attend),
        ("xla", 64, 0.1, True, attend),
        ("triton", 24, 0.1, True, attend),
        ("cudnn", 64, 0.0, True, attention._cudnn),
        ("cudnn", 64, 0.1, True, fused_attend),
        ("cudnn", 64, 0.1, False, attend),
    ],
)
def test_who_computes_attention(
    monkeypatch: pytest.MonkeyPatch, given: str, head_size: int, rate: float, there: bool, computes: Callable
) -> None:
    monkeypatch.setattr(kernels, "can_call", lambda dtype: there)
    compute = ComputeConfig(attention=given)  # type: ignore[arg-type]
    assert implementation(compute, head_size, rate)[0] is computes


def test_cudnn_attends_as_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    by_xla = partial(jax.nn.dot_product_attention, implementation="xla")
    monkeypatch.setattr(jax.nn, "dot_product_attention", lambda *x, mask, implementation: by_xla(*x, mask=mask))
    of_heads = random_arrays(*[(2, 12, 2, 16)] * 3)
    attended = jax.random.bernoulli(jax.random.key(2), 0.7, (2, 1, 12)).at[..., 0].set(True)
    found, expected = (f(0.0, *of_heads, attended, None) for f in (attention._cudnn, attend))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_plan_for_other_devices_takes_no_kernel_that_these_lack() -> None:
    compute = ComputeConfig(dtype="bfloat16", attention="triton", layer_norm="triton")
    expected = compute if has_triton("bfloat16") else ComputeConfig(dtype="bfloat16", attention="xla", layer_norm="xla")
    assert anywhere(compute) == expected


def test_kernels_are_called_where_each_device_has_its_own_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "has_triton", lambda dtype: True)
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    seen = []
    for devices in (1, 2):
        monkeypatch.setattr(jax, "device_count", lambda devices=devices: devices)

        def look(x: jax.Array) -> jax.Array:  # another each time, since what is traced once is not traced again
            seen.append(can_call())
            return x

        with jax.set_mesh(mesh):
            jax.jit(look).lower(1.0)
            jax.jit(jax.shard_map(look, mesh=mesh, in_specs=P(), out_specs=P())).lower(1.0)
    assert seen == [True, True, False, True]
