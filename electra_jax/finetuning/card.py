"""The model card of a fine-tuned folder."""

from collections.abc import Sequence
from pathlib import PurePath

from electra_jax.config import FinetuneConfig
from electra_jax.finetuning.model import FineTuned
from electra_jax.finetuning.tuner import Result
from electra_jax.hub.card import code, front_matter, metrics_table, sizes
from electra_jax.hub.configs import ARCHITECTURES
from electra_jax.presets import to_toml

PIPELINES = {
    "classification": "text-classification",
    "regression": "text-classification",
    "tagging": "token-classification",
    "question-answering": "question-answering",
}
"""As the hub names them; transformers has the last no longer."""


def finetuned_card(config: FinetuneConfig, model: FineTuned, best: Result, scores: Sequence[float]) -> str:
    """Markdown with YAML front matter: what the model does, how it scored, and by which settings it was made."""
    task, name = model.task, config.out.name
    pipeline = PIPELINES.get(task.name)
    load = f'{ARCHITECTURES[task.head.kind]}.from_pretrained("{name}")'
    by_pipeline = pipeline and task.name != "question-answering"
    usage = f'pipeline("{pipeline}", model="{name}")' if by_pipeline else load
    imports = "pipeline" if by_pipeline else ARCHITECTURES[task.head.kind]
    each = ", ".join(f"{score:.4f}" for score in scores)
    sections = [
        front_matter(pipeline),
        f"# {name}\n\nAn ELECTRA model fine-tuned for {task.name}.\n\n{sizes(model.config)}",
        f"## Usage\n\n{code('python', f'from transformers import {imports}' + chr(10) * 2 + usage)}",
        f"## Labels\n\n{', '.join(f'`{label}`' for label in model.labels)}" if model.labels else "",
        f"## Scores\n\nOn held-out examples:\n\n{metrics_table(best.scores)}" if best.scores else "",
        f"Over {len(scores)} seeds, {task.settings.metric}: {each}." if len(scores) > 1 else "",
        f"## Recipe\n\nFine-tuned in JAX by these settings:\n\n{code('toml', _recipe(config))}",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _recipe(config: FinetuneConfig) -> str:
    """The settings without the names of its maker's folders."""
    lines = []
    for line in to_toml(config).splitlines():
        name, _, value = line.partition(" = ")
        if name == "out":
            continue
        path = PurePath(value.strip('"')) if name in ("model", "train", "eval") else None
        lines.append(f'{name} = "{path.name}"' if path and path.is_absolute() else line)
    return "\n".join(lines)
