"""Whether a probability means what it says: of the tokens given 0.3, about three in ten should have been replaced."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

BINS, LARGEST = 8192, 16.0  # of the histogram of discriminator logits, which spans [-LARGEST, LARGEST]
LEVELS = 15  # of probability, equally wide, as Guo et al. (2017), "On Calibration of Modern Neural Networks", take


class Reliability(NamedTuple):
    """Of the tokens whose probability of having been replaced falls into each of LEVELS equal parts of [0, 1]."""

    tokens: Float[np.ndarray, " levels"]
    """How many they are."""
    predicted: Float[np.ndarray, " levels"]
    """Their mean probability; that of the part's middle where there are none."""
    replaced: Float[np.ndarray, " levels"]
    """The share of them that was replaced; 0 where there are none."""


def reliability(histogram: Float[np.ndarray, "2 bins"]) -> Reliability:
    """Read off a histogram of logits by class, original and replaced, which `discriminator_counts` makes.

    A logit counts as its bin's middle, which moves no probability by more than 0.0005.
    """
    histogram = np.asarray(histogram, np.float64)
    bins = histogram.shape[1]
    logits = ((np.arange(bins) + 0.5) / bins * 2 - 1) * LARGEST
    probability = 1 / (1 + np.exp(-logits))
    level = np.minimum((probability * LEVELS).astype(int), LEVELS - 1)

    def add_up(weights: np.ndarray) -> np.ndarray:
        return np.bincount(level, weights, LEVELS)

    tokens = add_up(histogram.sum(0))
    some, middle = np.maximum(tokens, 1), (np.arange(LEVELS) + 0.5) / LEVELS
    predicted = np.where(tokens > 0, add_up(histogram.sum(0) * probability) / some, middle)
    return Reliability(tokens, predicted, add_up(histogram[1]) / some)


def calibration_error(histogram: Float[np.ndarray, "2 bins"]) -> float:
    """The expected calibration error: |predicted - replaced|, a mean over all tokens; 0 without any."""
    found = reliability(histogram)
    gaps = np.abs(found.predicted - found.replaced)
    return float(np.sum(found.tokens * gaps) / max(1.0, found.tokens.sum()))
