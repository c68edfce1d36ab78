"""The same numbers on any mesh of devices and any number of processes, and checkpoints that move between them."""

import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jax
import micro
import numpy as np
import pytest

from electra_jax.config import ComputeConfig, ObjectiveConfig, PretrainConfig
from electra_jax.presets import to_toml
from electra_jax.train.library import has_onednn
from electra_jax.train.pretrain import pretrain

STEPS, SAVED = 20, 16
DEVICES = 8


def settings(rows: Path, out: Path, **changes: object) -> PretrainConfig:
    changes = {"log_every": 1, "eval_every": STEPS, "checkpoint_every": SAVED, "steps": STEPS} | changes
    return micro.make_config(rows, out, batch_size=16, **changes)


def command(config: PretrainConfig, folder: Path, *options: str) -> list[str]:
    """The command of a run, by a preset in `folder`."""
    preset = folder / "preset.toml"
    preset.write_text(to_toml(config))
    return [sys.executable, "-m", "electra_jax", "pretrain", "--config", str(preset), *options]


def start(arguments: list[str], devices: int, **variables: str) -> subprocess.Popen[str]:
    environment = micro.environment(devices) | variables
    return subprocess.Popen(arguments, env=environment, stderr=subprocess.PIPE, text=True)


def finish(*processes: subprocess.Popen[str]) -> list[str]:
    """What each wrote, all of which must end well."""
    written = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(written)
    return written


def free_address() -> str:
    """A port of this machine that nobody listens at."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


def slurm(process: int) -> dict[str, str]:
    """What srun sets for a process of two."""
    place = {"SLURM_PROCID": str(process), "SLURM_LOCALID": str(process), "SLURM_STEP_NODELIST": "localhost"}
    return place | {"SLURM_JOB_ID": "1234", "SLURM_NTASKS": "2"}


def two_processes(
    config: PretrainConfig, folder: Path, devices: int = DEVICES // 2, *options: str, second: Sequence[str] = ()
) -> list[subprocess.Popen[str]]:
    """Of the same settings, but for what the `second` is given too."""
    meeting = [*options, "--distributed.coordinator", free_address(), "--distributed.processes", "2"]
    each = (["--distributed.process", "0"], ["--distributed.process", "1", *second])
    return [start(command(config, folder, *meeting, *own), devices) for own in each]


def losses(run: Path, first: int = 1) -> list[float]:
    """The loss of each step from `first` on, and the held-out one."""
    return [record["loss"] for record in micro.records(run) if record["step"] >= first]


def norms(run: Path) -> list[float]:
    """Those of each step's gradient, of the whole and of its parts."""
    return [value for record in micro.records(run) for name, value in record.items() if name.startswith("grad_norm")]


@pytest.fixture(scope="module")
def one_device(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run on one device, the batch in one piece."""
    config = settings(rows, tmp_path_factory.mktemp("one") / "run")
    assert jax.device_count() == 1
    pretrain(config)
    return config.out


@pytest.fixture(scope="module")
def reference(one_device: Path) -> list[float]:
    """The losses on one device."""
    found = losses(one_device)
    assert len(found) == STEPS + 1
    return found


@pytest.fixture(scope="module")
def fsdp_run(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> PretrainConfig:
    """A run on eight devices which share the parameters among them."""
    folder = tmp_path_factory.mktemp("fsdp")
    config = settings(rows, folder / "run", mesh=f"fsdp={DEVICES}")
    (written,) = finish(start(command(config, folder), DEVICES))
    assert f"fsdp={DEVICES}" in written
    return config


def test_sharing_parameters_among_eight_devices_changes_no_loss(
    fsdp_run: PretrainConfig, reference: list[float]
) -> None:
    np.testing.assert_allclose(losses(fsdp_run.out), reference, rtol=1e-5)


def test_eight_devices_that_share_parameters_have_the_gradient_norms_of_one(
    fsdp_run: PretrainConfig, one_device: Path
) -> None:
    assert len(norms(one_device)) == 4 * STEPS
    np.testing.assert_allclose(norms(fsdp_run.out), norms(one_device), rtol=1e-4)


@pytest.mark.skipif(not has_onednn(), reason="XLA here has no oneDNN")
def test_devices_whose_products_onednn_makes_have_the_losses_of_one(
    rows: Path, tmp_path: Path, reference: list[float]
) -> None:
    compute = ComputeConfig(products="onednn")
    config = settings(rows, tmp_path / "run", mesh="data=2,fsdp=2", compute=compute)
    (written,) = finish(start(command(config, tmp_path), 4))
    assert "products by oneDNN" in written
    np.testing.assert_allclose(losses(config.out), reference, rtol=1e-4)


@pytest.mark.slow  # in two processes it is tested below
@pytest.mark.parametrize("mesh", [None, "data=2,fsdp=4"])
def test_eight_devices_have_the_losses_of_one(
    mesh: str | None, rows: Path, tmp_path: Path, reference: list[float]
) -> None:
    config = settings(rows, tmp_path / "run", mesh=mesh)
    finish(start(command(config, tmp_path), DEVICES))
    np.testing.assert_allclose(losses(config.out), reference, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "model"),
    [
        pytest.param("all-tokens-mlm", {}, marks=pytest.mark.slow),
        pytest.param("electric", {"generator_kind": "two-tower"}, marks=pytest.mark.slow),
        pytest.param("replace-mlm", {"tie": "gdes"}, marks=pytest.mark.slow),
        pytest.param("mlm", {}, marks=pytest.mark.slow),
    ],
)
def test_every_objective_has_the_losses_of_one_device(
    name: str, model: dict[str, str], rows: Path, tmp_path: Path
) -> None:
    steps = {"steps": 3, "eval_every": 3, "checkpoint_every": 3, "objective": ObjectiveConfig(name=name)}
    whole = settings(rows, tmp_path / "whole", **steps)
    whole = replace(whole, model=replace(whole.model, **model))  # type: ignore[arg-type]
    divided = replace(whole, out=tmp_path / "divided", mesh="data=2,fsdp=4", accumulate=2)
    pretrain(whole)
    finish(start(command(divided, tmp_path), DEVICES))
    np.testing.assert_allclose(losses(divided.out), losses(whole.out), rtol=1e-5)
    np.testing.assert_allclose(norms(divided.out), norms(whole.out), rtol=1e-4)


@pytest.mark.parametrize("parts", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_an_accumulated_batch_has_the_loss_of_the_whole(
    parts: int, rows: Path, tmp_path: Path, reference: list[float]
) -> None:
    config = settings(rows, tmp_path / "run", accumulate=parts)
    pretrain(config)
    np.testing.assert_allclose(losses(config.out), reference, rtol=1e-5)


def test_two_processes_have_the_losses_of_one(rows: Path, tmp_path: Path, reference: list[float]) -> None:
    config = settings(rows, tmp_path / "run", mesh="data=2,fsdp=4", accumulate=2)
    first, second = finish(*two_processes(config, tmp_path))
    np.testing.assert_allclose(losses(config.out), reference, rtol=1e-5)
    assert f"step {STEPS}/{STEPS}" in first
    assert f"step {STEPS}/{STEPS}" not in second  # one of them speaks


def moved(run: PretrainConfig, folder: Path, mesh: str | None) -> PretrainConfig:
    """A copy of a run as it stood when its first checkpoint was saved, to go on with on another mesh."""
    shutil.copytree(run.out, folder / "run")
    shutil.rmtree(folder / "run" / "checkpoints" / str(STEPS))
    return replace(run, out=folder / "run", mesh=mesh)


def test_a_checkpoint_of_eight_devices_goes_on_on_one(
    fsdp_run: PretrainConfig, tmp_path: Path, reference: list[float]
) -> None:
    config = moved(fsdp_run, tmp_path, mesh=None)
    pretrain(config)
    np.testing.assert_allclose(losses(config.out, SAVED + 1), reference[SAVED:], rtol=1e-5)


def test_a_checkpoint_of_eight_devices_goes_on_in_two_processes_of_slurm(
    fsdp_run: PretrainConfig, tmp_path: Path, reference: list[float]
) -> None:
    config = moved(fsdp_run, tmp_path, mesh="data=2")
    arguments = command(config, tmp_path, "--distributed.cluster")
    written, _ = finish(*(start(arguments, 1, **slurm(process)) for process in (0, 1)))
    assert "2 x cpu" in written
    np.testing.assert_allclose(losses(config.out, SAVED + 1), reference[SAVED:], rtol=1e-5)
