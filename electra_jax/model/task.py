"""An encoder with the head of a task: what fine-tuning trains."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from electra_jax.config import ComputeConfig, ElectraConfig
from electra_jax.model.embeddings import Embeddings, Tokens
from electra_jax.model.encoder import Encoder
from electra_jax.model.heads import ChoiceHead, SequenceHead, SpanHead, TokenHead
from electra_jax.model.layers import row_keys, split_rows

HeadKind = Literal["sequence", "token", "span", "choice"]

TASK_HEADS: dict[HeadKind, type[SequenceHead | TokenHead | SpanHead | ChoiceHead]] = {
    "sequence": SequenceHead,
    "token": TokenHead,
    "span": SpanHead,
    "choice": ChoiceHead,
}


class TaskModel(nnx.Module):
    """Embeddings, encoder and head of one model that is fine-tuned."""

    def __init__(
        self,
        config: ElectraConfig,
        kind: HeadKind,
        outputs: int,
        compute: ComputeConfig = ComputeConfig(),
        *,
        rngs: nnx.Rngs,
    ):
        dtype = jnp.dtype(compute.dtype)
        self.embeddings = Embeddings(config, dtype, rngs)
        self.encoder = Encoder(config, compute, rngs)
        self.head = TASK_HEADS[kind](config, outputs, dtype, rngs)

    def __call__(self, tokens: Tokens, key: PRNGKeyArray | None = None) -> Float[Array, "B ..."]:
        """The head's float32 logits; with a key (one, or one a row), dropout is on."""
        if key is None:
            return self.head(self.encoder(self.embeddings(tokens), tokens.attended), None)
        encoder_keys, head_keys = split_rows(row_keys(key, len(tokens.ids)), 2)
        hidden = self.encoder(self.embeddings(tokens), tokens.attended, encoder_keys)
        seeds = jax.vmap(lambda key: jax.random.bits(key, (2, 2)), out_axes=1)(head_keys)
        return self.head(hidden, tuple(seeds))
