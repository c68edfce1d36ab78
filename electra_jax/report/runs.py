"""What a run's folder says, as plain numbers and texts for a page."""

import json
import math
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from electra_jax.config import PretrainConfig
from electra_jax.errors import UserError
from electra_jax.objectives.calibration import calibration_error, reliability
from electra_jax.presets import parse
from electra_jax.report.examples import read_examples
from electra_jax.report.sinks import HISTOGRAM, read_metrics
from electra_jax.train.run import CONFIG, METRICS, is_run

POINTS = 1000
"""Most points of a curve: more than a chart has pixels for."""
Table = dict[str, Any]


def read_run(run: Path, name: str, examples: int) -> Table:
    """Everything that a page shows of a run, as JSON has it: settings, curves, calibration, example rows.

    Raises UserError where `run` is no pretraining run, has no metrics yet, or a file of it is damaged.
    """
    settings = _read_settings(run)
    histogram = _read_histogram(run / HISTOGRAM)  # before the metrics: a run that goes on writes it after them
    records = [record for record in read_metrics(run / METRICS) if record["kind"] in ("train", "eval")]
    if not records:
        raise UserError(f"{run}: has no metrics yet; they come with the first {settings.get('log_every', 100)} steps")
    held_out = [record for record in records if record["kind"] == "eval"]
    rows, note = _examples(run, settings, examples)
    return {
        "name": name,
        "settings": {path: _text(value) for path, value in _flat(settings)},
        "train": curves([record for record in records if record["kind"] == "train"]),
        "eval": curves(held_out),
        "newest": {name: _short(value) for name, value in held_out[-1].items() if _is_number(value)}
        if held_out
        else {},
        "calibration": _calibration(histogram, records),
        "examples": rows,
        "no_examples": note,
    }


def names_of(runs: Sequence[Path]) -> list[str]:
    """A name for each run: its folder's, and as many of those above it as tell it apart.

    Raises UserError for a folder that is given twice.
    """
    parts = [run.resolve().parts for run in runs]
    for number, run in enumerate(runs):
        if parts[number] in parts[:number]:
            raise UserError(f"{run}: is given twice")
    depths = [_depth(one, [other for other in parts if other != one]) for one in parts]
    names = ["/".join(one[-depth:]) for one, depth in zip(parts, depths, strict=True)]
    return [name.encode(errors="replace").decode() for name in names]  # a folder's name may be no text


def _depth(one: Sequence[str], others: Sequence[Sequence[str]]) -> int:
    """How many of the last folders differ from those of all others."""
    depths = range(1, len(one) + 1)
    return next((d for d in depths if all(one[-d:] != other[-d:] for other in others)), len(one))


def curves(records: Sequence[Table]) -> dict[str, list[float | None]]:
    """Each figure's values, and the steps under "step", of as many records as a chart has room for.

    Of more, each point is of as many that follow each other: their mean, the largest of a gradient's norms, the sum of
    bad steps. None where a record hasn't the figure.
    """
    size = -(-len(records) // POINTS) or 1
    groups = [records[start : start + size] for start in range(0, len(records), size)]
    names = dict.fromkeys(name for record in records for name, value in record.items() if _is_number(value))
    columns: dict[str, list[float | None]] = {name: [_joined(group, name) for group in groups] for name in names}
    return columns | {"step": [group[-1]["step"] for group in groups]}


def _joined(records: Sequence[Table], name: str) -> float | None:
    values = [record[name] for record in records if _is_number(record.get(name))]
    join = np.max if name.startswith("grad_norm") else np.sum if name == "bad_steps" else np.mean
    return _short(join(values)) if values else None


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # of a whole number that no float holds
        return False


def _short(value: Any) -> float:
    return float(f"{value:.6g}")


def _read_settings(run: Path) -> Table:
    if not is_run(run):
        raise UserError(f"{run}: not a folder that `electra-jax pretrain` wrote")
    try:
        settings = tomllib.loads((run / CONFIG).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{run / CONFIG}: not a TOML file: {error}") from None
    if "data" not in settings:
        raise UserError(f"{run}: holds imported weights, no run")
    return settings


def _flat(table: Table, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each setting by its dotted name."""
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _read_histogram(file: Path) -> tuple[int, np.ndarray] | None:
    """The step of the newest evaluation, and its tokens [2, bins]; None where there was none."""
    if not file.is_file():
        return None
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
        tokens = np.array([table["original"], table["replaced"]], np.float64).reshape(2, -1)
        if not (np.isfinite(tokens) & (tokens >= 0)).all():
            raise ValueError
        return table["step"], tokens
    except (ValueError, KeyError, TypeError, OverflowError):
        raise UserError(f"{file}: the file is damaged; delete it, and the next evaluation writes it") from None


def _calibration(found: tuple[int, np.ndarray] | None, records: Sequence[Table]) -> Table | None:
    """Reliability at the newest evaluation; None where there is no record of it: the run began again before it."""
    if found is None or found[0] not in [record["step"] for record in records if record["kind"] == "eval"]:
        return None
    step, histogram = found
    levels = reliability(histogram)
    replaced = levels.tokens * levels.replaced
    return {
        "step": step,
        "error": _short(calibration_error(histogram)),
        "predicted": [_short(value) for value in levels.predicted],
        "share": [_short(value) for value in levels.replaced],
        "original": (levels.tokens - replaced).round().tolist(),
        "replaced": replaced.round().tolist(),
    }


def _examples(run: Path, settings: Table, number: int) -> tuple[Table | None, str]:
    """The rows, or why there are none."""
    if not number:
        return None, "None were asked for."
    try:
        config = parse(PretrainConfig, settings, str(run / CONFIG))
        found = read_examples(run, config, number)
    except UserError as error:
        return None, f"There are none to show. {error}."
    return {"step": found.step, "rows": found.rows}, ""
