"""Layers that a run holds apart: what that changes (the program), and what it doesn't (the numbers, checkpoints)."""

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import jax
import micro
import numpy as np
import pytest

from electra_jax.config import ComputeConfig, PretrainConfig
from electra_jax.data.rows import Batch
from electra_jax.hub.names import flat
from electra_jax.objectives.masking import SpecialTokens
from electra_jax.presets import load_config
from electra_jax.train.apart import LARGE, holds_apart, put_together, take_apart
from electra_jax.train.convert import export
from electra_jax.train.pretrain import pretrain
from electra_jax.train.run import restore_params
from electra_jax.train.sharding import make_mesh
from electra_jax.train.step import (
    State,
    abstract_params,
    abstract_state,
    empty_batch,
    init_params,
    init_state,
    make_step,
)

SPECIAL = SpecialTokens(2, 3, 4)
ALL = 0
"""In place of LARGE: all kernels are held apart."""


@pytest.fixture
def config(rows: Path, tmp_path: Path) -> PretrainConfig:
    return micro.make_config(rows, tmp_path / "run", compute=ComputeConfig(), ema_decay=0.9)


def of_large(monkeypatch: pytest.MonkeyPatch, large: int) -> None:
    monkeypatch.setattr("electra_jax.train.apart.LARGE", large)


def batch_of(config: PretrainConfig) -> Batch:
    ids = np.random.default_rng(0).integers(5, config.model.vocab_size, (config.batch_size, config.length))
    full = np.full(config.batch_size, config.length, np.int32)
    return {**empty_batch(config), "input_ids": ids.astype(np.uint16), "length": full, "first_length": full}


def stepped(config: PretrainConfig, state: State, steps: int = 3) -> State:
    step = jax.jit(make_step(config, SPECIAL, make_mesh(None, config.batch_size)))
    for _ in range(steps):
        state, _ = step(state, batch_of(config))
    return state


def lists(tree: object) -> list[list]:
    found = jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, list))
    return [leaf for leaf in found if isinstance(leaf, list)]


# --- what is held apart -------------------------------------------------------------------------------------------


def test_large_kernels_of_layers_are_apart_and_nothing_else(
    config: PretrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_large(monkeypatch, 32 * 64)
    params = init_params(config)

    apart = take_apart(params)

    changed = {path.rpartition("/")[0] for path in flat(apart).keys() - flat(params).keys()}
    feed_forward = "discriminator/encoder/layers/feed_forward"
    assert changed == {f"{feed_forward}/intermediate/kernel", f"{feed_forward}/output/kernel"}
    assert [len(layers) for layers in lists(apart)] == [2, 2]
    np.testing.assert_array_equal(
        apart["discriminator"]["encoder"]["layers"]["feed_forward"]["output"]["kernel"][1],
        params["discriminator"]["encoder"]["layers"]["feed_forward"]["output"]["kernel"][1],
    )


def test_what_is_taken_apart_is_put_together_again(config: PretrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    stacked = init_state(config, init_params(config))
    assert not lists(stacked)
    of_large(monkeypatch, ALL)

    apart = take_apart(stacked)
    together = put_together(apart)

    assert len(lists(apart["params"])) == len(lists(apart["ema"])) == len(lists(apart["optimizer"])) // 2 == 12
    assert jax.tree.structure(together) == jax.tree.structure(stacked)
    assert micro.equal_bits(flat(jax.device_get(together)), flat(jax.device_get(stacked)))
    assert jax.tree.structure(take_apart(apart)) == jax.tree.structure(apart)


@pytest.mark.parametrize(
    "compute", [ComputeConfig(scan_layers=True), ComputeConfig(dtype="bfloat16")], ids=["scanned", "bfloat16"]
)
def test_layers_that_are_stacked_anyway_stay_so(compute: ComputeConfig) -> None:
    assert holds_apart(ComputeConfig())
    assert not holds_apart(compute)


def test_layers_stay_stacked_on_several_devices() -> None:
    code = "from electra_jax.train.apart import *; assert not holds_apart(ComputeConfig())"
    process = micro.python("-c", code, devices=2)
    assert process.returncode == 0, process.stderr


def test_the_kernels_of_the_small_discriminator_are_apart() -> None:
    """And those of its generator, which take longer to compile than to copy, are not."""
    params = abstract_state(load_config("small", data=(Path("data"),), out=Path("out")))["params"]

    assert [len(layers) for layers in lists(params["discriminator"])] == [12] * 6
    assert not lists(params["generator"])


# --- the step -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "parts"), [("adam", 1), ("adamw", 2), ("lamb", 1)])
def test_a_step_computes_the_same(
    config: PretrainConfig, monkeypatch: pytest.MonkeyPatch, name: Literal["adam", "adamw", "lamb"], parts: int
) -> None:
    config = replace(config, accumulate=parts, optimizer=replace(config.optimizer, name=name, warmup_steps=0))
    params = init_params(config)
    wanted = stepped(config, init_state(config, params))
    of_large(monkeypatch, ALL)

    found = stepped(config, init_state(config, params))

    assert lists(found["params"])
    assert not lists(wanted)
    # Norms are summed in another order.
    for path, leaf in flat(jax.device_get(put_together(found))).items():
        np.testing.assert_allclose(leaf, flat(wanted)[path], rtol=1e-4, atol=1e-6, err_msg=path)


@pytest.mark.parametrize("large", [LARGE, ALL], ids=["stacked", "apart"])
def test_no_stack_of_kernels_is_left_in_the_program(
    config: PretrainConfig, monkeypatch: pytest.MonkeyPatch, large: int
) -> None:
    of_large(monkeypatch, large)
    step = jax.jit(make_step(config, SPECIAL, make_mesh(None, config.batch_size)), donate_argnums=0)
    state = jax.eval_shape(lambda: init_state(config, init_params(config)))

    program = step.lower(state, empty_batch(config)).compile().as_text()

    assert bool(re.search(r"f32\[2,32,64\]", program)) == (large == LARGE)


# --- runs ---------------------------------------------------------------------------------------------------------


def test_a_run_that_holds_them_apart_goes_on_to_the_same_bits(
    config: PretrainConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Checkpoints have them stacked, as they always had, so that any machine goes on from them, and exports them."""
    config = replace(config, seed=7)  # compiled for no other test
    of_large(monkeypatch, ALL)
    figures = pretrain(config)
    resumed = replace(config, out=tmp_path / "resumed")
    shutil.copytree(config.out, resumed.out)
    shutil.rmtree(resumed.out / "checkpoints" / "20")

    pretrain(resumed)

    saved = micro.saved_state(config.out, 20)
    assert micro.equal_bits(saved, micro.saved_state(resumed.out, 20))
    assert micro.records(resumed.out) == micro.records(config.out)
    assert figures["step"] == 20
    shapes = {path: leaf.shape for path, leaf in flat(restore_params(config.out)[1]).items()}
    assert shapes == {path: leaf.shape for path, leaf in flat(abstract_params(config)).items()}
    assert export(config.out, tmp_path / "exported")


def test_a_run_goes_on_from_layers_of_either_kind(
    config: PretrainConfig, monkeypatch: pytest.MonkeyPatch, programs: Callable[[], None]
) -> None:
    """The same run, on another machine."""
    half = replace(config, seed=8, steps=10)
    pretrain(half)
    programs()
    of_large(monkeypatch, ALL)

    figures = pretrain(replace(half, steps=20))

    assert figures["step"] == 20
    programs()
