"""What the compiled step keeps on each of eight virtual devices, and sends between them."""

import json

import micro
import pytest

PROGRAM = """
import json, sys
import jax
from electra_jax.presets import load_config
from electra_jax.train.plan import collectives, compile_step, least_moved, memory_of, replace_rows
from electra_jax.train.sharding import make_mesh
from electra_jax.train.step import abstract_params, init_params, init_state

config = load_config("tiny", data="data", out="out", mesh=sys.argv[1] or None)
compiled = compile_step(replace_rows(config, 2))
params = abstract_params(config)
state = jax.eval_shape(lambda: init_state(config, init_params(config)))
size = lambda tree: sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
print(json.dumps({
    "share": memory_of(compiled).state / size(state),
    "least": least_moved(size(params), make_mesh(config.mesh, 16)),
    "collectives": [one._asdict() for one in collectives(compiled.as_text())],
    "shapes": sorted({leaf.shape for leaf in jax.tree.leaves(params)}),
}))
"""


@pytest.fixture(scope="module", params=["", "fsdp=8", "data=2,fsdp=4"])
def compiled(request: pytest.FixtureRequest) -> tuple[str, dict]:
    process = micro.python("-c", PROGRAM, request.param, devices=8)
    assert process.returncode == 0, process.stderr
    return request.param, json.loads(process.stdout)


def test_each_device_keeps_its_share_of_parameters_and_optimizer(compiled: tuple[str, dict]) -> None:
    mesh, found = compiled
    share = {"": 1, "fsdp=8": 1 / 8, "data=2,fsdp=4": 1 / 4}[mesh]
    assert found["share"] == pytest.approx(share, rel=0.05)


def test_a_step_sends_hardly_more_than_it_must(compiled: tuple[str, dict]) -> None:
    moved = sum(one["moved"] for one in compiled[1]["collectives"])
    assert 0.95 < moved / compiled[1]["least"] < 1.1


def test_nothing_but_parameters_is_gathered(compiled: tuple[str, dict]) -> None:
    """An activation or the vocabulary's logits among them would cost far more, and no error would tell."""
    mesh, found = compiled
    gathered = [shape for one in found["collectives"] if one["kind"] == "all-gather" for shape in one["shapes"]]
    assert all(shape in found["shapes"] for shape in gathered)
    assert bool(gathered) == ("fsdp" in mesh)
    assert {one["kind"] for one in found["collectives"]} <= {"all-gather", "all-reduce", "reduce-scatter"}
