"""The table of parameter names: this package's paths and Hugging Face's keys, read in both directions.

A path is that of one model's parameters, `{"embeddings": ..., "encoder": ..., "head": ...}`, joined by "/". Here the
layers are stacked along the first axis and a kernel is [in, out]; in a Hugging Face file ([HF] modeling_electra) each
layer has keys of its own and a kernel is [out, in].
"""

from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import nnx

from electra_jax.config import ComputeConfig, ElectraConfig
from electra_jax.model import DiscriminatorTower, Embeddings, GeneratorTower, HeadKind, TaskModel

Kind = Literal["discriminator", "generator"]
Role = Literal["discriminator", "encoder", "generator"]
"""What a model was in its run; encoder: one that was kept, as a discriminator is, and trained to predict tokens."""
AnyKind = Kind | HeadKind | Literal["body"]
"""A model's head, or "body" for a model without one."""

NOUNS: dict[AnyKind, str] = {
    "discriminator": "discriminator",
    "generator": "generator",
    "body": "encoder",
    "sequence": "classifier of sequences",
    "token": "classifier of tokens",
    "span": "question-answering model",
    "choice": "multiple-choice model",
}
"""How an error names it."""

TOWERS: dict[Kind, type[DiscriminatorTower] | type[GeneratorTower]] = {
    "discriminator": DiscriminatorTower,
    "generator": GeneratorTower,
}


class Name(NamedTuple):
    """One parameter under its two names."""

    path: str
    key: str
    """`{layer}` stands for the number of the layer, where the parameter is stacked."""
    transposed: bool = False


def _dense(path: str, key: str) -> tuple[Name, Name]:
    return Name(f"{path}/kernel", f"{key}.weight", transposed=True), Name(f"{path}/bias", f"{key}.bias")


def _norm(path: str, key: str) -> tuple[Name, Name]:
    return Name(f"{path}/scale", f"{key}.weight"), Name(f"{path}/bias", f"{key}.bias")


LAYER = "electra.encoder.layer.{layer}"

BODY: tuple[Name, ...] = (
    Name("embeddings/word", "electra.embeddings.word_embeddings.weight"),
    Name("embeddings/position", "electra.embeddings.position_embeddings.weight"),
    Name("embeddings/type", "electra.embeddings.token_type_embeddings.weight"),
    *_norm("embeddings/norm", "electra.embeddings.LayerNorm"),
    *_dense("encoder/project", "electra.embeddings_project"),
    *_dense("encoder/layers/attention/query", f"{LAYER}.attention.self.query"),
    *_dense("encoder/layers/attention/key", f"{LAYER}.attention.self.key"),
    *_dense("encoder/layers/attention/value", f"{LAYER}.attention.self.value"),
    *_dense("encoder/layers/attention/output", f"{LAYER}.attention.output.dense"),
    *_norm("encoder/layers/attention/norm", f"{LAYER}.attention.output.LayerNorm"),
    *_dense("encoder/layers/feed_forward/intermediate", f"{LAYER}.intermediate.dense"),
    *_dense("encoder/layers/feed_forward/output", f"{LAYER}.output.dense"),
    *_norm("encoder/layers/feed_forward/norm", f"{LAYER}.output.LayerNorm"),
)

HEADS: dict[AnyKind, tuple[Name, ...]] = {
    "body": (),
    "discriminator": (
        *_dense("head/dense", "discriminator_predictions.dense"),
        *_dense("head/prediction", "discriminator_predictions.dense_prediction"),
    ),
    "generator": (
        *_dense("head/dense", "generator_predictions.dense"),
        *_norm("head/norm", "generator_predictions.LayerNorm"),
        Name("head/bias", "generator_lm_head.bias"),
    ),
    "sequence": (*_dense("head/dense", "classifier.dense"), *_dense("head/prediction", "classifier.out_proj")),
    "token": _dense("head/prediction", "classifier"),
    "span": _dense("head/prediction", "qa_outputs"),
    "choice": (*_dense("head/dense", "sequence_summary.summary"), *_dense("head/prediction", "classifier")),
}

PROJECT = "encoder/project/"
"""Where only a model whose E and H differ has parameters."""


class Tensor(NamedTuple):
    """One tensor of a Hugging Face file, and where its values stand among the parameters."""

    key: str
    path: str
    layer: int | None
    """Index along the parameter's first axis, where it is stacked."""
    transposed: bool
    shape: tuple[int, ...]
    """In the file."""


def tensors(config: ElectraConfig, kind: AnyKind, outputs: int = 1) -> list[Tensor]:
    """Every tensor of the model's Hugging Face file, in the order of the table.

    `outputs` are those of a task's head. Raises AssertionError where the table and the model's parameters don't match
    one to one.
    """
    shapes = parameter_shapes(config, kind, outputs)
    projects = config.embedding_size != config.hidden_size
    names = [name for name in (*BODY, *HEADS[kind]) if projects or not name.path.startswith(PROJECT)]
    assert sorted(name.path for name in names) == sorted(shapes), "the table of names and the model have drifted apart"
    return [tensor for name in names for tensor in _expand(name, shapes[name.path])]


def parameter_shapes(config: ElectraConfig, kind: AnyKind, outputs: int = 1) -> dict[str, tuple[int, ...]]:
    """Path to shape of every parameter of the model."""

    def initial() -> dict[str, Any]:
        rngs, compute = nnx.Rngs(0), ComputeConfig()
        if kind not in TOWERS:
            head = cast(HeadKind, "span" if kind == "body" else kind)
            model = TaskModel(config, head, outputs, compute, rngs=rngs)
            params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
            return {part: params[part] for part in params if part != "head" or kind != "body"}
        embeddings = Embeddings(config, jnp.dtype(compute.dtype), rngs)
        tower = nnx.to_pure_dict(nnx.state(TOWERS[kind](config, compute, rngs), nnx.Param))
        return {"embeddings": nnx.to_pure_dict(nnx.state(embeddings, nnx.Param)), **tower}

    return {path: leaf.shape for path, leaf in flat(jax.eval_shape(initial)).items()}


def flat(params: dict[str, Any]) -> dict[str, Any]:
    """Path to leaf of nested dicts."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def nested(leaves: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Nested dicts of (path, leaf) pairs; the inverse of `flat`."""
    root: dict[str, Any] = {}
    for path, leaf in leaves:
        *parents, last = path.split("/")
        folder = root
        for parent in parents:
            folder = folder.setdefault(parent, {})
        folder[last] = leaf
    return root


def _expand(name: Name, shape: tuple[int, ...]) -> Iterator[Tensor]:
    stacked = "{layer}" in name.key
    own = shape[1:] if stacked else shape
    in_file = own[::-1] if name.transposed else own
    for layer in range(shape[0]) if stacked else (None,):
        yield Tensor(name.key.format(layer=layer), name.path, layer, name.transposed, in_file)
