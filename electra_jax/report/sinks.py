"""Where figures go: a line of JSON each, TensorBoard event files, and the newest histogram of the discriminator."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from tensorboardX import SummaryWriter

from electra_jax.errors import UserError, first_line
from electra_jax.files import write_text
from electra_jax.objectives.calibration import LARGEST

HISTOGRAM = "histogram.json"


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
            if math.isfinite(value):  # of others, tensorboardX warns
                self.board.add_scalar(f"{kind}/{name}", value, step)

    def write_histogram(self, step: int, histogram: Float[np.ndarray, "2 bins"]) -> None:
        """Keep the held-out tokens' histogram of logits by class, original and replaced, in place of the last one."""
        original, replaced = histogram.astype(int).tolist()
        table = {"step": step, "largest": LARGEST, "original": original, "replaced": replaced}
        write_text(self.file.with_name(HISTOGRAM), json.dumps(table) + "\n")

    def close(self) -> None:
        """Flush the event file."""
        self.board.close()


class NoLog:
    """The log of a process that is not the one to write."""

    def write(self, kind: str, step: int, figures: Mapping[str, float]) -> None:
        """Nothing."""

    def write_histogram(self, step: int, histogram: Float[np.ndarray, "2 bins"]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; a last one that a kill cut short is left out.

    Raises UserError for any other that is no record.
    """
    lines = file.read_bytes().split(b"\n")[:-1] if file.is_file() else []
    return [_record(line, f"{file}:{number}") for number, line in enumerate(lines, 1)]


def _record(line: bytes, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:  # of the encoding too
        raise UserError(f"{where}: the line is damaged: {first_line(error)}; delete it") from None
    if not (isinstance(record, dict) and isinstance(record.get("step"), int) and isinstance(record.get("kind"), str)):
        raise UserError(f"{where}: the line has no step and kind; delete it")
    return record
