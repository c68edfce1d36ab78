"""Whole runs: what they write, and that they go on where they stopped."""

import io
import json
import math
import shutil
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import jax
import micro
import numpy as np
import pytest
import tomli_w
from rich.console import Console

from electra_jax.config import ComputeConfig, OptimizerConfig, PrepareConfig, PretrainConfig
from electra_jax.data.manifest import Manifest, read_manifests
from electra_jax.data.prepare import prepare
from electra_jax.data.tokenizer import load_tokenizer
from electra_jax.errors import RunError, UserError
from electra_jax.hub.names import flat
from electra_jax.hub.pretrained import Discriminator, Generator
from electra_jax.objectives.calibration import calibration_error
from electra_jax.presets import to_toml
from electra_jax.report.runs import read_run
from electra_jax.train.convert import export, import_pretrained
from electra_jax.train.library import has_onednn
from electra_jax.train.pretrain import Trainer, pretrain
from electra_jax.train.processor import has_fast_bfloat16
from electra_jax.train.run import restore_params
from electra_jax.train.step import gradient_norms, init_params

TRAIN_FIELDS = {
    "step",
    "kind",
    "loss",
    "mlm_loss",
    "discriminator_loss",
    "precision",
    "recall",
    "auc",
    "accuracy",
    "replaced_rate",
    "generator_accuracy",
    "samples_correct",
    "calibration_error",
    "learning_rate",
    "bad_steps",
    "grad_norm",
    "grad_norm_embeddings",
    "grad_norm_generator",
    "grad_norm_discriminator",
}
ONLY_IN_TRAINING = {name for name in TRAIN_FIELDS if name.startswith(("learning_rate", "bad_steps", "grad_norm"))}
STEADY = OptimizerConfig(learning_rate=2e-3, warmup_steps=5, power=0.0)  # the same rates, however many steps

KILLED_AT_16 = """
import os, signal, sys, time
from pathlib import Path
from electra_jax.cli import main
from electra_jax.report.sinks import MetricsLog

class Killing(MetricsLog):
    def write(self, kind, step, figures):
        super().write(kind, step, figures)
        if step == 16:
            while not (self.file.parent / "checkpoints" / "10").is_dir():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)

import electra_jax.train.pretrain
electra_jax.train.pretrain.MetricsLog = Killing
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def killed(finished: PretrainConfig, tmp_path_factory: pytest.TempPathFactory) -> PretrainConfig:
    """The finished run's settings, and a run of them that was killed at step 16, with a checkpoint of step 10."""
    out = tmp_path_factory.mktemp("killed") / "run"
    preset = ["--config", str(finished.out / "config.toml"), "--out", str(out)]
    process = micro.python("-c", KILLED_AT_16, "pretrain", *preset)
    assert process.returncode == -9, process.stderr
    return replace(finished, out=out)


@pytest.fixture(scope="module")
def unmoved(finished: PretrainConfig, tmp_path_factory: pytest.TempPathFactory) -> PretrainConfig:
    """A run of two steps at learning rate 0 from the finished run's discriminator, exported and imported."""
    folder = tmp_path_factory.mktemp("unmoved")
    discriminator, _ = export(finished.out, folder / "exported")
    imported = import_pretrained(discriminator, folder / "imported")
    config = replace(
        finished,
        out=folder / "run",
        init_from=imported,
        seed=1,
        steps=2,
        eval_every=1,
        optimizer=replace(finished.optimizer, learning_rate=0.0),
    )
    pretrain(config)
    return config


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch, programs: Callable[[], None]) -> Iterator[list[Any]]:
    """The gradients of each trace of the step: one is what a start needs, and takes seconds where layers are many."""
    seen: list[Any] = []
    programs()

    def note(gradients: Any) -> Any:
        seen.append(gradients)
        return gradient_norms(gradients)

    monkeypatch.setattr("electra_jax.train.step.gradient_norms", note)
    yield seen
    programs()  # which would still note


def copy_of(config: PretrainConfig, folder: Path) -> PretrainConfig:
    shutil.copytree(config.out, folder / "run")
    return replace(config, out=folder / "run")


def goes_on_to_the_same_bits(whole: PretrainConfig, folder: Path) -> None:
    """A copy of the run, in `folder`, that has lost its last checkpoint, becomes the same run."""
    resumed = copy_of(whole, folder)
    shutil.rmtree(resumed.out / "checkpoints" / "20")
    pretrain(resumed)

    assert micro.records(resumed.out) == micro.records(whole.out)
    assert micro.equal_bits(micro.saved_state(resumed.out, 20), micro.saved_state(whole.out, 20))


def test_the_toy_text_is_learnt(finished: PretrainConfig) -> None:
    first, last = (line for line in micro.records(finished.out) if line["kind"] == "eval")
    assert last["auc"] > 0.7  # and not more than at first: the generator's samples grow harder to tell
    assert last["mlm_loss"] < first["mlm_loss"] < math.log(finished.model.vocab_size)
    assert last["discriminator_loss"] < first["discriminator_loss"] < math.log(2)


def test_every_record_is_a_line_of_json(finished: PretrainConfig) -> None:
    lines = micro.records(finished.out)
    assert [(line["step"], line["kind"]) for line in lines] == [
        (4, "train"),
        (8, "train"),
        (10, "eval"),
        (12, "train"),
        (16, "train"),
        (20, "train"),
        (20, "eval"),
    ]
    assert {frozenset(line) for line in lines if line["kind"] == "train"} == {frozenset(TRAIN_FIELDS)}
    assert {frozenset(line) for line in lines if line["kind"] == "eval"} == {frozenset(TRAIN_FIELDS - ONLY_IN_TRAINING)}
    assert all(math.isfinite(value) for line in lines for value in line.values() if value not in ("train", "eval"))


def test_the_learning_rate_of_a_record_is_that_of_its_last_update(finished: PretrainConfig) -> None:
    rates = [line["learning_rate"] for line in micro.records(finished.out) if line["kind"] == "train"]
    assert rates == pytest.approx([2e-3 * (1 - t / 20) * min(1, t / 5) for t in (3, 7, 11, 15, 19)])


def test_the_gradient_norms_of_a_record_are_means_over_its_steps(finished: PretrainConfig, tmp_path: Path) -> None:
    pretrain(replace(finished, out=tmp_path / "run", steps=4, log_every=1, optimizer=STEADY))
    pretrain(replace(finished, out=tmp_path / "averaged", steps=4, optimizer=STEADY))
    single = [line for line in micro.records(tmp_path / "run") if line["kind"] == "train"]
    (averaged,) = (line for line in micro.records(tmp_path / "averaged") if line["kind"] == "train")
    for name in ("grad_norm", "grad_norm_embeddings", "grad_norm_generator", "grad_norm_discriminator"):
        assert averaged[name] == pytest.approx(np.mean([line[name] for line in single]), rel=1e-5)
    for line in single:
        parts = [line[f"grad_norm_{part}"] for part in ("embeddings", "generator", "discriminator")]
        assert line["grad_norm"] == pytest.approx(np.linalg.norm(parts), rel=1e-5)


def test_the_newest_histogram_is_of_every_held_out_token(finished: PretrainConfig) -> None:
    table = json.loads((finished.out / "histogram.json").read_text())
    (last,) = (line for line in micro.records(finished.out) if line["kind"] == "eval" and line["step"] == table["step"])
    original, replaced = (np.asarray(table[name]) for name in ("original", "replaced"))
    assert table["step"] == 20
    assert replaced.sum() / (original.sum() + replaced.sum()) == pytest.approx(last["replaced_rate"])
    assert calibration_error(np.stack([original, replaced])) == pytest.approx(last["calibration_error"])


def test_tensorboard_holds_the_same_figures(finished: PretrainConfig) -> None:
    found = {
        (value.tag, event.step): value.simple_value
        for event in micro.events(finished.out)
        for value in event.summary.value
    }
    for line in micro.records(finished.out):
        for name in line.keys() - {"step", "kind"}:
            assert found[f"{line['kind']}/{name}", line["step"]] == pytest.approx(line[name], rel=1e-6)


def test_a_run_keeps_what_it_was_made_from(finished: PretrainConfig) -> None:
    (data,) = finished.data
    assert (finished.out / "manifest.json").read_bytes() == (data / "manifest.json").read_bytes()
    assert micro.files(finished.out / "tokenizer") == micro.files(data / "tokenizer")


def test_a_killed_run_goes_on_to_the_same_bits(
    finished: PretrainConfig, killed: PretrainConfig, traces: list[Any], tmp_path: Path
) -> None:
    config = copy_of(killed, tmp_path)
    assert [line["step"] for line in micro.records(config.out)] == [4, 8, 10, 12, 16]

    pretrain(config)

    assert len(traces) == 1
    assert micro.records(config.out) == micro.records(finished.out)
    assert micro.equal_bits(micro.saved_state(config.out, 20), micro.saved_state(finished.out, 20))


def test_a_run_on_packed_rows_goes_on_to_the_same_bits(
    finished: PretrainConfig, packed_rows: Path, traces: list[Any], tmp_path: Path
) -> None:
    whole = replace(finished, data=(packed_rows,), out=tmp_path / "whole", accumulate=2)
    figures = pretrain(whole)
    assert len(traces) == 1
    goes_on_to_the_same_bits(whole, tmp_path / "copy")
    assert figures["auc"] > 0.6


with_bfloat16 = pytest.mark.skipif(not has_fast_bfloat16(), reason="this processor multiplies no bfloat16")


@pytest.mark.skipif(not has_onednn(), reason="XLA here has no oneDNN")
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [("float32", 1e-3), pytest.param("bfloat16", 3e-2, marks=with_bfloat16)],
)
def test_a_run_whose_products_onednn_makes_learns_the_same_and_goes_on_to_the_same_bits(
    finished: PretrainConfig, traces: list[Any], tmp_path: Path, dtype: Literal["float32", "bfloat16"], tolerance: float
) -> None:
    compute = replace(finished.compute, dtype=dtype, products="onednn")
    whole = replace(finished, out=tmp_path / "whole", compute=compute)
    pretrain(whole)
    assert len(traces) == 1
    goes_on_to_the_same_bits(whole, tmp_path / "copy")
    assert not micro.equal_bits(micro.saved_state(whole.out, 20), micro.saved_state(finished.out, 20))
    for ours, xlas in zip(micro.records(whole.out), micro.records(finished.out), strict=True):
        assert ours["mlm_loss"] == pytest.approx(xlas["mlm_loss"], rel=2e-3)
        assert ours["loss"] == pytest.approx(xlas["loss"], rel=tolerance)  # a sample may fall another way, which tells


def test_a_second_call_changes_nothing(finished: PretrainConfig, tmp_path: Path) -> None:
    config = copy_of(finished, tmp_path)
    pretrain(config)
    before = micro.files(config.out)

    figures = pretrain(config)

    assert micro.files(config.out) == before
    assert figures | {"kind": "eval"} == micro.records(config.out)[-1]
    assert "kind" not in figures


def test_a_run_that_went_back_to_its_last_step_has_no_later_records(finished: PretrainConfig, tmp_path: Path) -> None:
    config = copy_of(finished, tmp_path)
    shutil.rmtree(config.out / "checkpoints" / "20")
    (step,) = (int(path.name) for path in (config.out / "checkpoints").iterdir() if path.name.isdecimal())
    figures = pretrain(replace(config, steps=step))
    assert figures["step"] == step
    assert max(record["step"] for record in micro.records(config.out)) == step


def test_what_a_killed_save_left_is_dropped(finished: PretrainConfig, tmp_path: Path) -> None:
    config = copy_of(finished, tmp_path)
    left = config.out / "checkpoints" / "13.orbax-checkpoint-tmp"
    shutil.copytree(config.out / "checkpoints" / "20", left)
    pretrain(config)
    assert not left.exists()


def test_one_process_at_a_time(killed: PretrainConfig, tmp_path: Path) -> None:
    config = copy_of(killed, tmp_path)
    before = micro.files(config.out)
    with (
        micro.held(config.out / "lock"),
        pytest.raises(UserError, match=r"another process is making it; wait for its end") as error,
    ):
        pretrain(replace(config, log_every=7))
    assert "\n" not in str(error.value)
    assert micro.files(config.out) == before


def test_layers_may_be_unrolled_from_a_checkpoint_on(
    finished: PretrainConfig, killed: PretrainConfig, tmp_path: Path
) -> None:
    config = copy_of(killed, tmp_path)

    pretrain(replace(config, compute=ComputeConfig(scan_layers=False)))

    scanned, unrolled = (run.out for run in (finished, config))
    assert micro.records(scanned)[-1]["loss"] == pytest.approx(micro.records(unrolled)[-1]["loss"], rel=1e-4)


def test_four_devices_give_the_losses_of_one(finished: PretrainConfig, tmp_path: Path) -> None:
    settings = ["--config", str(finished.out / "config.toml"), "--out", str(tmp_path / "run")]
    process = micro.python("-m", "electra_jax", "pretrain", *settings, devices=4)
    assert process.returncode == 0, process.stderr
    assert "data=4" in process.stderr
    for one, four in zip(micro.records(finished.out)[:3], micro.records(tmp_path / "run")[:3], strict=True):
        for loss in ("loss", "mlm_loss", "discriminator_loss"):
            assert four[loss] == pytest.approx(one[loss], rel=1e-5)
        for name in one.keys() & {"grad_norm", "grad_norm_generator", "grad_norm_discriminator"}:
            assert four[name] == pytest.approx(one[name], rel=1e-4)


def test_a_run_starts_from_the_imported_weights(finished: PretrainConfig, unmoved: PretrainConfig) -> None:
    theirs, ours = restore_params(finished.out)[1], restore_params(unmoved.out)[1]
    for part in ("embeddings", "discriminator"):
        assert micro.equal_bits(flat(ours[part]), flat(theirs[part]))


def test_a_generator_that_was_not_imported_is_drawn_by_the_seed(unmoved: PretrainConfig) -> None:
    drawn = flat(restore_params(unmoved.out)[1]["generator"])
    for path, same in flat(init_params(unmoved)["generator"]).items():
        np.testing.assert_allclose(drawn[path], same, atol=1e-6)
    another = flat(init_params(replace(unmoved, seed=0))["generator"])
    assert not np.allclose(drawn["head/dense/kernel"], another["head/dense/kernel"], atol=1e-3)


def test_evaluating_again_gives_the_same_figures(unmoved: PretrainConfig) -> None:
    first, second = (line for line in micro.records(unmoved.out) if line["kind"] == "eval")
    assert first | {"step": 2} == second


def test_an_interrupted_run_can_be_resumed_without_the_folder_it_started_from(
    unmoved: PretrainConfig, tmp_path: Path
) -> None:
    config = copy_of(unmoved, tmp_path)
    pretrain(config)
    before = (config.out / "config.toml").read_text()
    for init_from in (tmp_path / "deleted", None):
        assert pretrain(replace(config, init_from=init_from))["step"] == 2
        assert (config.out / "config.toml").read_text() == before


def test_a_run_that_saved_nothing_is_begun_from_the_same_weights(unmoved: PretrainConfig, tmp_path: Path) -> None:
    config = copy_of(unmoved, tmp_path)
    shutil.rmtree(config.out / "checkpoints")
    with pytest.raises(UserError, match=r"this run began with init_from .*imported, not with no init_from"):
        pretrain(replace(config, init_from=None))
    assert pretrain(config)["step"] == 2


def test_fewer_steps_than_are_done(finished: PretrainConfig, tmp_path: Path) -> None:
    config = copy_of(finished, tmp_path)
    with pytest.raises(UserError, match=r"steps: 19, and .*run has trained 20 already; give no fewer"):
        pretrain(replace(config, steps=19))
    assert (config.out / "config.toml").read_text() == (finished.out / "config.toml").read_text()


def test_rows_of_the_same_text_under_another_name_are_the_same(finished: PretrainConfig, tmp_path: Path) -> None:
    shutil.copytree(finished.data[0], tmp_path / "rows")
    manifest = Manifest.read(tmp_path / "rows")
    replace(manifest, sources=("elsewhere.txt",)).write(tmp_path / "rows")
    pretrain(replace(copy_of(finished, tmp_path), data=(tmp_path / "rows",)))


def test_rows_that_are_fewer_than_were_prepared_are_told(finished: PretrainConfig, tmp_path: Path) -> None:
    shutil.copytree(finished.data[0], tmp_path / "rows")
    manifest = Manifest.read(tmp_path / "rows")
    more = replace(manifest.train, rows=manifest.train.rows + 1)
    replace(manifest, train=more).write(tmp_path / "rows")
    said = rf"rows/train: has {more.rows - 1} rows of {more.rows}; copy it anew, or prepare it again$"
    with pytest.raises(UserError, match=said):
        pretrain(replace(finished, data=(tmp_path / "rows",), out=tmp_path / "run"))


def test_rows_that_cannot_be_read_are_told_before_anything_is_written(finished: PretrainConfig, tmp_path: Path) -> None:
    shutil.copytree(finished.data[0], tmp_path / "rows")
    shutil.rmtree(tmp_path / "rows" / "train")
    with pytest.raises(UserError, match=r"rows/train: the rows can't be read"):
        pretrain(replace(finished, data=(tmp_path / "rows",), out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"steps": 0}, "steps: 0 is not above 0"),
        ({"checkpoints_kept": 0}, "checkpoints_kept: 0 is not above 0"),
        ({"seed": -1}, "seed: -1"),
        ({"seed": 2**32}, "seed: 4294967296"),
    ],
)
def test_settings_that_no_run_can_have(
    finished: PretrainConfig, tmp_path: Path, changes: dict[str, int], complaint: str
) -> None:
    with pytest.raises(UserError, match=complaint):
        pretrain(replace(finished, out=tmp_path / "run", **changes))  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_nothing_held_out(finished: PretrainConfig, text: Path, tokenizer: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows"
    prepare(PrepareConfig((str(text),), str(tokenizer), rows, length=micro.LENGTH, held_out=0.0))
    output = io.StringIO()
    assert pretrain(replace(finished, data=(rows,), out=tmp_path / "run"), Console(file=output)) == {}
    assert "none, so nothing is evaluated" in output.getvalue()
    assert {line["kind"] for line in micro.records(tmp_path / "run")} == {"train"}


@pytest.fixture(scope="module")
def mixture(finished: PretrainConfig, tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> PretrainConfig:
    """Settings of a run on the finished run's rows and on others."""
    folder = tmp_path_factory.mktemp("more")
    (folder / "text.txt").write_text(micro.make_text(seed=1, documents=60))
    sources = (str(folder / "text.txt"),)
    prepare(PrepareConfig(sources, str(tokenizer), folder / "rows", length=micro.LENGTH, held_out=0.2))
    return replace(finished, data=(*finished.data, folder / "rows"), data_weights=(0.25, 0.75), out=folder / "run")


def test_a_mixture_is_resumed_to_the_same_bits(mixture: PretrainConfig, tmp_path: Path) -> None:
    steady = replace(mixture.optimizer, power=0.0)  # at each step the same rate, however many there are
    whole, stopped = (replace(mixture, out=tmp_path / name, optimizer=steady) for name in ("whole", "stopped"))
    pretrain(whole)
    pretrain(replace(stopped, steps=10))

    pretrain(stopped)

    assert micro.equal_bits(micro.saved_state(stopped.out, 20), micro.saved_state(whole.out, 20))
    assert micro.records(stopped.out)[-2:] == micro.records(whole.out)[-2:]


def test_a_run_on_a_mixture_keeps_the_manifest_of_each_folder(mixture: PretrainConfig, tmp_path: Path) -> None:
    config = replace(mixture, out=tmp_path / "run", steps=1)
    pretrain(config)

    assert read_manifests(config.out) == tuple(Manifest.read(folder) for folder in mixture.data)
    with pytest.raises(UserError, match=r"this run trained on other rows than .*rows, .*rows holds"):
        pretrain(replace(config, data=mixture.data[::-1]))
    folder, _ = export(config.out, tmp_path / "export")
    assert "`text.txt`, `text.txt`" in (folder / "README.md").read_text()


def test_a_mixture_is_another_run_than_its_first_folder(
    finished: PretrainConfig, mixture: PretrainConfig, tmp_path: Path
) -> None:
    run = copy_of(finished, tmp_path).out
    with pytest.raises(UserError, match=r"this run has data_weights = \(\), not \(0.25, 0.75\)"):
        pretrain(replace(mixture, out=run))
    with pytest.raises(UserError, match=r"this run trained on other rows than .*rows, .*rows holds"):
        pretrain(replace(mixture, out=run, data_weights=()))


def test_a_run_that_names_its_folder_outside_a_list_goes_on(finished: PretrainConfig, tmp_path: Path) -> None:
    config = copy_of(finished, tmp_path)
    table = tomllib.loads(to_toml(config))
    (config.out / "config.toml").write_text(tomli_w.dumps(table | {"data": table["data"][0]}))
    assert pretrain(config)["step"] == 20


def test_a_model_may_have_a_padded_vocabulary(finished: PretrainConfig, tmp_path: Path) -> None:
    """As released models that are padded to a multiple have it."""
    model = replace(finished.model, vocab_size=finished.model.vocab_size + 6)
    config = replace(finished, out=tmp_path / "run", model=model, steps=2, checkpoint_every=2, eval_every=2)
    pretrain(config)
    discriminator, _ = export(config.out, tmp_path / "export")
    assert Discriminator.from_pretrained(discriminator).config.vocab_size == finished.model.vocab_size + 6
    assert len(load_tokenizer(discriminator)) == finished.model.vocab_size
    assert read_run(config.out, "run", 2)["examples"]["step"] == 2


def test_a_tied_pair_is_exported_as_two_whole_models(finished: PretrainConfig, tmp_path: Path) -> None:
    model = replace(finished.model, generator=finished.model.discriminator, tie="all")
    config = replace(finished, out=tmp_path / "run", model=model, steps=2)
    pretrain(config)
    discriminator, generator = (
        cls.from_pretrained(folder)
        for cls, folder in zip((Discriminator, Generator), export(config.out, tmp_path / "exported"), strict=True)
    )
    assert micro.equal_bits(*(flat(jax.device_get(one.params["encoder"])) for one in (discriminator, generator)))

    imported = import_pretrained(
        tmp_path / "exported" / "discriminator", tmp_path / "imported", tmp_path / "exported" / "generator"
    )
    assert micro.equal_bits(*(flat(restore_params(run)[1]) for run in (config.out, imported)))
    pretrain(replace(config, out=tmp_path / "again", init_from=imported))


def test_a_tied_pair_takes_towers_of_the_same_size(finished: PretrainConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model.tie: all takes towers of the same size"):
        pretrain(replace(finished, out=tmp_path / "run", model=replace(finished.model, tie="all")))


def test_a_run_that_finds_too_little_memory_says_what_would_do(
    finished: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "_train", lambda *_: jax.numpy.zeros(2**50, "int8"))
    with pytest.raises(RunError, match=r"run: a device's memory is too small: .*; give more parts \(accumulate\), a"):
        pretrain(replace(finished, out=tmp_path / "run"))


def test_an_import_that_finds_no_room_leaves_nothing(finished: PretrainConfig, tmp_path: Path) -> None:
    export(finished.out, tmp_path / "export")
    with micro.little_room(20_000), pytest.raises(RunError, match=rf"^{tmp_path}/imported: can't be written: \S"):
        import_pretrained(tmp_path / "export" / "discriminator", tmp_path / "imported")
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_an_export_that_finds_no_room_leaves_nothing(finished: PretrainConfig, tmp_path: Path) -> None:
    with micro.little_room(20_000), pytest.raises(RunError, match=r"export: can't be written: File too large; make"):
        export(finished.out, tmp_path / "export")
    assert list(tmp_path.iterdir()) == []
