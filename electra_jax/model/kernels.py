"""Where kernels of the package's own, in `electra_jax.model.triton`, do what could be left to XLA.

They are imported where they are called, and nowhere else: that takes a fifth of a second, of which a CPU has no use.
"""

from dataclasses import replace

import jax

from electra_jax.config import ComputeConfig

SINCE = 8.0  # compute capability of Ampere, the first with bfloat16
LEAST = 16  # rows and columns of a product that Triton makes


def has_triton(dtype: str) -> bool:
    """Whether kernels of this dtype are compiled here, by Triton: on NVIDIA GPUs since Ampere, in bfloat16."""
    capability = getattr(jax.devices()[0], "compute_capability", "")  # "9.0"; of an AMD GPU, "gfx942"
    return dtype == "bfloat16" and capability.replace(".", "").isdigit() and float(capability) >= SINCE


def can_call(dtype: str = "bfloat16") -> bool:
    """Whether what is traced now may call such kernels.

    It may not where XLA is to divide the arrays over several devices, which it can't do with a kernel's: it would have
    each device compute all of it. Inside `jax.shard_map` they are divided.
    """
    divided = jax.device_count() == 1 or jax.sharding.get_abstract_mesh().are_all_axes_manual
    return divided and has_triton(dtype)


def chosen(choice: str, dtype: str) -> bool:
    """Whether a setting of `ComputeConfig` comes to a kernel here: triton does, and all but xla where one can be."""
    return choice == "triton" or (choice != "xla" and can_call(dtype))


def can_fuse(head_size: int) -> bool:
    """Whether attention's heads are of a size that a kernel takes."""
    return head_size >= LEAST and head_size & (head_size - 1) == 0


def anywhere(compute: ComputeConfig) -> ComputeConfig:
    """`compute` without kernels that only some devices have, where these don't."""
    if has_triton(compute.dtype):
        return compute
    return replace(compute, attention="xla", layer_norm="xla")
