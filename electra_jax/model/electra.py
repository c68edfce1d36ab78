"""The pair that is trained: two towers over one set of embeddings."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from electra_jax.config import ComputeConfig, ElectraConfig, ModelConfig
from electra_jax.model.embeddings import Embeddings, Tokens
from electra_jax.model.encoder import Encoder
from electra_jax.model.heads import MaskedLMHead, ReplacedTokenHead


class GeneratorTower(nnx.Module):
    """Encoder and masked-language-model head over embeddings that somebody else owns, as perhaps the encoder."""

    def __init__(self, config: ElectraConfig, compute: ComputeConfig, rngs: nnx.Rngs, owns_encoder: bool = True):
        self.encoder = Encoder(config, compute, rngs) if owns_encoder else None
        self.head = MaskedLMHead(config, jnp.dtype(compute.dtype), rngs)

    def __call__(self, embeddings: Embeddings, tokens: Tokens) -> Float[Array, "B L V"]:
        """Logits at every position."""
        return self.head.logits(self.states(embeddings, tokens), embeddings.word[...])

    def states(
        self,
        embeddings: Embeddings,
        tokens: Tokens,
        positions: Int[Array, "B K"] | None = None,
        key: PRNGKeyArray | None = None,
        encoder: Encoder | None = None,
    ) -> Float[Array, "B K E"]:
        """What the logits at `positions`, or at all of them, are the product of, with the word table.

        The last layer and the head compute no other position. `encoder` is used for its own.
        """
        encoder = encoder or self.encoder
        assert encoder is not None, "a generator whose encoder is tied is called with it"
        return self.head.states(encoder(embeddings(tokens), tokens.attended, key, positions))


class DiscriminatorTower(nnx.Module):
    """Encoder and replaced-token head over embeddings that somebody else owns."""

    def __init__(self, config: ElectraConfig, compute: ComputeConfig, rngs: nnx.Rngs):
        self.encoder = Encoder(config, compute, rngs)
        self.head = ReplacedTokenHead(config, jnp.dtype(compute.dtype), rngs)

    def __call__(self, embeddings: Embeddings, tokens: Tokens, key: PRNGKeyArray | None = None) -> Float[Array, "B L"]:
        """One logit a position."""
        return self.head(self.encoder(embeddings(tokens), tokens.attended, key))


class Electra(nnx.Module):
    """Generator and discriminator over one set of embeddings, and perhaps one encoder ([P] section 3.2)."""

    def __init__(self, config: ModelConfig, compute: ComputeConfig = ComputeConfig(), *, rngs: nnx.Rngs):
        discriminator, generator = config.tower("discriminator"), config.tower("generator")
        self.embeddings = Embeddings(discriminator, jnp.dtype(compute.dtype), rngs)
        self.generator = GeneratorTower(generator, compute, rngs, owns_encoder=config.tie == "embeddings")
        self.discriminator = DiscriminatorTower(discriminator, compute, rngs)

    def generate(
        self, tokens: Tokens, positions: Int[Array, "B K"], key: PRNGKeyArray | None = None
    ) -> Float[Array, "B K V"]:
        """The generator's logits at `positions`; with a key, dropout is on."""
        return self.generator.head.logits(self.states(tokens, positions, key), self.embeddings.word[...])

    def states(
        self, tokens: Tokens, positions: Int[Array, "B K"], key: PRNGKeyArray | None = None
    ) -> Float[Array, "B K E"]:
        """What the generator's logits at `positions` are the product of, with the word table; `key` as above."""
        tied = self.discriminator.encoder if self.generator.encoder is None else None
        return self.generator.states(self.embeddings, tokens, positions, key, tied)

    def discriminate(self, tokens: Tokens, key: PRNGKeyArray | None = None) -> Float[Array, "B L"]:
        """The discriminator's logits; above 0 says replaced; with a key, dropout is on."""
        return self.discriminator(self.embeddings, tokens, key)
