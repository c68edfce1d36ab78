"""How likely a text is: what a discriminator that was pretrained by Electric's objective has learned to say."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from electra_jax.errors import UserError
from electra_jax.finetuning.texts import read_texts
from electra_jax.hub.configs import FILE_NAME, read_objective
from electra_jax.hub.source import local_folder


@dataclass(frozen=True)
class Score:
    """A text's tokens without [CLS] and [SEP], each with log p(token | the others) in nats, up to a constant."""

    text: str
    tokens: tuple[str, ...]
    log_likelihoods: tuple[float, ...]

    @property
    def total(self) -> float:
        """The text's pseudo-log-likelihood (Clark et al., 2020, "Electric", section 4.2), which ranks texts."""
        return sum(self.log_likelihoods)


def score(model: str | Path, texts: Sequence[str]) -> list[Score]:
    """The pseudo-log-likelihood of each text, by the Electric model in a folder, or of that name on the hub.

    One pass over a text, where a masked language model takes one for each token. Raises UserError for a model of
    another objective, and for a text that is empty or longer than the model's positions; TypeError for one text in
    place of several.
    """
    folder = local_folder(model)
    objective = read_objective(folder)
    if objective != "electric":
        found = f"pretraining_objective is {objective}" if objective else "has no pretraining_objective"
        raise UserError(f"{folder / FILE_NAME}: {found}; only a discriminator of electric scores texts")
    return [Score(one.text, one.tokens, tuple((-one.logits).tolist())) for one in read_texts(folder, texts)]
