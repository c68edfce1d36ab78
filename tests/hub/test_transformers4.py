"""Exported folders serve transformers 4 too, which most people still have."""

import json
import os
import subprocess
import venv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax import nnx
from tiny import CONFIGS

from electra_jax.data.tokenizer import load_tokenizer
from electra_jax.finetuning.model import FineTuned
from electra_jax.finetuning.task import TaskSettings
from electra_jax.finetuning.tasks import SHORTEST, task_of
from electra_jax.hub.configs import TaskHead
from electra_jax.hub.folders import write_model
from electra_jax.hub.pretrained import Discriminator, Generator
from electra_jax.model import TaskModel

pytestmark = pytest.mark.slow

REQUIREMENTS = ("transformers==4.46.3", "torch==2.13.0", "numpy")

SCRIPT = """
import json, sys
import torch, transformers
from transformers import AutoTokenizer, ElectraForSequenceClassification, ElectraModel, ElectraTokenizer

assert transformers.__version__ == "4.46.3"
folder, name, text = sys.argv[1:]
model, info = getattr(transformers, name).from_pretrained(folder, output_loading_info=True)
result = {"info": {key: sorted(map(str, value)) for key, value in info.items()}, "missing": {}}
loaders = AutoTokenizer, ElectraTokenizer
tokens = [loader.from_pretrained(folder)(text, return_tensors="pt") for loader in loaders]
assert torch.equal(tokens[0].input_ids, tokens[1].input_ids)
result["ids"] = tokens[0].input_ids.tolist()
with torch.no_grad():
    result["logits"] = model.eval()(**tokens[0]).logits.tolist()

transformers.logging.set_verbosity_error()  # of the heads that these two lack or don't use
for other in (ElectraModel, ElectraForSequenceClassification):
    missing = other.from_pretrained(folder, output_loading_info=True)[1]["missing_keys"]
    result["missing"][other.__name__] = sorted(missing)
print(json.dumps(result))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that has transformers 4."""
    folder = tmp_path_factory.mktemp("transformers4")
    venv.create(folder, with_pip=True)
    interpreter = folder / "bin" / "python"
    subprocess.run([interpreter, "-m", "pip", "install", "--quiet", *REQUIREMENTS], check=True)
    return interpreter


@pytest.mark.parametrize(
    ("model_class", "name"), [(Discriminator, "ElectraForPreTraining"), (Generator, "ElectraForMaskedLM")]
)
def test_an_exported_folder_loads(
    request: pytest.FixtureRequest,
    python: Path,
    model_class: type[Discriminator] | type[Generator],
    name: str,
    tokenizer_folder: Path,
    tmp_path: Path,
) -> None:
    model = request.getfixturevalue(model_class.kind)
    folder = tmp_path / "model"
    folder.mkdir()
    write_model(folder, model.kind, CONFIGS[model.kind], model.params, tokenizer_folder)
    result = load(python, folder, name)

    assert result["missing"]["ElectraModel"] == []
    assert all(key.startswith("classifier.") for key in result["missing"]["ElectraForSequenceClassification"])
    np.testing.assert_allclose(result["logits"], model(result["ids"]), rtol=0, atol=1e-5)


def test_a_fine_tuned_folder_loads(python: Path, tokenizer_folder: Path, tmp_path: Path) -> None:
    config = replace(CONFIGS["discriminator"], max_position_embeddings=SHORTEST)
    head = TaskHead("sequence", ("bad", "good"), "single_label_classification")
    params = nnx.to_pure_dict(nnx.state(TaskModel(config, "sequence", 2, rngs=nnx.Rngs(0)), nnx.Param))
    settings = TaskSettings("classification", ("text",), ("label",), labels=head.labels, length=SHORTEST)
    model = FineTuned(config, params, task_of(settings, load_tokenizer(tokenizer_folder), config))
    model.save_pretrained(tmp_path / "model")
    result = load(python, tmp_path / "model", "ElectraForSequenceClassification")

    assert result["missing"]["ElectraForSequenceClassification"] == []
    np.testing.assert_allclose(result["logits"], model.logits(result["ids"]), rtol=0, atol=1e-5)


def load(python: Path, folder: Path, name: str) -> dict[str, Any]:
    """What transformers 4 says of the folder, loaded by the class of that name: not one warning, nor a missing key."""
    command = [python, "-c", SCRIPT, folder, name, "w1 w30 w2 zzz"]
    run = subprocess.run(command, env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    result = json.loads(run.stdout)
    assert all(keys == [] for keys in result["info"].values()), result["info"]
    assert result["ids"] == [[2, 6, 35, 7, 1, 3]]
    return result
