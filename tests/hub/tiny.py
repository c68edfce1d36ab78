"""Models small enough to make anew for each test."""

from pathlib import Path

import safetensors.numpy

from electra_jax.config import ElectraConfig

SIZES = {"vocab_size": 40, "embedding_size": 8, "num_hidden_layers": 2, "max_position_embeddings": 12}
CONFIGS = {
    "discriminator": ElectraConfig(**SIZES, hidden_size=16, num_attention_heads=4, intermediate_size=24),
    "generator": ElectraConfig(**SIZES, hidden_size=8, num_attention_heads=2, intermediate_size=12),
}


class StateFile:
    """A folder's model.safetensors as a dict to change."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "model.safetensors"
        self.tensors = safetensors.numpy.load_file(self.path)

    def save(self) -> None:
        safetensors.numpy.save_file(self.tensors, self.path, metadata={"format": "pt"})
