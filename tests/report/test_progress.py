"""What a person reads while a run goes on."""

import io

import pytest
from rich.console import Console

from electra_jax.report.progress import TrainingProgress, line, table

FIGURES = {
    "loss": 12.34567,
    "mlm_loss": 3.2,
    "accuracy": 0.9,
    "learning_rate": 5e-4,
    "tokens_per_second": 12345.6,
    "peak_share": 0.375,
}
LINE = "loss 12.346  mlm 3.200  lr 5.00e-04  tok/s 12,346  of peak 38%"


def console(terminal: bool = False) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, color_system=None, width=40)


def printed(console: Console) -> str:
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_line_has_the_figures_that_a_person_watches() -> None:
    assert line(FIGURES) == LINE


def test_a_line_leaves_out_what_is_not_there() -> None:
    assert line({"auc": 0.5}) == "auc 0.500"
    assert line({"bad_steps": 0.0}) == ""
    assert line({}) == ""


def test_a_line_tells_of_bad_steps() -> None:
    assert line({"learning_rate": 1e-3, "bad_steps": 5.0}) == "bad steps 5  lr 1.00e-03"


@pytest.mark.parametrize(
    ("seconds", "clock"), [(0.4, "0:00:00"), (59.6, "0:01:00"), (3725, "1:02:05"), (360_000, "100:00:00")]
)
def test_elsewhere_than_on_a_terminal_a_record_is_a_line(seconds: float, clock: str) -> None:
    file = console()
    with TrainingProgress(file, 0, 1000) as progress:
        progress.advance(1)
        progress.train(100, FIGURES, seconds)
        progress.advance(200)
        progress.evaluation(200, {"auc": 0.75})
    assert printed(file).splitlines() == [f"step 100/1000  {LINE}  ETA {clock}", "held-out at step 200: auc 0.750"]


def test_what_is_left_is_not_told_before_it_is_known() -> None:
    file = console()
    with TrainingProgress(file, 0, 1000) as progress:
        progress.train(1, FIGURES, 0.0)
        progress.train(1000, FIGURES, 0.0)
    assert printed(file).splitlines() == [f"step 1/1000  {LINE}", f"step 1000/1000  {LINE}  ETA 0:00:00"]


def test_on_a_terminal_a_bar_shows_where_training_is() -> None:
    terminal = console(terminal=True)
    terminal.width = 120
    with TrainingProgress(terminal, 10, 20) as progress:
        progress.advance(15)
        progress.train(15, {"auc": 0.625}, 60)
        progress.evaluation(15, {"auc": 0.75})
    text = printed(terminal)
    assert "15/20" in text
    assert "auc 0.625" in text
    assert "held-out at step 15: auc 0.750" in text


def test_a_table_has_a_row_for_each_name() -> None:
    file = console()
    file.print(table("run", {"mesh": "data=1", "steps": "20"}))
    title, *rest = printed(file).splitlines()
    assert title.strip() == "run"
    assert [cells[1:3] for cells in (line.replace(" ", "").split("│") for line in rest) if len(cells) > 2] == [
        ["mesh", "data=1"],
        ["steps", "20"],
    ]


def test_a_table_shows_what_looks_like_markup() -> None:
    file = console()
    file.print(table("p[v2]", {"labels": "[good], [/bad]"}))
    assert "p[v2]" in printed(file)
    assert "[good], [/bad]" in printed(file)


def test_a_title_stays_on_one_line_where_there_is_room() -> None:
    file = console()
    file.print(table("train.csv: 700 examples", {"auc": "0.5"}))
    assert printed(file).splitlines()[0].strip() == "train.csv: 700 examples"
