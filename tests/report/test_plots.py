"""Pictures of what a fine-tuned model says."""

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

from electra_jax.report.plots import plot_confusion, plot_roc

CURVE = (np.array([0.0, 0.5, 1.0]), np.array([0.0, 0.9, 1.0]), 0.7)


@pytest.mark.parametrize("label", ["$_$", "$a$", "^_^", "\\frac"])
def test_a_label_is_no_formula(tmp_path: Path, label: str) -> None:
    plot_confusion(np.array([[3, 1], [0, 4]]), [label, "good"], tmp_path / "confusion.png")
    plot_roc({label: CURVE}, tmp_path / "roc.png")
    for name in ("confusion.png", "roc.png"):
        assert matplotlib.image.imread(tmp_path / name).std() > 0


def test_labels_that_begin_with_a_line_below_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr("electra_jax.report.plots.save", lambda figure, path: drawn.append(figure))
    plot_roc({"_bad": CURVE, "good": CURVE}, tmp_path / "roc.png")
    assert [text.get_text() for text in drawn[0].axes[0].get_legend().get_texts()] == [
        "_bad (AUC 0.700)",
        "good (AUC 0.700)",
    ]


def test_what_no_font_has_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("electra_jax.report.plots.CHINESE", ["DejaVu Sans"])
    with pytest.warns(UserWarning, match=r"confusion\.png: no font here has all of its characters; install") as told:
        plot_confusion(np.array([[3, 1], [0, 4]]), ["好评", "差评"], tmp_path / "confusion.png")
    assert len(told) == 1
