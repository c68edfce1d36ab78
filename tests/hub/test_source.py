import os
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

import huggingface_hub
import pytest

from electra_jax.errors import UserError
from electra_jax.hub.pretrained import Discriminator
from electra_jax.hub.source import local_folder


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The hub's cache, empty, with the network off."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    assert local_folder(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("name", ["some/path/of/three", "./here", "a name", "/absent"])
def test_no_folder_and_no_name_of_the_hub(name: str) -> None:
    with pytest.raises(UserError, match="no such folder; give a model's folder, or its name on the hub"):
        local_folder(name)


def test_offline(offline: Path) -> None:
    with pytest.raises(UserError, match=r"^someone/model: no such folder, and the hub doesn't give") as error:
        local_folder("someone/model")
    assert "\n" not in str(error.value)


def test_offline_by_the_variable(tmp_path: Path) -> None:
    code = "from electra_jax.hub.pretrained import Generator; Generator.from_pretrained('someone/model')"
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)

    assert "UserError: someone/model: no such folder, and the hub doesn't give a model of that name" in run.stderr


def test_a_cached_model_is_read_offline(offline: Path, discriminator_folder: Path) -> None:
    commit = "0" * 40
    repo = offline / "models--someone--model"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    shutil.copytree(discriminator_folder, repo / "snapshots" / commit)

    assert local_folder("someone/model") == repo / "snapshots" / commit
    assert Discriminator.from_pretrained("someone/model").config.vocab_size == 40


class Hub:
    """Stands for the network: a repository of the given files."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.folder, self.names, self.asked = folder, names, list[str]()

    def snapshot_download(self, name: str, allow_patterns: list[str]) -> str:
        self.folder.mkdir(exist_ok=True)
        for file in [name for name in self.names if any(map(partial(fnmatch, name), allow_patterns))]:
            self.asked.append(file)
            (self.folder / file).touch()
        return str(self.folder)


@pytest.mark.parametrize(
    ("names", "fetched"),
    [
        (
            ("config.json", "model.safetensors", "pytorch_model.bin", "tf_model.h5"),
            {"config.json", "model.safetensors"},
        ),
        (("config.json", "pytorch_model.bin", "vocab.txt"), {"config.json", "vocab.txt", "pytorch_model.bin"}),
        (
            ("config.json", "pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin"),
            {"config.json", "pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin"},
        ),
    ],
)
def test_the_pickle_is_fetched_only_for_want_of_safetensors(
    names: tuple[str, ...], fetched: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(tmp_path / "snapshot", *names)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)

    assert local_folder("someone/model") == hub.folder
    assert set(hub.asked) == fetched
