"""Encoders and their heads; nothing about training."""

from electra_jax.model.electra import DiscriminatorTower, Electra, Parts
from electra_jax.model.embeddings import Embeddings, Tokens
from electra_jax.model.generators import GeneratorTower
from electra_jax.model.task import HeadKind, TaskModel

__all__ = ["DiscriminatorTower", "Electra", "Embeddings", "GeneratorTower", "HeadKind", "Parts", "TaskModel", "Tokens"]
