"""Where dropout is applied, at which rate, and that no two masks are drawn from one seed."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from electra_jax.config import ModelConfig, ObjectiveConfig, TowerConfig
from electra_jax.model import Electra, Tokens, attention, encoder, heads, residual
from electra_jax.model.heads import SUMMARY_DROPOUT
from electra_jax.model.layers import Words
from electra_jax.model.task import HeadKind, TaskModel
from electra_jax.objectives.corruption import draw_keys
from electra_jax.objectives.masking import SpecialTokens
from electra_jax.objectives.registry import OBJECTIVES

HIDDEN, WEIGHTS, LAYERS, BATCH, LENGTH, PICKS = 0.25, 0.125, 2, 3, 10, 4
CONFIG = ModelConfig(
    vocab_size=60,
    embedding_size=16,
    max_position_embeddings=24,
    hidden_dropout_prob=HIDDEN,
    attention_probs_dropout_prob=WEIGHTS,
    discriminator=TowerConfig(LAYERS, hidden_size=24, num_attention_heads=3, intermediate_size=40),
    generator=TowerConfig(LAYERS, hidden_size=8, num_attention_heads=2, intermediate_size=20),
)
TOKENS = Tokens.of(np.arange(BATCH * LENGTH).reshape(BATCH, LENGTH))
POSITIONS = jnp.array([[1, 2, 3, 4]] * BATCH)
Sites = list[tuple[str, float, tuple[int, ...], np.ndarray]]
"""What is dropped, at which rate, its shape and the seeds [B, 2], or the first of their words."""


@pytest.fixture
def sites(monkeypatch: pytest.MonkeyPatch) -> Sites:
    """Every mask that is drawn while nothing is compiled."""
    found: Sites = []

    def watch(module: Any, name: str, arguments: Callable) -> None:
        function = getattr(module, name)

        def watched(*given: Any) -> Any:
            x, seed, rate = arguments(*given)
            if seed is not None and rate > 0:
                pairs = np.stack([a[:, 0] for a in seed], 1) if isinstance(seed, Words) else np.asarray(seed)
                found.append((name, rate, x.shape, pairs))
            return function(*given)

        monkeypatch.setattr(module, name, watched)

    for module in (encoder, residual, heads):
        watch(module, "dropout", lambda x, seed, rate: (x, seed, rate))
    watch(attention, "attend", lambda rate, query, key, value, attended, seed: (query, seed, rate))
    return found


def of_encoder(width: int, embedded: int, last: int = LENGTH) -> Counter:
    """Of the embeddings, and in each layer of attention's weights, its output and the feed-forward's output."""
    expected = Counter({("dropout", HIDDEN, (BATCH, LENGTH, embedded)): 1})
    heads, size = {8: (2, 4), 24: (3, 8)}[width]
    for positions in [LENGTH] * (LAYERS - 1) + [last]:
        expected["attend", WEIGHTS, (BATCH, positions, heads, size)] += 1
        expected["dropout", HIDDEN, (BATCH, positions, width)] += 2
    return expected


def check(sites: Sites, *expected: Counter) -> None:
    assert Counter(site[:3] for site in sites) == sum(expected, Counter())
    seeds = np.concatenate([site[3] for site in sites])
    assert len(np.unique(seeds, axis=0)) == BATCH * len(sites)


@pytest.mark.parametrize("kind", ["masked-lm", "two-tower"])
def test_towers_drop_what_berts_layers_do(sites: Sites, kind: str) -> None:
    model = Electra(replace(CONFIG, generator_kind=kind), rngs=nnx.Rngs(0))  # type: ignore[arg-type]
    keys = draw_keys(jax.random.key(1), BATCH, dropout=True)
    with jax.disable_jit():
        model.states(TOKENS, POSITIONS, keys.generator)
        model.discriminate(TOKENS, keys.discriminator)
    generator = [of_encoder(8, 16)] * 2 if kind == "two-tower" else [of_encoder(8, 16, PICKS)]
    check(sites, *generator, of_encoder(24, 16))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_drops_in_each_tower_that_it_trains(sites: Sites, name: str) -> None:
    kind, parts = "two-tower" if name == "electric" else "masked-lm", OBJECTIVES[name].parts
    model = Electra(replace(CONFIG, generator_kind=kind), parts=parts, rngs=nnx.Rngs(0))  # type: ignore[arg-type]
    config, special = ObjectiveConfig(name=name, mask_prob=PICKS / LENGTH), SpecialTokens(cls=57, sep=58, mask=59)
    with jax.disable_jit():
        OBJECTIVES[name].loss(model, TOKENS, jax.random.key(1), special, config, dropout=True)
    generator = [of_encoder(8, 16)] * 2 if name == "electric" else [of_encoder(8, 16, PICKS)] * parts.generator
    check(sites, *generator, of_encoder(24, 16, PICKS if name in ("mlm", "replace-mlm") else LENGTH))


HEADS: dict[HeadKind, dict] = {
    "sequence": {("dropout", HIDDEN, (BATCH, 24)): 2},
    "token": {("dropout", HIDDEN, (BATCH, LENGTH, 24)): 1},
    "span": {},
    "choice": {("dropout", SUMMARY_DROPOUT, (BATCH, 24)): 1},
}


@pytest.mark.parametrize("kind", HEADS)
def test_heads_of_tasks_drop_what_those_of_transformers_do(sites: Sites, kind: HeadKind) -> None:
    model = TaskModel(CONFIG.tower("discriminator"), kind, 2, rngs=nnx.Rngs(0))
    with jax.disable_jit():
        model(TOKENS, jax.random.key(1))
    check(sites, of_encoder(24, 16), Counter(HEADS[kind]))


def test_without_a_key_nothing_is_dropped(sites: Sites) -> None:
    model = TaskModel(CONFIG.tower("discriminator"), "sequence", 2, rngs=nnx.Rngs(0))
    with jax.disable_jit():
        model(TOKENS)
    assert sites == []
