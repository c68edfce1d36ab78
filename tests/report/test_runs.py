"""What a report reads of a run's folder, its example rows, and what it says of a folder that it can't read."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import micro
import numpy as np
import pytest
from flax import nnx
from micro import Failing

import electra_jax
from electra_jax import cli
from electra_jax.config import PretrainConfig
from electra_jax.data.batches import eval_batches
from electra_jax.data.manifest import Manifest
from electra_jax.data.rows import open_rows
from electra_jax.errors import UserError
from electra_jax.model.layers import row_keys
from electra_jax.objectives.electra import electra
from electra_jax.objectives.masking import SpecialTokens
from electra_jax.presets import to_toml
from electra_jax.report.examples import judge, read_examples
from electra_jax.report.figures import GROUPS, groups_of
from electra_jax.report.runs import POINTS, curves, names_of, read_run
from electra_jax.report.write import render, write_report
from electra_jax.train.pretrain import pretrain
from electra_jax.train.run import restore_params
from electra_jax.train.step import graph_of, init_params, read_tokens, step_key


def copy_of(finished: PretrainConfig, folder: Path) -> Path:
    return shutil.copytree(finished.out, folder / "run")


# --- example rows -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
def test_example_rows_are_those_of_the_objective(finished: PretrainConfig, packed_rows: Path, packed: bool) -> None:
    config = replace(finished, data=(packed_rows,)) if packed else finished
    manifest = Manifest.read(config.data[0])
    special = SpecialTokens(manifest.cls_id, manifest.sep_id, manifest.mask_id)
    batch = next(eval_batches(open_rows(config.data, "eval"), config.batch_size, config.eval_rows))
    params = restore_params(config.out)[1]

    found = judge(config, params, batch, special)

    @jax.jit
    def count(params: dict) -> dict:
        tokens, model = read_tokens(batch), nnx.merge(graph_of(config), params)
        keys = row_keys(step_key(config.seed, jnp.int32(0)), config.batch_size)
        return electra(model, tokens, keys, special, config.objective, dropout=False)[1]

    counts = count(params)
    replaced = found.original != found.corrupted
    loud = (found.probability > 0.5) & found.real
    assert found.picked.sum() == counts["picks"]
    assert (found.picked & ~replaced).sum() == counts["samples_correct"]
    assert (replaced & found.real).sum() == counts["replaced"]
    assert loud.sum() == counts["predicted"]
    assert (loud & replaced).sum() == counts["found"]
    assert found.real.sum() == counts["tokens"]
    assert not (replaced & ~found.picked).any()
    assert set(found.masked[found.masked != found.original].tolist()) == {special.mask}
    nll = -np.log(np.where(replaced, found.probability, 1 - found.probability)[found.real])
    assert nll.sum() == pytest.approx(float(counts["discriminator_sum"]), rel=1e-4)


def test_of_tokens_that_are_not_judged_there_is_no_probability(finished: PretrainConfig, tmp_path: Path) -> None:
    objective = replace(finished.objective, name="electra-15")
    config = replace(finished, out=tmp_path / "run", objective=objective, steps=1)
    pretrain(config)
    tokens = [token for row in read_examples(config.out, config, 3).rows for token in row]
    assert {token.probability is None for token in tokens} == {True, False}
    assert all((token.probability is None) == (token.original is None) for token in tokens)


def test_rows_of_weights_that_are_no_numbers_are_shown(
    finished: PretrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, params = restore_params(finished.out)
    nothing = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), params)
    monkeypatch.setattr(electra_jax.report.examples, "restore_params", lambda run: (step, nothing))
    assert "no_examples" in render([read_run(finished.out, "run", 2)])


def test_fewer_rows_are_the_first_of_them(finished: PretrainConfig) -> None:
    three, one = (read_examples(finished.out, finished, number) for number in (3, 1))
    assert (three.step, len(three.rows), len(one.rows)) == (20, 3, 1)
    assert [token[0::2] for token in three.rows[0]] == [token[0::2] for token in one.rows[0]]
    for row in three.rows:
        assert row[0].text == "[CLS]"
        assert row[-1].text == "[SEP]"
        assert any(token.original is not None for token in row)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda run: shutil.rmtree(run / "checkpoints"), "holds no checkpoint yet"),
        (lambda run: shutil.rmtree(run / "checkpoints" / "20" / "state"), "the checkpoint is damaged, or cut short"),
        (lambda run: shutil.rmtree(run / "tokenizer"), "no such folder"),
        (lambda run: (run / "config.toml").write_text('data = "gone"\nout = "x"\n'), "gone"),
        (lambda run: (run / "config.toml").write_text('data = "a"\nout = "x"\nnew = 1\n'), "unknown field 'new'"),
        (lambda run: (run / "manifest.json").write_text("[]"), ""),
    ],
)
def test_why_there_are_no_rows_is_said(
    finished: PretrainConfig, tmp_path: Path, spoil: Callable[[Path], object], reason: str
) -> None:
    run = copy_of(finished, tmp_path)
    spoil(run)
    table = read_run(run, "run", 2)
    assert table["examples"] is None
    assert reason in table["no_examples"]
    assert table["no_examples"].startswith("There are none to show. ")
    assert "There are none to show" in render([table])


def test_rows_of_another_model_are_not_shown(finished: PretrainConfig, tmp_path: Path) -> None:
    run = copy_of(finished, tmp_path)
    settings = (run / "config.toml").read_text()
    (run / "config.toml").write_text(settings.replace("intermediate_size = 64", "intermediate_size = 128"))
    assert "config.toml: its model is another than that of checkpoint 20" in read_run(run, "run", 1)["no_examples"]


def test_rows_of_other_data_are_not_shown(finished: PretrainConfig, packed_rows: Path, tmp_path: Path) -> None:
    run = copy_of(finished, tmp_path)
    (run / "config.toml").write_text(to_toml(replace(finished, data=(packed_rows,))))
    assert "holds other rows than this run was trained on" in read_run(run, "run", 2)["no_examples"]


def test_rows_of_a_text_under_another_name_are_shown(finished: PretrainConfig, tmp_path: Path) -> None:
    run = copy_of(finished, tmp_path)
    rows = tmp_path / "rows"
    shutil.copytree(finished.data[0], rows)
    replace(Manifest.read(rows), sources=("moved.txt",)).write(rows)
    (run / "config.toml").write_text(to_toml(replace(finished, data=(rows,))))
    assert len(read_run(run, "run", 2)["examples"]) == 2


def test_without_held_out_rows_there_are_only_curves_of_training(
    finished: PretrainConfig, text: Path, tokenizer: Path, tmp_path: Path
) -> None:
    sources = (str(text),)
    rows = tmp_path / "rows"
    electra_jax.prepare(electra_jax.PrepareConfig(sources, str(tokenizer), rows, length=micro.LENGTH, held_out=0.0))
    pretrain(replace(finished, data=(rows,), out=tmp_path / "run"))
    table = read_run(tmp_path / "run", "run", 2)
    assert table["eval"] == {"step": []}
    assert table["calibration"] is None
    assert "holds no held-out rows" in table["no_examples"]


# --- curves and calibration ---------------------------------------------------------------------------------------


def test_curves_are_the_lines_of_metrics(finished: PretrainConfig) -> None:
    table = read_run(finished.out, "run", 0)
    lines = [line for line in micro.records(finished.out) if line["kind"] == "train"]
    assert table["train"]["step"] == [4, 8, 12, 16, 20]
    assert table["train"]["auc"] == pytest.approx([line["auc"] for line in lines], rel=1e-5)
    assert table["no_examples"] == "None were asked for."
    assert table["settings"]["model.discriminator.hidden_size"] == "32"


def test_a_long_run_is_drawn_by_means() -> None:
    records = [{"step": i + 1, "kind": "train", "loss": float(i)} for i in range(2 * POINTS + 1)]
    found = curves(records)
    assert len(found["step"]) == 667
    assert found["step"][:2] == [3, 6]
    assert found["loss"][:2] == [1.0, 4.0]
    assert found["step"][-1] == 2 * POINTS + 1


def test_what_happens_once_stays_in_a_long_run() -> None:
    records = [{"step": i + 1, "kind": "train", "grad_norm": 1.0, "bad_steps": 0.0} for i in range(2 * POINTS)]
    records[1] |= {"grad_norm": 100.0, "bad_steps": 1.0}
    found = curves(records)
    assert (found["grad_norm"][:2], found["bad_steps"][:2]) == ([100.0, 1.0], [1.0, 0.0])


def test_the_newest_figures_are_those_of_the_last_evaluation(finished: PretrainConfig) -> None:
    *_, last = [line for line in micro.records(finished.out) if line["kind"] == "eval"]
    newest = read_run(finished.out, "run", 0)["newest"]
    assert newest["auc"] == pytest.approx(last["auc"], rel=1e-5)
    assert newest["step"] == last["step"] == 20


def test_a_generator_that_reads_no_masks_shows_none(finished: PretrainConfig) -> None:
    config = replace(finished, model=replace(finished.model, generator_kind="two-tower"))
    batch = next(eval_batches(open_rows(config.data, "eval"), config.batch_size, config.eval_rows))
    found = judge(config, init_params(config), batch, SpecialTokens(2, 3, 4))
    assert found.picked.any()
    np.testing.assert_array_equal(found.masked, found.original)


def test_a_number_that_no_float_holds_is_a_gap() -> None:
    assert curves([{"step": 1, "loss": 10**400}, {"step": 2, "loss": 2.0}])["loss"] == [None, 2.0]


def test_a_value_that_is_missing_or_not_finite_is_a_gap() -> None:
    records = [{"step": 1, "a": 1.0}, {"step": 2, "a": float("nan"), "b": 2.0}, {"step": 3, "a": float("inf")}]
    assert curves(records) == {"step": [1, 2, 3], "a": [1.0, None, None], "b": [None, 2.0, None]}


def test_calibration_is_that_of_the_newest_evaluation(finished: PretrainConfig, tmp_path: Path) -> None:
    run = copy_of(finished, tmp_path)
    last = [line for line in micro.records(run) if line["kind"] == "eval"][-1]
    found = read_run(run, "run", 0)["calibration"]
    assert found["step"] == last["step"]
    assert found["error"] == pytest.approx(last["calibration_error"], rel=1e-5)
    share = sum(found["replaced"]) / (sum(found["replaced"]) + sum(found["original"]))
    assert share == pytest.approx(last["replaced_rate"], rel=1e-5)
    (run / "histogram.json").write_text((run / "histogram.json").read_text().replace('"step": 20', '"step": 30'))
    assert read_run(run, "run", 0)["calibration"] is None


def test_every_figure_has_a_chart_once() -> None:
    names = [figure.name for group in GROUPS for figure in group.figures]
    assert len(names) == len(set(names))
    assert [group.title for group in groups_of(["energy", "auc"])] == ["Discriminator", "Others"]
    assert groups_of(["step"][:0]) == []


# --- the command --------------------------------------------------------------------------------------------------


def test_the_command_writes_the_page(finished: PretrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "report.html"
    out.write_text("an older one")
    cli.main(["report", str(finished.out), "--out", str(out), "--examples", "1"])
    assert capsys.readouterr().err.strip() == str(out)
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert electra_jax.write_report is write_report


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["a/run", "b/other"], ["run", "other"]),
        (["a/run", "b/run", "c/else"], ["a/run", "b/run", "else"]),
        (["a/x/run", "b/x/run", "b/y/run"], ["a/x/run", "b/x/run", "y/run"]),
    ],
)
def test_runs_of_the_same_name_are_told_apart(folders: list[str], names: list[str]) -> None:
    assert names_of([Path(folder) for folder in folders]) == names


def test_a_run_given_twice(fail: Failing, finished: PretrainConfig, tmp_path: Path) -> None:
    run = finished.out
    complaint = fail("report", run, run.parent / "." / run.name, "--out", tmp_path / "report.html")
    assert complaint == f"{run}: is given twice"


def test_what_is_no_run(fail: Failing, finished: PretrainConfig, tmp_path: Path) -> None:
    out = ["--out", tmp_path / "report.html"]
    assert "no run is given" in fail("report", *out)
    assert "not a folder that `electra-jax pretrain` wrote" in fail("report", tmp_path / "nothing", *out)
    assert "not a folder that `electra-jax pretrain` wrote" in fail("report", finished.data[0], *out)
    (tmp_path / "config.toml").write_text("[model]\n")
    assert "holds imported weights, no run" in fail("report", tmp_path, *out)
    (tmp_path / "config.toml").write_text("[model\n")
    assert "config.toml: not a TOML file" in fail("report", tmp_path, *out)


def test_a_run_without_metrics(fail: Failing, finished: PretrainConfig, tmp_path: Path) -> None:
    run = copy_of(finished, tmp_path)
    (run / "metrics.jsonl").unlink()
    assert "has no metrics yet; they come with the first 4 steps" in fail("report", run, "--out", tmp_path / "r.html")
    (run / "metrics.jsonl").mkdir()
    assert "has no metrics yet; they come with the first 4 steps" in fail("report", run, "--out", tmp_path / "r.html")


def test_a_damaged_file_is_named(fail: Failing, finished: PretrainConfig, tmp_path: Path) -> None:
    run = copy_of(finished, tmp_path)
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join([*lines[:2], lines[2][:40] + "\n", *lines[3:]]))
    assert fail("report", run, "--out", tmp_path / "r.html").startswith(
        f"{run / 'metrics.jsonl'}:3: the line is damaged"
    )
    (run / "metrics.jsonl").write_text("".join(lines))
    tables = [{"step": 20}, *({"step": 20, "original": [1, 2], "replaced": bad} for bad in ([3], [3, None], [-1, 5]))]
    for content in ("{", *map(json.dumps, tables)):
        (run / "histogram.json").write_text(content)
        assert "histogram.json: the file is damaged" in fail("report", run, "--out", tmp_path / "r.html")


def test_where_the_page_cannot_be_written(fail: Failing, finished: PretrainConfig, tmp_path: Path) -> None:
    assert "can't be made there: no folder" in fail("report", finished.out, "--out", tmp_path / "none" / "r.html")
    assert "is a folder; name a file" in fail("report", finished.out, "--out", tmp_path)
    metrics = copy_of(finished, tmp_path) / "metrics.jsonl"
    assert f"{metrics}: is a file of the run" in fail("report", metrics.parent, "--out", metrics)
    assert "examples: -1 is below 0" in fail("report", finished.out, "--out", tmp_path / "r.html", "--examples", -1)
    with pytest.raises(UserError, match="no run is given"):
        write_report([], tmp_path / "r.html")
