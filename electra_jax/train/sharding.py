"""Where arrays live: the batch is split over the devices, everything else is on each of them."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from electra_jax.errors import UserError


def data_mesh(batch_size: int) -> Mesh:
    """All devices of all processes along one axis, "data"."""
    devices = jax.device_count()
    if batch_size % devices:
        raise UserError(f"batch_size: {batch_size} rows do not divide over {devices} devices; take a multiple")
    return jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def by_row(mesh: Mesh) -> NamedSharding:
    """The first axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """A batch, the same in every process, as arrays of which each device holds its rows."""
    sharding = by_row(mesh)
    return {name: jax.make_array_from_callback(rows.shape, sharding, rows.__getitem__) for name, rows in batch.items()}


def abstract(tree: Any, sharding: NamedSharding) -> Any:
    """Shapes, dtypes and places of a tree of arrays, without the arrays."""
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), tree)
