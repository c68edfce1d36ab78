"""Every objective by its name: a new one is a file, a line here, and its name in `ObjectiveConfig.name`."""

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Array, Float

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
