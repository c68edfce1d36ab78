"""The scripts of docs/launch, with the queue's commands replaced."""

import os
import subprocess
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "docs" / "launch"


@pytest.mark.parametrize(("status", "ends", "requeued"), [(0, 0, False), (2, 2, False), (75, 0, True)])
def test_a_slurm_job_ends_as_its_run_does_or_waits_again(
    tmp_path: Path, status: int, ends: int, requeued: bool
) -> None:
    for name, line in (("srun", f"exit {status}"), ("scontrol", f'echo "$@" > {tmp_path}/said')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    job = subprocess.run(["bash", str(LAUNCH / "slurm.sbatch")], env=environment | {"ROWS": "rows", "RUN": "run"})
    assert job.returncode == ends
    assert (tmp_path / "said").exists() == requeued
