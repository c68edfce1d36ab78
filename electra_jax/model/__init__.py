"""Encoders and their heads; nothing about training."""

from electra_jax.model.electra import DiscriminatorTower, Electra, GeneratorTower
from electra_jax.model.embeddings import Embeddings, Tokens
from electra_jax.model.task import HeadKind, TaskModel

__all__ = ["DiscriminatorTower", "Electra", "Embeddings", "GeneratorTower", "HeadKind", "TaskModel", "Tokens"]
