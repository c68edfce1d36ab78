"""Pictures, as PNG files that appear whole."""

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure

SHOWN = 30
"""Most labels whose names and counts are written out."""
CHINESE = ["DejaVu Sans", "Noto Sans CJK SC", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "SimHei", "PingFang SC"]


@contextmanager
def _plain_text() -> Iterator[None]:
    """Labels are drawn as they are, though matplotlib takes what stands between dollars for TeX."""
    with matplotlib.rc_context({"text.parse_math": False}):
        yield


@_plain_text()
def plot_confusion(counts: Int[np.ndarray, "C C"], labels: Sequence[str], path: Path) -> None:
    """Rows are true labels, columns predicted ones; the colour is the share of the row."""
    size = min(3 + 0.45 * len(labels), 14)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    axes = figure.subplots()
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, label="share of the true label")
    if len(labels) <= SHOWN:
        axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
        axes.set_yticks(range(len(labels)), labels)
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, f"{count:,}", ha="center", va="center", color=colour, fontsize=8)
    axes.set(xlabel="predicted", ylabel="true")
    save(figure, path)


@_plain_text()
def plot_roc(curves: Mapping[str, tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"], float]], path: Path) -> None:
    """One curve a label: false positive rate, true positive rate, and the area below."""
    figure = Figure(figsize=(5.5, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", linewidth=1)
    shown = dict(list(curves.items())[:SHOWN])
    lines = [axes.plot(false_rate, true_rate)[0] for false_rate, true_rate, _ in shown.values()]
    names = [f"{label} (AUC {area:.3f})" for label, (_, _, area) in shown.items()]
    axes.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(0, 1), ylim=(0, 1.01))
    axes.legend(lines, names, loc="lower right", fontsize=8)  # given, or names that begin with _ are left out
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write the figure as PNG, beside `path` first. Warns of characters that no font has, once."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with matplotlib.rc_context({"font.family": _fonts()}), warnings.catch_warnings(record=True) as told:
            figure.savefig(scratch, format="png", dpi=150)
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
    if any("missing from font" in str(one.message) for one in told):  # which matplotlib says of each character
        lacking = f"{path}: no font here has all of its characters; install one that does, as Debian's fonts-noto-cjk"
        warnings.warn(lacking, stacklevel=2)


def _fonts() -> list[str]:
    """Those of the list that are installed, so that Chinese labels are drawn where any of them can."""
    installed = set(matplotlib.font_manager.get_font_names())
    return [name for name in CHINESE if name in installed]
