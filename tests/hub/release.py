"""A pair of ours as google-research/electra writes it: its names, spelled out, and what it keeps beside."""

from typing import Any

import numpy as np

SLOTS = ("adam_m", "adam_v")


def release_variables(params: dict[str, Any]) -> dict[str, np.ndarray]:
    """Variables of the checkpoint of a run with these parameters, optimizer and step among them."""
    discriminator, generator = params["discriminator"], params["generator"]
    named = {
        **_embeddings(params["embeddings"], "electra/embeddings"),
        **_encoder(discriminator["encoder"], "electra"),
        **_dense(discriminator["head"]["dense"], "discriminator_predictions/dense"),
        **_dense(discriminator["head"]["prediction"], "discriminator_predictions/dense_1"),
        **(_encoder(generator["encoder"], "generator") if "encoder" in generator else {}),
        **_dense(generator["head"]["dense"], "generator_predictions/dense"),
        **_norm(generator["head"]["norm"], "generator_predictions/LayerNorm"),
        "generator_predictions/output_bias": generator["head"]["bias"],
    }
    variables = {name: np.asarray(value) for name, value in named.items()}
    slots = {f"{name}/{slot}": np.full_like(value, 7) for name, value in variables.items() for slot in SLOTS}
    return variables | slots | {"global_step": np.int64(1000), "generator_predictions/temperature": np.float32(1)}


def _embeddings(params: dict[str, Any], scope: str) -> dict[str, Any]:
    return {
        f"{scope}/word_embeddings": params["word"],
        f"{scope}/position_embeddings": params["position"],
        f"{scope}/token_type_embeddings": params["type"],
        **_norm(params["norm"], f"{scope}/LayerNorm"),
    }


def _encoder(params: dict[str, Any], scope: str) -> dict[str, Any]:
    named = _dense(params["project"], f"{scope}/embeddings_project") if "project" in params else {}
    attention, feed_forward = params["layers"]["attention"], params["layers"]["feed_forward"]
    for index in range(len(attention["query"]["bias"])):
        layer = f"{scope}/encoder/layer_{index}"
        named |= _dense(attention["query"], f"{layer}/attention/self/query", index)
        named |= _dense(attention["key"], f"{layer}/attention/self/key", index)
        named |= _dense(attention["value"], f"{layer}/attention/self/value", index)
        named |= _dense(attention["output"], f"{layer}/attention/output/dense", index)
        named |= _norm(attention["norm"], f"{layer}/attention/output/LayerNorm", index)
        named |= _dense(feed_forward["intermediate"], f"{layer}/intermediate/dense", index)
        named |= _dense(feed_forward["output"], f"{layer}/output/dense", index)
        named |= _norm(feed_forward["norm"], f"{layer}/output/LayerNorm", index)
    return named


def _dense(params: dict[str, Any], scope: str, index: Any = ...) -> dict[str, Any]:
    return {f"{scope}/kernel": params["kernel"][index], f"{scope}/bias": params["bias"][index]}


def _norm(params: dict[str, Any], scope: str, index: Any = ...) -> dict[str, Any]:
    return {f"{scope}/gamma": params["scale"][index], f"{scope}/beta": params["bias"][index]}
