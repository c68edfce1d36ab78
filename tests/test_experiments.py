"""The settings of the experiments in tools/, which take hours: that each is one which a run can have."""

import sys
from pathlib import Path

import pytest

from electra_jax.data.manifest import Manifest, SplitManifest
from electra_jax.objectives.registry import OBJECTIVES, Objective
from electra_jax.train.check import check

sys.path.append(str(Path(__file__).parent.parent / "tools"))
import compare_recipes
import sick_runs
from compare_objectives import ARMS, POINTS, START_RECIPES, Arguments, config_of, read_scores, report, write_scores
from rich.console import Console

ROWS = SplitManifest(10_000, 10_000, 900_000, 880_000, 0, 0.06, "0")
MANIFEST = Manifest(
    sources=("reviews.txt",),
    tokenizer_hash="0",
    vocab_size=16_000,
    pad_id=0,
    unk_id=1,
    cls_id=2,
    sep_id=3,
    mask_id=4,
    length=96,
    seed=0,
    train=ROWS,
    eval=ROWS,
)


@pytest.mark.parametrize(("arms", "name"), [(arms, name) for arms, some in ARMS.items() for name in some])
def test_an_arm_is_a_run(arms: str, name: str, tmp_path: Path) -> None:
    check(config_of(name, 0, Arguments(tmp_path, arms=arms)), [MANIFEST])


def test_runs_of_each_length_have_a_table(tmp_path: Path) -> None:
    given = Arguments(tmp_path, docs=tmp_path)
    of_all = {name: {0: dict.fromkeys(POINTS, 0.8)} for name in ARMS["objectives"]} | {
        name: {0: {0.0: 0.7}} for name in START_RECIPES
    }
    of_one = {"electra": {0: dict.fromkeys(POINTS, 0.9)}}
    write_scores(given, {2e13: of_all | {"mlm": {0: dict.fromkeys(POINTS, 0.6), 1: dict.fromkeys(POINTS, 0.1)}}})
    write_scores(given, read_scores(given) | {8e13: of_all, 9e14: of_one})

    report(given, read_scores(given), Console(quiet=True))

    text = (tmp_path / "objectives-scores.md").read_text()
    assert [line.split()[2] for line in text.splitlines() if line.startswith("Runs of")] == ["2e+13", "8e+13", "9e+14"]
    assert [line.split(" | ")[2:-1] for line in text.splitlines() if line.startswith("| mlm")] == [
        ["2", *["35.0 (10.0 to 60.0)"] * len(POINTS)],
        ["1", *["80.0"] * len(POINTS)],
        ["0", *[""] * len(POINTS)],
    ]
    assert (tmp_path / "objectives-scores.png").exists()


def test_development_reviews_choose_the_recipe(tmp_path: Path) -> None:
    worse = {"development": [0.7, 0.8], "test": [0.9, 0.9]}
    better = {"development": [0.9, 0.7], "test": [0.5, 0.6]}
    found = {"electra": dict(zip(compare_recipes.GRID, (worse, better, worse, worse), strict=True))}

    text = compare_recipes.table(Arguments(tmp_path), found)

    assert [line.split(" | ")[-1] for line in text.splitlines() if line.startswith("| electra")] == [
        "55.0 (50.0 to 60.0) |"
    ]


def test_sick_runs_are_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OBJECTIVES, "leaking", Objective(sick_runs.leaking))
    given = sick_runs.Arguments(tmp_path)
    for config in (sick_runs.first_stage(given), *sick_runs.make_runs(given).values()):
        check(config, [MANIFEST])
