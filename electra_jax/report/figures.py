"""The figures that a report draws: their names, what they tell, and in which order."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """A chart: a figure of metrics.jsonl over the steps."""

    name: str
    title: str
    unit: str
    """What the vertical axis counts."""
    note: str
    """One sentence to read it by."""
    wide: bool = False
    """Whether it spans orders of magnitude, so that a logarithmic axis helps."""
    reference: float | None = None
    """A value to draw a line at, such as that of chance."""


@dataclass(frozen=True)
class Group:
    """Charts that are read together."""

    title: str
    figures: tuple[Figure, ...]


NATS, SHARE = "nats", "share"
CALIBRATION = Figure(
    "calibration_error",
    "Calibration error",
    SHARE,
    "How far its probabilities are from what happens, a mean over all tokens; 0 is best.",
)
"""Drawn beside the reliability of the newest evaluation."""
GROUPS = (
    Group(
        "Losses",
        (
            Figure("loss", "Joint loss", NATS, "The weighted sum of the others: what is minimised.", True),
            Figure("mlm_loss", "Generator’s loss", NATS, "Cross-entropy at the masked tokens; ln V at first.", True),
            Figure(
                "discriminator_loss",
                "Discriminator’s loss",
                NATS,
                "Cross-entropy over all tokens; ln 2 = 0.693 at first.",
                True,
            ),
            Figure("encoder_loss", "Encoder’s loss", NATS, "Cross-entropy of the tokens that it predicts.", True),
            Figure(
                "adversarial_loss",
                "Adversarial loss",
                NATS,
                "Whose gradient is REINFORCE’s: samples weighted by how they fool the discriminator.",
            ),
        ),
    ),
    Group(
        "Encoder",
        (Figure("encoder_accuracy", "Encoder’s accuracy", SHARE, "How often its likeliest token is the original."),),
    ),
    Group(
        "Discriminator",
        (
            Figure(
                "auc",
                "AUC",
                "area",
                "How often a replaced token scores above an original one; chance is 0.5.",
                False,
                0.5,
            ),
            Figure("precision", "Precision", SHARE, "Of the tokens it calls replaced, how many were."),
            Figure("recall", "Recall", SHARE, "Of the tokens that were replaced, how many it finds."),
            Figure(
                "accuracy",
                "Accuracy",
                SHARE,
                "Misleads alone: “original” everywhere scores one minus the share replaced.",
            ),
        ),
    ),
    Group(
        "Generator",
        (
            Figure(
                "generator_accuracy", "Generator’s accuracy", SHARE, "How often its likeliest token is the original."
            ),
            Figure(
                "samples_correct",
                "Correct samples",
                SHARE,
                "How often its sample is the original, and so not a replacement.",
            ),
            Figure("replaced_rate", "Tokens replaced", SHARE, "Of all tokens that the discriminator reads."),
        ),
    ),
    Group(
        "Gradients",
        (
            Figure(
                "grad_norm",
                "Gradient norm",
                "L2 norm",
                "Of all parameters, before clipping; a mean over the steps of a record.",
                True,
            ),
            Figure(
                "grad_norm_generator", "Generator’s gradient", "L2 norm", "Its own parameters, before clipping.", True
            ),
            Figure(
                "grad_norm_discriminator",
                "Discriminator’s gradient",
                "L2 norm",
                "Its own parameters, before clipping.",
                True,
            ),
            Figure(
                "grad_norm_embeddings",
                "Embeddings’ gradient",
                "L2 norm",
                "Those that both share, before clipping.",
                True,
            ),
        ),
    ),
    Group(
        "Speed and schedule",
        (
            Figure("tokens_per_second", "Speed", "tokens/s", "Real tokens, padding left out."),
            Figure("peak_share", "Share of the peak", SHARE, "Useful arithmetic, of the machine's measured peak."),
            Figure("learning_rate", "Learning rate", "rate", "Of the last step before each record."),
            Figure("bad_steps", "Bad steps", "steps", "Skipped since the last record, as not finite."),
        ),
    ),
)
SUMMARY = (
    "loss",
    "mlm_loss",
    "discriminator_loss",
    "encoder_loss",
    "encoder_accuracy",
    "auc",
    "precision",
    "recall",
    "accuracy",
    "calibration_error",
    "generator_accuracy",
    "samples_correct",
)
"""Held-out figures of the table on top."""


def groups_of(names: Iterable[str]) -> list[Group]:
    """The charts of the figures that are there; those that no group knows come last, under their own names."""
    left = dict.fromkeys(names)
    known = {figure.name for group in GROUPS for figure in group.figures} | {CALIBRATION.name}
    others = tuple(Figure(name, name, "value", "") for name in left if name not in known)
    present = [
        Group(g.title, tuple(f for f in g.figures if f.name in left)) for g in (*GROUPS, Group("Others", others))
    ]
    return [group for group in present if group.figures]
