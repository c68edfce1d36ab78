import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import transformers
from tiny import CONFIGS

from electra_jax.config import ElectraConfig, ModelConfig, TowerConfig
from electra_jax.errors import UserError
from electra_jax.hub.configs import from_hf, pair_config, read_head, to_hf, write_config


def write(folder: Path, **changes: object) -> Path:
    """config.json of a discriminator with fields changed, or taken out where the new value is ..."""
    content = json.loads(to_hf(CONFIGS["discriminator"], "discriminator").to_json_string()) | changes
    kept = {name: value for name, value in content.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(kept))
    return folder


def rejected(folder: Path) -> str:
    with pytest.raises(UserError) as error:
        from_hf(folder)
    message = str(error.value)
    assert message.startswith(str(folder))
    assert "config.json" in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("kind", ["discriminator", "generator"])
def test_what_was_written_is_read(kind: str, tmp_path: Path) -> None:
    config = replace(CONFIGS[kind], hidden_dropout_prob=0.25, layer_norm_eps=1e-6, type_vocab_size=3, pad_token_id=7)
    write_config(config, kind, tmp_path)

    assert from_hf(tmp_path) == config
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    assert isinstance(theirs, transformers.ElectraConfig)
    assert theirs.architectures == [{"discriminator": "ElectraForPreTraining", "generator": "ElectraForMaskedLM"}[kind]]


def test_defaults_are_those_of_transformers() -> None:
    theirs = transformers.ElectraConfig(architectures=["ElectraForPreTraining"])

    assert to_hf(ElectraConfig(), "discriminator").to_dict() == theirs.to_dict()


def test_what_transformers_leaves_out_takes_its_default(tmp_path: Path) -> None:
    absent = ("hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range")
    write(tmp_path, **dict.fromkeys(absent, ...), pad_token_id=None, position_embedding_type="absolute")

    assert from_hf(tmp_path) == CONFIGS["discriminator"]


def test_whole_numbers_do_for_floats(tmp_path: Path) -> None:
    config = from_hf(write(tmp_path, hidden_dropout_prob=0))

    assert config.hidden_dropout_prob == 0.0
    assert isinstance(config.hidden_dropout_prob, float)


def test_no_config(tmp_path: Path) -> None:
    assert "holds no config.json" in rejected(tmp_path)


@pytest.mark.parametrize("text", ["", "{", '{"model_type": ', "\xff"])
def test_no_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))

    assert "is no JSON" in rejected(tmp_path)


def test_no_object(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[1]")

    assert "no JSON object" in rejected(tmp_path)


def test_another_architecture(tmp_path: Path) -> None:
    message = rejected(write(tmp_path, model_type="roberta"))

    assert "is of another architecture (model_type 'roberta'); give the folder of an ELECTRA model" in message


def test_no_architecture(tmp_path: Path) -> None:
    assert "has no model_type" in rejected(write(tmp_path, model_type=...))


@pytest.mark.parametrize(
    ("field", "value"), [("hidden_act", "relu"), ("position_embedding_type", "relative_key"), ("is_decoder", True)]
)
def test_variants_that_are_not_computed(tmp_path: Path, field: str, value: object) -> None:
    assert f"{field} is {value!r}, and only models with" in rejected(write(tmp_path, **{field: value}))


@pytest.mark.parametrize("field", ["vocab_size", "embedding_size", "layer_norm_eps", "type_vocab_size"])
def test_missing_field(tmp_path: Path, field: str) -> None:
    assert f"{field} is missing" in rejected(write(tmp_path, **{field: ...}))


@pytest.mark.parametrize(
    ("field", "value", "wanted"),
    [
        ("hidden_size", "256", "a whole number of at least 1"),
        ("hidden_size", 256.0, "a whole number of at least 1"),
        ("num_hidden_layers", True, "a whole number of at least 1"),
        ("vocab_size", 0, "a whole number of at least 1"),
        ("pad_token_id", -1, "a whole number of at least 0"),
        ("hidden_dropout_prob", 1.0, "a number of at least 0 and below 1"),
        ("layer_norm_eps", "1e-12", "a number of at least 0"),
    ],
)
def test_field_of_another_type_or_range(tmp_path: Path, field: str, value: object, wanted: str) -> None:
    assert f"{field} is {value!r}, and must be {wanted}" in rejected(write(tmp_path, **{field: value}))


def test_heads_that_do_not_divide_the_width(tmp_path: Path) -> None:
    assert "hidden_size 16 is no multiple of num_attention_heads 3" in rejected(write(tmp_path, num_attention_heads=3))


def test_pair() -> None:
    pair = pair_config(CONFIGS["discriminator"], CONFIGS["generator"])

    assert pair.discriminator == TowerConfig(2, 16, 4, 24)
    assert pair.generator == TowerConfig(2, 8, 2, 12)
    assert pair.tower("discriminator") == CONFIGS["discriminator"]
    assert pair.tower("generator") == CONFIGS["generator"]


def test_pair_of_the_default_model() -> None:
    pair = ModelConfig()

    assert pair_config(pair.tower("discriminator"), pair.tower("generator")) == pair


def test_a_run_is_no_model_yet(tmp_path: Path) -> None:
    (tmp_path / "config.toml").touch()

    with pytest.raises(UserError, match="is a pretraining run; give what `electra-jax export` makes of it"):
        from_hf(tmp_path)


def test_what_no_weight_depends_on_is_the_discriminators() -> None:
    generator = replace(CONFIGS["generator"], hidden_dropout_prob=0.3, initializer_range=0.01)
    pair = pair_config(CONFIGS["discriminator"], generator)

    assert pair == pair_config(CONFIGS["discriminator"], CONFIGS["generator"])


@pytest.mark.parametrize(
    "field", ["vocab_size", "embedding_size", "max_position_embeddings", "type_vocab_size", "layer_norm_eps"]
)
def test_disagreeing_pair(field: str) -> None:
    value = getattr(CONFIGS["generator"], field)
    other = replace(CONFIGS["generator"], **{field: value * 2})

    with pytest.raises(UserError, match=re.escape(f"{field} is {value} in the discriminator and {value * 2} in the")):
        pair_config(CONFIGS["discriminator"], other)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"architectures": 5}, "holds none, which is no fine-tuned model"),
        ({"id2label": {"0": "a", "1": "a"}}, "id2label has 'a' twice; give each label its own name"),
        ({"id2label": {"0": "a", "2": "b"}}, "id2label doesn't number the labels from 0"),
        ({"problem_type": "regression"}, "a regression of 2 numbers, and only one can be read"),
        ({"architectures": ["ElectraForMultipleChoice"], "summary_activation": "tanh"}, "summary_activation is 'tanh'"),
        ({"architectures": ["ElectraForMultipleChoice"], "summary_type": "mean"}, "summary_type is 'mean', and only"),
    ],
)
def test_heads_that_are_not_read(tmp_path: Path, changes: dict, says: str) -> None:
    labelled = {"architectures": ["ElectraForSequenceClassification"], "id2label": {"0": "a", "1": "b"}}
    with pytest.raises(UserError) as error:
        read_head(write(tmp_path, **(labelled | changes)))
    assert str(error.value).startswith(f"{tmp_path}/config.json: {says}")


def test_the_summary_of_another_head_does_not_matter(tmp_path: Path) -> None:
    labelled = {"architectures": ["ElectraForSequenceClassification"], "id2label": {"0": "a", "1": "b"}}
    assert read_head(write(tmp_path, **labelled, summary_activation="tanh")).labels == ("a", "b")


def test_labels_may_be_counted_alone(tmp_path: Path) -> None:
    counted = {"architectures": ["ElectraForSequenceClassification"], "num_labels": 3}
    assert read_head(write(tmp_path, **counted)).labels == ("LABEL_0", "LABEL_1", "LABEL_2")
