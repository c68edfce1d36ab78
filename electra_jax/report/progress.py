"""What a person sees while a run goes on."""

from collections.abc import Mapping
from types import TracebackType

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

SHOWN = {
    "loss": ("loss", "{:.3f}"),
    "mlm_loss": ("mlm", "{:.3f}"),
    "discriminator_loss": ("disc", "{:.4f}"),
    "encoder_loss": ("enc", "{:.3f}"),
    "adversarial_loss": ("adv", "{:.4f}"),
    "precision": ("prec", "{:.3f}"),
    "recall": ("rec", "{:.3f}"),
    "auc": ("auc", "{:.3f}"),
    "score": ("score", "{:.4f}"),
    "bad_steps": ("bad steps", "{:.0f}"),
    "learning_rate": ("lr", "{:.2e}"),
    "tokens_per_second": ("tok/s", "{:,.0f}"),
    "examples_per_second": ("examples/s", "{:,.0f}"),
    "peak_share": ("of peak", "{:.0%}"),
}


def line(figures: Mapping[str, float]) -> str:
    """The figures a person watches, on one line; bad steps, where there are any."""
    there = {name: value for name, value in figures.items() if name != "bad_steps" or value}
    shown = ((label, form.format(there[name])) for name, (label, form) in SHOWN.items() if name in there)
    return "  ".join(f"{label} {value}" for label, value in shown)


def table(title: str, rows: Mapping[str, str]) -> Table:
    """A table of two columns, name and value."""
    # At least as wide as its title, which would be broken otherwise.
    grid = Table(title=Text(title), show_header=False, title_justify="left", min_width=cell_len(title))
    grid.add_column(style="bold")
    grid.add_column()
    for name, value in rows.items():
        grid.add_row(Text(name), Text(value))  # a label or a path may look like rich's markup
    return grid


class TrainingProgress:
    """A live bar on a terminal; elsewhere a line for each record."""

    def __init__(self, console: Console, first: int, steps: int):
        self.console, self.steps = console, steps
        columns = (TextColumn("step"), MofNCompleteColumn(), BarColumn(), TextColumn("ETA"), TimeRemainingColumn())
        self.bar = Progress(
            *columns, TextColumn("{task.fields[figures]}"), console=console, disable=not console.is_terminal
        )
        self.task = self.bar.add_task("", total=steps, completed=first, figures="")

    def __enter__(self) -> "TrainingProgress":
        self.bar.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bar.stop()

    def advance(self, step: int) -> None:
        """`step` updates are done."""
        self.bar.update(self.task, completed=step)

    def train(self, step: int, figures: Mapping[str, float], seconds_left: float) -> None:
        """New figures of training."""
        self.bar.update(self.task, figures=line(figures))
        if not self.console.is_terminal:
            is_known = seconds_left > 0 or step == self.steps  # not after the first step, which compiles
            left = f"  ETA {_clock(seconds_left)}" if is_known else ""
            self.console.print(f"step {step}/{self.steps}  {line(figures)}{left}", soft_wrap=True)

    def evaluation(self, step: int, figures: Mapping[str, float]) -> None:
        """Figures on held-out rows, which stay on the screen."""
        self.console.print(f"held-out at step {step}: {line(figures)}", soft_wrap=True)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
