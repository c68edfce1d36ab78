"""What proposes replacements: logits states @ word table.T + output_bias, of the states at the positions asked for.

Each has `embeddings` of its own where the towers share none, and an `encoder` where it is not the discriminator's.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from electra_jax.config import ComputeConfig, ElectraConfig
from electra_jax.model.embeddings import Embeddings, Tokens
from electra_jax.model.encoder import Encoder
from electra_jax.model.heads import MaskedLMHead, word_logits
from electra_jax.model.layers import row_keys, split_rows
from electra_jax.model.lookup import take_positions


class GeneratorTower(nnx.Module):
    """Encoder and masked-language-model head over embeddings that somebody else owns, as perhaps the encoder."""

    def __init__(
        self,
        config: ElectraConfig,
        compute: ComputeConfig,
        rngs: nnx.Rngs,
        owns_encoder: bool = True,
        embeddings: Embeddings | None = None,
    ):
        self.embeddings = embeddings
        self.encoder = Encoder(config, compute, rngs) if owns_encoder else None
        self.head = MaskedLMHead(config, jnp.dtype(compute.dtype), rngs)

    def __call__(self, embeddings: Embeddings, tokens: Tokens) -> Float[Array, "B L V"]:
        """Logits at every position."""
        return word_logits(self.states(embeddings, tokens), embeddings.word[...], self.output_bias)

    @property
    def output_bias(self) -> Float[Array, " V"]:
        """Of the logits."""
        return self.head.bias[...]

    def states(
        self,
        embeddings: Embeddings,
        tokens: Tokens,
        positions: Int[Array, "B K"] | None = None,
        key: PRNGKeyArray | None = None,
        encoder: Encoder | None = None,
    ) -> Float[Array, "B L E"] | Float[Array, "B K E"]:
        """What the logits at `positions`, or at all of them, are the product of, with the word table.

        The last layer and the head compute no other position. `encoder` is used for its own.
        """
        encoder = encoder or self.encoder
        assert encoder is not None, "a generator whose encoder is tied is called with it"
        return self.head.states(encoder(embeddings(tokens), tokens.attended, key, positions))


class TwoTowerGenerator(nnx.Module):
    """Two encoders, of the tokens up to each position and from it on, and a head on what the neighbours saw.

    It reads rows without masks: what it says of a position depends on all tokens but the one there (Clark et al., 2020,
    "Electric"; [G] TwoTowerClozeTransformer).
    """

    def __init__(
        self,
        config: ElectraConfig,
        compute: ComputeConfig,
        rngs: nnx.Rngs,
        owns_encoder: bool = True,
        embeddings: Embeddings | None = None,
    ):
        self.embeddings, self.encoder = embeddings, None
        self.before, self.after = Encoder(config, compute, rngs), Encoder(config, compute, rngs)
        self.head = MaskedLMHead(config, jnp.dtype(compute.dtype), rngs, 2 * config.hidden_size)

    @property
    def output_bias(self) -> Float[Array, " V"]:
        """Of the logits."""
        return self.head.bias[...]

    def states(
        self,
        embeddings: Embeddings,
        tokens: Tokens,
        positions: Int[Array, "B K"] | None = None,
        key: PRNGKeyArray | None = None,
        encoder: Encoder | None = None,
    ) -> Float[Array, "B L E"] | Float[Array, "B K E"]:
        """What the logits at `positions`, or at all of them, are the product of, with the word table."""
        keys = (None, None) if key is None else split_rows(row_keys(key, len(tokens.ids)), 2)
        embedded, length = embeddings(tokens), tokens.ids.shape[1]
        up_to = jnp.tril(jnp.ones((length, length), bool))
        seen_before = self.before(embedded, tokens.attended & up_to, keys[0])
        seen_after = self.after(embedded, tokens.attended & up_to.T, keys[1])
        hidden = jnp.concatenate([_from(seen_before, -1, tokens), _from(seen_after, 1, tokens)], axis=-1)
        if positions is not None:
            hidden = take_positions(hidden, positions)
        return self.head.states(hidden)


def _from(hidden: Float[Array, "B L H"], offset: int, tokens: Tokens) -> Float[Array, "B L H"]:
    """Each position's neighbour at `offset` (-1 or 1); 0 where that is of another example, padding, or no position."""
    examples = jnp.where(tokens.mask, 0 if tokens.examples is None else tokens.examples, -1)
    position = jnp.arange(hidden.shape[1]) + offset
    there: Bool[Array, "B L"] = (jnp.roll(examples, -offset, axis=1) == examples) & (position >= 0)
    there &= position < hidden.shape[1]
    return jnp.where(there[..., None], jnp.roll(hidden, -offset, axis=1), 0)


class UnigramGenerator(nnx.Module):
    """Proposes each entry by its frequency: of a masked language model, the bias alone, which its loss makes that."""

    def __init__(
        self,
        config: ElectraConfig,
        compute: ComputeConfig,
        rngs: nnx.Rngs,
        owns_encoder: bool = True,
        embeddings: Embeddings | None = None,
    ):
        self.embeddings, self.encoder = None, None
        self.size, self.dtype = config.embedding_size, jnp.dtype(compute.dtype)
        self.bias = nnx.Param(jnp.zeros(config.vocab_size))

    @property
    def output_bias(self) -> Float[Array, " V"]:
        """Logarithms of the frequencies, but for a constant."""
        return self.bias[...]

    def states(
        self,
        embeddings: Embeddings,
        tokens: Tokens,
        positions: Int[Array, "B K"] | None = None,
        key: PRNGKeyArray | None = None,
        encoder: Encoder | None = None,
    ) -> Float[Array, "B L E"] | Float[Array, "B K E"]:
        """Zeros: no position is unlike another."""
        return jnp.zeros((*(tokens.ids if positions is None else positions).shape, self.size), self.dtype)


class UniformGenerator(UnigramGenerator):
    """Proposes every entry alike ([G] uniform_generator)."""

    def __init__(
        self,
        config: ElectraConfig,
        compute: ComputeConfig,
        rngs: nnx.Rngs,
        owns_encoder: bool = True,
        embeddings: Embeddings | None = None,
    ):
        self.embeddings, self.encoder = None, None
        self.size, self.entries, self.dtype = config.embedding_size, config.vocab_size, jnp.dtype(compute.dtype)

    @property
    def output_bias(self) -> Float[Array, " V"]:
        """Zeros."""
        return jnp.zeros(self.entries)


Generator = GeneratorTower | TwoTowerGenerator | UnigramGenerator

GENERATORS: dict[str, type[GeneratorTower] | type[TwoTowerGenerator] | type[UnigramGenerator]] = {
    "masked-lm": GeneratorTower,
    "two-tower": TwoTowerGenerator,
    "unigram": UnigramGenerator,
    "uniform": UniformGenerator,
}
"""By `ModelConfig.generator_kind`."""
