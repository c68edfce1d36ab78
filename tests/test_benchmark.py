"""The benchmark on a model small enough for seconds: what it writes, and that it compares only what is the same."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import micro
import pytest
import tyro

from electra_jax.config import ComputeConfig
from electra_jax.errors import RunError, UserError
from electra_jax.presets import load_config
from electra_jax.train.flops import dense_products, step_flops

TOOLS = Path(__file__).parents[1] / "tools"
TINY = {"rows": 4, "length": 16}
PRESET = """
[model]
vocab_size = 100
embedding_size = 8
[model.discriminator]
num_hidden_layers = 1
hidden_size = 16
num_attention_heads = 2
intermediate_size = 32
[model.generator]
num_hidden_layers = 1
hidden_size = 8
num_attention_heads = 1
intermediate_size = 16
"""


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("preset") / "micro.toml"
    path.write_text(PRESET)
    return path


@pytest.fixture(autouse=True)
def tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their modules can be imported, and their workers compile carelessly."""
    monkeypatch.syspath_prepend(str(TOOLS))
    for name, value in micro.environment(torch=True).items():
        monkeypatch.setenv(name, value)


def run(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(TOOLS / "benchmark.py"), *options], capture_output=True, text=True)


def test_a_contestant_that_is_killed_is_told_in_a_line(tmp_path: Path) -> None:
    from workers import Worker

    killed = "import os, signal; print('{}', flush=True); input(); os.kill(os.getpid(), signal.SIGKILL)"
    line = r"^theirs: ended with status -9: nothing on stderr; it was killed, as when memory runs out: give fewer"
    with Worker("theirs", ["-c", killed], {}, tmp_path / "log") as worker:
        with pytest.raises(RunError, match=line):
            worker.ask("run", steps=1)
        with pytest.raises(RunError, match=line):  # what it can't read any more, nor is it sent when it is closed
            worker.ask("run", steps=1)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_cell_is_measured_once_and_written_with_every_figure(
    preset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], dtype: str
) -> None:
    options = ["--out", str(tmp_path), "--sizes", str(preset), "--lengths", "16", "--batch-tokens", "64"]
    options += ["--contestants", "ours", "picks", "--rounds", "1", "--seconds-per-round", "0.01", "--device", "cpu"]
    options += ["--dtype", dtype]
    first = run(*options)
    assert first.returncode == 0, first.stderr
    assert "measuring micro-16" in first.stdout
    check_cell(tmp_path)

    import benchmark

    benchmark.main(tyro.cli(benchmark.Arguments, args=options))
    printed = capsys.readouterr().out
    assert "measuring" not in printed
    assert f"micro-16: 4 x 16, {dtype}" in printed


@pytest.mark.parametrize(
    ("options", "device", "dtype"),
    [([], "cpu", "float32"), ([], "gpu", "bfloat16"), (["--dtype", "bfloat16"], "cpu", "bfloat16")],
)
def test_the_dtype_is_the_devices_unless_set(options: list[str], device: Any, dtype: str, tmp_path: Path) -> None:
    import benchmark

    arguments = tyro.cli(benchmark.Arguments, args=["--out", str(tmp_path), "--products", "xla", *options])
    compute = benchmark.compute_config(arguments, device)
    assert (compute.dtype, compute.products) == (dtype, "xla")
    assert benchmark.settings_of(arguments, benchmark.Turns(), compute)["dtype"] == dtype


def check_cell(out: Path) -> None:
    cell = json.loads((out / "benchmark.json").read_text())["parts"]["micro-16"]
    assert {"rows": cell["rows"], "length": cell["length"]} == TINY
    assert cell["losses"]["picks"] == pytest.approx(cell["losses"]["ours"], rel=1e-4)
    assert cell["contestants"].keys() == {"ours", "picks"}
    for found in cell["contestants"].values():
        assert len(found["seconds_per_step"]) == 1
        assert found["tokens_per_second"]["median"] == pytest.approx(64 / found["seconds_per_step"][0])
        assert found["flops_per_second"]["median"] == pytest.approx(cell["flops"] / found["seconds_per_step"][0])
        assert found["peak_share"]["median"] > 0
        assert found["peak_bytes"] > 10**7
    ours = cell["contestants"]["ours"]
    assert min(ours["compile_seconds_cached"], ours["compile_seconds"], ours["peak_bytes_cached"]) > 0
    assert 0 <= cell["others"]["median"] <= 1
    assert cell["ratios"]["best_on_picks"] == cell["ratios"]["picks"]
    assert cell["products"][0].keys() == {"flops_per_second", "xla_flops_per_second", "torch_flops_per_second"}
    assert (out / "benchmark.png").read_bytes().startswith(b"\x89PNG")


def test_contestants_that_compute_different_losses_are_not_measured(preset: Path) -> None:
    import benchmark_cells

    ours = benchmark_cells.cell_config(str(preset), 16, 4, 0.1, ComputeConfig())
    theirs = replace(ours, objective=replace(ours.objective, discriminator_weight=49.9))
    with pytest.raises(RunError, match=r"our loss is .* nothing was measured"):
        benchmark_cells.check_losses(ours, theirs, ["picks"])


@pytest.mark.slow
def test_a_series_has_its_points_and_their_exponent(preset: Path) -> None:
    import benchmark_cells
    import benchmark_sweep

    config = benchmark_cells.cell_config(str(preset), 16, 4, 0.1, ComputeConfig())
    series = benchmark_sweep.Series("4 rows", (16, 600), benchmark_sweep.with_length)
    found = benchmark_sweep.measure_series(series, config, benchmark_cells.Turns(rounds=1, seconds=0.01))
    short, long = found["points"]
    assert (short["length"], long["length"]) == (16, 600)
    assert 0 < short["seconds"]["min"] < long["seconds"]["min"]
    assert found["exponent"] > 0
    assert 1 < found["flops_exponent"] < 2


def test_an_exponent_is_fitted() -> None:
    import benchmark_sweep

    assert benchmark_sweep.fit([1, 2, 4, 8], [3, 12, 48, 192]) == pytest.approx((2, 3))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"contestants": ("picks",)}, "contestants: ours must be among them, since all ratios are to it"),
        ({"rounds": 0}, "rounds: 0 is not above 0"),
        ({"lengths": (1024,)}, "lengths: 1024 is more than the 512 positions of tiny"),
        ({"lengths": (2,)}, "lengths: 2 is too short for a pick in each row"),
        ({"sizes": ("huge",)}, "huge: no such file; presets are "),
    ],
)
def test_bad_arguments_are_found_before_anything_is_measured(fields: dict, said: str, tmp_path: Path) -> None:
    import benchmark

    with pytest.raises(UserError, match=f"^{said}"):
        benchmark.main(benchmark.Arguments(tmp_path, device="cpu", **fields))


def test_a_mistake_is_told_in_a_line(tmp_path: Path) -> None:
    done = run("--out", str(tmp_path), "--rounds", "0")
    assert (done.returncode, done.stderr) == (2, "benchmark: rounds: 0 is not above 0\n")


@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_products_and_attention_are_the_step(size: str) -> None:
    config = load_config(size, data=Path("unused"), out=Path("unused"))
    towers = [config.model.tower(name) for name in ("discriminator", "generator")]
    tokens = config.batch_size * config.length
    attention = sum(12 * tokens * config.length * c.hidden_size * c.num_hidden_layers for c in towers)
    column = 6 * tokens * towers[0].hidden_size  # of the replaced-token head
    dense = sum(product.flops * product.times for product in dense_products(config))
    assert dense + attention + column == pytest.approx(step_flops(config))
