"""A page about runs that needs nothing else: no network, no library, one file."""

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from electra_jax.errors import UserError
from electra_jax.files import can_be_made, write_text
from electra_jax.report.figures import CALIBRATION, SUMMARY, groups_of
from electra_jax.report.runs import names_of, read_run

EXAMPLES = 4


def write_report(runs: str | Path | Sequence[str | Path], out: str | Path, examples: int = EXAMPLES) -> Path:
    """Write one HTML page that draws the runs (or the one) over each other, and shows so many held-out rows of each.

    The page is what the folders say at the time: a run may still be going on. Returns `out`. Raises UserError where a
    folder is no pretraining run, has no metrics yet or is given twice, and where `out` can't be written, or is a file
    of a run.
    """
    folders = [Path(run) for run in ([runs] if isinstance(runs, str | Path) else runs)]
    out = Path(out)
    if not folders:
        raise UserError("no run is given; name one or more folders that `electra-jax pretrain` wrote")
    if examples < 0:
        raise UserError(f"examples: {examples} is below 0")
    if out.is_dir():
        raise UserError(f"{out}: is a folder; name a file, such as {out / 'report.html'}")
    if not out.parent.is_dir():
        raise UserError(f"{out}: can't be made there: no folder {out.parent}")
    for run in folders:
        if out.suffix != ".html" and out.is_file() and out.resolve().is_relative_to(run.resolve()):
            raise UserError(f"{out}: is a file of the run {run}; choose another name")
    tables = [read_run(run, name, examples) for run, name in zip(folders, names_of(folders), strict=True)]
    with can_be_made(out):
        write_text(out, render(tables))
    return out


def render(runs: Sequence[dict[str, Any]]) -> str:
    """The page of what `read_run` returned."""
    names = [name for run in runs for kind in ("train", "eval") for name in run[kind] if name != "step"]
    groups = [asdict(group) for group in groups_of(names)]
    data = {"runs": runs, "groups": groups, "calibration": asdict(CALIBRATION), "summary": SUMMARY}
    style, script = _resource("page.css"), _resource("page.js")
    return Template(_resource("page.html")).substitute(
        title=html.escape(", ".join(run["name"] for run in runs)),
        policy=f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}",
        style=style,
        data=_json(data),
        script=script,
    )


def _json(data: Any) -> str:
    """As it may stand in a page: no text of a run can end the element that holds it."""
    return json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _hash(text: str) -> str:
    """By which a browser knows what the page itself brings, and refuses all else."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _resource(name: str) -> str:
    return resources.files("electra_jax.report").joinpath("page", name).read_text(encoding="utf-8")
