"""Word, position and type embeddings, which both towers may share."""

from typing import NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from electra_jax.config import ElectraConfig
from electra_jax.model.layers import LayerNorm, initializer
from electra_jax.model.lookup import take_rows


class Tokens(NamedTuple):
    """A batch as an encoder reads it."""

    ids: Int[Array, "B L"]
    mask: Bool[Array, "B L"]
    """True at real tokens, false at padding."""
    types: Int[Array, "B L"]
    """0 in the first segment, 1 in the second."""
    examples: Int[Array, "B L"] | None = None
    """In rows that hold several examples, the number of each token's."""
    positions: Int[Array, "B L"] | None = None
    """Each token's position in its example; where it is left out, that in the row."""

    @classmethod
    def of(
        cls,
        input_ids: ArrayLike,
        attention_mask: ArrayLike | None = None,
        token_type_ids: ArrayLike | None = None,
        config: ElectraConfig | None = None,
    ) -> Self:
        """What models of transformers are called with, each [B, L]; by default all tokens are real and of one segment.

        Raises ValueError for `input_ids` of another shape or dtype, or without any, for the others where their shape is
        another, and for ids and types that a model of `config` doesn't have (which inside jax.jit nobody can tell).
        """
        ids = _array(input_ids)
        if ids.ndim != 2:
            raise ValueError(f"input_ids has shape {ids.shape}, and must be [batch, length]")
        if not (jnp.issubdtype(ids.dtype, jnp.integer) and ids.size):
            raise ValueError(f"input_ids of dtype {ids.dtype} and shape {ids.shape} are no ids of tokens")
        types = jnp.zeros(ids.shape, jnp.int32) if token_type_ids is None else _array(token_type_ids)
        mask = jnp.ones(ids.shape, bool) if attention_mask is None else _array(attention_mask)
        for name, given in (("attention_mask", mask), ("token_type_ids", types)):
            if given.shape != ids.shape:
                raise ValueError(f"{name} has shape {given.shape}, and input_ids {ids.shape}; give it the same")
        if config is not None:
            _check_range("input_ids", ids, f"the vocabulary has {config.vocab_size} entries", config.vocab_size)
            _check_range(
                "token_type_ids", types, f"the model has {config.type_vocab_size} types", config.type_vocab_size
            )
        return cls(jnp.asarray(ids), jnp.asarray(mask, bool), jnp.asarray(types))

    @property
    def attended(self) -> Bool[Array, "B #L L"]:
        """Which positions each position attends to: the real ones, of its own example."""
        real = self.mask[:, None, :]
        return real if self.examples is None else real & (self.examples[:, :, None] == self.examples[:, None, :])


def _array(given: ArrayLike) -> Array | np.ndarray:
    """As it is: JAX's arrays hold no 64 bits, and would make a small id of a large one."""
    return given if isinstance(given, jax.Array) else np.asarray(given)


def _check_range(name: str, given: Array | np.ndarray, there: str, count: int) -> None:
    if not isinstance(given, jax.core.Tracer) and (given.min() < 0 or given.max() >= count):
        raise ValueError(f"{name} from {given.min()} to {given.max()}, and {there}")


class Embeddings(nnx.Module):
    """The three tables and their LayerNorm. Dropout and the projection to H belong to the encoder."""

    def __init__(self, config: ElectraConfig, dtype: jnp.dtype, rngs: nnx.Rngs, initial: nnx.Initializer | None = None):
        initial = initial or initializer(config)

        def table(rows: int) -> nnx.Param:
            return nnx.Param(initial(rngs.params(), (rows, config.embedding_size), jnp.float32))

        self.word = table(config.vocab_size)
        self.position = table(config.max_position_embeddings)
        self.type = table(config.type_vocab_size)
        self.norm = LayerNorm(config.embedding_size, config.layer_norm_eps, dtype)

    def __call__(self, tokens: Tokens) -> Float[Array, "B L E"]:
        """Embed tokens of at most `max_position_embeddings` positions."""
        return self.norm(self.sum(tokens))

    def sum(self, tokens: Tokens) -> Float[Array, "B L E"]:
        """The three embeddings of each token, before their LayerNorm."""
        length = tokens.ids.shape[1]
        if length > self.position[...].shape[0]:
            raise ValueError(f"{length} tokens in a row, and the model has {self.position[...].shape[0]} positions")
        position = (
            self.position[:length] if tokens.positions is None else take_rows(self.position[...], tokens.positions)
        )
        return take_rows(self.word[...], tokens.ids) + position + _of_type(self.type[...], tokens.types)


def _of_type(table: Float[Array, "T E"], types: Int[Array, "B L"]) -> Float[Array, "B L E"]:
    """table[types], of which there are so few that a GPU would wait at each for its turn to add to the gradient."""
    first, *others = (jnp.where((types == k)[..., None], row, 0) for k, row in enumerate(table))
    return sum(others, first)


class Differences(Embeddings):
    """What one tower's tables are more than another's, which its gradient does not reach, and a LayerNorm of its own.

    Gradient-disentangled embedding sharing (He et al., 2023, DeBERTaV3, section 3.2): E_D = stop_gradient(E_G) + this,
    and this starts from 0.
    """

    def __init__(self, config: ElectraConfig, dtype: jnp.dtype, rngs: nnx.Rngs):
        super().__init__(config, dtype, rngs, nnx.initializers.zeros)

    def over(self, tokens: Tokens, shared: Embeddings) -> Float[Array, "B L E"]:
        """Embed tokens by the sums of `shared` and this."""
        return self.norm(jax.lax.stop_gradient(shared.sum(tokens)) + self.sum(tokens))

    def word_table(self, shared: Embeddings) -> Float[Array, "V E"]:
        """The sum for words, which a head that predicts them is multiplied with."""
        return jax.lax.stop_gradient(shared.word[...]) + self.word[...]
