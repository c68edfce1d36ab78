"""What a run would take, told before it: against the compiled step itself."""

import tomllib
from pathlib import Path
from typing import Any

import jax
import micro
import pytest
import tomli_w

from electra_jax import cli
from electra_jax.errors import UserError
from electra_jax.train.plan import collectives, compile_step, memory_of, parse_memory, plan, replace_rows


@pytest.mark.slow
def test_the_largest_batch_fits_and_a_larger_one_does_not(rows: Path) -> None:
    config = micro.make_config(rows, Path("out"))
    found = plan(config, "20MB", peak=1e12, utilisation=0.5)

    at = memory_of(compile_step(replace_rows(config, found.rows))).total
    above = memory_of(compile_step(replace_rows(config, round(found.rows * 1.1)))).total
    assert 0.9 * 20e6 < at < 1.03 * 20e6  # buffers are laid out anew for each size
    assert above > 20e6


def test_time_follows_from_steps_flops_and_peak_and_no_memory_holds_no_row(rows: Path) -> None:
    config = micro.make_config(rows, Path("out"), steps=1000)
    found = plan(config, "1KB", peak=1e9, utilisation=0.5)
    assert found.days * 24 * 3600 == pytest.approx(1000 * found.flops / 0.5e9)
    assert (found.devices, found.moved, found.least_moved, found.tokens) == (1, 0, 0, 8 * micro.LENGTH)
    assert found.rows == 0


@pytest.mark.parametrize(("given", "parts"), [(1, 1), (2, 2), (144, 2)])
def test_parts_are_accumulated_as_a_run_has_them(rows: Path, given: int, parts: int) -> None:
    probe = replace_rows(micro.make_config(rows, Path("out"), batch_size=8 * 144, accumulate=given), 3)
    assert (probe.accumulate, probe.batch_size) == (parts, 3 * parts * jax.device_count())


@pytest.mark.parametrize(("text", "size"), [("80GB", 80 * 10**9), ("1.5 MiB", 1.5 * 2**20), ("7KB", 7000)])
def test_sizes(text: str, size: float) -> None:
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "80", "GB", "-1GB", "0GB", "80gb", "80 GB or so"])
def test_what_is_no_size_is_told(text: str) -> None:
    with pytest.raises(UserError, match=r"memory: .* is no size"):
        parse_memory(text)


@pytest.mark.parametrize(
    ("line", "moved"),
    [
        ("%a = f32[8,4]{1,0} all-reduce(%x), replica_groups=[1,8]<=[8]", 2 * 128 * 7 / 8),
        ("%a = (f32[8]{0}, /*index=5*/bf16[4]{0}) all-reduce-start(%x, %y), replica_groups=[2,4]<=[8]", 2 * 40 * 3 / 4),
        ("ROOT %a = s32[16]{0} all-gather(%x), replica_groups={{0,1},{2,3}}, dimensions={0}", 64 / 2),
        ("%a = f32[2,4]{1,0} reduce-scatter(%x), replica_groups=mesh['data'=2,'fsdp'=4] {'fsdp'}", 32 * 4 * 3 / 4),
    ],
)
def test_bytes_that_a_collective_moves(line: str, moved: float) -> None:
    (found,) = collectives(line)
    assert found.moved == moved


def test_a_line_without_a_collective_moves_nothing() -> None:
    assert not list(collectives("%b = f32[8]{0} add(%all-reduce.1, %all-gather)"))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--memory", "lots"], "memory: 'lots' is no size"),
        (["--mesh", "rows=8"], "mesh: 'rows=8' is no list of axes"),
        (["--mesh", "data=2,data=4"], "mesh: 'data=2,data=4' is no list of axes, each once"),
        (["--mesh", "data=0"], "mesh: 'data=0' is no list of axes"),
        (["--peak-tflops", 0], "peak_tflops: 0.0 is not a number above 0"),
        (["--utilisation", -2], "utilisation: -2.0 is not a number above 0"),
    ],
)
def test_a_plan_of_what_is_no_plan(options: list[str], line: str, preset: Path, fail: micro.Failing) -> None:
    assert line in fail("plan", "--config", preset, *options)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"length": 4}, "length: of 4 tokens none is masked"),
        ({"length": 100}, "length: 100 tokens, and the model has 16 positions"),
        ({"model": {"tie": "all"}}, "model.tie: all takes towers of the same size"),
        ({"optimizer": {"clip_norm": -1.0}}, "optimizer.clip_norm: -1.0 is not a number above 0"),
    ],
)
def test_a_plan_of_settings_that_no_run_can_have(
    preset: Path, fail: micro.Failing, changes: dict[str, Any], says: str
) -> None:
    table = tomllib.loads(preset.read_text())
    for name, value in changes.items():
        table[name] = table[name] | value if isinstance(value, dict) else value
    preset.write_text(tomli_w.dumps(table))
    assert fail("plan", "--config", preset).startswith(says)


@pytest.mark.parametrize(
    ("batch_size", "says"),
    [
        (8, "batch_size: 8 rows do not divide over 3 devices"),
        (9, "mesh: fsdp=3 does not divide model.embedding_size, 16"),
    ],
)
def test_a_plan_has_the_presets_mesh(preset: Path, batch_size: int, says: str) -> None:
    table = tomllib.loads(preset.read_text()) | {"mesh": "fsdp=3", "batch_size": batch_size}
    preset.write_text(tomli_w.dumps(table))
    ended = micro.python("-m", "electra_jax", "plan", "--config", str(preset))
    assert micro.complaint("plan", ended.stderr).startswith(says)


def test_the_command_prints_the_plan(preset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["plan", "--config", str(preset), "--memory", "16GB"])
    printed = capsys.readouterr().err
    assert "rows in 16GB" in printed
    assert "128 tokens" in printed
