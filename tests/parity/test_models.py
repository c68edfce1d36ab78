"""The same numbers as transformers' PyTorch models, and the same files."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import published
import pytest
import safetensors.numpy
import torch
from transformers import (
    ElectraForMaskedLM,
    ElectraForPreTraining,
    ElectraForSequenceClassification,
    ElectraModel,
    PreTrainedModel,
)

from electra_jax.config import ComputeConfig
from electra_jax.hub.names import Kind
from electra_jax.hub.pretrained import Discriminator, Generator
from electra_jax.hub.weights import to_params, to_state

TOLERANCE = 1e-5
CLASSES = {"discriminator": Discriminator, "generator": Generator}
MODELS = [(name, kind) for name in published.PUBLISHED for kind in ("discriminator", "generator")]


class Case(NamedTuple):
    kind: Kind
    theirs: PreTrainedModel
    state: dict[str, np.ndarray]
    """Of `theirs`."""
    ours: Discriminator | Generator
    """Of the same weights."""
    inputs: dict[str, np.ndarray]

    def real(self, array: np.ndarray) -> np.ndarray:
        return np.asarray(array)[self.inputs["attention_mask"] == 1]


def make_case(name: str, kind: Kind) -> Case:
    config, sizes = published.torch_config(name, kind), published.our_config(name, kind)
    theirs = published.torch_model(config, kind)
    state = {key: value.numpy() for key, value in theirs.state_dict().items()}
    ours = CLASSES[kind].from_params(sizes, to_params(state, sizes, kind, name))
    return Case(kind, theirs, state, ours, published.batch(config.vocab_size))


@pytest.fixture(scope="module", params=MODELS, ids=lambda model: "-".join(model))
def case(request: pytest.FixtureRequest) -> Case:
    return make_case(*request.param)


@pytest.fixture(scope="module", params=["discriminator", "generator"])
def small(request: pytest.FixtureRequest) -> Case:
    return make_case("hfl-small", request.param)


@torch.no_grad()
def test_hidden_states_and_logits_are_those_of_transformers(case: Case) -> None:
    output = case.theirs(**published.as_torch(case.inputs), output_hidden_states=True)
    hidden = case.ours.hidden_states(**case.inputs)
    logits = case.ours(**case.inputs)

    assert logits.shape == output.logits.shape
    assert logits.dtype == np.float32
    errors = {
        "hidden": np.abs(case.real(hidden) - case.real(output.hidden_states[-1])).max(),
        "logits": np.abs(case.real(logits) - case.real(output.logits)).max(),
    }
    assert max(errors.values()) <= TOLERANCE, errors


def test_what_was_read_is_written_bit_for_bit(case: Case) -> None:
    written = to_state(case.ours.params, case.ours.config, case.kind)

    assert written.keys() == case.state.keys() - {"generator_lm_head.weight"}
    for key, value in written.items():
        assert value.dtype == np.float32
        assert value.tobytes() == case.state[key].tobytes(), key


def test_a_file_of_transformers_is_written_again_bit_for_bit(small: Case, tmp_path: Path) -> None:
    small.theirs.save_pretrained(tmp_path / "theirs")
    type(small.ours).from_pretrained(tmp_path / "theirs").save_pretrained(tmp_path / "ours")

    theirs, ours = (safetensors.numpy.load_file(tmp_path / name / "model.safetensors") for name in ("theirs", "ours"))
    assert theirs.keys() == ours.keys()
    for key, value in theirs.items():
        assert ours[key].tobytes() == value.tobytes(), key


def test_scanned_layers_give_the_same(small: Case) -> None:
    scanned = type(small.ours).from_params(small.ours.config, small.ours.params, ComputeConfig(scan_layers=True))

    np.testing.assert_allclose(
        small.real(scanned(**small.inputs)), small.real(small.ours(**small.inputs)), rtol=0, atol=2e-6
    )


def test_bfloat16_is_near(small: Case) -> None:
    half = type(small.ours).from_params(small.ours.config, small.ours.params, ComputeConfig(dtype="bfloat16"))
    logits = small.real(half(**small.inputs))

    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, small.real(small.ours(**small.inputs)), rtol=0, atol=0.1)


def test_a_call_under_jit_gives_the_same(small: Case) -> None:
    inside = jax.jit(lambda inputs: small.ours(**inputs))(small.inputs)

    np.testing.assert_allclose(inside, small.ours(**small.inputs), rtol=0, atol=2e-6)


def test_mask_and_types_default_to_ones_and_zeros(small: Case) -> None:
    ids = small.inputs["input_ids"]

    np.testing.assert_array_equal(small.ours(ids), small.ours(ids, np.ones_like(ids), np.zeros_like(ids)))


@pytest.fixture(scope="module")
def exported(small: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ours") / "model"
    small.ours.save_pretrained(folder)
    return folder


def load(model_class: type[PreTrainedModel], folder: Path) -> tuple[PreTrainedModel, dict[str, set[str]]]:
    model, info = model_class.from_pretrained(folder, output_loading_info=True)
    assert not info["mismatched_keys"]
    assert not info["error_msgs"]
    return model.eval(), {name: set(info[name]) for name in ("missing_keys", "unexpected_keys")}


def head_keys(model: PreTrainedModel) -> set[str]:
    """What the model has beside the encoder, tied weights left out."""
    return {name for name, _ in model.named_parameters() if not name.startswith("electra.")}


@torch.no_grad()
def test_transformers_loads_the_export_with_its_own_head(small: Case, exported: Path) -> None:
    model, keys = load({"discriminator": ElectraForPreTraining, "generator": ElectraForMaskedLM}[small.kind], exported)

    assert keys == {"missing_keys": set(), "unexpected_keys": set()}
    assert model.config.architectures == [type(model).__name__]
    inputs = published.as_torch(small.inputs)
    assert torch.equal(model(**inputs).logits, small.theirs(**inputs).logits)


@torch.no_grad()
def test_transformers_loads_the_export_without_a_head(small: Case, exported: Path) -> None:
    model, keys = load(ElectraModel, exported)

    assert keys == {"missing_keys": set(), "unexpected_keys": head_keys(small.theirs)}
    hidden = model(**published.as_torch(small.inputs)).last_hidden_state
    np.testing.assert_allclose(
        small.real(hidden), small.real(small.ours.hidden_states(**small.inputs)), rtol=0, atol=TOLERANCE
    )


@torch.no_grad()
def test_transformers_loads_the_export_for_classification(small: Case, exported: Path) -> None:
    model, keys = load(ElectraForSequenceClassification, exported)

    assert keys == {"missing_keys": head_keys(model), "unexpected_keys": head_keys(small.theirs)}
    hidden = model.electra(**published.as_torch(small.inputs)).last_hidden_state
    ours = small.ours.hidden_states(**small.inputs)
    np.testing.assert_allclose(small.real(hidden), small.real(ours), rtol=0, atol=TOLERANCE)


def test_settings_survive_the_way_through_transformers(small: Case, exported: Path) -> None:
    again = type(small.ours).from_pretrained(exported)

    assert again.config == small.ours.config
    assert dataclasses.asdict(again.config).items() <= small.theirs.config.to_dict().items()
