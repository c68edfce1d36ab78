"""Checkpoints: what was saved is what is read, and no more of them than asked for."""

import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import micro
import numpy as np
import pytest

from electra_jax.config import PretrainConfig
from electra_jax.errors import UserError
from electra_jax.hub.names import flat
from electra_jax.train.checkpoint import Checkpoints, check_place
from electra_jax.train.run import restore_params


def make_state(step: int) -> dict:
    """A state of the shape that a run saves: parameters, and arrays of another kind beside them."""
    values = np.random.default_rng(step).normal(size=(3, 4)).astype(np.float32)
    params = {"encoder": {"kernel": jnp.asarray(values)}, "head": {"bias": jnp.asarray(values[0])}}
    return {"params": params, "step": jnp.int32(step), "window": {"tokens": jnp.float32(7)}}


def save(folder: Path, steps: list[int], kept: int | None = None) -> None:
    with Checkpoints(folder, kept) as checkpoints:
        for step in steps:
            checkpoints.save(step, make_state(step))


def shapes_of(state: dict) -> dict:
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=here), state)


def saved_steps(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_parameters_are_those_that_were_saved(tmp_path: Path) -> None:
    save(tmp_path, [5, 10])
    with Checkpoints(tmp_path) as checkpoints:
        for step in (5, 10):
            params = checkpoints.restore_params(step)
            assert all(isinstance(leaf, np.ndarray) for leaf in flat(params).values())
            assert micro.equal_bits(flat(params), flat(jax.device_get(make_state(step)["params"])))


def test_a_state_is_restored_whole(tmp_path: Path) -> None:
    save(tmp_path, [5])
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest() == 5
        restored = checkpoints.restore(5, shapes_of(make_state(5)))
    assert micro.equal_bits(flat(jax.device_get(restored)), flat(jax.device_get(make_state(5))))


def test_a_checkpoint_of_other_shapes_is_told(tmp_path: Path) -> None:
    save(tmp_path, [5])
    wanted = make_state(5)
    wanted["params"]["head"]["bias"] = jnp.zeros(5)
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(UserError, match=r"/5: the checkpoint is damaged, or of"):
        checkpoints.restore(5, shapes_of(wanted))


def test_a_checkpoint_with_other_arrays_is_told(tmp_path: Path) -> None:
    save(tmp_path, [5])
    wanted = make_state(5) | {"momentum": jnp.zeros(5)}
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(UserError, match=r"/5: the checkpoint is damaged, or of"):
        checkpoints.restore(5, shapes_of(wanted))


@pytest.mark.parametrize("cut", ["state/_METADATA", "state/manifest.ocdbt", "state"])
def test_a_checkpoint_that_was_cut_short_is_told_with_the_one_before(tmp_path: Path, cut: str) -> None:
    save(tmp_path, [5, 7])
    damaged = tmp_path / "7" / cut
    if cut == "state":
        shutil.rmtree(damaged)
    for file in damaged.iterdir() if damaged.is_dir() else [damaged]:
        if file.exists():
            file.write_bytes(b"")
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(UserError, match=r"/7: the checkpoint is damaged.*; delete it, and the run goes on from 5"):
            checkpoints.restore(7, shapes_of(make_state(7)))
        with pytest.raises(UserError, match=r"/7: the checkpoint is damaged, or cut short"):
            checkpoints.restore_params(7)


def test_the_newest_are_kept(tmp_path: Path) -> None:
    save(tmp_path, [1, 2, 3, 4], kept=2)
    assert saved_steps(tmp_path) == {"3", "4"}


def test_a_step_that_is_there_is_not_saved_again(tmp_path: Path) -> None:
    save(tmp_path, [1])
    before = micro.files(tmp_path)
    save(tmp_path, [1])
    assert micro.files(tmp_path) == before


def test_nothing_saved_yet(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest() is None


def test_a_run_has_its_newest_checkpoint_unless_another_is_named(finished: PretrainConfig) -> None:
    assert saved_steps(finished.out / "checkpoints") == {"10", "20"}
    assert restore_params(finished.out)[0] == 20
    step, params = restore_params(finished.out, 10)
    assert step == 10
    state = micro.saved_state(finished.out, 10)
    assert micro.equal_bits(
        {f"params/{path}": leaf for path, leaf in flat(params).items()},
        {path: leaf for path, leaf in state.items() if path.startswith("params/")},
    )


def test_a_step_without_a_checkpoint(finished: PretrainConfig) -> None:
    complaint = f"{finished.out}: has no checkpoint of step 15; there are 10, 20"
    with pytest.raises(UserError, match=re.escape(complaint)):
        restore_params(finished.out, 15)


def test_a_run_before_its_first_checkpoint(finished: PretrainConfig, tmp_path: Path) -> None:
    shutil.copy(finished.out / "config.toml", tmp_path)
    with pytest.raises(UserError, match=r": holds no checkpoint yet"):
        restore_params(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match=r": holds no checkpoint yet"):
        restore_params(tmp_path)


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(f"{tmp_path}: not a folder that `electra-jax pretrain`")):
        restore_params(tmp_path)


def test_a_score_that_is_no_number_is_the_worst(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, 1, keep_best=True) as checkpoints:
        for step, score in ((10, -3.0), (20, -1.0), (30, -2.0), (40, float("nan")), (50, -4.0), (60, -5.0)):
            checkpoints.save(step, make_state(step), score)
    assert saved_steps(tmp_path) == {"20", "60"}


def test_a_backslash_would_send_the_arrays_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run: checkpoints can't be written below a name with a backslash"):
        check_place(tmp_path / "a\\b" / "run")
    check_place(tmp_path / "a" / "run")
