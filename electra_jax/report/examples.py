"""Held-out rows as both towers read them: what was masked, what the generator wrote, what the discriminator said."""

import dataclasses
import math
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from electra_jax.config import PretrainConfig
from electra_jax.data.batches import Batch, eval_batches
from electra_jax.data.manifest import Manifest, read_manifests, same_rows
from electra_jax.data.rows import open_rows
from electra_jax.data.tokenizer import load_tokenizer, vocabulary
from electra_jax.errors import UserError
from electra_jax.hub.names import flat
from electra_jax.model import Electra
from electra_jax.model.kernels import anywhere
from electra_jax.objectives.corruption import corrupt, draw_keys
from electra_jax.objectives.masking import SpecialTokens, at
from electra_jax.objectives.registry import find
from electra_jax.train.optimizer import Params
from electra_jax.train.run import CONFIG, TOKENIZER, restore_params
from electra_jax.train.step import abstract_params, graph_of, read_tokens, step_key


class Judged(NamedTuple):
    """Rows and what became of them."""

    original: Int[np.ndarray, "B L"]
    real: Bool[np.ndarray, "B L"]
    """False at padding."""
    picked: Bool[np.ndarray, "B L"]
    """Tokens that the generator predicts."""
    masked: Int[np.ndarray, "B L"]
    """What the generator reads."""
    corrupted: Int[np.ndarray, "B L"]
    """What the discriminator reads."""
    probability: Float[np.ndarray, "B L"]
    """The discriminator's, that the token was replaced; NaN where the objective does not ask."""


class Token(NamedTuple):
    """A token of a row, as the discriminator reads it."""

    text: str
    probability: float | None
    """Of having been replaced, as the discriminator has it; None where the objective does not ask."""
    original: str | None = None
    """What stood there, where the generator wrote the token; the same, where it hit."""
    masked: bool = False
    """Whether the generator read [MASK] there."""


class Examples(NamedTuple):
    """Rows of a checkpoint."""

    step: int
    rows: list[list[Token]]


def judge(config: PretrainConfig, params: Params, batch: Batch, special: SpecialTokens) -> Judged:
    """What an evaluation does to the first rows of its first batch: the same masks and samples, no dropout."""
    graph, objective = graph_of(config), config.objective

    @jax.jit
    def compute(params: Params, batch: Batch) -> tuple[Array, ...]:
        model: Electra = nnx.merge(graph, params)
        tokens = read_tokens(batch)
        keys = draw_keys(step_key(config.seed, jnp.int32(0)), len(tokens.ids), dropout=False)
        made = corrupt(model, tokens, keys, special, objective)
        picked = at(made.picks, tokens)
        judged = picked if find(objective.name).judges == "picks" else tokens.mask
        probability = jnp.where(judged, jax.nn.sigmoid(model.discriminate(made.tokens)), jnp.nan)
        read = made.masked if config.model.generator_kind == "masked-lm" else tokens
        return tokens.ids, tokens.mask, picked, read.ids, made.tokens.ids, probability

    return Judged(*jax.device_get(compute(params, batch)))


def read_examples(run: Path, config: PretrainConfig, number: int) -> Examples:
    """So many held-out rows, as the run's newest checkpoint corrupts and judges them.

    Raises UserError where there is no checkpoint, where the rows are not there any more, and for an objective whose
    discriminator does not tell replaced tokens.
    """
    asked = find(config.objective.name)
    if not (asked.parts.generator and asked.parts.detects) or asked.judges == "noise":
        raise UserError(f"objective.name: {config.objective.name} trains no model to tell replaced tokens")
    batch, special = _read_rows(run, config, number)
    step, params = restore_params(run)
    if shapes(params) != shapes(abstract_params(config)):
        raise UserError(f"{run / CONFIG}: its model is another than that of checkpoint {step}")
    config = dataclasses.replace(config, compute=anywhere(config.compute))
    found = judge(config, params, batch, special)
    names = vocabulary(load_tokenizer(run / TOKENIZER))
    return Examples(step, [_tokens(found, row, names) for row in range(len(found.original))])


def shapes(params: Params) -> dict[str, tuple[int, ...]]:
    """Of each parameter, by its path."""
    return {path: leaf.shape for path, leaf in flat(params).items()}


def _read_rows(run: Path, config: PretrainConfig, number: int) -> tuple[Batch, SpecialTokens]:
    """The first held-out rows."""
    manifests = tuple(Manifest.read(folder) for folder in config.data)
    if not same_rows(read_manifests(run), manifests):
        raise UserError(f"{', '.join(map(str, config.data))}: holds other rows than this run was trained on")
    held_out = open_rows(config.data, "eval")
    if not len(held_out):
        raise UserError(f"{', '.join(map(str, config.data))}: holds no held-out rows")
    rows = min(number, len(held_out), config.batch_size, config.eval_rows)
    batch = next(eval_batches(held_out, config.batch_size, config.eval_rows))
    manifest = manifests[0]
    special = SpecialTokens(manifest.cls_id, manifest.sep_id, manifest.mask_id)
    return {name: column[:rows] for name, column in batch.items()}, special


def _tokens(found: Judged, row: int, names: list[str]) -> list[Token]:
    def name(ids: np.ndarray, position: int) -> str:
        token = int(ids[row, position])
        return names[token] if token < len(names) else f"[{token}]"  # a model may have room for more

    def token(position: int) -> Token:
        text, judged = name(found.corrupted, position), float(found.probability[row, position])
        probability = None if math.isnan(judged) else round(judged, 4)
        if not found.picked[row, position]:
            return Token(text, probability)
        was_masked = bool(found.masked[row, position] != found.original[row, position])
        return Token(text, probability, name(found.original, position), was_masked)

    return [token(int(position)) for position in np.flatnonzero(found.real[row])]
