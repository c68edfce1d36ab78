"""One model with its weights: what people load, call and save."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from electra_jax.config import ComputeConfig, ElectraConfig
from electra_jax.files import new_folder
from electra_jax.hub.folders import read_model, write_model
from electra_jax.hub.names import TOWERS, Kind
from electra_jax.hub.source import local_folder
from electra_jax.hub.weights import check_params
from electra_jax.model import Embeddings, Tokens
from electra_jax.presets import check_types


class _Pretrained(nnx.Module):
    """Embeddings and the tower above them."""

    kind: ClassVar[Kind]

    def __init__(self, config: ElectraConfig, compute: ComputeConfig = ComputeConfig(), *, rngs: nnx.Rngs):
        """A model of random weights."""
        self.config, self.compute = config, compute
        self.embeddings = Embeddings(config, jnp.dtype(compute.dtype), rngs)
        self.tower = TOWERS[self.kind](config, compute, rngs)

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path, compute: ComputeConfig = ComputeConfig()) -> Self:
        """The model in a folder as transformers saves it, or of that name on the Hugging Face hub.

        Raises UserError where there is none, where it is no ELECTRA model, where it is the other one of a pair, and
        where `compute` names a way that there isn't.
        """
        check_types(compute)
        config, params = read_model(local_folder(name_or_folder), cls.kind)
        return cls.from_params(config, params, compute)

    @classmethod
    def from_params(
        cls, config: ElectraConfig, params: dict[str, Any], compute: ComputeConfig = ComputeConfig()
    ) -> Self:
        """The model of the given parameters: nested dicts of "embeddings", "encoder" and "head".

        Raises UserError, which names the parameter, where they are not those of `config`.
        """
        check_params(params, config, cls.kind)
        abstract = nnx.eval_shape(lambda: cls(config, compute, rngs=nnx.Rngs(0)))  # draws no weights
        graphdef, state = nnx.split(abstract)
        arrays = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
        embeddings = arrays.pop("embeddings")
        nnx.replace_by_pure_dict(state, {"embeddings": embeddings, "tower": arrays})
        return nnx.merge(graphdef, state)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors, which transformers reads, into the new `folder`.

        Raises UserError where `folder` already holds something.
        """
        with new_folder(Path(folder)) as scratch:
            write_model(scratch, self.kind, self.config, self.params)

    @property
    def params(self) -> dict[str, Any]:
        """The parameters (float32) as nested dicts of "embeddings", "encoder" and "head"."""
        modules = nnx.to_pure_dict(nnx.state(self, nnx.Param))
        return {"embeddings": modules["embeddings"], **modules["tower"]}

    def hidden_states(
        self,
        input_ids: Int[Array, "B L"],
        attention_mask: Int[Array, "B L"] | None = None,
        token_type_ids: Int[Array, "B L"] | None = None,
    ) -> Float[Array, "B L H"]:
        """The last layer's hidden states, in the dtype of `compute`; the arguments are those of the call."""
        return self._run(_hidden_states, Tokens.of(input_ids, attention_mask, token_type_ids, self.config))

    def _run(self, function: Callable[[Any, Tokens], Array], tokens: Tokens) -> Array:
        return _jitted(*nnx.split(self), function, tokens)


class Discriminator(_Pretrained):
    """Tells, for each token, whether it was replaced; the model that is fine-tuned ([P] section 2)."""

    kind = "discriminator"

    def __call__(
        self,
        input_ids: Int[Array, "B L"],
        attention_mask: Int[Array, "B L"] | None = None,
        token_type_ids: Int[Array, "B L"] | None = None,
    ) -> Float[Array, "B L"]:
        """Float32 logits, above 0 where the token looks replaced.

        `attention_mask` is 1 at real tokens and 0 at padding, by default 1 everywhere; `token_type_ids` is 0 in the
        first segment and 1 in the second, by default 0. Raises ValueError for a row longer than the positions, and for
        ids that the vocabulary doesn't have (which inside jax.jit nobody can tell).
        """
        return self._run(_logits, Tokens.of(input_ids, attention_mask, token_type_ids, self.config))


class Generator(_Pretrained):
    """Predicts the tokens that were masked ([P] section 2)."""

    kind = "generator"

    def __call__(
        self,
        input_ids: Int[Array, "B L"],
        attention_mask: Int[Array, "B L"] | None = None,
        token_type_ids: Int[Array, "B L"] | None = None,
    ) -> Float[Array, "B L V"]:
        """Float32 logits over the vocabulary at every position; the arguments are `Discriminator`'s."""
        return self._run(_logits, Tokens.of(input_ids, attention_mask, token_type_ids, self.config))


@partial(jax.jit, static_argnums=(0, 2))
def _jitted(graphdef: nnx.GraphDef, state: nnx.State, function: Callable[[Any, Tokens], Array], tokens: Tokens) -> Any:
    return function(nnx.merge(graphdef, state), tokens)


def _hidden_states(model: _Pretrained, tokens: Tokens) -> Float[Array, "B L H"]:
    encoder = model.tower.encoder
    assert encoder is not None, "a model by itself shares nothing"
    return encoder(model.embeddings(tokens), tokens.attended)


def _logits(model: _Pretrained, tokens: Tokens) -> Float[Array, "B L ..."]:
    return model.tower(model.embeddings, tokens)
