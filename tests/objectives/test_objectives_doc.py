"""docs/objectives.md says how to write an objective: its example is run."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import micro
import pytest

from electra_jax.config import PretrainConfig
from electra_jax.objectives.registry import OBJECTIVES
from electra_jax.train.pretrain import pretrain

PAGE = (Path(__file__).parents[2] / "docs" / "objectives.md").read_text(encoding="utf-8")


@pytest.fixture
def example() -> Iterator[str]:
    """The name that the page's example registers."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    before = set(OBJECTIVES)
    exec(code, {})
    (name,) = OBJECTIVES.keys() - before
    yield name
    del OBJECTIVES[name]


def test_the_pages_example_is_an_objective_that_learns(finished: PretrainConfig, tmp_path: Path, example: str) -> None:
    config = replace(finished, out=tmp_path / "run", objective=replace(finished.objective, name=example))

    pretrain(config)

    first, last = (line for line in micro.records(config.out) if line["kind"] == "eval")
    assert last["loss"] < first["loss"]
    assert last["discriminator_loss"] > micro.records(finished.out)[-1]["discriminator_loss"]


def test_the_page_names_every_objective() -> None:
    assert re.findall(r"^\| `([\w-]+)` \|", PAGE, re.MULTILINE) == list(OBJECTIVES)
