"""What the system tells of the processor."""

import platform
from pathlib import Path


def instructions() -> bytes:
    """What this processor can do, as far as the system tells."""
    return _processor(b"flags", b"Features")


def is_intel() -> bool:
    """Whether Intel made this processor."""
    return _maker().endswith(b"GenuineIntel")


def has_amx() -> bool:
    """Whether it multiplies tiles of bfloat16 (Intel's AMX, of Xeons since 2023): some six times as fast as float32."""
    return b"amx_bf16" in instructions().split()


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
