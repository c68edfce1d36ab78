"""kill -9 at random moments, most of them during a save: the tool that does it 20 times, here with fewer."""

import subprocess
import sys
from pathlib import Path

import micro
import pytest

TOOL = Path(__file__).parents[2] / "tools" / "kill_pretraining.py"


@pytest.mark.slow  # test_pretrain kills a run once, between two saves
def test_a_run_that_is_killed_at_random_ends_as_one_that_is_not(rows: Path, preset: Path, tmp_path: Path) -> None:
    options = ["--config", str(preset), "--kills", "2", "--steps", "60", "--checkpoint-every", "1"]
    process = subprocess.run(
        [sys.executable, str(TOOL), str(rows), str(tmp_path / "runs"), *options],
        env=micro.environment(),
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert "2 kills: parameters, optimizer state and metrics of step 60 are the same bits" in process.stdout
