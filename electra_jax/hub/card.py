"""The model card: README.md of an exported folder."""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from huggingface_hub import ModelCardData

from electra_jax.config import ElectraConfig
from electra_jax.hub.names import Role

POINTS = 12
"""Most rows of the curve's table."""

COLUMNS = ("step", "loss", "mlm_loss", "discriminator_loss", "encoder_loss", "precision", "recall", "auc")

WHAT = {
    "discriminator": """\
An ELECTRA discriminator: a Transformer encoder pretrained to tell, for each token of a text, whether a small generator
replaced it ([Clark et al., 2020](https://arxiv.org/abs/2003.10555)). It is the model to fine-tune.""",
    "encoder": """\
A Transformer encoder of ELECTRA's architecture ([Clark et al., 2020](https://arxiv.org/abs/2003.10555)), pretrained to
predict tokens rather than to detect replaced ones. It is the model to fine-tune.""",
    "electric": """\
An Electric model ([Clark et al., 2020](https://arxiv.org/abs/2012.08561)): a Transformer encoder of ELECTRA's
architecture, pretrained to give each token of a text an energy, minus the logarithm of its probability given all the
others, up to a constant. It is the model to fine-tune, and it scores texts.""",
    "generator": """\
An ELECTRA generator: the small masked language model that proposes replacements while a discriminator is pretrained
([Clark et al., 2020](https://arxiv.org/abs/2003.10555)). The discriminator, not this model, is the one to
fine-tune.""",
}

USAGE = {
    "discriminator": """\
import torch
from transformers import AutoTokenizer, ElectraForPreTraining

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = ElectraForPreTraining.from_pretrained("{name}")
inputs = tokenizer("a sentence", return_tensors="pt")
with torch.no_grad():
    replaced = model(**inputs).logits > 0  # [1, tokens]""",
    "electric": """\
import torch
from transformers import AutoTokenizer, ElectraForPreTraining

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = ElectraForPreTraining.from_pretrained("{name}")
inputs = tokenizer("a sentence", return_tensors="pt")
with torch.no_grad():
    log_likelihood = -model(**inputs).logits[0, 1:-1].sum()  # without [CLS] and [SEP]; up to a constant each token""",
    "generator": """\
from transformers import pipeline

fill = pipeline("fill-mask", model="{name}")
fill(f"a {{fill.tokenizer.mask_token}} sentence")""",
}

USAGE["encoder"] = USAGE["generator"]
FINE_TUNING = "To fine-tune it, load it with `ElectraForSequenceClassification` and its like."


def model_card(
    name: str,
    kind: Role,
    config: ElectraConfig,
    *,
    objective: str | None = None,
    manifests: Sequence[Mapping[str, Any]] = (),
    recipe: str | None = None,
    curve: Sequence[Mapping[str, float]] = (),
    metrics: Mapping[str, float] | None = None,
    license: str | None = None,
    language: str | Sequence[str] | None = None,
) -> str:
    """Markdown with YAML front matter.

    `name` is that of the folder or on the hub; `objective` what the run minimised, if not electra; `manifests` what the
    manifest.json of each folder of data holds; `recipe` the run's settings as TOML; `curve` the evaluations, each with
    its step; `metrics` those of the last. A section whose input is not given is left out.
    """
    about = "electric" if objective == "electric" and kind == "discriminator" else kind
    sections = [
        front_matter(None if kind == "discriminator" else "fill-mask", license, language),
        f"# {name}\n\n{WHAT[about]}\n\n{sizes(config)}",
        _usage(name, about),
        _data(manifests) if manifests else "",
        f"## Recipe\n\nPretrained in JAX by these settings:\n\n{code('toml', recipe)}" if recipe else "",
        f"## Curve\n\nOn held-out rows:\n\n{_curve(curve)}" if curve else "",
        f"## Final metrics\n\n{metrics_table(metrics)}" if metrics else "",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def front_matter(pipeline: str | None, license: str | None = None, language: str | Sequence[str] | None = None) -> str:
    """What the hub reads of a card, as YAML between lines of dashes."""
    data = ModelCardData(
        library_name="transformers",
        tags=["electra", "jax", "replaced-token-detection"],
        pipeline_tag=pipeline,
        license=license,
        language=language if language is None or isinstance(language, str) else list(language),
    )
    return f"---\n{data.to_yaml().strip()}\n---"


def sizes(config: ElectraConfig) -> str:
    """The model's shape as a sentence."""
    return (
        f"{config.num_hidden_layers} layers, hidden width {config.hidden_size}, {config.num_attention_heads} heads, "
        f"feed-forward width {config.intermediate_size}, embedding width {config.embedding_size}, "
        f"{config.vocab_size:,} tokens in the vocabulary, {config.max_position_embeddings} positions."
    )


def _usage(name: str, about: str) -> str:
    usage = f"## Usage\n\n{code('python', USAGE[about].format(name=name))}"
    return usage if about == "generator" else f"{usage}\n\n{FINE_TUNING}"


def _data(manifests: Sequence[Mapping[str, Any]]) -> str:
    """The training splits' counts and the sources, of which absolute paths lose their folders."""
    counts = ("documents", "rows", "tokens", "unknown_tokens", "text_tokens")
    train = {count: sum(manifest["train"][count] for manifest in manifests) for count in counts}
    rows = {
        "documents": f"{train['documents']:,}",
        "rows": f"{train['rows']:,}",
        "tokens": f"{train['tokens']:,}",
        "share of [UNK]": f"{train['unknown_tokens'] / max(1, train['text_tokens']):.3%}",
        "tokens in a row": f"{manifests[0]['length']:,}",
        "vocabulary": f"{manifests[0]['vocab_size']:,}",
    }
    sources = ", ".join(f"`{_public(source)}`" for manifest in manifests for source in manifest["sources"])
    return f"## Data\n\nSources: {sources}\n\n{_table(('of the training rows', ''), rows.items())}"


def _public(source: str) -> str:
    path = PurePath(source)
    return path.name if path.is_absolute() else source


def _curve(curve: Sequence[Mapping[str, float]]) -> str:
    columns = [column for column in COLUMNS if any(column in point for point in curve)]
    rows = ([_number(column, point.get(column)) for column in columns] for point in _evenly(curve))
    return _table(columns, rows)


def _evenly(curve: Sequence[Mapping[str, float]]) -> list[Mapping[str, float]]:
    """At most POINTS of the curve, the first and the last among them."""
    last, count = len(curve) - 1, min(POINTS, len(curve))
    return [curve[round(i * last / max(1, count - 1))] for i in range(count)]


def code(language: str, text: str) -> str:
    """A block of code."""
    return f"```{language}\n{text.strip()}\n```"


def metrics_table(metrics: Mapping[str, float]) -> str:
    """A row a metric."""
    return _table(("metric", "value"), ((name, _number(name, value)) for name, value in metrics.items()))


def _number(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if name == "step" else f"{value:.4g}"


def _table(columns: Sequence[str], rows: Any) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
