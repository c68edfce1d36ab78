"""Scores of a fine-tuned model on labelled examples, and the pictures that go with them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from sklearn import metrics

from electra_jax.config import ComputeConfig
from electra_jax.files import can_be_made, write_text
from electra_jax.finetuning.examples import Example
from electra_jax.finetuning.model import FineTuned
from electra_jax.finetuning.predict import load_fine_tuned, predict_labelled
from electra_jax.finetuning.task import Prediction, Scores
from electra_jax.report.plots import plot_confusion, plot_roc

FILES = METRICS, CONFUSION, ROC = "metrics.json", "confusion.png", "roc.png"


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found."""

    scores: Scores
    examples: int
    labels: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    """Examples (tagging: words) by true label (row) and predicted one; empty where the task has no single labels."""
    skipped: tuple[str, ...]
    folder: Path
    """Of metrics.json and, for a classification, confusion.png and roc.png; tagging has no ROC."""


def evaluate(
    model: str | Path,
    data: str | Path,
    out: str | Path | None = None,
    empty: Literal["error", "skip"] = "error",
    compute: ComputeConfig = ComputeConfig(),
    split: str = "validation",
    subset: str | None = None,
    null_threshold: float | None = None,
    max_answer_length: int | None = None,
    text: Sequence[str] | None = None,
    label: Sequence[str] | None = None,
) -> Evaluation:
    """Score the fine-tuned `model` on the labelled examples of `data` (as `predict` reads its `source`).

    Written into `out` (evaluation/DATA-SUBSET-SPLIT in the model's folder, unless set) are metrics.json and, where the
    task has labels, a confusion matrix and ROC curves as PNG; files of these names are replaced. The last four
    arguments take the place of the model's own settings. Raises UserError for examples that can't be read, or whose
    label training didn't have.
    """
    answers = {"null_threshold": null_threshold, "max_answer_length": max_answer_length}
    fine_tuned = load_fine_tuned(model, compute, answers | {"text": text, "label": label})
    skipped: list[str] = []
    examples, predictions = predict_labelled(fine_tuned, str(data), empty, skipped, split, subset)
    beside = Path(model) if Path(model).is_dir() else Path()
    folder = Path(out) if out else beside / "evaluation" / _name(Path(data), subset, split)
    scores = fine_tuned.task.scores(examples, predictions)
    confusion = _confusion(fine_tuned, examples, predictions)
    found = Evaluation(scores, len(examples), fine_tuned.labels, confusion, tuple(skipped), folder)
    curves = _curves(fine_tuned, examples, predictions)
    with can_be_made(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name in (CONFUSION, ROC):  # of other examples
            (folder / name).unlink(missing_ok=True)
        if confusion:
            plot_confusion(np.array(confusion), found.labels, folder / CONFUSION)
        if curves:
            plot_roc(curves, folder / ROC)
        write_text(folder / METRICS, json.dumps(_content(found), ensure_ascii=False, indent=2) + "\n")
    return found


def _name(data: Path, subset: str | None, split: str) -> str:
    """What tells these examples from others of the same data."""
    parts = [] if data.is_file() or split == "validation" else [split]
    return "-".join([data.name, *([subset] if subset else []), *parts])


def _content(found: Evaluation) -> dict[str, Any]:
    matrix = {"labels": found.labels, "confusion": found.confusion} if found.confusion else {}
    return {"examples": found.examples, "left_out": len(found.skipped), "scores": found.scores, **matrix}


def _confusion(
    model: FineTuned, examples: Sequence[Example], predictions: Sequence[Prediction]
) -> tuple[tuple[int, ...], ...]:
    settings = model.task.settings
    if settings.task == "tagging":
        true = [tag for example in examples for tag in example.target]
        predicted = [tag for prediction in predictions for tag in prediction["predicted"]]
    elif settings.task == "classification" and not settings.multi_label:
        true = [example.target for example in examples]
        predicted = [prediction["predicted"] for prediction in predictions]
    else:
        return ()
    return tuple(map(tuple, metrics.confusion_matrix(true, predicted, labels=settings.labels).tolist()))


def _curves(
    model: FineTuned, examples: Sequence[Example], predictions: Sequence[Prediction]
) -> dict[str, tuple[np.ndarray, np.ndarray, float]]:
    """For each label that some examples have and others don't: false and true positive rates, and the area."""
    settings, curves = model.task.settings, {}
    if settings.task != "classification":
        return {}
    for label in settings.labels[1:] if len(settings.labels) == 2 and not settings.multi_label else settings.labels:
        true = [label in e.target if settings.multi_label else label == e.target for e in examples]
        if len(set(true)) == 2:
            scores = [prediction[f"probability_{label}"] for prediction in predictions]
            false_rate, true_rate, _ = metrics.roc_curve(true, scores)
            curves[label] = (false_rate, true_rate, float(metrics.auc(false_rate, true_rate)))
    return curves
