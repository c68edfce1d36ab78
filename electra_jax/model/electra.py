"""What pretraining trains: two towers over one set of embeddings."""

from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from electra_jax.config import ComputeConfig, ElectraConfig, ModelConfig
from electra_jax.model.embeddings import Differences, Embeddings, Tokens
from electra_jax.model.encoder import Encoder
from electra_jax.model.generators import GENERATORS, Generator, TwoTowerGenerator
from electra_jax.model.heads import MaskedLMHead, ReplacedTokenHead, word_logits

NO_GENERATOR = "this objective has no generator"


class Parts(NamedTuple):
    """Which parts of an `Electra` an objective has a use for."""

    generator: bool = True
    detects: bool = True
    """The discriminator has its replaced-token head."""
    predicts: bool = False
    """The discriminator has a masked-language-model head."""


class DiscriminatorTower(nnx.Module):
    """Encoder and replaced-token head over embeddings that somebody else owns, and perhaps one to predict tokens."""

    def __init__(
        self,
        config: ElectraConfig,
        compute: ComputeConfig,
        rngs: nnx.Rngs,
        parts: Parts = Parts(),
        disentangled: bool = False,
    ):
        dtype = jnp.dtype(compute.dtype)
        self.embeddings = Differences(config, dtype, rngs) if disentangled else None
        self.encoder = Encoder(config, compute, rngs)
        self.head = ReplacedTokenHead(config, dtype, rngs) if parts.detects else None
        self.lm_head = MaskedLMHead(config, dtype, rngs) if parts.predicts else None

    def __call__(self, embeddings: Embeddings, tokens: Tokens, key: PRNGKeyArray | None = None) -> Float[Array, "B L"]:
        """One logit a position."""
        return self.detect(self.hidden(embeddings, tokens, key))

    def detect(self, hidden: Float[Array, "B K H"]) -> Float[Array, "B K"]:
        """The replaced-token head's logits, of hidden states."""
        assert self.head is not None, "this objective's discriminator does not detect"
        return self.head(hidden)

    def lm_states(self, hidden: Float[Array, "B K H"]) -> Float[Array, "B K E"]:
        """What the other head's logits are the product of, with the word table."""
        assert self.lm_head is not None, "this objective's discriminator does not predict"
        return self.lm_head.states(hidden)

    def hidden(
        self,
        embeddings: Embeddings,
        tokens: Tokens,
        key: PRNGKeyArray | None = None,
        positions: Int[Array, "B K"] | None = None,
    ) -> Float[Array, "B K H"]:
        """The encoder's hidden states at `positions`, or at all of them."""
        embedded = embeddings(tokens) if self.embeddings is None else self.embeddings.over(tokens, embeddings)
        return self.encoder(embedded, tokens.attended, key, positions)


class Electra(nnx.Module):
    """Generator and discriminator, which share what `config.tie` says ([P] section 3.2).

    The top-level embeddings are the discriminator's own with tie "none", the generator's with "gdes", and of both
    otherwise. An objective that is not replaced-token detection may do without some of the `parts`.
    """

    def __init__(
        self,
        config: ModelConfig,
        compute: ComputeConfig = ComputeConfig(),
        parts: Parts = Parts(),
        *,
        rngs: nnx.Rngs,
    ):
        discriminator = config.tower("discriminator")
        self.embeddings = Embeddings(discriminator, jnp.dtype(compute.dtype), rngs)
        self.generator = _generator(config, compute, rngs) if parts.generator else None
        self.discriminator = DiscriminatorTower(discriminator, compute, rngs, parts, config.tie == "gdes")

    def generate(
        self, tokens: Tokens, positions: Int[Array, "B K"], key: PRNGKeyArray | None = None
    ) -> Float[Array, "B K V"]:
        """The generator's logits at `positions`; with a key, dropout is on."""
        return word_logits(self.states(tokens, positions, key), *self.output)

    @property
    def reads_masks(self) -> bool:
        """Whether the generator reads rows with masks; one that doesn't leaves out what it predicts by itself."""
        return not isinstance(self.generator, TwoTowerGenerator)

    @property
    def output(self) -> tuple[Float[Array, "V E"], Float[Array, " V"]]:
        """The matrix and the bias that turn the generator's states into its logits."""
        assert self.generator is not None, NO_GENERATOR
        return (self.generator.embeddings or self.embeddings).word[...], self.generator.output_bias

    @property
    def prediction(self) -> tuple[Float[Array, "V E"], Float[Array, " V"]]:
        """The same of the discriminator, where it predicts."""
        assert self.discriminator.lm_head is not None, "this objective's discriminator does not predict"
        differences = self.discriminator.embeddings
        table = self.embeddings.word[...] if differences is None else differences.word_table(self.embeddings)
        return table, self.discriminator.lm_head.bias[...]

    def states(
        self, tokens: Tokens, positions: Int[Array, "B K"] | None, key: PRNGKeyArray | None = None
    ) -> Float[Array, "B K E"]:
        """What the generator's logits at `positions`, or everywhere, are the product of, with the word table."""
        assert self.generator is not None, NO_GENERATOR
        tied = self.discriminator.encoder if self.generator.encoder is None else None
        return self.generator.states(self.generator.embeddings or self.embeddings, tokens, positions, key, tied)

    def discriminate(self, tokens: Tokens, key: PRNGKeyArray | None = None) -> Float[Array, "B L"]:
        """The discriminator's logits; above 0 says replaced; with a key, dropout is on."""
        return self.discriminator(self.embeddings, tokens, key)

    def hidden(
        self, tokens: Tokens, key: PRNGKeyArray | None = None, positions: Int[Array, "B K"] | None = None
    ) -> Float[Array, "B K H"]:
        """The discriminator's hidden states at `positions`, or at all of them; `key` as above."""
        return self.discriminator.hidden(self.embeddings, tokens, key, positions)


def _generator(config: ModelConfig, compute: ComputeConfig, rngs: nnx.Rngs) -> Generator:
    size = config.tower("generator")
    own = Embeddings(size, jnp.dtype(compute.dtype), rngs) if config.tie == "none" else None
    return GENERATORS[config.generator_kind](size, compute, rngs, owns_encoder=config.tie != "all", embeddings=own)
