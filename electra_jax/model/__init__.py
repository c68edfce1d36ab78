"""The two encoders and their heads; nothing about training."""

from electra_jax.model.electra import DiscriminatorTower, Electra, GeneratorTower
from electra_jax.model.embeddings import Embeddings, Tokens

__all__ = ["DiscriminatorTower", "Electra", "Embeddings", "GeneratorTower", "Tokens"]
