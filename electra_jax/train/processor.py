"""What the system tells of the processor."""

import os
import platform
from pathlib import Path


def instructions() -> bytes:
    """What this processor can do, as far as the system tells."""
    return _processor(b"flags", b"Features")


def is_intel() -> bool:
    """Whether Intel made this processor."""
    return _maker().endswith(b"GenuineIntel")


def has_avx512() -> bool:
    """Whether it has vectors of 512 bits, and what oneDNN's kernels do with them."""
    return b"avx512bw" in instructions().split()


def prefers_eigen() -> bool:
    """Whether it makes products in float32 faster by XLA's older library, Eigen, than by the younger.

    So it was measured on Intel's, and on AMD's that have AVX2 and no AVX-512 (docs/performance.md).
    """
    return is_intel() or (b"avx2" in instructions().split() and not has_avx512())


def has_fast_bfloat16() -> bool:
    """Whether it multiplies bfloat16 faster than float32.

    Intel's do by tiles (AMX, Xeons since 2023), some six times as fast, and AMD's by vectors (AVX512_BF16, since Zen
    4), twice as fast; Intel's vectors of it are no faster.
    """
    able = instructions().split()
    return b"amx_bf16" in able or (b"avx512_bf16" in able and not is_intel())


def cores() -> int:
    """How many of its cores this process may use, and so XLA divides work over."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _maker() -> bytes:
    """Who made this processor, at the line's end."""
    return _processor(b"vendor_id")


def _processor(*fields: bytes) -> bytes:
    """The first line that starts with one of `fields` of what Linux tells of the processor; elsewhere, its name."""
    try:
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    except OSError:
        return platform.processor().encode()
    return next((line for line in lines if line.startswith(fields)), b"")
