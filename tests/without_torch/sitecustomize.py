"""Processes that tests start find no torch, as those of most users. Where it is, much imports it, for seconds."""

import sys
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any


class WithoutTorch(PathFinder):
    """Finds every module but torch."""

    @classmethod
    def find_spec(cls, fullname: str, *rest: Any) -> ModuleSpec | None:
        """None where there is no such module."""
        return None if fullname == "torch" else super().find_spec(fullname, *rest)


sys.meta_path = [WithoutTorch if finder is PathFinder else finder for finder in sys.meta_path]  # type: ignore[misc]
