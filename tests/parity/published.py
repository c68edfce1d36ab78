"""The published configurations, and transformers' PyTorch models of their shapes with random weights."""

from dataclasses import fields

import numpy as np
import torch
import transformers
from transformers import ElectraForMaskedLM, ElectraForPreTraining, PreTrainedModel

from electra_jax.config import ElectraConfig
from electra_jax.hub.names import Kind

LAYERS = 2  # of the published 12 or 24, which have all the same shape

# vocabulary, embedding, and (hidden, heads, feed-forward) of each model
PUBLISHED = {
    "google-small": (30522, 128, {"discriminator": (256, 4, 1024), "generator": (256, 4, 1024)}),
    "google-base": (30522, 768, {"discriminator": (768, 12, 3072), "generator": (256, 4, 1024)}),
    "google-large": (30522, 1024, {"discriminator": (1024, 16, 4096), "generator": (256, 4, 1024)}),
    "hfl-small": (21128, 128, {"discriminator": (256, 4, 1024), "generator": (64, 1, 256)}),
    "hfl-base": (21128, 768, {"discriminator": (768, 12, 3072), "generator": (192, 3, 768)}),
    "hfl-small-ex": (21128, 256, {"discriminator": (256, 4, 1024), "generator": (64, 1, 256)}),
    "hfl-large": (21128, 1024, {"discriminator": (1024, 16, 4096), "generator": (256, 4, 1024)}),
}
CLASSES = {"discriminator": ElectraForPreTraining, "generator": ElectraForMaskedLM}


def torch_config(name: str, kind: Kind) -> transformers.ElectraConfig:
    vocabulary, embedding, towers = PUBLISHED[name]
    hidden, heads, feed_forward = towers[kind]
    return transformers.ElectraConfig(
        vocab_size=vocabulary,
        embedding_size=embedding,
        hidden_size=hidden,
        num_hidden_layers=LAYERS,
        num_attention_heads=heads,
        intermediate_size=feed_forward,
    )


def our_config(name: str, kind: Kind) -> ElectraConfig:
    return ElectraConfig(
        **{field.name: getattr(torch_config(name, kind), field.name) for field in fields(ElectraConfig)}
    )


def torch_model(config: transformers.ElectraConfig, kind: Kind) -> PreTrainedModel:
    """In evaluation mode; no parameter is zero or one, nor equal to another."""
    return randomized(CLASSES[kind](config))


def randomized(model: PreTrainedModel) -> PreTrainedModel:
    """The same in evaluation mode; no parameter is zero or one, nor equal to another."""
    model = model.eval()
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=random)
            if "LayerNorm.weight" in name:
                parameter.copy_(1 + 0.1 * noise)
            else:
                parameter.copy_((0.1 if parameter.ndim == 1 else 0.03) * noise)
    return model


def batch(vocabulary: int) -> dict[str, np.ndarray]:
    """Three rows of two segments, two of them padded."""
    random = np.random.default_rng(2)
    real = np.arange(24) < np.array([24, 15, 3])[:, None]
    return {
        "input_ids": np.where(real, random.integers(1, vocabulary, real.shape), 0),
        "attention_mask": real.astype(np.int64),
        "token_type_ids": np.where(real & (np.arange(24) >= 9), 1, 0),
    }


def as_torch(inputs: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in inputs.items()}
