"""Runs to Hugging Face folders, and back; and from the original release's checkpoints."""

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import tomli_w
from rich.console import Console
from transformers import PreTrainedTokenizerFast

from electra_jax.config import ModelConfig, ObjectiveConfig, TensorflowConfig
from electra_jax.data.manifest import read_manifests
from electra_jax.data.tokenizer import fitting, holds_tokenizer, load_tokenizer, load_vocabulary, save_tokenizer
from electra_jax.errors import RunError, UserError, first_line
from electra_jax.files import check_absent, new_folder, write_text
from electra_jax.hub.card import model_card
from electra_jax.hub.configs import pair_config
from electra_jax.hub.configs import read_objective as pretraining_objective
from electra_jax.hub.folders import read_model as read_folder
from electra_jax.hub.folders import write_model
from electra_jax.hub.names import Kind, flat
from electra_jax.hub.source import local_folder
from electra_jax.hub.tensorflow import find_checkpoint, find_vocabulary, read_variables, to_pair
from electra_jax.report.sinks import read_metrics
from electra_jax.train.checkpoint import Checkpoints, check_place
from electra_jax.train.models import single_models
from electra_jax.train.optimizer import Params
from electra_jax.train.run import (
    CHECKPOINTS,
    CONFIG,
    MANIFEST,
    METRICS,
    TOKENIZER,
    read_model,
    read_objective,
    restore_params,
)


class Imported(NamedTuple):
    """The pair, or the discriminator alone, and what is known of it."""

    model: ModelConfig
    params: Params
    tokenizer: PreTrainedTokenizerFast | None
    objective: str = ObjectiveConfig.name


def export(run: str | Path, out: str | Path, step: int | None = None) -> list[Path]:
    """Write `out`/discriminator and `out`/generator, which transformers loads; returns their folders.

    An encoder that was trained to predict tokens goes to `out`/encoder, as a masked language model. A generator that
    transformers has no class for is left out.

    Each has config.json, model.safetensors, the tokenizer and a model card. `step` is that of a checkpoint, the newest
    unless named. Raises UserError where `run` is no run, has no such checkpoint, or `out` already holds something.
    """
    run, out = Path(run), Path(out)
    check_absent(out)
    model = read_model(run)
    step, params = restore_params(run, step)
    models, objective = single_models(params), read_objective(run)
    tokenizer = run / TOKENIZER if (run / TOKENIZER).is_dir() else None
    with new_folder(out) as scratch:
        for name, (kind, own) in models.items():
            folder, config = scratch / name, model.tower("generator" if name == "generator" else "discriminator")
            folder.mkdir()
            card = model_card(f"{out.name}/{name}", name, config, objective=objective, **_story(run, step))
            write_model(folder, kind, config, own, tokenizer, card, objective=objective)
    return [out / name for name in models]


def import_pretrained(
    discriminator: str | Path,
    out: str | Path,
    generator: str | Path | None = None,
    tensorflow: TensorflowConfig = TensorflowConfig(),
    console: Console | None = None,
) -> Path:
    """Write the folder `out`, which `PretrainConfig.init_from` takes, of released weights.

    `discriminator` is a Hugging Face folder or a name on the hub, and so is `generator`; or it is a TensorFlow
    checkpoint of google-research/electra (its prefix, or its folder), which holds both. Without a generator, a run that
    starts from it draws a new one; `console` is told of one that a checkpoint lacks. Raises UserError where there is no
    such model, where a pair does not share its embeddings, and where `out` already holds something.
    """
    out = Path(out)
    check_absent(out)
    check_place(out)
    checkpoint = find_checkpoint(discriminator)
    if checkpoint is not None:
        if generator is not None:
            raise UserError(f"{generator}: {checkpoint} is a checkpoint with both towers; leave --generator out")
        imported = _read_checkpoint(checkpoint, tensorflow, console or Console(stderr=True))
    else:
        if tensorflow != TensorflowConfig():
            raise UserError(f"{discriminator}: is no TensorFlow checkpoint; leave the --tensorflow options out")
        imported = _read_folders(discriminator, generator, console or Console(stderr=True))
    with new_folder(out) as scratch:
        write_text(scratch / CONFIG, _settings(imported))
        if imported.tokenizer is not None:  # in the form that every version of transformers reads
            (scratch / TOKENIZER).mkdir()
            save_tokenizer(imported.tokenizer, scratch / TOKENIZER)
        try:
            with Checkpoints(scratch / CHECKPOINTS) as checkpoints:
                checkpoints.save(0, {"step": np.zeros((), np.int32), "params": imported.params})
        except RunError as error:  # which names the scratch folder
            raise RunError(f"{out}: can't be written: {first_line(error.__cause__ or error)}") from error
    return out


def _read_folders(discriminator: str | Path, generator: str | Path | None, console: Console) -> Imported:
    source = local_folder(discriminator)
    config, params = read_folder(source, "discriminator")
    pair: Params = {"embeddings": params.pop("embeddings"), "discriminator": params}
    model = pair_config(config, config)
    if generator is not None:
        generator_config, generator_params = read_folder(local_folder(generator), "generator")
        model = pair_config(config, generator_config)
        _check_shared(pair["embeddings"], generator_params.pop("embeddings"), discriminator, generator)
        if model.generator == model.discriminator and _equal(generator_params["encoder"], params["encoder"]):
            model = replace(model, tie="all")
            del generator_params["encoder"]
        pair["generator"] = generator_params
    objective = pretraining_objective(source) or ObjectiveConfig.name
    if not holds_tokenizer(source):
        console.print(f"{source}: holds no tokenizer; imported without one", soft_wrap=True)
        return Imported(model, pair, None, objective)
    return Imported(model, pair, fitting(load_tokenizer(source), model.vocab_size, source), objective)


def _read_checkpoint(checkpoint: Path, settings: TensorflowConfig, console: Console) -> Imported:
    model, pair, left_out = to_pair(read_variables(checkpoint), checkpoint, settings.heads)
    if left_out is not None:
        console.print(f"{checkpoint}: {left_out}; the discriminator alone is imported", soft_wrap=True)
    vocabulary = settings.vocab or find_vocabulary(checkpoint)
    if vocabulary is None:
        console.print(f"{checkpoint}: no vocab.txt is beside it; imported without a tokenizer", soft_wrap=True)
        return Imported(model, pair, None)
    length = model.max_position_embeddings
    tokenizer = load_vocabulary(vocabulary, settings.lowercase, settings.strip_accents, length)
    return Imported(model, pair, fitting(tokenizer, model.vocab_size, vocabulary))


def _story(run: Path, step: int) -> dict[str, Any]:
    """What the model card tells of a run up to `step`; nothing of imported weights."""
    if not (run / MANIFEST).is_file():
        return {}
    records = [record for record in read_metrics(run / METRICS) if record["step"] <= step]
    held_out = [_figures(record) for record in records if record["kind"] == "eval"]
    return {
        "manifests": [asdict(manifest) for manifest in read_manifests(run)],
        "recipe": _recipe(run),
        "curve": held_out,
        "metrics": held_out[-1] if held_out else None,
    }


def _recipe(run: Path) -> str:
    """The run's settings as TOML, without the names of its maker's folders."""
    table = tomllib.loads((run / CONFIG).read_text(encoding="utf-8"))
    return tomli_w.dumps({name: value for name, value in table.items() if name not in ("data", "out", "init_from")})


def _figures(record: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in record.items() if name != "kind"}


def _settings(imported: Imported) -> str:
    """config.toml of imported weights: the shapes of the towers that there are, and what they learned."""
    table = asdict(imported.model)
    for kind in get_args(Kind):
        if kind not in imported.params:
            del table[kind]
    return tomli_w.dumps({"model": table, "objective": {"name": imported.objective}})


def _check_shared(ours: Params, theirs: Params, discriminator: str | Path, generator: str | Path) -> None:
    """Raise UserError where the two models' embeddings differ: here a pair is trained over one set of them."""
    for name in ours:
        if not _equal(ours[name], theirs[name]):
            raise UserError(
                f"{generator}: its embeddings ({name}) are not those of {discriminator}, and a pair shares them; "
                f"import the discriminator alone, or start from their run if they are of one (model.tie none or gdes)"
            )


def _equal(ours: Any, theirs: Any) -> bool:
    """Of two trees of arrays."""
    ours, theirs = flat(ours), flat(theirs)
    return ours.keys() == theirs.keys() and all(np.array_equal(ours[name], theirs[name]) for name in ours)
