"""Where arrays live: a mesh of devices, and a table of which axis of which array is split over which of its axes.

data: each device has all parameters, and its share of the batch.
fsdp: its share of the batch too, and of the parameters and the optimiser's state, which are gathered for a step.
"""

import math
import re
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from electra_jax.errors import UserError
from electra_jax.train.optimizer import paths

AXES = ("data", "fsdp")
MESH_AXES: dict[str, str | tuple[str, ...] | None] = {
    "batch": AXES,
    "row": None,  # of a table; the vocabulary seldom divides
    "embed": "fsdp",
    "in": None,
    "out": "fsdp",
}
"""Logical axis to mesh axes."""
LOGICAL_AXES = (
    (re.compile(r"(^|/)embeddings/(word|position|type)$"), ("row", "embed")),
    (re.compile(r"(^|/)kernel$"), ("in", "out")),
    (re.compile(r"(^|/)(bias|scale)$"), ("out",)),
)
"""The last axes of an array by its path; those before them (a tower's stacked layers) are never split."""


def make_mesh(axes: str | None, batch_size: int) -> Mesh:
    """The mesh that `axes` names ("data=2,fsdp=4"; all devices along "data", unless set), of all processes' devices.

    Raises UserError for other axes or sizes than the devices allow, and for a batch that doesn't divide over them.
    """
    devices = jax.device_count()
    sizes = parse_mesh(axes) if axes else {"data": devices}
    if math.prod(sizes.values()) != devices:
        raise UserError(f"mesh: {axes} takes {math.prod(sizes.values())} devices, and there are {devices}")
    if batch_size % devices:
        raise UserError(f"batch_size: {batch_size} rows do not divide over {devices} devices; take a multiple")
    return jax.make_mesh(tuple(sizes.get(axis, 1) for axis in AXES), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def parse_mesh(axes: str) -> dict[str, int]:
    """Sizes by axis: "data=2,fsdp=4" is {"data": 2, "fsdp": 4}. Raises UserError for anything else."""
    sizes: dict[str, int] = {}
    for part in axes.split(","):
        name, _, size = part.strip().partition("=")
        if name not in AXES or name in sizes or not size.isdecimal() or int(size) < 1:
            raise UserError(f"mesh: {axes!r} is no list of axes, each once, as data=2,fsdp=4")
        sizes[name] = int(size)
    return sizes


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def by_row(mesh: Mesh) -> NamedSharding:
    """The first axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec(MESH_AXES["batch"]))


def specs(tree: Any, mesh: Mesh) -> Any:
    """The PartitionSpec of each array of a state (or parameters), by the table: arrays that it doesn't name are whole.

    An axis that doesn't divide is whole too: of the models here only the vocabulary's bias and the last, one unit
    wide, layer of a head.
    """
    return jax.tree.map(lambda path, leaf: _spec(path, leaf.shape, mesh), paths(tree), tree)


def _spec(path: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    matched = [axes for rule, axes in LOGICAL_AXES if rule.search(path)]
    assert len(matched) <= 1, f"{path} is in the table {len(matched)} times"
    if not matched or not shape:
        return PartitionSpec()
    names = [None] * (len(shape) - len(matched[0])) + [MESH_AXES[axis] for axis in matched[0]]
    return PartitionSpec(*(_if_it_divides(name, size, mesh) for name, size in zip(names, shape, strict=True)))


def _if_it_divides(name: Any, size: int, mesh: Mesh) -> Any:
    return name if name is not None and mesh.shape[name] > 1 and size % mesh.shape[name] == 0 else None


def shardings(tree: Any, mesh: Mesh) -> Any:
    """`specs` on the devices of a mesh."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs(tree, mesh))


def gather(tree: Any, specs: Any) -> Any:
    """Inside `jax.shard_map`: the whole arrays, of each device's share."""

    def one(array: jax.Array, spec: PartitionSpec) -> jax.Array:
        axis = _split_axis(spec)
        return array if axis is None else jax.lax.all_gather(array, "fsdp", axis=axis, tiled=True)

    return jax.tree.map(one, tree, specs)


def add_up(tree: Any, specs: Any) -> Any:
    """Inside `jax.shard_map`: sums over all devices, of which each keeps its share. The fewest bytes that can do it."""
    if jax.lax.axis_size(AXES) == 1:  # XLA would copy what it has
        return tree

    def one(array: jax.Array, spec: PartitionSpec) -> jax.Array:
        axis = _split_axis(spec)
        if axis is None:
            return jax.lax.psum(array, AXES)
        return jax.lax.psum(jax.lax.psum_scatter(array, "fsdp", scatter_dimension=axis, tiled=True), "data")

    return jax.tree.map(one, tree, specs)


def _split_axis(spec: PartitionSpec) -> int | None:
    return spec.index("fsdp") if "fsdp" in spec else None


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """A batch, the same in every process, as arrays of which each device holds its rows."""
    sharding = by_row(mesh)
    return {name: jax.make_array_from_callback(rows.shape, sharding, rows.__getitem__) for name, rows in batch.items()}


def put_rows(rows: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """A batch, of which each process gives the rows of its own devices, in the order of processes."""
    sharding = by_row(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, some) for name, some in rows.items()}


def abstract(tree: Any, mesh: Mesh) -> Any:
    """Shapes, dtypes and places of a tree of arrays, without the arrays."""
    places = shardings(tree, mesh)
    return jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), tree, places)
