"""Several processes end together: told to stop, killed, frozen, or wrongly started; and a disk that is full."""

import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import micro
import pytest
from test_meshes import command, finish, free_address, settings, slurm, start, two_processes

from electra_jax.config import DistributedConfig, PretrainConfig
from electra_jax.errors import StoppedError, UserError
from electra_jax.train import processes, run
from electra_jax.train.run import restore_params

LOST = 10  # seconds without a sign of life


def endless(rows: Path, folder: Path) -> PretrainConfig:
    steps = 1_000_000
    return settings(rows, folder / "run", steps=steps, checkpoint_every=steps, eval_every=steps)


def wait_for_steps(run: Path, *processes: subprocess.Popen[str], steps: int = 1) -> None:
    end = time.monotonic() + 200
    while not (run / "metrics.jsonl").exists() or len(micro.records(run)) < steps:
        for process in processes:
            assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.1)


def saved_steps(run: Path) -> list[int]:
    return sorted(int(path.name) for path in (run / "checkpoints").iterdir() if path.name.isdecimal())


@pytest.fixture
def pair(rows: Path, tmp_path: Path) -> tuple[Path, subprocess.Popen[str], subprocess.Popen[str]]:
    """A run of two processes, in training."""
    config = endless(rows, tmp_path)
    first, second = two_processes(config, tmp_path, 1, "--distributed.timeout", str(LOST))
    wait_for_steps(config.out, first, second)
    return config.out, first, second


def test_sigterm_to_one_process_saves_and_stops_both(
    pair: tuple[Path, subprocess.Popen[str], subprocess.Popen[str]],
) -> None:
    run, first, second = pair
    second.send_signal(signal.SIGTERM)
    written = first.communicate(timeout=120)[1]
    second.communicate(timeout=120)
    (step,) = saved_steps(run)
    assert (first.returncode, second.returncode) == (75, 75)
    assert f"saved at step {step}; run the same command again to go on" in written
    assert restore_params(run)[0] == step


@pytest.mark.parametrize("loss", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.slow)])
def test_a_process_that_is_lost_ends_the_other(
    loss: signal.Signals, pair: tuple[Path, subprocess.Popen[str], subprocess.Popen[str]]
) -> None:
    _, first, second = pair
    second.send_signal(loss)
    written = first.communicate(timeout=LOST + 60)[1]
    assert first.returncode not in (0, 75)
    assert re.search(r"process|task|peer", written, re.IGNORECASE)
    second.kill()
    second.communicate()


def open_mpi(process: int) -> dict[str, str]:
    """What mpirun sets for a process of two."""
    place = {"OMPI_COMM_WORLD_RANK": str(process), "OMPI_COMM_WORLD_LOCAL_RANK": str(process)}
    return place | {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://127.0.0.1:34911"}


@pytest.mark.slow  # by Slurm, a run of test_meshes goes on so
@pytest.mark.parametrize("launcher", [slurm, open_mpi])
def test_a_cluster_says_who_the_others_are(
    launcher: Callable[[int], dict[str, str]], rows: Path, tmp_path: Path
) -> None:
    config = settings(rows, tmp_path / "run", steps=2, eval_every=2, checkpoint_every=2)
    arguments = command(config, tmp_path, "--distributed.cluster")
    written, _ = finish(*(start(arguments, 1, **launcher(process)) for process in (0, 1)))
    assert "2 x cpu" in written
    assert saved_steps(config.out) == [2]


VISIBLE = """
import sys, jax
from electra_jax.config import DistributedConfig
from electra_jax.train.processes import join
join(DistributedConfig(coordinator=sys.argv[1], processes=1, process=0))
print(jax.config.values["jax_cuda_visible_devices"])
"""


@pytest.mark.parametrize(
    ("visible", "taken"), [("3", "0"), ("GPU-8932f937", "0"), ("0,1,2,3", "2"), ("", "2"), (None, "2")]
)
def test_a_process_that_sees_one_device_takes_it(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, taken: str
) -> None:
    for name, value in (slurm(2) | {"CUDA_VISIBLE_DEVICES": visible}).items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    process = micro.python("-c", VISIBLE, free_address())
    assert process.stdout.split() == [taken], process.stderr


@pytest.mark.parametrize("options", [["process", "0"], ["coordinator", "localhost:1"]])
def test_half_a_meeting_is_told(options: list[str], rows: Path, tmp_path: Path) -> None:
    name, value = options
    process = start(command(endless(rows, tmp_path), tmp_path, f"--distributed.{name}", value), 1)
    written = process.communicate(timeout=120)[1]
    assert process.returncode == 2
    line = "distributed: coordinator, processes and process go together; or give cluster alone"
    assert micro.complaint("pretrain", written.splitlines(keepends=True)[-1]) == line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("coordinator", ["localhost", ":80", "localhost:", "localhost:99999", "localhost:0"])
def test_what_is_no_address(coordinator: str) -> None:
    with pytest.raises(UserError, match=f"distributed.coordinator: '{coordinator}' is not host:port, with a port"):
        processes.join(DistributedConfig(coordinator=coordinator, processes=2, process=1))


def test_nobody_to_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "MEETING", 1)
    with socket.socket() as held:
        held.bind(("localhost", 0))  # and doesn't listen
        coordinator = f"localhost:{held.getsockname()[1]}"
        with pytest.raises(
            UserError, match=rf"process 0 didn't answer at {coordinator} within 1 seconds \(.*refused\)"
        ):
            processes.join(DistributedConfig(coordinator=coordinator, processes=2, process=1))


FULL_DISK = """
import resource, signal, sys
from electra_jax.cli import main

def fill(*_):
    resource.setrlimit(resource.RLIMIT_FSIZE, (70_000, resource.RLIM_INFINITY))  # a histogram's file is smaller

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write then fails, as on a disk that is full
signal.signal(signal.SIGUSR1, fill)
main(sys.argv[1:])
"""


def test_a_full_disk_loses_no_earlier_checkpoint(rows: Path, tmp_path: Path) -> None:
    changes = {"steps": 1_000_000, "log_every": 10_000, "checkpoint_every": 20, "checkpoints_kept": 1}
    config = settings(rows, tmp_path / "run", **changes)
    arguments = command(config, tmp_path)[3:]
    process = start([sys.executable, "-c", FULL_DISK, *arguments], 1)
    end = time.monotonic() + 200
    while not (config.out / "checkpoints" / "20").is_dir():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGUSR1)
    written = process.communicate(timeout=120)[1]
    assert process.returncode == 1
    assert "can't be saved" in written.splitlines()[-1], written
    assert "Traceback" not in written
    step, _ = restore_params(config.out)
    assert step == saved_steps(config.out)[-1]


def test_a_stop_that_cannot_be_saved_says_so(rows: Path, tmp_path: Path) -> None:
    config = endless(rows, tmp_path)
    process = start([sys.executable, "-c", FULL_DISK, *command(config, tmp_path)[3:]], 1)
    wait_for_steps(config.out, process)
    process.send_signal(signal.SIGUSR1)
    process.send_signal(signal.SIGTERM)
    written = process.communicate(timeout=120)[1]
    assert process.returncode == 1
    assert "saved at step" not in written
    assert "can't be" in written.splitlines()[-1], written
    assert saved_steps(config.out) == []


@pytest.mark.parametrize(
    "unlike", [pytest.param("optimizer.learning_rate", marks=pytest.mark.slow), "data", "out", "init_from"]
)
def test_processes_of_unlike_settings_rows_or_weights_end_at_once(
    unlike: str, rows: Path, packed_rows: Path, finished: PretrainConfig, tmp_path: Path
) -> None:
    config = endless(rows, tmp_path)
    others = {"optimizer.learning_rate": "0.5", "data": packed_rows, "out": finished.out, "init_from": finished.out}
    first, second = two_processes(config, tmp_path, 1, second=[f"--{unlike.replace('_', '-')}", str(others[unlike])])
    written = [process.communicate(timeout=200)[1] for process in (first, second)]
    assert 2 in (first.returncode, second.returncode)  # the one that ends first takes the other with it
    assert any(f"{unlike}: not all processes have the same" in one for one in written), written
    assert "Traceback" not in "".join(written)
    assert not config.out.exists()


@pytest.mark.slow  # as above, but for what the weights are
def test_processes_that_start_from_unlike_weights(rows: Path, finished: PretrainConfig, tmp_path: Path) -> None:
    config = endless(rows, tmp_path)
    earlier = shutil.copytree(finished.out, tmp_path / "earlier")
    shutil.rmtree(earlier / "checkpoints" / "20")
    given = ["--init-from", str(finished.out)]
    first, second = two_processes(config, tmp_path, 1, *given, second=["--init-from", str(earlier)])
    written = "".join(process.communicate(timeout=200)[1] for process in (first, second))
    assert "init_from: not all processes have the same" in written
    assert "Traceback" not in written
    assert not config.out.exists()


def test_processes_of_unlike_numbers_of_devices(rows: Path, tmp_path: Path) -> None:
    arguments = command(endless(rows, tmp_path), tmp_path, "--distributed.cluster")
    job = {"SLURM_JOB_ID": "1235"}  # of which JAX makes the port: another's test may run beside this one
    processes = [start(arguments, 1 + 2 * process, **(slurm(process) | job)) for process in (0, 1)]
    for process in processes:
        written = process.communicate(timeout=200)[1]
        assert process.returncode == 2
        assert "distributed: the processes have unlike numbers of devices (0: 1, 1: 3); give all the same" in written


@pytest.mark.parametrize(
    ("error", "says", "status"),
    [
        (KeyboardInterrupt(), "interrupted; run the same command again", 130),
        (ValueError("UNKNOWN: Gloo AllGather failed: Connection reset by peer\nmore"), "another process is lost", 1),
        (StoppedError("run: saved at step 3"), "run: saved at step 3", 75),
        (ValueError("of the code"), "ValueError: of the code", 1),
    ],
)
def test_what_a_process_says_that_ends(error: BaseException, says: str, status: int) -> None:
    said, found = processes._ending(error)
    assert says in said
    assert found == status


@pytest.mark.parametrize(("process", "count"), [(-1, 2), (2, 2), (0, 0)])
def test_a_number_that_no_process_has(process: int, count: int) -> None:
    with pytest.raises(UserError, match=f"distributed.process: {process} is none of {count}, numbered from 0"):
        processes.join(DistributedConfig(coordinator="localhost:1", processes=count, process=process))


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"process 0 can't listen at port {port} \(Address already in use\)"):
            processes.join(DistributedConfig(coordinator=f"localhost:{port}", processes=2, process=0))


ALONE = """
from electra_jax.config import DistributedConfig
from electra_jax.train.processes import join
join(DistributedConfig(cluster=True))
"""


def test_a_cluster_that_is_not_there() -> None:
    process = micro.python("-c", ALONE)
    assert "distributed.cluster: no Slurm, Open MPI or Kubernetes (with the extra k8s) is found" in process.stderr


def test_a_folder_that_only_the_first_process_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "SEEN", 0)
    with pytest.raises(UserError, match="run: the first process has made it, and this one can't see it; name a"):
        run._wait_to_see(tmp_path / "run")
