from itertools import pairwise

import yaml
from huggingface_hub import ModelCard
from tiny import CONFIGS

from electra_jax.hub.card import model_card

MANIFEST = {
    "sources": ["/home/someone/texts/wiki.txt", "wikimedia/wikipedia"],
    "length": 128,
    "vocab_size": 40,
    "train": {"documents": 1234, "rows": 5678, "tokens": 700_000, "text_tokens": 600_000, "unknown_tokens": 300},
}
RECIPE = "steps = 1000\n\n[model]\nvocab_size = 40\n"
CURVE = [{"step": 100 * i, "loss": 40 / (i + 1), "auc": 0.5 + i / 100, "seconds": 3.0} for i in range(31)]


def card(kind: str = "discriminator", **given: object) -> str:
    return model_card("someone/model", kind, CONFIGS[kind], **given)


def front_matter(text: str) -> dict:
    return yaml.safe_load(text.split("---\n")[1])


def table(text: str, heading: str) -> list[list[str]]:
    """The cells of the section's table, its header first and the rule left out."""
    section = text.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
    return [rows[0], *rows[2:]]


def test_front_matter_of_the_discriminator() -> None:
    assert front_matter(card()) == {
        "library_name": "transformers",
        "tags": ["electra", "jax", "replaced-token-detection"],
    }


def test_front_matter_of_the_generator() -> None:
    assert front_matter(card("generator"))["pipeline_tag"] == "fill-mask"


def test_license_and_language_are_there_when_given() -> None:
    given = front_matter(card(license="apache-2.0", language=("en", "zh")))

    assert (given["license"], given["language"]) == ("apache-2.0", ["en", "zh"])


def test_the_hub_library_parses_it() -> None:
    parsed = ModelCard(card("generator", manifests=[MANIFEST], recipe=RECIPE, curve=CURVE))

    assert parsed.data.library_name == "transformers"
    assert parsed.text.lstrip().startswith("# someone/model\n")


def test_usage_is_code_that_compiles() -> None:
    for kind, loader in (("discriminator", "ElectraForPreTraining"), ("generator", "pipeline")):
        code = card(kind).split("```python\n")[1].split("```")[0]
        compile(code, "card", "exec")
        assert loader in code
        assert '"someone/model"' in code


def test_without_a_run_only_the_model_is_described() -> None:
    text = card()

    assert "2 layers, hidden width 16, 4 heads" in text
    assert [line for line in text.splitlines() if line.startswith("## ")] == ["## Usage"]


def test_data() -> None:
    text = card(manifests=[MANIFEST])

    assert "Sources: `wiki.txt`, `wikimedia/wikipedia`" in text
    assert "someone/texts" not in text  # where it lay on a machine is nobody's business
    assert ["documents", "1,234"] in table(text, "Data")
    assert ["share of [UNK]", "0.050%"] in table(text, "Data")


def test_data_of_several_folders_are_added_up() -> None:
    text = card(manifests=[MANIFEST, MANIFEST | {"sources": ["more.txt"], "train": MANIFEST["train"] | {"rows": 1000}}])

    assert "Sources: `wiki.txt`, `wikimedia/wikipedia`, `more.txt`" in text
    assert ["rows", "6,678"] in table(text, "Data")
    assert ["share of [UNK]", "0.050%"] in table(text, "Data")
    assert ["tokens in a row", "128"] in table(text, "Data")


def test_recipe_is_given_as_it_was() -> None:
    assert f"```toml\n{RECIPE.strip()}\n```" in card(recipe=RECIPE)


def test_curve_is_thinned_evenly_and_keeps_its_ends() -> None:
    header, *rows = table(card(curve=CURVE), "Curve")
    steps = [int(row[0].replace(",", "")) for row in rows]

    assert header == ["step", "loss", "auc"]
    assert len(rows) == 12
    assert (steps[0], steps[-1]) == (0, 3000)
    assert {later - earlier for earlier, later in pairwise(steps)} == {200, 300}


def test_short_curves_are_whole() -> None:
    assert len(table(card(curve=CURVE[:1]), "Curve")) == 2
    assert len(table(card(curve=CURVE[:5]), "Curve")) == 6


def test_a_metric_that_some_points_lack_is_left_blank() -> None:
    text = card(curve=[{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0, "recall": 0.25}])

    assert "| 1 | 2 |  |\n| 2 | 1 | 0.25 |" in text


def test_final_metrics() -> None:
    text = card(metrics={"step": 3000, "auc": 0.91234})

    assert table(text, "Final metrics")[1:] == [
        ["step", "3,000"],
        ["auc", "0.9123"],
    ]
