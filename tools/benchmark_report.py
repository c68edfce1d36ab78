"""What the benchmark found, for people: tables and pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from electra_jax.report.plots import save

LABELS = {
    "ours": "electra_jax",
    "picks": "PyTorch, head on the picks",
    "compiled": "the same, torch.compile",
    "everywhere": "PyTorch, logits everywhere",
}
RATIO_LABELS = {"best_on_picks": "the best of PyTorch on the picks", "everywhere": LABELS["everywhere"]}
COLOURS = {"ours": "tab:blue", "picks": "tab:orange", "compiled": "tab:red", "everywhere": "tab:gray"}


def cell_table(name: str, cell: Mapping[str, Any]) -> Table:
    """A cell's figures; of those of several rounds the median, and from which to which."""
    products = np.median([product["flops_per_second"] for product in cell["products"]])
    title = f"{name}: {cell['rows']} x {cell['length']}, {cell['dtype']}, a step {cell['flops'] / 1e9:.4g} GFLOP, "
    grid = Table(title=title + f"matrix products {products / 1e9:,.0f} GFLOP/s", title_justify="left")
    for heading in ("", "tokens/s", "ours / this", "GFLOP/s", "of peak", "memory", "compiling"):
        grid.add_column(heading)
    for contestant, found in cell["contestants"].items():
        ratio = cell["ratios"].get(contestant)
        grid.add_row(
            LABELS[contestant],
            range_of(found["tokens_per_second"], "{:,.0f}"),
            range_of(ratio, "{:.2f}") if ratio else "",
            f"{found['flops_per_second']['median'] / 1e9:,.0f}",
            f"{found['peak_share']['median']:.0%}",
            memory(found),
            compiling(found),
        )
    grid.caption = f"other processes had {cell['others']['median']:.0%} of the cores meanwhile"
    if best := cell["ratios"].get("best_on_picks"):
        grid.caption = f"ours / {RATIO_LABELS['best_on_picks']}: {range_of(best, '{:.2f}')}; {grid.caption}"
    return grid


def range_of(found: Mapping[str, float], form: str) -> str:
    """Median, smallest and largest."""
    low, median, high = (form.format(found[name]) for name in ("min", "median", "max"))
    return f"{median} ({low} to {high})"


def memory(found: Mapping[str, Any]) -> str:
    """The peak, and that with the program from the cache."""
    cached = f", {found['peak_bytes_cached'] / 1e9:.2f} cached" if "peak_bytes_cached" in found else ""
    return f"{found['peak_bytes'] / 1e9:.2f} GB{cached}"


def compiling(found: Mapping[str, Any]) -> str:
    """Seconds, and those with the program from the cache."""
    if not found["compile_seconds"]:
        return ""
    cached = f", {found['compile_seconds_cached']:.1f} s cached" if "compile_seconds_cached" in found else ""
    return f"{found['compile_seconds']:.1f} s{cached}"


def plot_cells(cells: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Tokens a second of each contestant, and the ratios, by cell: medians, and whiskers over all rounds."""
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    speeds, times = figure.subplots(1, 2)
    contestants = {name: None for cell in cells.values() for name in cell["contestants"]}
    for name, heights in ((n, [c["contestants"].get(n) for c in cells.values()]) for n in contestants):
        place = list(contestants).index(name), len(contestants)
        _bars(speeds, place, [one and one["tokens_per_second"] for one in heights], LABELS[name], COLOURS[name])
    for i, (name, colour) in enumerate((("best_on_picks", "tab:orange"), ("everywhere", "tab:gray"))):
        _bars(times, (i, 2), [cell["ratios"].get(name) for cell in cells.values()], RATIO_LABELS[name], colour)
    times.axhline(1, color="black", linewidth=0.8)
    speeds.set(ylabel="tokens/s", yscale="log")
    times.set(ylabel="ours is so many times as fast as")
    for axes in (speeds, times):
        axes.set_xticks(range(len(cells)), cells, rotation=30, ha="right")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, fontsize=8)
    save(figure, path)


def _bars(axes: Any, place: tuple[int, int], spreads: Sequence[Any], label: str, colour: str) -> None:
    """One bar a cell, beside those of the others; none where it wasn't measured."""
    index, number = place
    width = 0.8 / number
    known = [(i, one) for i, one in enumerate(spreads) if one]
    at = [i + (index - (number - 1) / 2) * width for i, _ in known]
    medians = np.array([one["median"] for _, one in known])
    whiskers = np.array([[m - one["min"], one["max"] - m] for m, (_, one) in zip(medians, known, strict=True)])
    axes.bar(at, medians, width, yerr=whiskers.T if known else None, label=label, color=colour, capsize=2)


def sweep_table(series: Mapping[str, Mapping[str, Any]]) -> Table:
    """Seconds a step at each point, and the exponents."""
    grid = Table(title="a step's seconds grow as", title_justify="left")
    for heading in ("of", "exponent", "of its FLOP", "seconds, best of the rounds"):
        grid.add_column(heading)
    for name, found in series.items():
        points = "  ".join(f"{p['value']}: {p['seconds']['min']:.3f}" for p in found["points"])
        grid.add_row(name, f"{found['exponent']:.2f}", f"{found['flops_exponent']:.2f}", points)
    return grid


def plot_sweep(series: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """A panel a series: the best seconds of a step, on logarithmic axes, with the power that fits."""
    figure = Figure(figsize=(4 * len(series), 3.8), layout="constrained")
    for axes, (name, found) in zip(figure.subplots(1, len(series), squeeze=False)[0], series.items(), strict=True):
        x = np.array([point["value"] for point in found["points"]], float)
        y = [point["seconds"]["min"] for point in found["points"]]
        axes.loglog(x, y, "o", label="measured")
        fit = found["factor"] * x ** found["exponent"]
        axes.loglog(x, fit, "-", label=f"~ {name}^{found['exponent']:.2f}")
        axes.set_xticks(x, [f"{value:g}" for value in x])
        axes.set_yticks(y, [f"{value:.2g}" for value in y])
        axes.minorticks_off()
        axes.set(title=found["about"], xlabel=name, ylabel="seconds a step")
        axes.legend(fontsize=8)
    save(figure, path)
