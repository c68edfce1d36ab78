"""Pictures of what a fine-tuned model says."""

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from electra_jax.report.plots import plot_confusion, plot_roc

CURVE = (np.array([0.0, 0.5, 1.0]), np.array([0.0, 0.9, 1.0]), 0.7)


@pytest.mark.parametrize("label", ["$_$", "$a$", "^_^", "\\frac"])
def test_a_label_is_no_formula(tmp_path: Path, label: str) -> None:
    plot_confusion(np.array([[3, 1], [0, 4]]), [label, "good"], tmp_path / "confusion.png")
    plot_roc({label: CURVE}, tmp_path / "roc.png")
    for name in ("confusion.png", "roc.png"):
        assert matplotlib.image.imread(tmp_path / name).std() > 0
