"""The models that a run trains together, each by itself."""

from typing import Any

import numpy as np

from electra_jax.config import ModelConfig, TowerConfig
from electra_jax.hub.names import Kind, Role
from electra_jax.train.optimizer import Params

LEARNED = ("masked-lm", "two-tower")
"""Kinds of generator that must be trained to be of use."""

Models = dict[Role, tuple[Kind, Params]]
"""By role, which names its folder: the kind of its head, and its parameters, "embeddings", "encoder" and "head"."""


def single_models(params: Params) -> Models:
    """Each model of a run's parameters that transformers has a class for, with what it shares.

    discriminator: the encoder that is kept and its replaced-token head. encoder: the same with the head that predicts
    tokens. generator: where it is a masked language model.
    """
    models: Models = {}
    kept = params["discriminator"]
    body = {"embeddings": discriminator_embeddings(params), "encoder": kept["encoder"]}
    if "head" in kept:
        models["discriminator"] = "discriminator", body | {"head": kept["head"]}
    if "lm_head" in kept:
        models["encoder"] = "generator", body | {"head": kept["lm_head"]}
    generator = params.get("generator", {})
    if "head" in generator and "before" not in generator:
        own = {"embeddings": params["embeddings"], "encoder": kept["encoder"]} | generator
        models["generator"] = "generator", own
    return models


def discriminator_embeddings(params: Params) -> Params:
    """The tables and the LayerNorm that the discriminator reads: with differences of its own, their sums."""
    shared, differences = params["embeddings"], params["discriminator"].get("embeddings")
    if differences is None:
        return shared
    tables: dict[str, Any] = {name: np.asarray(shared[name]) + differences[name] for name in shared if name != "norm"}
    return tables | {"norm": differences["norm"]}


def started_from_one(params: Params, model: ModelConfig, size: TowerConfig) -> Params:
    """What both towers of a run start from, of the parameters of one encoder of `size`.

    The discriminator starts from it; and if it was trained to predict tokens (objective mlm), so does a generator of
    its size: the second stage of two-stage training ([P] section 3.2).
    """
    embeddings, discriminator = discriminator_embeddings(params), dict(params["discriminator"])
    discriminator.pop("embeddings", None)  # differences, which are added now
    lm_head = discriminator.get("lm_head")
    started = {"embeddings": embeddings, "discriminator": discriminator}
    if model.tie == "gdes":
        discriminator["embeddings"] = {"norm": embeddings["norm"]}
    if lm_head is not None and model.generator_kind == "masked-lm" and model.generator == size:
        started["generator"] = {"embeddings": embeddings, "encoder": discriminator["encoder"], "head": lm_head}
    return started
