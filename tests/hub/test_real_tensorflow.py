"""Checkpoints that TensorFlow writes, in an environment of its own: what `pip install .[tensorflow]` gives."""

import os
import shutil
import subprocess
import venv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from release import release_variables
from test_tensorflow import MODEL, make_params, write_vocabulary

from electra_jax.hub.names import flat
from electra_jax.train.run import TOKENIZER, read_model, restore_params

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[2]

WRITE = """
import sys
import numpy as np
import tensorflow.compat.v1 as tf

source, prefix = sys.argv[1:]
with tf.Graph().as_default(), tf.Session() as session:
    for name, value in np.load(source).items():
        tf.get_variable(name, initializer=value, use_resource=False)
    session.run(tf.global_variables_initializer())
    tf.train.Saver().save(session, prefix, global_step=1000)
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with this package and TensorFlow."""
    folder = tmp_path_factory.mktemp("tensorflow")
    venv.create(folder, with_pip=True)
    command = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", f"{PROJECT}[tensorflow]"]
    subprocess.run(command, check=True)
    return folder / "bin"


@pytest.fixture(scope="module")
def written(environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of the original release, as TensorFlow's Saver makes it."""
    folder = tmp_path_factory.mktemp("data") / "models" / "mine"
    folder.mkdir(parents=True)
    source = folder.parents[1] / "variables.npz"
    np.savez(source, **release_variables(make_params(MODEL)))
    run(environment / "python", "-c", WRITE, source, folder / "model.ckpt")
    write_vocabulary(folder.parents[1] / "vocab.txt")
    return folder


@pytest.fixture
def checkpoint(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "mine"))


def run(*command: object, status: int = 0) -> str:
    """What the command says on stderr; it must end with `status`."""
    variables = os.environ | {"JAX_PLATFORMS": "cpu", "COLUMNS": "200", "HF_HUB_OFFLINE": "1"}
    process = subprocess.run([*map(str, command)], env=variables, capture_output=True, text=True, cwd="/")
    assert process.returncode == status, process.stderr
    return process.stderr


def test_a_run_is_imported_bit_for_bit(environment: Path, written: Path, tmp_path: Path) -> None:
    assert {path.name for path in written.iterdir()} == {
        "checkpoint",
        "model.ckpt-1000.data-00000-of-00001",
        "model.ckpt-1000.index",
        "model.ckpt-1000.meta",
    }
    out = tmp_path / "imported"
    said = run(environment / "electra-jax", "import", written, "--tensorflow.heads", 4, "--out", out)

    assert said == f"{out}: start from it with electra-jax pretrain --init-from {out}\n"
    assert read_model(out) == MODEL
    assert (out / TOKENIZER / "vocab.txt").is_file()
    found, expected = flat(restore_params(out)[1]), flat(make_params(MODEL))
    assert found.keys() == expected.keys()
    for path, leaf in expected.items():
        np.testing.assert_array_equal(found[path], leaf, err_msg=path)


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def change_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[5] ^= 0xFF  # of the first variable, or of the first name
    file.write_bytes(content)


@pytest.mark.parametrize("name", ["model.ckpt-1000.data-00000-of-00001", "model.ckpt-1000.index"])
@pytest.mark.parametrize("damage", [cut_short, change_a_byte, Path.unlink])
def test_a_damaged_checkpoint(
    environment: Path, checkpoint: Path, tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    damage(checkpoint / name)
    said = run(environment / "electra-jax", "import", checkpoint, "--out", tmp_path / "out", status=2)

    assert said.count("\n") == 1, said
    if name.endswith(".index") and damage is Path.unlink:
        assert said.startswith(f"electra-jax import: {checkpoint}: holds no config.json")
    else:
        assert said.startswith(f"electra-jax import: {checkpoint / 'model.ckpt-1000'}: damaged, or cut short (")
    assert not (tmp_path / "out").exists()
