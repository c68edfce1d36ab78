"""Is this a run that can be made? Asked before anything is written."""

import math
import platform
from collections.abc import Callable, Sequence
from operator import attrgetter
from pathlib import Path

import jax
import jaxlib
from jax.sharding import Mesh

from electra_jax.config import ComputeConfig, PretrainConfig, TowerConfig
from electra_jax.data.manifest import Manifest
from electra_jax.errors import UserError
from electra_jax.model.kernels import has_triton
from electra_jax.objectives.registry import OBJECTIVES, find
from electra_jax.presets import check_types
from electra_jax.train.checkpoint import check_place
from electra_jax.train.library import can_take_onednn
from electra_jax.train.models import LEARNED
from electra_jax.train.processes import parse_time

POSITIVE = (
    "length",
    "batch_size",
    "accumulate",
    "max_bad_steps",
    "steps",
    "log_every",
    "eval_every",
    "eval_rows",
    "checkpoint_every",
    "checkpoints_kept",
    "model.vocab_size",
    "model.embedding_size",
    "model.max_position_embeddings",
    "model.discriminator.hidden_size",
    "model.discriminator.intermediate_size",
    "model.generator.hidden_size",
    "model.generator.intermediate_size",
)

FINITE: dict[str, tuple[str, Callable[[float], bool]]] = {
    "above 0": ("optimizer.eps optimizer.clip_norm objective.temperature model.layer_norm_eps", lambda x: x > 0),
    "of at least 0": (
        "optimizer.learning_rate optimizer.warmup_steps optimizer.power optimizer.weight_decay "
        "objective.generator_weight objective.discriminator_weight objective.adversarial_weight "
        "model.initializer_range",
        lambda x: x >= 0,
    ),
    "from 0 to below 1": (
        "ema_decay optimizer.b1 optimizer.b2 model.hidden_dropout_prob model.attention_probs_dropout_prob",
        lambda x: 0 <= x < 1,
    ),
    "from 0 to 1": ("objective.mask_token_prob", lambda x: 0 <= x <= 1),
}
"""What numbers must be, and which of the settings they are."""

SHARED = ("tokenizer_hash", "vocab_size", "length", "packed", "pad_id", "unk_id", "cls_id", "sep_id", "mask_id")
"""What the manifests of folders that are trained on together agree in."""

PADDED = 128
"""Of what largest number a model's entries are a multiple, where it has more than its tokenizer."""


def check(config: PretrainConfig, manifests: Sequence[Manifest]) -> None:
    """Raise UserError for settings that no run can have, or that don't fit the data (`manifests`, of each folder)."""
    check_settings(config)
    check_place(config.out)
    check_compute(config.compute)
    _check_data(config, manifests)


def check_settings(config: PretrainConfig) -> None:
    """Raise UserError for settings that no run can have, whatever its data and devices."""
    check_types(config)
    for name in POSITIVE:
        value = attrgetter(name)(config)
        _require(value > 0, f"{name}: {value} is not above 0")
    _require(config.steps < 2**31, f"steps: {config.steps} are more than 2**31 - 1; give fewer")
    for wanted, (names, holds) in FINITE.items():
        for name in names.split():
            value = attrgetter(name)(config)
            _require(math.isfinite(value) and holds(value), f"{name}: {value} is not a number {wanted}")
    _require(
        not config.keep_best or config.checkpoint_every % config.eval_every == 0,
        f"keep_best: checkpoint_every {config.checkpoint_every} is no multiple of eval_every {config.eval_every}",
    )
    _require(
        config.init_from is None or config.word_start == "random",
        f"word_start: {config.word_start}, and init_from has a word table; give one of the two",
    )
    if config.max_time is not None:
        parse_time(config.max_time)
    _require(0 <= config.seed < 2**32, f"seed: {config.seed} is not between 0 and 2**32 - 1")
    for name, tower in (("discriminator", config.model.discriminator), ("generator", config.model.generator)):
        _check_tower(f"model.{name}", tower)
    types = config.model.type_vocab_size
    _require(types > 1, f"model.type_vocab_size: {types}, and rows have two segments")
    _check_sharing(config)
    _check_objective(config)


def check_mesh(config: PretrainConfig, mesh: Mesh) -> None:
    """Raise UserError where the batch or the model does not divide over the devices."""
    parts = mesh.size * config.accumulate
    _require(
        config.batch_size % parts == 0,
        f"batch_size: {config.batch_size} rows do not divide over {mesh.size} devices and {config.accumulate} "
        f"accumulated parts; take a multiple of {parts}",
    )
    split = mesh.shape["fsdp"]
    widths = {"embedding_size": config.model.embedding_size}
    for name in ("discriminator", "generator"):
        tower: TowerConfig = getattr(config.model, name)
        widths |= {f"{name}.{size}": getattr(tower, size) for size in ("hidden_size", "intermediate_size")}
    for name, width in widths.items():
        _require(width % split == 0, f"mesh: fsdp={split} does not divide model.{name}, {width}")


def _check_tower(name: str, tower: TowerConfig) -> None:
    heads, width = tower.num_attention_heads, tower.hidden_size
    _require(heads > 0 and width % heads == 0, f"{name}: hidden_size {width} does not divide over {heads} heads")
    _require(tower.num_hidden_layers > 0, f"{name}: num_hidden_layers {tower.num_hidden_layers} is not above 0")


def _check_sharing(config: PretrainConfig) -> None:
    model, kind = config.model, config.model.generator_kind
    if model.tie == "all":
        _require(
            model.generator == model.discriminator,
            "model.tie: all takes towers of the same size; give model.generator the sizes of model.discriminator",
        )
        _require(kind == "masked-lm", f"model.tie: all takes generator_kind masked-lm, not {kind}; give embeddings")
    _require(
        model.tie != "gdes" or config.optimizer.name != "lamb",
        "model.tie: gdes has tables that start from 0, where lamb would hold them; give adam or adamw, or embeddings",
    )
    name = config.objective.name
    for part, trains in ((kind, kind in LEARNED), (name, find(name).parts.generator)):
        _require(
            model.tie != "gdes" or trains,
            f"model.tie: gdes takes a generator that trains the tables, and {part} has none; give embeddings",
        )


def check_compute(compute: ComputeConfig) -> None:
    """Raise UserError for a way to compute that there isn't, or that these devices don't have."""
    check_types(compute)
    backend, dtype = jax.default_backend(), compute.dtype
    here = f"and bfloat16, and here are {backend} and {dtype}; give auto"
    _require(
        compute.attention != "cudnn" or (backend == "gpu" and dtype == "bfloat16"),
        f"compute.attention: cudnn takes an NVIDIA GPU {here}",
    )
    for name in ("attention", "layer_norm"):
        _require(
            getattr(compute, name) != "triton" or has_triton(dtype),
            f"compute.{name}: triton takes an NVIDIA GPU since Ampere {here}",
        )
    _require(
        compute.products != "onednn" or can_take_onednn(compute),
        "compute.products: onednn takes an x86 CPU (for compute.dtype bfloat16 with AMX, or AMD's since Zen 4), a "
        f"jaxlib that has it, and a compute.remat that doesn't name products (dots), and here are {backend} "
        f"({platform.machine()}), jaxlib {jaxlib.__version__}, {dtype} and {compute.remat}; give auto",
    )


def _check_objective(config: PretrainConfig) -> None:
    objective = config.objective
    chosen = find(objective.name)
    _require(0 < objective.mask_prob < 1, f"objective.mask_prob: {objective.mask_prob} is not between 0 and 1")
    _require(
        objective.adversarial_weight == 0 or chosen.adversarial,
        f"objective.adversarial_weight: {objective.name} has no discriminator to fool; give "
        + " or ".join(name for name, other in OBJECTIVES.items() if other.adversarial),
    )
    _require(
        objective.adversarial_weight == 0 or not objective.disallow_correct,
        "objective.adversarial_weight: its gradient is of all samples; give disallow_correct false",
    )
    _require(
        objective.adversarial_weight == 0 or config.model.generator_kind != "uniform",
        "objective.adversarial_weight: a uniform generator learns nothing; give another model.generator_kind",
    )
    if chosen.judges == "noise":
        _require(
            config.model.generator_kind != "masked-lm",
            f"model.generator_kind: {objective.name} asks for the probability of every token, which masked-lm can't "
            "tell without masking it; give two-tower",
        )
        _require(
            objective.temperature == 1 and not objective.disallow_correct,
            f"objective.temperature: {objective.name} takes samples of the generator's own distribution; give 1, and "
            "disallow_correct false",
        )
    slots = objective.slots(config.length)
    _require(slots > 0, f"length: of {config.length} tokens none is masked at mask_prob {objective.mask_prob}")
    positions = config.model.max_position_embeddings
    _require(
        config.length <= positions,
        f"length: {config.length} tokens, and the model has {positions} positions; "
        f"give a shorter length or a larger model.max_position_embeddings",
    )


def _check_data(config: PretrainConfig, manifests: Sequence[Manifest]) -> None:
    folders, weights = config.data, config.data_weights
    _require(len(folders) > 0, "data: no folder is given; name at least one that `electra-jax prepare` wrote")
    _require(
        len(weights) in (0, len(folders)),
        f"data_weights: {len(weights)} for {len(folders)} folders; give one for each folder of data, or none",
    )
    for weight in weights:
        _require(0 < weight < math.inf, f"data_weights: {weight} is not a number above 0")
    _require(
        not config.keep_best or any(manifest.eval.rows for manifest in manifests),
        f"keep_best: {', '.join(map(str, folders))} have no held-out rows; prepare them with a larger held_out",
    )
    _check_folder(config, folders[0], manifests[0])
    for folder, manifest in zip(folders[1:], manifests[1:], strict=True):
        for name in SHARED:
            ours, first = getattr(manifest, name), getattr(manifests[0], name)
            _require(
                ours == first,
                f"{folder}: its {name} is {ours}, and that of {folders[0]} is {first}; prepare both with the same "
                f"tokenizer, length and pack",
            )


def _check_folder(config: PretrainConfig, folder: Path, manifest: Manifest) -> None:
    _require(
        manifest.length == config.length,
        f"{folder}: its rows have {manifest.length} tokens, and length is {config.length}; "
        f"give --length {manifest.length}, or prepare the text again with --length {config.length}",
    )
    _require(
        0 <= config.model.vocab_size - manifest.vocab_size < PADDED,
        f"{folder}: its tokenizer has {manifest.vocab_size} entries, and model.vocab_size is "
        f"{config.model.vocab_size}; give --model.vocab-size {manifest.vocab_size}, or prepare the text with the "
        f"model's tokenizer",
    )
    _require(
        manifest.pad_id == config.model.pad_token_id,
        f"{folder}: its [PAD] is {manifest.pad_id}; give --model.pad-token-id {manifest.pad_id}",
    )


def _require(holds: bool, line: str) -> None:
    if not holds:
        raise UserError(line)
