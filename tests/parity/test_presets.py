"""Every file in configs/: the reference's numbers, and towers that transformers builds alike."""

from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from transformers import ElectraForMaskedLM, ElectraForPreTraining

from electra_jax.config import ModelConfig, OptimizerConfig, PretrainConfig, TowerConfig
from electra_jax.hub.configs import to_hf
from electra_jax.hub.names import Kind, tensors
from electra_jax.model import Electra
from electra_jax.presets import load_config
from electra_jax.train.models import single_models

CLASSES = {"discriminator": ElectraForPreTraining, "generator": ElectraForMaskedLM}
TIED = {"generator": {"generator_lm_head.weight"}, "discriminator": set()}

# layers, hidden, heads, feed-forward
SMALL, BASE, LARGE = (12, 256, 4, 1024), (12, 768, 12, 3072), (24, 1024, 16, 4096)

# vocabulary, embedding, discriminator, generator | mask %, length, learning rate, batch, steps
PRESETS = {
    "small": (30522, 128, SMALL, (12, 64, 1, 256), 15, 128, 5e-4, 128, 1_000_000),
    "small-pp": (30522, 128, SMALL, SMALL, 15, 512, 5e-4, 128, 4_000_000),
    "base": (30522, 768, BASE, (12, 256, 4, 1024), 15, 512, 2e-4, 256, 766_000),
    "base-pp": (30522, 768, BASE, (12, 256, 4, 1024), 15, 512, 2e-4, 256, 4_000_000),
    "large": (30522, 1024, LARGE, (24, 256, 4, 1024), 25, 512, 2e-4, 2048, 400_000),
    "chinese-small": (21128, 128, SMALL, (12, 64, 1, 256), 15, 512, 5e-4, 1024, 1_000_000),
    "chinese-small-ex": (21128, 256, (24, 256, 4, 1024), (24, 64, 1, 256), 15, 512, 5e-4, 384, 2_000_000),
    "chinese-base": (21128, 768, BASE, (12, 192, 3, 768), 15, 512, 2e-4, 256, 1_000_000),
    "chinese-large": (21128, 1024, LARGE, (24, 256, 4, 1024), 15, 512, 1e-4, 96, 2_000_000),
}
# length, rows in a batch, steps, warmup, learning rate (NVIDIA's recipe)
LAMB = {
    "base-lamb-phase1": (128, 67_584, 10_000, 2_000, 6e-3),
    "base-lamb-phase2": (512, 27_648, 933, 200, 4e-3),
}
FOLDER = Path(__file__).parents[2] / "configs"
NAMES = sorted(path.stem for path in FOLDER.glob("*.toml"))


def load(name: str) -> PretrainConfig:
    return load_config(FOLDER / f"{name}.toml", data=Path("data"), out=Path("out"))


def test_every_preset_of_the_reference_is_in_the_table() -> None:
    assert set(NAMES) == PRESETS.keys() | LAMB.keys() | {"tiny", "reviews"}


@pytest.mark.parametrize("name", LAMB)
def test_a_phase_of_lamb_has_nvidias_numbers(name: str) -> None:
    length, batch, steps, warmup, rate = LAMB[name]
    config = load(name)

    assert config.model == load("base").model
    assert (config.length, config.batch_size, config.steps) == (length, batch, steps)
    assert config.optimizer == OptimizerConfig(
        "lamb", rate, warmup, power=0.5, decay_after_warmup=True, b1=0.878, b2=0.974
    )
    assert config.compute.dtype == "bfloat16"
    assert batch % (8 * config.accumulate) == 0  # eight GPUs


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_the_references_numbers(name: str) -> None:
    vocabulary, embedding, discriminator, generator, percent, length, rate, batch, steps = PRESETS[name]
    config = load(name)

    assert config.model == ModelConfig(
        vocab_size=vocabulary,
        embedding_size=embedding,
        max_position_embeddings=512,
        type_vocab_size=2,
        hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.1,
        initializer_range=0.02,
        layer_norm_eps=1e-12,
        discriminator=TowerConfig(*discriminator),
        generator=TowerConfig(*generator),
    )
    objective, optimizer = config.objective, config.optimizer
    assert (objective.mask_prob, objective.mask_token_prob, objective.temperature) == (percent / 100, 0.85, 1.0)
    assert (objective.generator_weight, objective.discriminator_weight) == (1.0, 50.0)
    assert not objective.disallow_correct
    assert (config.length, config.batch_size, config.steps) == (length, batch, steps)
    assert (optimizer.name, optimizer.learning_rate, optimizer.warmup_steps) == ("adam", rate, 10_000)
    assert (optimizer.b1, optimizer.b2, optimizer.eps, optimizer.power) == (0.9, 0.999, 1e-6, 1.0)
    assert (optimizer.weight_decay, optimizer.clip_norm) == (0.01, 1.0)


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("name", NAMES)
def test_the_towers_are_those_that_transformers_builds(name: str, kind: Kind) -> None:
    model = load(name).model
    sizes = model.tower(kind)
    with torch.device("meta"):
        theirs = CLASSES[kind](to_hf(sizes, kind))

    shapes = {key: tuple(tensor.shape) for key, tensor in theirs.state_dict().items() if key not in TIED[kind]}
    assert {tensor.key: tensor.shape for tensor in tensors(sizes, kind)} == shapes

    params = nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: Electra(model, rngs=nnx.Rngs(0)))))
    leaves = jax.tree.leaves(single_models(params)[kind][1])
    assert sum(leaf.size for leaf in leaves) == sum(int(np.prod(shape)) for shape in shapes.values())
