"""Figures on disk: a line of JSON each, and TensorBoard events."""

import json
import math
from pathlib import Path

import micro
import numpy as np
import pytest

from electra_jax.errors import UserError
from electra_jax.report.sinks import MetricsLog, read_metrics


def write(run: Path, first: int, steps: list[int], loss: float) -> None:
    log = MetricsLog(run, first)
    for step in steps:
        log.write("train", step, {"loss": loss, "auc": 0.5})
    log.close()


def test_a_record_is_a_line_of_json(tmp_path: Path) -> None:
    write(tmp_path, 0, [10, 20], 2.5)
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [
        {"step": 10, "kind": "train", "loss": 2.5, "auc": 0.5},
        {"step": 20, "kind": "train", "loss": 2.5, "auc": 0.5},
    ]


def test_a_record_is_there_before_the_log_is_closed(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, 0)
    log.write("eval", 10, {"loss": 2.5})
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 10, "kind": "eval", "loss": 2.5}]
    log.close()


def test_tensorboard_gets_the_same_figures(tmp_path: Path) -> None:
    write(tmp_path, 0, [10, 20], 2.5)
    values = [
        (value.tag, event.step, value.simple_value) for event in micro.events(tmp_path) for value in event.summary.value
    ]
    assert values == [
        ("train/loss", 10, 2.5),
        ("train/auc", 10, 0.5),
        ("train/loss", 20, 2.5),
        ("train/auc", 20, 0.5),
    ]


def test_what_is_no_number_is_only_a_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, 0, [10], math.nan)
    assert [value.tag for event in micro.events(tmp_path) for value in event.summary.value] == ["train/auc"]
    assert math.isnan(read_metrics(tmp_path / "metrics.jsonl")[0]["loss"])
    assert caplog.messages == []


def test_what_a_killed_run_wrote_beyond_its_checkpoint_is_dropped(tmp_path: Path) -> None:
    write(tmp_path, 0, [10, 20, 30], 2.5)
    write(tmp_path, 20, [30], 1.5)
    assert [(line["step"], line["loss"]) for line in read_metrics(tmp_path / "metrics.jsonl")] == [
        (10, 2.5),
        (20, 2.5),
        (30, 1.5),
    ]


@pytest.mark.parametrize("first", [0, 20])
def test_tensorboard_is_told_to_forget_it_too(tmp_path: Path, first: int) -> None:
    write(tmp_path, first, [30], 1.5)
    assert [event.step for event in micro.events(tmp_path) if event.HasField("session_log")] == [first + 1]


@pytest.mark.parametrize("cut", ['{"step": 20, "ki', '{"step": 20, "kind": "train"}'])
def test_a_line_that_a_kill_cut_short_is_left_out(tmp_path: Path, cut: str) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 10, "kind": "train"}\n' + cut)
    assert read_metrics(file) == [{"step": 10, "kind": "train"}]
    write(tmp_path, 10, [20], 1.5)
    assert [line["step"] for line in read_metrics(file)] == [10, 20]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"step": 20, "ki', "the line is damaged: Unterminated string"),
        ("\udcff", "the line is damaged: 'utf-8' codec can't decode"),
        ("[1, 2]", "the line has no step and kind"),
        ('{"loss": 1.0}', "the line has no step and kind"),
    ],
)
def test_a_damaged_line_is_told_by_its_number(tmp_path: Path, line: str, reason: str) -> None:
    file = tmp_path / "metrics.jsonl"
    good = '{"step": 10, "kind": "train"}\n'
    file.write_text(f"{good}{line}\n{good}", encoding="utf-8", errors="surrogateescape")
    with pytest.raises(UserError, match=rf"metrics.jsonl:2: {reason}"):
        read_metrics(file)


def test_the_newest_histogram_takes_the_place_of_the_last(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, 0)
    log.write_histogram(10, np.array([[1.0, 2.0], [0.0, 3.0]], np.float32))
    log.write_histogram(20, np.array([[1.0, 0.0], [4.0, 3.0]], np.float32))
    log.close()
    assert json.loads((tmp_path / "histogram.json").read_text()) == {
        "step": 20,
        "largest": 16.0,
        "original": [1, 0],
        "replaced": [4, 3],
    }


def test_before_the_first_record_there_are_none(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "metrics.jsonl") == []
