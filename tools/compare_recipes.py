"""Would another recipe of fine-tuning order the objectives otherwise? What compare_objectives pretrained, by each.

    python tools/compare_recipes.py FOLDER [--flops 1e14] [--seeds 0 1] [--docs docs]

Takes the arguments of tools/compare_objectives.py and pretrains what it has not. Fine-tunes each run, and what runs
start from, by every recipe of GRID, on as many labelled reviews, and writes a table of the accuracy on the test reviews
with, for each objective, that of the recipe whose mean over the seeds is best on the development reviews. What is done
is not done again, so the command goes on where it was stopped.
"""

import statistics

import tyro
from compare_objectives import ARMS, LABELS, START_RECIPES, Arguments, cell, make_ready, models_of
from compare_pretraining import DEVELOPMENT, GRID, TEST, Recipe, tune
from rich.console import Console

from electra_jax.files import write_text

Tuned = dict[str, list[float]]
"""Accuracy on the "development" and on the "test" reviews, a score for each seed."""


def main(given: Arguments) -> None:
    """Run what is missing, and write the table."""
    console = Console()
    given.docs.mkdir(parents=True, exist_ok=True)
    training = make_ready(given)
    found: dict[str, dict[Recipe, Tuned]] = {}
    for name in (*ARMS[given.arms], *START_RECIPES):
        found[name] = {recipe: {"development": [], "test": []} for recipe in GRID}
        for seed in given.seeds:
            arm, path = models_of(name, seed, given, console).popitem()[1]
            for recipe, tuned in found[name].items():
                scores = tune(given.folder, arm, path, recipe, training, LABELS, seed, console)
                for reviews, score in scores.items():
                    tuned[reviews].append(score)
    text = table(given, found)
    write_text(given.docs / f"{given.arms}-recipes-{given.flops:g}.md", text)
    console.print(text, highlight=False, soft_wrap=True)


def table(given: Arguments, found: dict[str, dict[Recipe, Tuned]]) -> str:
    """By run and recipe: accuracy on the test reviews; last, of the recipe that the development reviews chose."""
    recipes = [f"{recipe.learning_rate:g}, {recipe.layer_decay:g}" for recipe in GRID]
    rows = [["run", *recipes, "chosen"], ["---"] * (len(recipes) + 2)]
    for name, by_recipe in found.items():
        chosen = max(by_recipe.values(), key=lambda tuned: statistics.mean(tuned["development"]))
        rows.append([name, *(cell(tuned["test"]) for tuned in (*by_recipe.values(), chosen))])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    about = (
        f"Accuracy in percent on {TEST:,} test reviews after fine-tuning on {LABELS:,} by each learning rate and layer "
        f"decay; the last column is of those that do best on {DEVELOPMENT:,} development reviews, by the mean of the "
        "seeds. Of several seeds the mean (lowest to highest)."
    )
    title = f"Runs of {given.flops:.2g} floating-point operations, seeds {', '.join(map(str, given.seeds))}."
    return "\n".join([title, "", *lines, "", about, ""])


if __name__ == "__main__":
    main(tyro.cli(Arguments))
