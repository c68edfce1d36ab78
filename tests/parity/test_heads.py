"""Fine-tuned models: the same numbers as transformers' PyTorch models, and the same files."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import published
import pytest
import safetensors.numpy
import torch
from transformers import (
    ElectraForMultipleChoice,
    ElectraForQuestionAnswering,
    ElectraForSequenceClassification,
    ElectraForTokenClassification,
    PreTrainedModel,
)

from electra_jax.data.tokenizer import load_tokenizer, save_tokenizer
from electra_jax.finetuning.model import FineTuned

TOLERANCE = 1e-5
CHOICES = 3

HEADS: dict[str, tuple[type[PreTrainedModel], dict[str, Any]]] = {
    "single-label": (ElectraForSequenceClassification, {"id2label": {0: "bad", 1: "so so", 2: "good"}}),
    "multi-label": (
        ElectraForSequenceClassification,
        {"num_labels": 4, "problem_type": "multi_label_classification"},
    ),
    "regression": (ElectraForSequenceClassification, {"num_labels": 1, "problem_type": "regression"}),
    "two labels, unnamed": (ElectraForSequenceClassification, {}),
    "tagging": (ElectraForTokenClassification, {"id2label": {0: "O", 1: "B-PER", 2: "I-PER"}}),
    "question answering": (ElectraForQuestionAnswering, {}),
    "multiple choice": (ElectraForMultipleChoice, {}),
}
TASKS = {
    "single-label": "classification",
    "multi-label": "classification",
    "regression": "regression",
    "two labels, unnamed": "classification",
    "tagging": "tagging",
    "question answering": "question-answering",
    "multiple choice": "multiple-choice",
}


class Case(NamedTuple):
    name: str
    theirs: PreTrainedModel
    folder: Path
    """What `theirs` saved."""
    ours: FineTuned
    """Read from there."""
    again: Path
    """What `ours` saved."""
    inputs: dict[str, np.ndarray]

    def real(self, logits: np.ndarray) -> np.ndarray:
        """Those of a sequence, or of tokens that are no padding."""
        return logits[self.inputs["attention_mask"] == 1] if logits.ndim == 3 else logits


@pytest.fixture(scope="module", params=HEADS)
def case(request: pytest.FixtureRequest, tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("head")
    model_class, changes = HEADS[request.param]
    config = published.torch_config("hfl-small", "discriminator")
    config.update(changes)
    theirs = published.randomized(model_class(config))
    theirs.save_pretrained(folder / "theirs")
    save_tokenizer(load_tokenizer(tokenizer), folder / "theirs")
    ours = FineTuned.from_pretrained(folder / "theirs")
    ours.save_pretrained(folder / "ours")
    inputs = published.batch(config.vocab_size)
    return Case(request.param, theirs, folder / "theirs", ours, folder / "ours", inputs)


@torch.no_grad()
def logits_of(model: PreTrainedModel, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """As `FineTuned.logits` has them: start and end of a span side by side, each sequence of a choice a row."""
    tensors = published.as_torch(inputs)
    if isinstance(model, ElectraForMultipleChoice):
        tensors = {name: tensor.reshape(1, CHOICES, -1) for name, tensor in tensors.items()}
        return model(**tensors).logits.reshape(CHOICES, 1).numpy()
    output = model(**tensors)
    if isinstance(model, ElectraForQuestionAnswering):
        return torch.stack([output.start_logits, output.end_logits], -1).numpy()
    return output.logits.numpy()


def test_logits_are_those_of_transformers(case: Case) -> None:
    expected = logits_of(case.theirs, case.inputs)
    logits = case.ours.logits(**case.inputs)

    assert logits.shape == expected.shape
    assert logits.dtype == np.float32
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(case.real(np.asarray(logits)), case.real(expected), rtol=0, atol=TOLERANCE)


def test_the_task_and_its_labels_are_those_of_the_folder(case: Case) -> None:
    assert case.ours.task.name == TASKS[case.name]
    assert case.ours.task.settings.multi_label == (case.name == "multi-label")
    if case.ours.labels:
        assert case.ours.labels == tuple(case.theirs.config.id2label.values())


def test_transformers_loads_what_is_written(case: Case) -> None:
    model, info = type(case.theirs).from_pretrained(case.again, output_loading_info=True)

    assert {name: list(keys) for name, keys in info.items() if keys} == {}
    assert model.config.architectures == [type(model).__name__]
    assert model.config.problem_type == case.ours.task.head.problem
    np.testing.assert_allclose(
        case.real(logits_of(model.eval(), case.inputs)),
        case.real(np.asarray(case.ours.logits(**case.inputs))),
        rtol=0,
        atol=TOLERANCE,
    )


def test_labels_are_written_both_ways(case: Case) -> None:
    theirs, ours = (type(case.theirs.config).from_pretrained(folder) for folder in (case.folder, case.again))

    assert ours.id2label == theirs.id2label
    assert ours.label2id == {label: number for number, label in theirs.id2label.items()}


def test_what_was_read_is_written_bit_for_bit(case: Case) -> None:
    theirs, ours = (safetensors.numpy.load_file(folder / "model.safetensors") for folder in (case.folder, case.again))

    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert ours[key].dtype == np.float32
        assert ours[key].tobytes() == value.tobytes(), key


def test_what_is_written_is_read_again(case: Case) -> None:
    again = FineTuned.from_pretrained(case.again)

    assert again.task.settings == case.ours.task.settings
    np.testing.assert_array_equal(again.logits(**case.inputs), case.ours.logits(**case.inputs))
