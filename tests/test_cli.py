"""The command, from text to folders that transformers loads and back."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import micro
import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, ElectraForMaskedLM, ElectraForPreTraining

from electra_jax import cli
from electra_jax.hub.names import flat
from electra_jax.hub.pretrained import Discriminator, Generator
from electra_jax.train.run import restore_params

CLASSES = {"discriminator": ElectraForPreTraining, "generator": ElectraForMaskedLM}
OURS = {"discriminator": Discriminator, "generator": Generator}

RECIPE = """
length = 16
batch_size = 8
steps = 1000
log_every = 4
eval_every = 10
eval_rows = 50
checkpoint_every = 10

[model]
vocab_size = 1
embedding_size = 16
max_position_embeddings = 16
discriminator = { num_hidden_layers = 2, hidden_size = 32, num_attention_heads = 2, intermediate_size = 64 }
generator = { num_hidden_layers = 1, hidden_size = 16, num_attention_heads = 1, intermediate_size = 32 }

[optimizer]
learning_rate = 2e-3
warmup_steps = 5

[compute]
scan_layers = true
"""


@dataclass(frozen=True)
class Story:
    """Folders that one sequence of commands made, each from the one before."""

    folder: Path
    vocabulary: int

    def __getattr__(self, name: str) -> Path:
        return self.folder / name


@pytest.fixture(scope="module")
def story(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """vocab, prepare, pretrain, export, import, pretrain from it, export; and an import of a discriminator alone."""
    folder = tmp_path_factory.mktemp("story")
    (folder / "recipe.toml").write_text(RECIPE)

    def run(command: str) -> None:
        words = (str(folder / word[1:]) if word.startswith("@") else word for word in command.split())
        cli.main([*words])

    run(f"vocab {text} --out @tokenizer --size 110")
    vocabulary = len((folder / "tokenizer" / "vocab.txt").read_text().splitlines())
    run(f"prepare {text} --tokenizer @tokenizer --out @rows --length 16 --held-out 0.2")
    pretrain = f"pretrain --config @recipe.toml --data @rows --model.vocab-size {vocabulary}"
    run(f"{pretrain} --out @run --steps 20")
    run("export @run --out @exported")
    run("export @run --out @earlier --step 10")
    run("import @exported/discriminator --generator @exported/generator --out @imported")
    run("export @imported --out @exported-again")
    run(f"{pretrain} --out @second-run --steps 2 --seed 1 --optimizer.learning-rate 0 --init-from @imported")
    run("export @second-run --out @exported-from-second")
    return Story(folder, vocabulary)


@pytest.fixture
def ids(story: Story) -> np.ndarray:
    return np.random.default_rng(0).integers(5, story.vocabulary, (2, 16))


@pytest.mark.parametrize("kind", CLASSES)
def test_transformers_loads_the_exported_folders(story: Story, kind: str) -> None:
    model, loading = CLASSES[kind].from_pretrained(story.exported / kind, output_loading_info=True)
    assert {name: list(keys) for name, keys in loading.items() if keys} == {}
    assert model.config.architectures == [CLASSES[kind].__name__]


@pytest.mark.parametrize("kind", CLASSES)
def test_transformers_computes_the_same_logits(story: Story, ids: np.ndarray, kind: str) -> None:
    theirs = CLASSES[kind].from_pretrained(story.exported / kind).eval()
    with torch.no_grad():
        expected = theirs(torch.tensor(ids)).logits.numpy()
    ours = OURS[kind].from_pretrained(story.exported / kind)(ids)
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    assert np.ptp(expected) > 0.1


@pytest.mark.parametrize("kind", CLASSES)
def test_the_tokenizer_is_exported_with_the_model(story: Story, kind: str) -> None:
    text = "the quick brown fox, jumping over unforeseen dogs"
    exported = AutoTokenizer.from_pretrained(story.exported / kind)
    trained = AutoTokenizer.from_pretrained(story.tokenizer)
    assert exported(text)["input_ids"] == trained(text)["input_ids"]
    assert len(exported) == story.vocabulary


@pytest.mark.parametrize("kind", CLASSES)
def test_the_card_tells_of_data_recipe_and_curve(story: Story, kind: str) -> None:
    card = (story.exported / kind / "README.md").read_text()
    curve = card.partition("## Curve")[2].partition("##")[0]
    assert "`text.txt`" in card
    assert f'"exported/{kind}"' in card
    assert "learning_rate = 0.002" in card.partition("## Recipe")[2]
    assert "steps = 20" in card.partition("## Recipe")[2]
    assert [row.split()[1] for row in curve.splitlines() if row.startswith("|")] == ["step", "---", "10", "20"]


@pytest.mark.parametrize("folder", ["exported", "exported-from-second"])
@pytest.mark.parametrize("kind", CLASSES)
def test_the_card_names_none_of_its_makers_folders(story: Story, text: Path, kind: str, folder: str) -> None:
    card = (story.folder / folder / kind / "README.md").read_text()
    assert str(story.folder) not in card
    assert str(text.parent) not in card
    assert not re.search(r"^(data|out|init_from) =", card, re.MULTILINE)


@pytest.mark.parametrize("kind", CLASSES)
def test_an_earlier_step_is_exported_with_the_curve_up_to_it(story: Story, kind: str) -> None:
    exported = flat(OURS[kind].from_pretrained(story.earlier / kind).params)
    _, params = restore_params(story.run, 10)
    assert micro.equal_bits(flat({"embeddings": params["embeddings"], **params[kind]}), as_numpy(exported))
    assert "| 20 |" not in (story.earlier / kind / "README.md").read_text()


def as_numpy(leaves: dict) -> dict[str, np.ndarray]:
    return {path: np.asarray(leaf) for path, leaf in leaves.items()}


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json", "vocab.txt"])
@pytest.mark.parametrize("kind", CLASSES)
def test_importing_and_exporting_gives_the_same_bytes(story: Story, kind: str, file: str) -> None:
    assert (story.folder / "exported-again" / kind / file).read_bytes() == (story.exported / kind / file).read_bytes()


@pytest.mark.parametrize("kind", CLASSES)
def test_a_run_starts_from_the_imported_pair(story: Story, kind: str) -> None:
    start, end = (
        folder / kind / "model.safetensors" for folder in (story.exported, story.folder / "exported-from-second")
    )
    assert end.read_bytes() == start.read_bytes()


def test_options_override_the_preset(story: Story) -> None:
    settings = (story.run / "config.toml").read_text()
    assert "\nsteps = 20\n" in settings
    assert "\nbatch_size = 8\n" in settings
    assert f"\nvocab_size = {story.vocabulary}\n" in settings


def test_a_finished_run_can_be_called_again_as_a_process(story: Story, tmp_path: Path) -> None:
    shutil.copytree(story.run, tmp_path / "run")
    before = micro.records(tmp_path / "run")
    process = micro.python(
        "-m", "electra_jax", "pretrain", f"--config={tmp_path / 'run' / 'config.toml'}", "--out", str(tmp_path / "run")
    )
    assert process.returncode == 0, process.stderr
    assert "20 of 20 done" in process.stderr
    assert micro.records(tmp_path / "run") == before


def test_prepare_prints_a_summary(story: Story, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(
        ["prepare", str(text), "--tokenizer", str(story.tokenizer), "--out", str(tmp_path / "rows"), "--length", "16"]
    )
    output = capsys.readouterr()
    assert "padding" in output.err
    assert output.out == ""


def exit_code(arguments: list[str]) -> int | str | None:
    with pytest.raises(SystemExit) as exit:
        cli.main(arguments)
    return exit.value.code


def test_without_a_command_the_usage_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code([]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("usage: electra-jax COMMAND")
    assert output.err.endswith("electra-jax: a command is missing\n")


def test_a_command_that_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["train"]) == 2
    assert capsys.readouterr().err.endswith("electra-jax: no command 'train'\n")


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        cli.main(["--version"])
    assert (exit.value.code, capsys.readouterr().out) == (0, f"electra-jax {metadata.version('electra-jax')}\n")


def test_a_reader_that_goes_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as gone:
        process = subprocess.run(
            [sys.executable, "-m", "electra_jax", "pretrain", "--help"], stdout=gone, stderr=subprocess.PIPE, text=True
        )
    assert (process.returncode, process.stderr) == (141, "")


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_the_commands(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code([flag]) == 0
    output = capsys.readouterr()
    assert all(re.search(rf"^  {command} +\w", output.out, re.MULTILINE) for command in cli.COMMANDS)
    assert output.err == ""


REQUIRED = dict.fromkeys(cli.COMMANDS, "--out") | {"plan": "--config", "evaluate": "--data", "detect": "--model"}
REQUIRED["score"] = "--model"


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_of_a_command_lists_its_options(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code([command, "--help"]) == 0
    output = capsys.readouterr().out
    assert f"electra-jax {command}" in output
    assert REQUIRED[command] in output


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_a_command_without_its_arguments(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code([command]) == 2
    assert REQUIRED[command] in capsys.readouterr().err
