"""The conversion in docs/migrating.md, run as it stands."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import ElectraConfig, ElectraForMaskedLM, ElectraForPreTraining

from electra_jax.train.run import read_model, restore_params

GUIDE = Path(__file__).parents[2] / "docs" / "migrating.md"
BLOCK = re.compile(r"<!-- run by tests/hub/test_migrating.py -->\n```python\n(.*?)```", re.DOTALL)


def test_richarddwangs_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = ElectraForMaskedLM(ElectraConfig(hidden_size=64, num_attention_heads=1, intermediate_size=256))
    discriminator = ElectraForPreTraining(ElectraConfig())
    discriminator.electra.embeddings = generator.electra.embeddings
    pair = torch.nn.ModuleDict({"generator": generator, "discriminator": discriminator})
    (tmp_path / "checkpoints" / "pretrain").mkdir(parents=True)
    saved = {"model": pair.state_dict(), "opt": {}}
    torch.save(saved, tmp_path / "checkpoints" / "pretrain" / "vanilla_11081_100.0%.pth")
    monkeypatch.chdir(tmp_path)
    (code,) = BLOCK.findall(GUIDE.read_text(encoding="utf-8"))
    exec(compile(code, str(GUIDE), "exec"), {})

    model, (_, params) = read_model(tmp_path / "released"), restore_params(tmp_path / "released")
    assert (model.generator.hidden_size, model.generator.num_attention_heads) == (64, 1)
    for name, tower in pair.items():
        expected = tower.electra.encoder.layer[3].attention.self.key.weight.detach().numpy().T
        np.testing.assert_array_equal(params[name]["encoder"]["layers"]["attention"]["key"]["kernel"][3], expected)
    words = generator.electra.embeddings.word_embeddings.weight.detach().numpy()
    np.testing.assert_array_equal(params["embeddings"]["word"], words)
