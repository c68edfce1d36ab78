"""The README's examples, run as they stand."""

import re
import subprocess
from pathlib import Path

import pytest

from electra_jax import cli

README = Path(__file__).parent.parent / "README.md"
BLOCK = re.compile(r"<!-- run by tests/test_readme.py -->\n```(\w+)\n(.*?)```", re.DOTALL)


def blocks(language: str) -> list[str]:
    return [code for name, code in BLOCK.findall(README.read_text(encoding="utf-8")) if name == language]


@pytest.fixture
def corpus_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a corpus.txt of forty documents, and labelled texts in train.csv and new.csv."""
    words = ("the old mill by a river turns slowly", "bread is baked before dawn", "nobody reads the last page twice")
    documents = ["\n".join(f"{line} {i} {j}." for j, line in enumerate(words * 5)) for i in range(40)]
    (tmp_path / "corpus.txt").write_text("\n\n".join(documents) + "\n", encoding="utf-8")
    rows = [(("mill", "bread")[i % 2], words[i % 2] + f" {i}") for i in range(40)]
    for name in ("train.csv", "new.csv"):
        lines = ["label,text", *(f"{label},{text}" for label, text in rows)]
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def in_a_shell(line: str) -> list[str]:
    """The words of a line, as a shell makes them."""
    words = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, text=True, check=True)
    return words.stdout.split("\0")[:-1]


def test_commands(corpus_folder: Path) -> None:
    for line in "".join(blocks("bash")).splitlines():
        program, *arguments = in_a_shell(line)
        assert program == "electra-jax"
        cli.main(arguments)
    assert (corpus_folder / "export" / "discriminator" / "model.safetensors").is_file()
    assert (corpus_folder / "classifier" / "model.safetensors").is_file()
    assert len((corpus_folder / "predicted.csv").read_text(encoding="utf-8").splitlines()) == 41
    assert (corpus_folder / "classifier" / "evaluation" / "train.csv" / "roc.png").is_file()


def test_python(corpus_folder: Path) -> None:
    names: dict = {}
    for block in blocks("python"):
        exec(compile(block, str(README), "exec"), names)
    assert 0 <= names["metrics"]["auc"] <= 1
    assert names["logits"].shape == (1, 4, names["vocab"].size)
    assert (corpus_folder / "my-second-run" / "checkpoints" / "5").is_dir()
    assert len(names["result"].scores) == 2
    assert names["answers"][0]["predicted"] in names["classifier"].labels
    assert len((corpus_folder / "my-predictions.jsonl").read_text(encoding="utf-8").splitlines()) == 40
