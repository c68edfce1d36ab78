"""What a person can get wrong: one line that names it, status 2, and nothing half-written."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import micro
import pytest
import safetensors.numpy
from micro import Failing

from electra_jax import cli
from electra_jax.config import PrepareConfig, PretrainConfig
from electra_jax.data.manifest import Manifest
from electra_jax.data.prepare import prepare
from electra_jax.train.convert import export, import_pretrained

pytestmark = pytest.mark.usefixtures("offline")


@pytest.fixture(scope="module")
def exported(finished: PretrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run as a pair of Hugging Face folders. To be read only."""
    out = tmp_path_factory.mktemp("exported") / "out"
    export(finished.out, out)
    return out


@pytest.fixture(scope="module")
def imported(exported: Path) -> Path:
    """The exported pair as weights to start from. To be read only."""
    return import_pretrained(exported / "discriminator", exported.parent / "imported", exported / "generator")


# --- vocab and prepare --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("empty.txt", b"", "empty.txt: no text"),
        ("blank.txt", b"\n \n\t\n", "blank.txt: no text"),
        ("binary.txt", b"text\n\x7fELF\x00\x01", "binary.txt:2: holds a NUL byte"),
        ("latin.txt", "café\n".encode("latin-1"), "latin.txt:1: byte 4 of the line is not UTF-8"),
        ("cut.txt.gz", b"\x1f\x8b\x08", "cut.txt.gz: not a complete .gz file"),
        ("missing.txt", None, "missing.txt: no such file"),
    ],
)
@pytest.mark.parametrize("command", ["vocab", "prepare"])
def test_text_that_cannot_be_read(
    fail: Failing, tokenizer: Path, tmp_path: Path, command: str, name: str, content: bytes | None, says: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    options = ("--tokenizer", tokenizer) if command == "prepare" else ()
    assert fail(command, tmp_path / name, "--out", tmp_path / "out", *options).startswith(f"{tmp_path}/{says}")


@pytest.mark.parametrize(
    ("name", "content"), [("a.csv", "title,body\na,b\n"), ("a.jsonl", '{"title": "a", "body": "b"}\n')]
)
def test_a_column_that_is_not_there(fail: Failing, tokenizer: Path, tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    line = fail("prepare", tmp_path / name, "--tokenizer", tokenizer, "--out", tmp_path / "out", "--field", "txt")
    assert line == f"{tmp_path / name}: row 1: has no column 'txt'; there are: title, body"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--min-frequency", -1], "min_frequency: -1 is not between 1 and 2**31 - 1"),
        (["--size", 10**20], f"size: {10**20} is not between 1 and 2**31 - 1"),
        (["--limit-alphabet", 0], "limit_alphabet: 0 is not between 1 and 2**31 - 1"),
        (["--max-length", 0], "max_length: 0 is not between 1 and 2**31 - 1"),
        (["--out", "/proc/foo/x"], "/proc/foo/x: can't be made there: "),
    ],
)
def test_settings_of_a_vocabulary(fail: Failing, text: Path, tmp_path: Path, options: list, says: str) -> None:
    assert fail("vocab", text, "--out", tmp_path / "out", *options).startswith(says)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range(fail: Failing, text: Path, tokenizer: Path, tmp_path: Path, seed: int) -> None:
    line = fail("prepare", text, "--tokenizer", tokenizer, "--out", tmp_path / "out", "--seed", seed)
    assert line == f"seed {seed}: a number from 0 to 2**32 - 1 is needed"


def test_a_name_that_is_not_utf_8(fail: Failing, text: Path, tokenizer: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(text, tmp_path / "caf\udce9.txt"))
    line = fail("prepare", path, "--tokenizer", tokenizer, "--out", tmp_path / "out")
    assert line == f"{str(path)!a}: its name is not UTF-8; rename it"


@pytest.mark.parametrize("command", ["vocab", "prepare", "pretrain"])
def test_a_path_that_the_system_refuses(fail: Failing, tokenizer: Path, tmp_path: Path, command: str) -> None:
    long = "a" * 300
    given = {
        "vocab": [long, "--out", tmp_path / "out"],
        "prepare": [long, "--tokenizer", tokenizer, "--out", tmp_path / "out"],
        "pretrain": ["--config", long],
    }[command]
    assert fail(command, *given).endswith(f"{long}: File name too long")


@pytest.mark.parametrize(
    ("options", "missing"),
    [([], ["--data", "--out"]), (["--out", "run"], ["--data"]), (["--config", "tiny", "--out", "run"], ["--data"])],
)
def test_what_a_run_cannot_do_without(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: list, missing: list
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.main(["pretrain", *options])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert [name for name in ("--data", "--out") if f"{name} " in told] == missing
    assert not list(tmp_path.iterdir())


def test_a_tokenizer_that_is_not_there(fail: Failing, text: Path, tmp_path: Path) -> None:
    line = fail("prepare", text, "--tokenizer", tmp_path / "none", "--out", tmp_path / "out")
    assert line.startswith(f"{tmp_path / 'none'}: no such folder")


def test_a_vocabulary_smaller_than_the_alphabet(fail: Failing, text: Path, tmp_path: Path) -> None:
    assert fail("vocab", text, "--out", tmp_path / "out", "--size", 20).startswith("size 20 is too small")


ALONE = ["--distributed.processes", 1, "--distributed.process", 0]


# --- pretrain: settings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--model.vocab-size", 99], ["rows: its tokenizer has", "model.vocab_size is 99", "--model.vocab-size"]),
        (["--model.vocab-size", 1000], ["rows: its tokenizer has", "model.vocab_size is 1000", "--model.vocab-size"]),
        (["--length", 15], ["rows: its rows have 16 tokens, and length is 15", "--length 16"]),
        (["--model.max-position-embeddings", 8], ["length: 16 tokens, and the model has 8 positions"]),
        (["--model.pad-token-id", 3], ["rows: its [PAD] is 0", "--model.pad-token-id 0"]),
        (["--model.generator.num-attention-heads", 3], ["model.generator: hidden_size 16 does not divide over 3"]),
        (["--model.discriminator.hidden-size", 33], ["model.discriminator: hidden_size 33 does not divide over 2"]),
        (["--model.discriminator.num-hidden-layers", 0], ["model.discriminator: num_hidden_layers 0 is not above 0"]),
        (["--batch-size", 0], ["batch_size: 0 is not above 0"]),
        (["--steps", 2**31], ["steps: 2147483648 are more than 2**31 - 1; give fewer"]),
        (["--seed", -1], ["seed: -1 is not between 0 and"]),
        (["--objective.mask-prob", 1], ["objective.mask_prob: 1.0 is not between 0 and 1"]),
        (["--objective.mask-prob", 0.05], ["length: of 16 tokens none is masked at mask_prob 0.05"]),
        (["--objective.temperature", 0], ["objective.temperature: 0.0 is not a number above 0"]),
        (["--optimizer.clip-norm", -1], ["optimizer.clip_norm: -1.0 is not a number above 0"]),
        (["--optimizer.b1", 1.5], ["optimizer.b1: 1.5 is not a number from 0 to below 1"]),
        (["--optimizer.learning-rate", "nan"], ["optimizer.learning_rate: nan is not a number of at least 0"]),
        ([*ALONE, "--distributed.coordinator", "foo"], ["distributed.coordinator: 'foo' is not host:port"]),
        ([*ALONE, "--distributed.coordinator", "a:1", "--distributed.timeout", 0], ["timeout: 0 is not above 0"]),
        (["--data-weights", 1, 2], ["data_weights: 2 for 1 folders"]),
        (["--data-weights", 0], ["data_weights: 0.0 is not a number above 0"]),
        (["--data-weights", "nan"], ["data_weights: nan is not a number above 0"]),
        (["--data-weights", "inf"], ["data_weights: inf is not a number above 0"]),
        (["--data"], ["data: no folder is given"]),
    ],
)
def test_settings_that_fit_neither_each_other_nor_the_data(
    fail: Failing, preset: Path, rows: Path, tmp_path: Path, options: list[object], says: list[str]
) -> None:
    line = fail("pretrain", "--config", preset, "--data", rows, "--out", tmp_path / "out", *options)
    assert all(part in line for part in says), line


def test_a_batch_that_does_not_divide_over_the_devices(preset: Path, rows: Path, tmp_path: Path) -> None:
    paths = ["--config", str(preset), "--data", str(rows), "--out", str(tmp_path / "out")]
    process = micro.python("-m", "electra_jax", "pretrain", *paths, "--batch-size", "12", devices=8)
    assert process.returncode == 2
    assert micro.complaint("pretrain", process.stderr).startswith("batch_size: 12 rows do not divide over 8 devices")
    assert not (tmp_path / "out").exists()


def test_rows_without_their_tokenizer(fail: Failing, preset: Path, rows: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(rows, tmp_path / "rows"))
    shutil.rmtree(copy / "tokenizer")
    line = fail("pretrain", "--config", preset, "--data", copy, "--out", tmp_path / "out")
    assert line == f"{copy}: its tokenizer/ is missing; copy it too, or prepare the rows again"


def test_the_best_of_nothing_held_out(fail: Failing, preset: Path, text: Path, tokenizer: Path, tmp_path: Path) -> None:
    prepare(PrepareConfig((str(text),), str(tokenizer), tmp_path / "rows", length=micro.LENGTH, held_out=0.0))
    line = fail("pretrain", "--config", preset, "--data", tmp_path / "rows", "--out", tmp_path / "out", "--keep-best")
    assert line.startswith(f"keep_best: {tmp_path}/rows have no held-out rows; prepare them with a larger held_out")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("batchsize = 8", "unknown field 'batchsize'; did you mean 'batch_size'?"),
        ("[optimizer]\nrate = 1", "optimizer: unknown field 'rate'; "),
        ("batch_size = '8'", "batch_size: expected a int, and '8' is a str"),
        ("optimizer = 'adam'", "optimizer: expected a table, and 'adam' is a str"),
        ("batch_size = ", "not a TOML file: "),
    ],
)
def test_a_preset_with_a_mistake(fail: Failing, rows: Path, tmp_path: Path, content: str, says: str) -> None:
    preset = tmp_path / "my.toml"
    preset.write_text(content)
    line = fail("pretrain", "--config", preset, "--data", rows, "--out", tmp_path / "out")
    assert line.startswith(f"{preset}: {says}")


def test_a_preset_that_is_not_there(fail: Failing, rows: Path, tmp_path: Path) -> None:
    line = fail("pretrain", "--config", "smal", "--data", rows, "--out", tmp_path / "out")
    assert line.startswith("smal: no such file; presets are base, ")


def test_data_that_is_no_folder_of_rows(fail: Failing, preset: Path, text: Path, tmp_path: Path) -> None:
    line = fail("pretrain", "--config", preset, "--data", text.parent, "--out", tmp_path / "out")
    assert line.startswith(f"{text.parent}: not a folder that `electra-jax prepare` wrote")


@pytest.mark.parametrize(
    ("field", "value"), [("tokenizer_hash", "another"), ("length", 32), ("vocab_size", 7), ("mask_id", 99)]
)
def test_folders_that_do_not_go_together(
    fail: Failing, preset: Path, rows: Path, tmp_path: Path, field: str, value: object
) -> None:
    other = Path(shutil.copytree(rows, tmp_path / "other"))
    replace(Manifest.read(rows), **{field: value}).write(other)
    line = fail("pretrain", "--config", preset, "--data", rows, other, "--out", tmp_path / "out")
    assert line.startswith(f"{other}: its {field} is {value}, and that of {rows} is ")


def test_packed_rows_beside_others(fail: Failing, preset: Path, rows: Path, packed_rows: Path, tmp_path: Path) -> None:
    line = fail("pretrain", "--config", preset, "--data", rows, packed_rows, "--out", tmp_path / "out")
    assert line.startswith(
        f"{packed_rows}: its packed is True, and that of {rows} is False; prepare both with the same "
    )


# --- pretrain: a run that is there --------------------------------------------------------------------------------


@pytest.fixture
def run(finished: PretrainConfig, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(finished.out, tmp_path / "run"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--seed", 1], "seed = 0, not 1;"),
        (["--batch-size", 4], "batch_size = 8, not 4;"),
        (["--optimizer.learning-rate", 1], "optimizer.learning_rate = 0.002, not 1.0;"),
        (["--model.generator.num-attention-heads", 2], "model.generator.num_attention_heads = 1, not 2;"),
    ],
)
def test_a_run_that_began_with_other_settings(
    fail: Failing, preset: Path, rows: Path, run: Path, options: list[object], says: str
) -> None:
    line = fail("pretrain", "--config", preset, "--data", rows, "--out", run, *options)
    assert line.startswith(f"{run}: this run has {says}")


@pytest.fixture(scope="module")
def other_rows(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of another text, by the same tokenizer."""
    folder = tmp_path_factory.mktemp("other")
    (folder / "text.txt").write_text(micro.make_text(seed=1))
    paths = [str(folder / "text.txt"), "--tokenizer", str(tokenizer), "--out", str(folder / "rows")]
    cli.main(["prepare", *paths, "--length", str(micro.LENGTH)])
    return folder / "rows"


def test_a_run_that_began_on_other_rows(fail: Failing, preset: Path, other_rows: Path, run: Path) -> None:
    line = fail("pretrain", "--config", preset, "--data", other_rows, "--out", run)
    assert line.startswith(f"{run}: this run trained on other rows than {other_rows} holds")


def test_imported_weights_are_no_run(fail: Failing, preset: Path, rows: Path, imported: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(imported, tmp_path / "imported")
    line = fail("pretrain", "--config", preset, "--data", rows, "--out", folder)
    assert line.startswith(f"{folder}: holds imported weights, no run; ")


# --- pretrain: weights to start from ------------------------------------------------------------------------------


def test_starting_from_what_is_no_run(fail: Failing, preset: Path, rows: Path, tmp_path: Path) -> None:
    line = fail("pretrain", "--config", preset, "--data", rows, "--out", tmp_path / "out", "--init-from", rows)
    assert line.startswith(f"{rows}: not a folder that `electra-jax pretrain` or `electra-jax import` wrote")


def test_starting_from_other_shapes(fail: Failing, preset: Path, rows: Path, imported: Path, tmp_path: Path) -> None:
    paths = ["--config", preset, "--data", rows, "--out", tmp_path / "out", "--init-from", imported]
    line = fail("pretrain", *paths, "--model.discriminator.intermediate-size", 48)
    assert line.startswith(f"{imported}: its model.discriminator is TowerConfig(")
    assert "intermediate_size=64" in line
    assert "intermediate_size=48" in line


def test_starting_from_weights_of_another_epsilon(
    fail: Failing, preset: Path, rows: Path, imported: Path, tmp_path: Path
) -> None:
    paths = ["--config", preset, "--data", rows, "--out", tmp_path / "out", "--init-from", imported]
    line = fail("pretrain", *paths, "--model.layer-norm-eps", 1e-3)
    assert line == f"{imported}: its model.layer_norm_eps is 1e-12, and this run's is 0.001; make them the same"


def test_starting_from_another_tokenizers_weights(
    fail: Failing, preset: Path, rows: Path, imported: Path, tmp_path: Path
) -> None:
    weights = Path(shutil.copytree(imported, tmp_path / "weights"))
    tokens = (weights / "tokenizer" / "vocab.txt").read_text().splitlines()
    shutil.rmtree(weights / "tokenizer")
    (weights / "tokenizer").mkdir()
    (weights / "tokenizer" / "vocab.txt").write_text("\n".join([*tokens[:-2], tokens[-1], tokens[-2]]) + "\n")
    line = fail("pretrain", "--config", preset, "--data", rows, "--out", tmp_path / "out", "--init-from", weights)
    assert line.startswith(f"{rows}: prepared with another tokenizer than {weights} has")


# --- export and import --------------------------------------------------------------------------------------------


def test_exporting_what_is_no_run(fail: Failing, rows: Path, tmp_path: Path) -> None:
    line = fail("export", rows, "--out", tmp_path / "out")
    assert line.startswith(f"{rows}: not a folder that `electra-jax pretrain` or `electra-jax import` wrote")


def test_exporting_a_step_that_was_not_kept(fail: Failing, finished: PretrainConfig, tmp_path: Path) -> None:
    line = fail("export", finished.out, "--out", tmp_path / "out", "--step", 15)
    assert line == f"{finished.out}: has no checkpoint of step 15; there are 10, 20"


def test_exporting_a_checkpoint_that_was_cut_short(fail: Failing, finished: PretrainConfig, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished.out, tmp_path / "run"))
    metadata = run / "checkpoints" / "20" / "state" / "_METADATA"
    metadata.write_bytes(metadata.read_bytes()[:100])
    line = fail("export", run, "--out", tmp_path / "out")
    assert line.startswith(f"{run}/checkpoints/20: the checkpoint is damaged, or cut short: ")
    assert not (tmp_path / "out").exists()


def test_exporting_a_run_whose_settings_are_no_table(fail: Failing, finished: PretrainConfig, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished.out, tmp_path / "run"))
    (run / "config.toml").write_text("model = 3\n")
    line = fail("export", run, "--out", tmp_path / "out")
    assert line == f"{run}/config.toml: model: expected a table of fields, and 3 is a int"


@pytest.fixture
def model(exported: Path, tmp_path: Path) -> Path:
    """A copy of the exported discriminator's folder."""
    return Path(shutil.copytree(exported / "discriminator", tmp_path / "model"))


def test_importing_another_architecture(fail: Failing, model: Path, tmp_path: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    line = fail("import", model, "--out", tmp_path / "out")
    assert line.startswith(f"{model / 'config.json'}: is of another architecture (model_type 'bert')")


def test_importing_a_file_that_was_cut_short(fail: Failing, model: Path, tmp_path: Path) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert fail("import", model, "--out", tmp_path / "out").startswith(f"{weights}: damaged, or cut short (")


def test_importing_weights_of_another_size_than_the_settings(fail: Failing, model: Path, tmp_path: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"intermediate_size": 48}))
    line = fail("import", model, "--out", tmp_path / "out")
    assert line.startswith(f"{model / 'model.safetensors'}: electra.encoder.layer.0.intermediate.dense")


def test_importing_a_generator_as_discriminator(fail: Failing, exported: Path, tmp_path: Path) -> None:
    line = fail("import", exported / "generator", "--out", tmp_path / "out")
    assert line.startswith(f"{exported / 'generator'}: holds a generator, and a discriminator is wanted")


def test_importing_a_pair_that_was_not_trained_together(fail: Failing, exported: Path, tmp_path: Path) -> None:
    generator = Path(shutil.copytree(exported / "generator", tmp_path / "generator"))
    tensors = safetensors.numpy.load_file(generator / "model.safetensors")
    tensors["electra.embeddings.position_embeddings.weight"][0, 0] += 1
    safetensors.numpy.save_file(tensors, generator / "model.safetensors", metadata={"format": "pt"})
    line = fail("import", exported / "discriminator", "--generator", generator, "--out", tmp_path / "out")
    assert line.startswith(f"{generator}: its embeddings (position) are not those of ")


def test_importing_a_pair_that_differs_in_a_shared_setting(fail: Failing, exported: Path, tmp_path: Path) -> None:
    generator = Path(shutil.copytree(exported / "generator", tmp_path / "generator"))
    config = json.loads((generator / "config.json").read_text())
    (generator / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 1e-6}))
    line = fail("import", exported / "discriminator", "--generator", generator, "--out", tmp_path / "out")
    assert line.startswith("layer_norm_eps is 1e-12 in the discriminator and 1e-06 in the generator")


def test_importing_what_is_not_there(fail: Failing, tmp_path: Path) -> None:
    line = fail("import", tmp_path / "none", "--out", tmp_path / "out")
    assert line.startswith(f"{tmp_path / 'none'}: no such folder")


# --- an output that is taken --------------------------------------------------------------------------------------


MAKE_FOLDERS = [
    command for command in cli.COMMANDS if command not in ("plan", "predict", "evaluate", "detect", "score", "report")
]


@pytest.fixture
def commands(
    text: Path, tokenizer: Path, rows: Path, preset: Path, finished: PretrainConfig, exported: Path, tmp_path: Path
) -> dict[str, list[object]]:
    """Each command that makes a folder, with arguments that would do, but for --out."""
    (tmp_path / "train.csv").write_text("label,text\na,the fox\nb,lazy dogs\n")
    return {
        "vocab": [text, "--size", 110],
        "prepare": [text, "--tokenizer", tokenizer, "--length", micro.LENGTH],
        "pretrain": ["--config", preset, "--data", rows],
        "export": [finished.out],
        "import": [exported / "discriminator"],
        "finetune": [
            *("--model", exported / "discriminator", "--train", tmp_path / "train.csv"),
            *("--length", micro.LENGTH, "--eval-fraction", 0),
        ],
    }


@pytest.mark.parametrize("command", MAKE_FOLDERS)
def test_a_folder_of_something_else_is_left_alone(
    fail: Failing, commands: dict[str, list[object]], tmp_path: Path, command: str
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept.txt").write_text("kept")
    line = fail(command, *commands[command], "--out", tmp_path / "out")
    assert line.startswith(f"{tmp_path / 'out'}: already exists and is not empty")


@pytest.mark.parametrize("command", MAKE_FOLDERS)
def test_a_file_is_left_alone(fail: Failing, commands: dict[str, list[object]], tmp_path: Path, command: str) -> None:
    (tmp_path / "out").write_text("kept")
    line = fail(command, *commands[command], "--out", tmp_path / "out")
    assert line.startswith(f"{tmp_path / 'out'}: is a file")


@pytest.mark.parametrize("command", MAKE_FOLDERS)
def test_a_folder_below_a_file_cannot_be_made(
    fail: Failing, commands: dict[str, list[object]], tmp_path: Path, command: str
) -> None:
    (tmp_path / "file").write_text("kept")
    line = fail(command, *commands[command], "--out", tmp_path / "file" / "out")
    assert line.startswith(f"{tmp_path / 'file' / 'out'}: can't be made there: ")
