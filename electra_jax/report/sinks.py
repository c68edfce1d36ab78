"""Where figures go: a line of JSON each, and TensorBoard event files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

from electra_jax.files import write_text


class MetricsLog:
    """metrics.jsonl and tensorboard/ of a run. What was written after step `first` (by a killed run) is dropped."""

    def __init__(self, run: Path, first: int):
        self.file = run / "metrics.jsonl"
        kept = [json.dumps(line) + "\n" for line in read_metrics(self.file) if line["step"] <= first]
        write_text(self.file, "".join(kept))
        # Event files are named by the second: without the suffix, a quick restart would overwrite the last one.
        self.board = SummaryWriter(str(run / "tensorboard"), purge_step=first + 1, filename_suffix=f".{first}")

    def write(self, kind: str, step: int, figures: Mapping[str, float]) -> None:
        """Record figures of `kind` ("train" or "eval") after `step` updates."""
        with self.file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"step": step, "kind": kind, **figures}) + "\n")
        for name, value in figures.items():
            self.board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Flush the event file."""
        self.board.close()


class NoLog:
    """The log of a process that is not the one to write."""

    def write(self, kind: str, step: int, figures: Mapping[str, float]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; a last one that a kill cut short is left out."""
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]
