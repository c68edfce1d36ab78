"""Pretrain ELECTRA in JAX, on text of your own, and hand the result to transformers.

config = electra_jax.load_config("configs/tiny.toml", data=Path("rows"), out=Path("run"))
electra_jax.pretrain(config)
electra_jax.export(Path("run"), Path("export"))
discriminator = electra_jax.Discriminator.from_pretrained("export/discriminator")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from electra_jax.config import (
        ComputeConfig,
        ElectraConfig,
        FinetuneConfig,
        ModelConfig,
        ObjectiveConfig,
        OptimizerConfig,
        PrepareConfig,
        PretrainConfig,
        TensorflowConfig,
        TowerConfig,
        VocabConfig,
    )
    from electra_jax.data.prepare import prepare
    from electra_jax.data.vocab import train_vocabulary
    from electra_jax.errors import UserError
    from electra_jax.finetuning.detect import detect
    from electra_jax.finetuning.evaluate import evaluate
    from electra_jax.finetuning.finetune import finetune
    from electra_jax.finetuning.model import Classifier, FineTuned
    from electra_jax.finetuning.predict import predict
    from electra_jax.finetuning.score import score
    from electra_jax.hub.pretrained import Discriminator, Generator
    from electra_jax.model import Electra
    from electra_jax.presets import load_config
    from electra_jax.report.write import write_report
    from electra_jax.train.convert import export, import_pretrained
    from electra_jax.train.pretrain import pretrain

__version__ = "0.1.0"

# Loaded when first used: preparing text forks its workers, and must not have started JAX before.
_HOMES = {
    "electra_jax.config": (
        "ComputeConfig",
        "ElectraConfig",
        "FinetuneConfig",
        "ModelConfig",
        "ObjectiveConfig",
        "OptimizerConfig",
        "PrepareConfig",
        "PretrainConfig",
        "TensorflowConfig",
        "TowerConfig",
        "VocabConfig",
    ),
    "electra_jax.data.prepare": ("prepare",),
    "electra_jax.data.vocab": ("train_vocabulary",),
    "electra_jax.errors": ("UserError",),
    "electra_jax.finetuning.detect": ("detect",),
    "electra_jax.finetuning.evaluate": ("evaluate",),
    "electra_jax.finetuning.finetune": ("finetune",),
    "electra_jax.finetuning.model": ("Classifier", "FineTuned"),
    "electra_jax.finetuning.predict": ("predict",),
    "electra_jax.finetuning.score": ("score",),
    "electra_jax.hub.pretrained": ("Discriminator", "Generator"),
    "electra_jax.model": ("Electra",),
    "electra_jax.presets": ("load_config",),
    "electra_jax.report.write": ("write_report",),
    "electra_jax.train.convert": ("export", "import_pretrained"),
    "electra_jax.train.pretrain": ("pretrain",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
__all__ = [
    "Classifier",
    "ComputeConfig",
    "Discriminator",
    "Electra",
    "ElectraConfig",
    "FineTuned",
    "FinetuneConfig",
    "Generator",
    "ModelConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "PrepareConfig",
    "PretrainConfig",
    "TensorflowConfig",
    "TowerConfig",
    "UserError",
    "VocabConfig",
    "detect",
    "evaluate",
    "export",
    "finetune",
    "import_pretrained",
    "load_config",
    "predict",
    "prepare",
    "pretrain",
    "score",
    "train_vocabulary",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'electra_jax' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
