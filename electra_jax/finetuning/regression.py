"""Regression: a number of a text or a pair of texts."""

import warnings
from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Float
from scipy import stats

from electra_jax.data.records import Record
from electra_jax.errors import UserError
from electra_jax.finetuning import losses
from electra_jax.finetuning.classification import SequenceTask
from electra_jax.finetuning.examples import Example, Feature, text_of
from electra_jax.finetuning.task import Prediction, Scores
from electra_jax.hub.configs import TaskHead


class Regression(SequenceTask):
    """`regression`."""

    name = "regression"

    @property
    def head(self) -> TaskHead:  # noqa: D102
        return TaskHead("sequence", ("LABEL_0",), "regression")

    @property
    def metrics(self) -> tuple[str, ...]:  # noqa: D102
        return ("pearson", "spearman", "negative_mse")

    def loss(self, logits: Float[Array, "B 1"], batch: dict[str, Array]) -> tuple[losses.Scalar, losses.Scalar]:  # noqa: D102
        return losses.squared_error(logits, batch["target"], batch["weight"])

    def predict(  # noqa: D102
        self, example: Example, features: Sequence[Feature], logits: Sequence[Float[np.ndarray, " 1"]]
    ) -> Prediction:
        return {"predicted": float(logits[0][0])}

    def scores(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> Scores:  # noqa: D102
        true = np.array([example.target for example in examples])
        predicted = np.array([prediction["predicted"] for prediction in predictions])
        return {
            "pearson": _correlation(stats.pearsonr, true, predicted),
            "spearman": _correlation(stats.spearmanr, true, predicted),
            "negative_mse": -float(np.mean((true - predicted) ** 2)),
        }

    def _target(self, record: Record) -> float:
        column = self.settings.label[0]
        text = text_of(record, column)
        try:
            number = float(text)
        except ValueError:
            number = np.nan
        if not abs(number) <= float(np.finfo(np.float32).max):  # nor is NaN
            raise UserError(f"{record.where}, column {column!r}: {text!r} is no number; correct it")
        return number

    def _array(self, example: Example) -> np.ndarray:
        return np.array(example.target, np.float32)


def _correlation(measure: object, true: np.ndarray, predicted: np.ndarray) -> float:
    """0 where either side doesn't vary, or there are fewer than two examples."""
    if len(true) < 2 or np.ptp(true) == 0 or np.ptp(predicted) == 0:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns of near-constant input
        return float(measure(true, predicted)[0])  # type: ignore[operator]
