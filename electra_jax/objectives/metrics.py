"""Counts that training adds up on the device, and the figures that a person reads off them.

Accuracy alone misleads: with 10% of the tokens replaced, saying "original" always is 90% right. Hence precision,
recall and AUC of the replaced class.
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from electra_jax.config import ObjectiveConfig
from electra_jax.objectives.calibration import BINS, LARGEST, calibration_error

Counts = dict[str, Array]
"""Sums over a batch by name; they add up over batches."""


def discriminator_counts(logits: Float[Array, "B L"], replaced: Bool[Array, "B L"], mask: Bool[Array, "B L"]) -> Counts:
    """Confusion counts at threshold 0, and a histogram of the logits by class, of which AUC is read."""
    predicted = logits > 0
    bins = jnp.clip((logits + LARGEST) * (BINS / (2 * LARGEST)), 0, BINS - 1).astype(jnp.int32)
    return {
        "replaced": jnp.sum(replaced & mask, dtype=jnp.float32),
        "predicted": jnp.sum(predicted & mask, dtype=jnp.float32),
        "found": jnp.sum(predicted & replaced & mask, dtype=jnp.float32),
        "histogram": jnp.zeros((2, BINS)).at[replaced.astype(jnp.int32), bins].add(mask.astype(jnp.float32)),
    }


def summarize(counts: Counts, config: ObjectiveConfig) -> dict[str, float]:
    """Losses and rates of added-up counts, those that the objective has.

    A rate over nothing is 0, an AUC without both classes 0.5. Where the loss isn't finite, rates are NaN: what is no
    number would count as a logit that says original.
    """
    c = {name: np.asarray(value, np.float64) for name, value in counts.items()}

    def ratio(part: np.ndarray, whole: np.ndarray) -> float:
        return float(part / whole) if whole > 0 else 0.0

    terms, figures = {}, {}
    if "mlm_sum" in c:
        terms["mlm_loss"] = config.generator_weight, ratio(c["mlm_sum"], c["picks"])
        figures["generator_accuracy"] = ratio(c["generator_correct"], c["picks"])
        figures["samples_correct"] = ratio(c["samples_correct"], c.get("sampled", c["picks"]))
    if "discriminator_sum" in c:
        terms["discriminator_loss"] = config.discriminator_weight, ratio(c["discriminator_sum"], c["judged"])
    if "adversarial_sum" in c:
        terms["adversarial_loss"] = config.adversarial_weight, ratio(c["adversarial_sum"], c["picks"])
    if "encoder_sum" in c:
        terms["encoder_loss"] = 1.0, ratio(c["encoder_sum"], c["predicted_tokens"])
        figures["encoder_accuracy"] = ratio(c["encoder_correct"], c["predicted_tokens"])
    if "histogram" in c:
        right = c["judged"] - c["replaced"] - c["predicted"] + 2 * c["found"]
        figures |= {
            "precision": ratio(c["found"], c["predicted"]),
            "recall": ratio(c["found"], c["replaced"]),
            "auc": auc(c["histogram"]),
            "calibration_error": calibration_error(c["histogram"]),
            "accuracy": ratio(right, c["judged"]),
            "replaced_rate": ratio(c["replaced"], c["judged"]),
        }
    loss = sum(weight * value for weight, value in terms.values())
    if not math.isfinite(loss):
        figures = dict.fromkeys(figures, math.nan)
    return {"loss": loss, **{name: value for name, (_, value) in terms.items()}, **figures}


def auc(histogram: Float[np.ndarray, "2 bins"]) -> float:
    """Area under the ROC curve: how often a replaced token scores above an original one, ties counting half."""
    original, replaced = np.asarray(histogram, np.float64)
    if original.sum() == 0 or replaced.sum() == 0:
        return 0.5
    below = np.cumsum(original) - original
    return float(np.sum(replaced * (below + original / 2)) / (original.sum() * replaced.sum()))
