"""Every objective by its name: a new one is a file, and a line here (docs/objectives.md has an example)."""

from collections.abc import Callable
from typing import Literal, NamedTuple

from jaxtyping import Array, Float

from electra_jax.errors import UserError
from electra_jax.model import Parts
from electra_jax.objectives.all_tokens_mlm import all_tokens_mlm
from electra_jax.objectives.electra import electra, electra_15
from electra_jax.objectives.electric import electric
from electra_jax.objectives.metrics import Counts
from electra_jax.objectives.mlm import mlm
from electra_jax.objectives.replace_mlm import replace_mlm


class Objective(NamedTuple):
    """What a step minimises."""

    loss: Callable[..., tuple[Float[Array, ""], Counts]]
    """The loss and the counts of a batch, of the arguments of `electra_jax.objectives.electra.electra`."""
    parts: Parts = Parts()
    """Of the model, those that it has a use for."""
    judges: Literal["tokens", "picks", "noise"] = "tokens"
    """What the discriminator is asked: of all tokens, or of the picks alone, whether they were replaced; or of all
    whether they are noise, for which the generator has to give the probability of every token."""
    predicts: Literal["tokens", "picks"] = "picks"
    """Where the encoder that is kept predicts, if it does."""
    adversarial: bool = False
    """Whether it heeds `ObjectiveConfig.adversarial_weight`."""


OBJECTIVES = {
    "electra": Objective(electra, adversarial=True),
    "electra-15": Objective(electra_15, judges="picks", adversarial=True),
    "replace-mlm": Objective(replace_mlm, Parts(detects=False, predicts=True)),
    "all-tokens-mlm": Objective(all_tokens_mlm, Parts(predicts=True), predicts="tokens"),
    "mlm": Objective(mlm, Parts(generator=False, detects=False, predicts=True)),
    "electric": Objective(electric, judges="noise"),
}
"""By `ObjectiveConfig.name`."""


def find(name: str) -> Objective:
    """The objective of that name; raises UserError where there is none."""
    if name not in OBJECTIVES:
        raise UserError(f"objective.name: {name!r} is none of {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name]
