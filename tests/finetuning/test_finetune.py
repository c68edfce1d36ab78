"""Whole fine-tuning runs: what they learn and write, and that they go on where they stopped."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import micro
import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers
from rich.console import Console
from toy import sentences, write_csv

from electra_jax import cli
from electra_jax.config import FinetuneConfig, PretrainConfig
from electra_jax.errors import UserError
from electra_jax.finetuning.evaluate import evaluate
from electra_jax.finetuning.finetune import finetune
from electra_jax.finetuning.model import FineTuned
from electra_jax.finetuning.predict import predict
from electra_jax.finetuning.start import load_start
from electra_jax.finetuning.tuner import Tuner
from electra_jax.hub.names import flat
from electra_jax.presets import to_toml
from electra_jax.train.run import restore_params

SPEED = "examples_per_second"

KILLED = """
import os, signal, sys, tomllib
from pathlib import Path
from electra_jax.config import FinetuneConfig
from electra_jax.finetuning import finetune, tuner
from electra_jax.presets import read_toml

class Killing(tuner.MetricsLog):
    evaluations = 0
    def write(self, kind, step, figures):
        super().write(kind, step, figures)
        Killing.evaluations += kind == "eval"
        if Killing.evaluations == 3:
            while not (self.file.parent / "checkpoints" / str(step - 15)).is_dir():
                pass
            os.kill(os.getpid(), signal.SIGKILL)

tuner.MetricsLog = Killing
finetune.finetune(read_toml(FinetuneConfig, Path(sys.argv[1])))
"""


def records(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without speed."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in line.items() if name != SPEED} for line in lines]


def evaluations(folder: Path) -> list[dict[str, Any]]:
    return [record for record in records(folder) if record["kind"] == "eval"]


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


# --- a run --------------------------------------------------------------------------------------------------------


def test_what_decides_the_label_is_learnt(learnt: FinetuneConfig) -> None:
    scores = json.loads((learnt.out / "scores.json").read_text())
    each = [seed["scores"]["accuracy"] for seed in scores["seeds"]]
    assert min(each) > 0.9
    assert scores["metric"] == "accuracy"
    assert scores["median"] == np.median(each)
    assert scores["seeds"][scores["best_seed"]]["scores"]["accuracy"] == max(each)


def test_dropout_is_of_hidden_states_and_attention(learning: FinetuneConfig, tmp_path: Path) -> None:
    finetune(replace(learning, out=tmp_path / "out", dropout=0.25, epochs=0.1))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["hidden_dropout_prob"], config["attention_probs_dropout_prob"]) == (0.25, 0.25)


def test_the_folder_holds_the_model_and_the_story(learnt: FinetuneConfig) -> None:
    names = {path.name for path in learnt.out.iterdir()} - {"evaluation"}
    model = {"config.json", "model.safetensors", "task.json", "README.md", "scores.json", "finetune.toml", "seeds"}
    assert names == model | {"tokenizer.json", "tokenizer_config.json", "vocab.txt"}
    assert sorted(path.name for path in (learnt.out / "seeds").iterdir()) == ["0", "1"]
    assert {path.name for path in (learnt.out / "seeds" / "0").iterdir()} == {"metrics.jsonl", "tensorboard"}
    assert not learnt.out.with_name("model.partial").exists()
    config = json.loads((learnt.out / "config.json").read_text())
    assert config["id2label"] == {"0": "bad", "1": "good"}
    assert config["problem_type"] == "single_label_classification"


def test_transformers_loads_every_weight(learnt: FinetuneConfig) -> None:
    model, info = transformers.ElectraForSequenceClassification.from_pretrained(learnt.out, output_loading_info=True)
    assert {name: list(keys) for name, keys in info.items() if keys} == {}
    ids = [[2, 5, 6, 7, 3]]
    with torch.no_grad():
        theirs = model.eval()(torch.tensor(ids)).logits
    np.testing.assert_allclose(FineTuned.from_pretrained(learnt.out).logits(ids), theirs, rtol=0, atol=1e-5)


def test_the_kept_checkpoint_is_the_first_of_the_best(learnt: FinetuneConfig) -> None:
    for seed in json.loads((learnt.out / "scores.json").read_text())["seeds"]:
        found = evaluations(learnt.out / "seeds" / str(seed["seed"]))
        best = max(record["score"] for record in found)
        assert seed["step"] == next(record["step"] for record in found if record["score"] == best)
        assert seed["scores"]["accuracy"] == best


def test_seeds_differ_and_share_the_split(learnt: FinetuneConfig) -> None:
    first, second = (
        [record["loss"] for record in records(learnt.out / "seeds" / seed) if record["kind"] == "train"]
        for seed in "01"
    )
    assert len(first) == len(second)
    assert first[0] != second[0]


def test_learning_rates_warm_up_and_decay(learnt: FinetuneConfig) -> None:
    found = {r["step"]: r["learning_rate"] for r in records(learnt.out / "seeds" / "0") if r["kind"] == "train"}
    steps = max(found)
    for step, rate in found.items():
        done = step - 1
        assert rate == pytest.approx(1e-3 * (1 - done / steps) * min(1, done / round(0.1 * steps)), rel=1e-4)


def test_a_seed_stops_that_gets_no_better(learning: FinetuneConfig, tmp_path: Path) -> None:
    config = replace(learning, out=tmp_path / "out", learning_rate=1e-9, patience=2)
    finetune(config)
    assert len(evaluations(config.out / "seeds" / "0")) == 3


def test_without_evaluation_the_last_step_is_kept(learning: FinetuneConfig, tmp_path: Path) -> None:
    result = finetune(replace(learning, out=tmp_path / "out", eval_fraction=0.0, epochs=1))
    assert (result.scores, result.median, result.best.step) == ([], None, 20)
    assert (tmp_path / "out" / "model.safetensors").is_file()


def start_of(config: FinetuneConfig, monkeypatch: pytest.MonkeyPatch) -> str:
    """What is told before the first seed."""
    monkeypatch.setattr(Tuner, "run", interrupt)
    console = Console(file=(file := io.StringIO()), width=200)
    with pytest.raises(KeyboardInterrupt):
        finetune(config, console)
    return file.getvalue()


@pytest.mark.parametrize(("count", "says"), [(13, None), (30, "25.0% of the examples to 16 tokens, where they are")])
def test_how_many_examples_are_cut_is_told(
    learning: FinetuneConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, says: str | None
) -> None:
    rows = [("good", "fox"), ("bad", "dog"), ("bad", "dog fox"), ("good", "fox " * count)]
    train = str(write_csv(tmp_path / "some.csv", ("label", "text"), rows))
    told = start_of(replace(learning, train=train, out=tmp_path / "out", length=16, eval_fraction=0.0), monkeypatch)
    assert says in told if says else "where they are longer" not in told


def test_how_often_each_label_occurs_is_told(
    learning: FinetuneConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [("good", "fox"), ("bad", "dog"), ("bad", "dog fox"), ("god", "fox dog")]
    train = str(write_csv(tmp_path / "some.csv", ("label", "text"), rows))
    told = start_of(replace(learning, train=train, out=tmp_path / "out", eval_fraction=0.0), monkeypatch)
    assert "bad (2), god (1), good (1)" in told


@pytest.mark.parametrize(("longest", "says"), [(2, True), (3, False)])
def test_answers_that_are_too_long_to_be_given_are_told(
    learning: FinetuneConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, longest: int, says: bool
) -> None:
    (tmp_path / "some.jsonl").write_text(
        '{"question": "who?", "context": "the quick fox runs", "answers": "the quick fox"}\n'
        '{"question": "who?", "context": "the quick fox runs", "answers": "fox"}\n'
    )
    asked = {"task": "question-answering", "train": str(tmp_path / "some.jsonl"), "max_answer_length": longest}
    told = start_of(replace(learning, **asked, out=tmp_path / "out", eval_fraction=0.0), monkeypatch)
    assert ("1 answers, of more than 2 tokens; see --max-answer-length" in told) == says


def test_weights_that_are_no_numbers_are_not_kept(learning: FinetuneConfig, tmp_path: Path) -> None:
    config = replace(learning, out=tmp_path / "out", eval_fraction=0.0, epochs=0.3, learning_rate=1e38)
    with pytest.raises(UserError, match=r"^seed 0: its weights are no numbers; learning_rate 1e\+38 is too high"):
        finetune(config)
    assert not config.out.exists()


# --- going on -----------------------------------------------------------------------------------------------------


def test_a_killed_run_goes_on_to_the_same_bits(learnt: FinetuneConfig, tmp_path: Path) -> None:
    config = replace(learnt, out=tmp_path / "out")
    (tmp_path / "config.toml").write_text(to_toml(config))
    process = micro.python("-c", KILLED, str(tmp_path / "config.toml"))
    assert process.returncode == -9, process.stderr
    assert not config.out.exists()

    finetune(config)

    weights = [safetensors.numpy.load_file(folder / "model.safetensors") for folder in (config.out, learnt.out)]
    assert micro.equal_bits(*weights)
    for seed in "01":
        assert records(config.out / "seeds" / seed) == records(learnt.out / "seeds" / seed)


@pytest.fixture
def stopped(learnt: FinetuneConfig, tmp_path: Path) -> FinetuneConfig:
    """A run that has begun: of the last one's folder only what it is known by."""
    shutil.copytree(learnt.out, tmp_path / "out.partial")
    (tmp_path / "out.partial" / "data.json").write_text('{"train": "", "eval": ""}')
    (tmp_path / "out.partial" / "lock").touch()
    return replace(learnt, out=tmp_path / "out")


def test_a_run_that_began_otherwise_is_left_alone(stopped: FinetuneConfig, tmp_path: Path) -> None:
    before = micro.files(tmp_path)
    with pytest.raises(
        UserError, match=r"out.partial: this run has epochs = 6.0, not 2; give 6.0, or delete the folder"
    ):
        finetune(replace(stopped, epochs=2))
    with pytest.raises(UserError, match=r"out.partial: this run began with other examples; delete the folder"):
        finetune(stopped)
    assert micro.files(tmp_path) == before


def test_a_run_goes_on_with_files_that_were_moved_but_with_no_other_weights(
    learning: FinetuneConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model"
    shutil.copytree(learning.model, model)
    config = replace(learning, model=str(model), out=tmp_path / "out", epochs=1)
    monkeypatch.setattr(Tuner, "run", interrupt)
    with pytest.raises(KeyboardInterrupt):
        finetune(config)
    with pytest.raises(KeyboardInterrupt):  # it trains
        finetune(replace(config, model=str(shutil.copytree(model, tmp_path / "moved"))))
    weights = safetensors.numpy.load_file(model / "model.safetensors")
    safetensors.numpy.save_file({name: 2 * leaf for name, leaf in weights.items()}, model / "model.safetensors")
    with pytest.raises(UserError, match=r"out.partial: this run began with other weights; delete the folder"):
        finetune(config)


def test_one_process_at_a_time(stopped: FinetuneConfig, tmp_path: Path) -> None:
    with (
        micro.held(tmp_path / "out.partial" / "lock"),
        pytest.raises(UserError, match=r"out: another process is making it; wait for its end") as error,
    ):
        finetune(stopped)
    assert "\n" not in str(error.value)


# --- where it starts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ElectraModel", "ElectraForMaskedLM", "ElectraForTokenClassification"])
def test_any_electra_folder_will_do(pretrained: Path, tmp_path: Path, name: str) -> None:
    model = getattr(transformers, name).from_pretrained(pretrained)
    shutil.copytree(pretrained, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    model.save_pretrained(tmp_path / "model")
    ours, theirs = (flat(load_start(str(folder))[1]) for folder in (pretrained, tmp_path / "model"))
    assert micro.equal_bits(ours, theirs)
    assert not any(path.startswith("head") for path in ours)


def test_a_pretraining_run_will_do(finished: PretrainConfig) -> None:
    config, body, tokenizer = load_start(str(finished.out))
    params = restore_params(finished.out)[1]
    wanted = {"embeddings": params["embeddings"], "encoder": params["discriminator"]["encoder"]}
    assert micro.equal_bits(flat(body), flat(wanted))
    assert config == finished.model.tower("discriminator")
    assert len(tokenizer) == config.vocab_size


def test_a_fine_tuned_folder_will_do(learnt: FinetuneConfig, tmp_path: Path) -> None:
    body = flat(load_start(str(learnt.out))[1])
    params = flat(FineTuned.from_pretrained(learnt.out).params)
    assert micro.equal_bits(body, {path: leaf for path, leaf in params.items() if not path.startswith("head/")})


# --- devices and tasks --------------------------------------------------------------------------------------------


def test_four_devices_give_the_losses_of_one(learnt: FinetuneConfig, learning: FinetuneConfig, tmp_path: Path) -> None:
    config = replace(learning, out=tmp_path / "out")
    options = ["--model", config.model, "--train", str(config.train), "--out", str(config.out), "--batch-size", "8"]
    options += ["--eval-fraction", "0.25", "--epochs", "6", "--learning-rate", "1e-3", "--layer-decay", "1"]
    options += ["--log-every", "20", "--compute.scan-layers"]
    process = micro.python("-m", "electra_jax", "finetune", *options, devices=4)
    assert process.returncode == 0, process.stderr
    ones, fours = (
        [r["loss"] for r in records(folder / "seeds" / "0") if r["kind"] == "train"]
        for folder in (learnt.out, config.out)
    )
    assert fours[:2] == pytest.approx(ones[:2], rel=1e-4)


ROWS: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "pairs": (
        [{"text": t, "other": "two dogs", "label": label} for t, label in sentences(12)],
        {"text": ("text", "other")},
    ),
    "multi-label": (
        [{"text": t, "label": [label, "short"][: 1 + n % 2]} for n, (t, label) in enumerate(sentences(12))],
        {"multi_label": True},
    ),
    "regression": (
        [{"text": t, "label": float(n)} for n, (t, _) in enumerate(sentences(12))],
        {"task": "regression"},
    ),
    "tagging": (
        [{"tokens": t.split(), "tags": ["B-A", *["O"] * (len(t.split()) - 1)]} for t, _ in sentences(12)],
        {"task": "tagging"},
    ),
    "question-answering": (
        [
            {"question": "who?", "context": t, "answers": {"text": t.split()[:1], "answer_start": [0]}}
            for t, _ in sentences(11)
        ]
        + [{"question": "why?", "context": "dogs", "answers": {"text": [], "answer_start": []}}],
        {"task": "question-answering"},
    ),
    "multiple-choice": (
        [{"context": t, "choices": ["fox", "dogs", "towns"], "label": n % 3} for n, (t, _) in enumerate(sentences(12))],
        {"task": "multiple-choice"},
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_every_task_trains_and_predicts(learning: FinetuneConfig, tmp_path: Path, name: str) -> None:
    rows, changes = ROWS[name]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train = str(tmp_path / "rows.jsonl")
    config = replace(learning, out=tmp_path / "out", train=train, eval=train, epochs=1, **changes)
    result = finetune(config)
    model = FineTuned.from_pretrained(config.out)
    answers = model.predict(rows)

    assert len(answers) == 12
    assert set(result.best.scores) >= {model.task.settings.metric}
    if name == "tagging":
        assert [len(answer["predicted"]) for answer in answers] == [len(row["tokens"]) for row in rows]
    if name == "question-answering":
        assert model.task.settings.null_threshold is not None
        assert all(answer["best_answer"] in row["context"] for answer, row in zip(answers, rows, strict=True))
        _check_threshold(config.out, train, tmp_path / "answers.jsonl")
    else:
        with pytest.raises(UserError, match=r"^null_threshold: .* gives no answers; leave it out$"):
            predict(model, train, tmp_path / "predicted.jsonl", null_threshold=0.0)
    architecture = json.loads((config.out / "config.json").read_text())["architectures"][0]
    _, info = getattr(transformers, architecture).from_pretrained(config.out, output_loading_info=True)
    assert {kind: list(keys) for kind, keys in info.items() if keys} == {}


def _check_threshold(model: Path, data: str, out: Path) -> None:
    """Where "no answer" may never win, each question has one; where it always does, none, and that is scored."""
    for threshold, answered in (("1000", True), ("-1000", False)):
        files = ["--in", data, "--out", str(out), "--null-threshold", threshold]
        cli.main(["predict", "--model", str(model), *files])
        answers = [json.loads(line) for line in out.read_text().splitlines()]
        assert [a["predicted"] for a in answers] == [a["best_answer"] if answered else "" for a in answers]
    scores = evaluate(model, data, out.with_suffix(""), null_threshold=-1000.0).scores
    assert (scores["exact_answerable"], scores["exact_unanswerable"]) == (0, 1)


def test_a_glue_task_is_read_by_its_name(learning: FinetuneConfig, tmp_path: Path) -> None:
    train = write_csv(tmp_path / "train.csv", ("sentence", "label"), sentences(16))
    result = finetune(replace(learning, out=tmp_path / "out", task="cola", train=str(train), epochs=1))
    assert result.metric == "matthews"
    assert json.loads((tmp_path / "out" / "task.json").read_text())["text"] == ["sentence"]
