"""The table of a step's time by part: operations find their part by scope, in both directions."""

import json
import sys
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from electra_jax.errors import UserError

sys.path.append(str(Path(__file__).parent.parent / "tools"))
from profile_step import Arguments, main, part_of, parts_of, report
from rich.console import Console


@pytest.mark.parametrize("kind", ["rows", "packed_rows"])
def test_steps_on_prepared_rows(preset: Path, tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> None:
    arguments = Arguments(tmp_path / "profile", str(preset), request.getfixturevalue(kind), steps=1)
    main(arguments, Console(quiet=True))
    assert {"generator", "discriminator"} <= set(json.loads((tmp_path / "profile/parts.json").read_text())["parts"])


def test_what_no_run_can_have_is_told(preset: Path, rows: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="its rows have 16 tokens, and length is 8"):
        main(Arguments(tmp_path / "profile", str(preset), rows, length=8), Console(quiet=True))
    assert not (tmp_path / "profile").exists()


def test_the_parts_of_a_compiled_program() -> None:
    def loss(w: jax.Array, x: jax.Array) -> jax.Array:
        with jax.named_scope("generator"):
            x = jnp.tanh(x @ w)
        with jax.named_scope("discriminator"):
            return jnp.sum(x @ w)

    def step(w: jax.Array, x: jax.Array) -> jax.Array:
        gradient = jax.grad(loss)(w, x)
        with jax.named_scope("optimizer"):
            return w - 0.1 * gradient / jnp.linalg.norm(gradient)

    square = jnp.ones((64, 64))
    found = parts_of(jax.jit(step).lower(square, square).compile().as_text())
    assert {"generator", "discriminator", "optimizer"} <= set(found.values())


@pytest.mark.parametrize(
    ("op_name", "part"),
    [
        ("jit(step)/jvp(generator)/dot_general", "generator"),
        ("jit(step)/transpose(jvp(generator))/head/dot_general", "generator's head"),
        ("jit(step)/transpose(jvp(discriminator))/mul", "discriminator"),
        ("jit(step)/optimizer/add", "optimizer"),
        ("%state__optimizer___1__mu__discriminator____encoder.1", "optimizer"),
        ("jit(step)/psum", "other"),
        ("", "other"),
    ],
)
def test_the_part_of_an_operation(op_name: str, part: str) -> None:
    assert part_of(op_name) == part


def test_an_operation_without_a_name_is_told_by_what_it_fuses_or_copies() -> None:
    hlo = """
%fused_computation.1 (p: f32[2]) -> f32[2] {
  ROOT %add.1 = f32[2]{0} add(%p, %p), metadata={op_name="jit(step)/jvp(sampling)/add"}
}
ENTRY %main (a: f32[2]) -> f32[2] {
  %fusion.1 = f32[2]{0} fusion(%a), kind=kLoop, calls=%fused_computation.1
  %copy.1 = f32[2]{0} copy(%state__optimizer___1__nu)
  %while.1 = (s32[], f32[2]{0}) while(%tuple), condition=%c, body=%b, metadata={op_name="jit(step)/generator/while"}
}
"""
    assert parts_of(hlo) == {"add.1": "sampling", "fusion.1": "sampling", "copy.1": "optimizer"}


def test_shares_are_of_the_busy_time() -> None:
    spent = Counter({"a": 30_000_000, "b": 10_000_000, "input": 4_000_000, "PjitFunction": 99})
    found = report(spent, {"a": "generator", "b": "discriminator"}, steps=2, seconds=0.015)
    assert found["parts"] == {
        "generator": {"ms": 15.0, "share": 0.75},
        "discriminator": {"ms": 5.0, "share": 0.25},
    }
    assert (found["busy_ms"], found["step_ms"], found["input_ms"]) == (20.0, 15.0, 2.0)
