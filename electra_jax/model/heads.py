"""The two heads of pretraining and the four of fine-tuning ([G] run_pretraining.py, [HF] modeling_electra)."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from electra_jax.config import ElectraConfig
from electra_jax.model.layers import LayerNorm, Seed, dropout, gelu, linear

FLOAT32 = jnp.dtype(jnp.float32)
"""Of each head's last product, whose logits bfloat16 would round to a sixteenth of a nat."""


def word_logits(
    states: Float[Array, "... E"], table: Float[Array, "V E"], bias: Float[Array, " V"]
) -> Float[Array, "... V"]:
    """Float32 logits over the vocabulary, of the states that a `MaskedLMHead` gives."""
    table = table.astype(states.dtype)
    return jnp.einsum("...E,VE->...V", states, table, preferred_element_type=jnp.float32) + bias


class MaskedLMHead(nnx.Module):
    """Hidden states to logits over the vocabulary; the output matrix is the word table."""

    def __init__(self, config: ElectraConfig, dtype: jnp.dtype, rngs: nnx.Rngs, width: int | None = None):
        """`width` is that of the states it reads, where they are no encoder's."""
        self.dense = linear(width or config.hidden_size, config.embedding_size, config, dtype, rngs)
        self.norm = LayerNorm(config.embedding_size, config.layer_norm_eps, dtype)
        self.bias = nnx.Param(jnp.zeros(config.vocab_size))

    @jax.named_scope("head")
    def states(self, hidden: Float[Array, "B K H"]) -> Float[Array, "B K E"]:
        """What is multiplied with the word table."""
        return self.norm(gelu(self.dense(hidden)))


class ReplacedTokenHead(nnx.Module):
    """Hidden states to one logit a position: was this token replaced?"""

    def __init__(self, config: ElectraConfig, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.dense = linear(config.hidden_size, config.hidden_size, config, dtype, rngs)
        # [HF]'s initialiser: glorot, which [G] leaves here, starts the loss as much as 11% off ln(V) + 50 ln(2).
        self.prediction = linear(config.hidden_size, 1, config, FLOAT32, rngs)

    @jax.named_scope("head")
    def __call__(self, hidden: Float[Array, "B L H"]) -> Float[Array, "B L"]:
        """Float32 logits; above 0 says replaced."""
        return self.prediction(gelu(self.dense(hidden)))[..., 0]


SUMMARY_DROPOUT = 0.1  # `summary_last_dropout`, [HF] configuration_electra


class SequenceHead(nnx.Module):
    """The hidden state of [CLS] to logits of the whole sequence: [HF] ElectraClassificationHead."""

    def __init__(self, config: ElectraConfig, outputs: int, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.rate = config.hidden_dropout_prob
        self.dense = linear(config.hidden_size, config.hidden_size, config, dtype, rngs)
        self.prediction = linear(config.hidden_size, outputs, config, FLOAT32, rngs)

    def __call__(self, hidden: Float[Array, "B L H"], seeds: tuple[Seed, Seed] | None) -> Float[Array, "B outputs"]:
        """Float32 logits; without seeds there is no dropout."""
        first, second = seeds or (None, None)
        x = gelu(self.dense(dropout(hidden[:, 0], first, self.rate)))
        return self.prediction(dropout(x, second, self.rate))


class TokenHead(nnx.Module):
    """Each hidden state to logits of its token: [HF] ElectraForTokenClassification."""

    def __init__(self, config: ElectraConfig, outputs: int, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.rate = config.hidden_dropout_prob
        self.prediction = linear(config.hidden_size, outputs, config, FLOAT32, rngs)

    def __call__(self, hidden: Float[Array, "B L H"], seeds: tuple[Seed, Seed] | None) -> Float[Array, "B L outputs"]:
        """Float32 logits; without seeds there is no dropout."""
        first, _ = seeds or (None, None)
        return self.prediction(dropout(hidden, first, self.rate))


class SpanHead(nnx.Module):
    """Each hidden state to the logits that an answer starts and ends there: [HF] ElectraForQuestionAnswering."""

    def __init__(self, config: ElectraConfig, outputs: int, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.prediction = linear(config.hidden_size, outputs, config, FLOAT32, rngs)

    def __call__(self, hidden: Float[Array, "B L H"], seeds: tuple[Seed, Seed] | None) -> Float[Array, "B L 2"]:
        """Float32 logits."""
        return self.prediction(hidden)


class ChoiceHead(nnx.Module):
    """The hidden state of [CLS] to one logit of the sequence, a choice: [HF] ElectraForMultipleChoice."""

    def __init__(self, config: ElectraConfig, outputs: int, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.dense = linear(config.hidden_size, config.hidden_size, config, dtype, rngs)
        self.prediction = linear(config.hidden_size, outputs, config, FLOAT32, rngs)

    def __call__(self, hidden: Float[Array, "B L H"], seeds: tuple[Seed, Seed] | None) -> Float[Array, "B 1"]:
        """Float32 logits; without seeds there is no dropout."""
        _, second = seeds or (None, None)
        x = gelu(self.dense(hidden[:, 0]))
        return self.prediction(dropout(x, second, SUMMARY_DROPOUT))
