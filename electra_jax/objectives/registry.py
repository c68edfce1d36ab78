"""Every objective by its name: a new one is a file, and a line here (docs/objectives.md has an example)."""

from collections.abc import Callable
from typing import NamedTuple

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


OBJECTIVES = {
    "electra": Objective(electra),
    "electra-15": Objective(electra_15),
    "replace-mlm": Objective(replace_mlm, Parts(detects=False, predicts=True)),
    "all-tokens-mlm": Objective(all_tokens_mlm, Parts(predicts=True)),
    "mlm": Objective(mlm, Parts(generator=False, detects=False, predicts=True)),
    "electric": Objective(electric),
}
"""By `ObjectiveConfig.name`."""


def find(name: str) -> Objective:
    """The objective of that name; raises UserError where there is none."""
    if name not in OBJECTIVES:
        raise UserError(f"objective.name: {name!r} is none of {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name]
