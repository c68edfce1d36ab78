"""What a person can get wrong when they fine-tune and use the result: one line, status 2, nothing half-written."""

import json
import shutil
from pathlib import Path

import micro
import numpy as np
import pytest
from micro import Failing
from safetensors.numpy import load_file, save_file

from electra_jax.config import FinetuneConfig
from electra_jax.data.tokenizer import load_tokenizer, save_tokenizer

pytestmark = pytest.mark.usefixtures("offline")

GOOD = "label,text\ngood,a fox\nbad,two dogs\n"


@pytest.fixture
def finetune(fail: Failing, pretrained: Path, tmp_path: Path) -> Failing:
    """`finetune` on a file of the given content, which must fail."""

    def run(content: str | bytes, *options: object, name: str = "train.csv") -> str:
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        model = [] if "--model" in options else ["--model", pretrained]
        return fail("finetune", *model, "--train", tmp_path / name, "--out", tmp_path / "out", *options)

    return run


# --- examples -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "options", "says"),
    [
        ("text,sentiment\na,b\n", [], "train.csv: row 1: has no column 'label'; there are: text, sentiment"),
        ("label,body\na,b\n", [], "train.csv: row 1: has no column 'text'; there are: label, body"),
        ("label,text\na,b\na,c\n", [], "train.csv: column 'label' has one value only, 'a'; a classifier needs two"),
        ("", [], "train.csv: holds no rows"),
        ("label,text\n", [], "train.csv: holds no rows"),
        (b"label,text\na,b\nb,caf\xe9\n", [], "train.csv: row 2, column 'text': byte 0xE9 is not UTF-8"),
        ("label,text\na,b\nb, \n", [], "train.csv: row 2, column 'text' is empty; fill it in, or leave such rows out"),
        ("label,text\na,b\n,c\n", [], "train.csv: row 2, column 'label' is empty; fill it in, or leave such rows out"),
        ("label,text\n,b\n", ["--empty", "skip"], "train.csv: all of its 1 rows have empty fields"),
        ("label,text\nx,b\n", ["--task", "regression"], "train.csv: row 1, column 'label': 'x' is no number"),
        (
            "tokens,tags\na b,O\n",
            ["--task", "tagging"],
            "train.csv: row 1, column 'tags': 1 labels for 2 words; give one for each",
        ),
        (
            "context,choices,label\na,b|c,2\n",
            ["--task", "multiple-choice"],
            "train.csv: row 1, column 'label' is '2'; give a number from 0 to 1, or one of the choices",
        ),
        (GOOD, ["--label", "label", "text"], "label: 2 columns are named; name one, or give --multi-label"),
        (GOOD, ["--text", "a", "b", "c"], "text: 3 columns are named, and classification reads 1 or 2"),
        (GOOD, ["--metric", "bleu", "--eval-fraction", 0], "metric: 'bleu' is none of this task's: accuracy, "),
        (GOOD, ["--length", 49], "length: 49 is not between 16 and the model's 48 positions"),
        (GOOD, ["--eval-fraction", 1.5], "eval_fraction: 1.5 is not from 0 to below 1"),
        (GOOD, ["--eval-fraction", 0.5, "--stratify"], "stratify: only one text is "),
        (GOOD, ["--eval-fraction", 0, "--patience", 2], "patience: nothing is held out to wait for; give eval or an"),
        (GOOD, ["--epochs", 0], "epochs: 0.0 is not a number above 0"),
        (GOOD, ["--epochs", "inf"], "epochs: inf is not a number above 0"),
        (GOOD, ["--epochs", 1e18, "--eval-fraction", 0], "epochs: 1e+18 are 1e+18 steps, more than 2**31; give fewer"),
        (GOOD, ["--learning-rate", "nan"], "learning_rate: nan is not a number above 0"),
        (GOOD, ["--weight-decay", -1], "weight_decay: -1.0 is not a number of at least 0"),
        (GOOD, ["--compute.attention", "cudnn"], "compute.attention: cudnn takes an NVIDIA GPU"),
        (GOOD, ["--compute.layer-norm", "triton"], "compute.layer_norm: triton takes an NVIDIA GPU since Ampere"),
        ("label,text\n1e39,b\n", ["--task", "regression"], "train.csv: row 1, column 'label': '1e39' is no number"),
        (GOOD, ["--seed", -1], "seed: -1 is not between 0 and"),
        (GOOD, ["--dropout", 1], "dropout: 1.0 is not from 0 to below 1"),
        (GOOD, ["--eval", "none.csv"], "none.csv: no such file or folder"),
    ],
)
def test_examples_and_settings(finetune: Failing, tmp_path: Path, content: str, options: list, says: str) -> None:
    assert finetune(content, *options).removeprefix(f"{tmp_path}/").startswith(says)


def test_a_label_that_training_does_not_have(finetune: Failing, tmp_path: Path) -> None:
    (tmp_path / "eval.csv").write_text("label,text\ngood,a\nugly,b\n")
    line = finetune(GOOD, "--eval", tmp_path / "eval.csv")
    assert line == f"{tmp_path}/eval.csv: row 2, column 'label': label 'ugly' is none of training: bad, good"


def test_a_batch_that_does_not_divide_over_the_devices(pretrained: Path, tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(GOOD)
    paths = ["--model", str(pretrained), "--train", str(tmp_path / "train.csv"), "--out", str(tmp_path / "out")]
    options = ["--batch-size", "6", "--eval-fraction", "0"]
    process = micro.python("-m", "electra_jax", "finetune", *paths, *options, devices=4)
    assert process.returncode == 2
    says = "batch_size: 6 rows do not divide over 4 devices; take a multiple"
    assert micro.complaint("finetune", process.stderr) == says
    assert [path.name for path in tmp_path.iterdir()] == ["train.csv"]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ({"text": "cat", "answer_start": 0}, "answer 'cat' does not occur in the context at character 0; correct it"),
        ({"text": "fox", "answer_start": 1}, "answer 'fox' does not occur in the context at character 1; correct it"),
    ],
)
def test_an_answer_that_the_context_does_not_have(finetune: Failing, tmp_path: Path, answer: dict, says: str) -> None:
    questions = [{"id": "q1", "question": "who?", "answers": [answer]}]
    content = {"data": [{"paragraphs": [{"context": "the quick fox", "qas": questions}]}]}
    line = finetune(json.dumps(content), "--task", "question-answering", name="squad.json")
    assert line == f"{tmp_path}/squad.json: row 1, column 'answers': {says}"


def test_no_examples(fail: Failing, pretrained: Path, tmp_path: Path) -> None:
    line = fail("finetune", "--model", pretrained, "--out", tmp_path / "out")
    assert line.startswith("train: none is given; name a file of examples")


@pytest.mark.parametrize("name", ["a.parquet", "a.xlsx"])
def test_a_file_of_another_kind(finetune: Failing, tmp_path: Path, name: str) -> None:
    says = "can't be read as Parquet: " if name == "a.parquet" else "files of this kind can't be read; give .csv"
    assert finetune("no", name=name).startswith(f"{tmp_path}/{name}: {says}")


# --- models -------------------------------------------------------------------------------------------------------


@pytest.fixture
def model(pretrained: Path, tmp_path: Path) -> Path:
    """A copy of the pretrained folder."""
    return Path(shutil.copytree(pretrained, tmp_path / "model"))


def test_another_architecture(finetune: Failing, model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    line = finetune(GOOD, "--model", model)
    assert line.startswith(f"{model}/config.json: is of another architecture (model_type 'bert')")


def test_no_weights(finetune: Failing, model: Path) -> None:
    (model / "model.safetensors").unlink()
    assert finetune(GOOD, "--model", model).startswith(f"{model}: holds no weights")


def test_weights_that_were_cut_short(finetune: Failing, model: Path) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert finetune(GOOD, "--model", model).startswith(f"{weights}: damaged, or cut short (")


def test_a_folder_that_is_not_there(finetune: Failing, tmp_path: Path) -> None:
    line = finetune(GOOD, "--model", tmp_path / "none")
    assert line.startswith(f"{tmp_path}/none: no such folder; give a model's folder, or its name on the hub")


def test_a_folder_that_is_there_already(fail: Failing, pretrained: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "a.txt").write_text("a")
    (tmp_path / "train.csv").write_text(GOOD)
    out = ["--out", tmp_path / "taken"]
    line = fail("finetune", "--model", pretrained, "--train", tmp_path / "train.csv", *out)
    assert line.startswith(f"{tmp_path}/taken: already exists and is not empty")


def test_a_model_of_one_segment_reads_no_pairs(finetune: Failing, model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"type_vocab_size": 1}))
    types, tensors = "electra.embeddings.token_type_embeddings.weight", load_file(model / "model.safetensors")
    save_file(tensors | {types: tensors[types][:1].copy()}, model / "model.safetensors")
    line = finetune("a,b,label\nx,y,0\nx,z,1\n", "--model", model, "--text", "a", "b")
    assert line == ("text: classification reads two segments, and the model has type_vocab_size 1; take another model")


# --- predict, evaluate, detect ------------------------------------------------------------------------------------


def test_predicting_by_a_model_that_was_not_fine_tuned(fail: Failing, pretrained: Path, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(GOOD)
    line = fail("predict", "--model", pretrained, "--in", tmp_path / "in.csv", "--out", tmp_path / "out.csv")
    assert line.startswith(f"{pretrained}/config.json: holds ElectraForPreTraining, which is no fine-tuned model")


@pytest.mark.parametrize(
    ("content", "out", "says"),
    [
        ("label\na\n", "out.csv", "in.csv: row 1: has no column 'text'; there are: label"),
        ('text\na\nb\n" "\n', "out.csv", "in.csv: row 3, column 'text' is empty; fill it in, or leave"),
        ("text,predicted\na,b\n", "out.csv", "in.csv: row 1: has a column 'predicted' already"),
        ("text\na\n", "out.xlsx", "out.xlsx: files of this kind can't be written; name one of .csv"),
        ("text\na\n", "none/out.csv", "none/out.csv: can't be made there: "),
        ("text\na\n", "learnt.csv", "learnt.csv: is a folder, and a file is to be written there"),
    ],
)
def test_predicting(fail: Failing, learnt: FinetuneConfig, tmp_path: Path, content: str, out: str, says: str) -> None:
    (tmp_path / "learnt.csv").mkdir()
    (tmp_path / "in.csv").write_text(content)
    line = fail("predict", "--model", learnt.out, "--in", tmp_path / "in.csv", "--out", tmp_path / out)
    assert line.startswith(f"{tmp_path}/{says}")


def test_evaluating_a_label_that_training_did_not_have(fail: Failing, learnt: FinetuneConfig, tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("label,text\ngood,a\nugly,b\n")
    paths = ["--data", tmp_path / "data.csv", "--out", tmp_path / "out"]
    line = fail("evaluate", "--model", learnt.out, *paths)
    assert line == f"{tmp_path}/data.csv: row 2, column 'label': label 'ugly' is none of training: bad, good"


def test_an_evaluation_where_no_folder_can_be(
    fail: Failing, learnt: FinetuneConfig, examples: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("kept")
    line = fail("evaluate", "--model", learnt.out, "--data", examples, "--out", tmp_path / "file")
    assert line.startswith(f"{tmp_path}/file: can't be made there: ")


def test_predicting_when_all_rows_are_left_out(fail: Failing, learnt: FinetuneConfig, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text('text\n""\n" "\n')
    paths = ["--in", tmp_path / "in.csv", "--out", tmp_path / "out.parquet"]
    line = fail("predict", "--model", learnt.out, *paths, "--empty", "skip")
    assert line == f"{tmp_path}/in.csv: all of its 2 rows have empty fields"
    assert not (tmp_path / "out.parquet").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"labels": ["bad"]}, "the model is of sequence and 2 outputs, and task.json is classification of 1 outputs"),
        ({"task": "tagging"}, "the model is of sequence and 2 outputs, and task.json is tagging of 2 outputs"),
        ({"text": []}, "text: 0 columns are named, and classification reads 1 or 2"),
        ({"length": 4096}, "length: 4096 is not between 16 and the model's 48 positions"),
        ([], "task.json: expected a table of fields, and [] is a list"),
    ],
)
def test_a_task_that_is_not_the_models(
    fail: Failing, learnt: FinetuneConfig, tmp_path: Path, changes: dict | list, says: str
) -> None:
    model = Path(shutil.copytree(learnt.out, tmp_path / "changed"))
    settings = json.loads((model / "task.json").read_text())
    (model / "task.json").write_text(json.dumps(settings | changes if isinstance(changes, dict) else changes))
    (tmp_path / "in.csv").write_text("text\na\n")
    line = fail("predict", "--model", model, "--in", tmp_path / "in.csv", "--out", tmp_path / "out.csv")
    assert line.endswith(says)


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_weights_that_are_no_numbers(fail: Failing, learnt: FinetuneConfig, tmp_path: Path, command: str) -> None:
    model = Path(shutil.copytree(learnt.out, tmp_path / "broken"))
    bias, tensors = "classifier.out_proj.bias", load_file(model / "model.safetensors")
    save_file(tensors | {bias: tensors[bias] * np.nan}, model / "model.safetensors")
    (tmp_path / "in.csv").write_text(GOOD)
    data, out = ("--in", "out.csv") if command == "predict" else ("--data", "out")
    line = fail(command, "--model", model, data, tmp_path / "in.csv", "--out", tmp_path / out)
    assert line.startswith(f"{model / 'model.safetensors'}: {bias} holds values that are no numbers")
    assert not (tmp_path / out).exists()


@pytest.mark.parametrize("folder", ["pretrained", "learnt"])
def test_a_tokenizer_of_more_entries_than_the_model(
    fail: Failing, pretrained: Path, learnt: FinetuneConfig, tmp_path: Path, folder: str
) -> None:
    model = Path(shutil.copytree(pretrained if folder == "pretrained" else learnt.out, tmp_path / "short"))
    tokenizer = load_tokenizer(model)
    tokenizer.add_tokens(["zebra"])
    for name in ("tokenizer.json", "vocab.txt", "tokenizer_config.json"):
        (model / name).unlink()
    save_tokenizer(tokenizer, model)
    (tmp_path / "in.csv").write_text("text\na zebra\n")
    given = ["a zebra"] if folder == "pretrained" else ["--in", tmp_path / "in.csv", "--out", tmp_path / "out.csv"]
    line = fail("detect" if folder == "pretrained" else "predict", "--model", model, *given)
    size = len(tokenizer)
    assert line == f"{model}: its tokenizer has {size} entries, its model {size - 1}; give its own"


def test_a_page_where_no_file_can_be(fail: Failing, pretrained: Path, tmp_path: Path) -> None:
    line = fail("detect", "--model", pretrained, "a fox", "--html", tmp_path / "none" / "page.html")
    assert line.startswith(f"{tmp_path}/none/page.html: can't be made there: ")


def test_detecting_by_a_fine_tuned_model(fail: Failing, learnt: FinetuneConfig) -> None:
    line = fail("detect", "--model", learnt.out, "a fox")
    assert "neither of ELECTRA's pretraining heads" in line


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (" ", "the text: is empty"),
        ("caf\udce9", r"the text: 'caf\udce9' is not UTF-8; convert it"),
        ("fox " * 60, "the text: has 62 tokens, and the model 48 positions"),
    ],
)
def test_detecting_a_text_that_does_not_fit(fail: Failing, pretrained: Path, text: str, says: str) -> None:
    assert fail("detect", "--model", pretrained, text).startswith(says)


@pytest.mark.parametrize("command", ["detect", "score"])
def test_no_text(fail: Failing, pretrained: Path, command: str) -> None:
    assert fail(command, "--model", pretrained).startswith("text: none is given; put one or several")


def test_a_text_that_is_too_long_is_told_once(fail: Failing, model: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = load_tokenizer(model)
    tokenizer.model_max_length = 48
    save_tokenizer(tokenizer, model)
    assert fail("detect", "--model", model, "fox " * 60).startswith("the text: has 62 tokens")
    assert caplog.text == ""  # transformers warns of such lengths too
