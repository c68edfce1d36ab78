"""A folder that appears whole or not at all, and whose unfinished work outlives an interruption."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from electra_jax.errors import MidwayError, RunError, UserError
from electra_jax.files import can_be_made, check_absent, held_folder, room_for


def partial_path(path: Path) -> Path:
    """Where the unfinished work on the folder `path` lies: `.NAME.partial` beside it."""
    return path.parent / f".{path.name}.partial"


@contextmanager
def partial_folder(path: Path) -> Iterator[Path]:
    """The folder `whole` in `.NAME.partial`, which becomes `path` when the block ends without an exception.

    An interrupted block (also by SIGKILL, for want of room, or by a MidwayError) leaves what it wrote for the next
    one; another UserError leaves nothing. Raises UserError where `path` already holds something or can't be made, and
    while another process is in such a block; RunError where there is no room.
    """
    check_absent(path)
    partial = partial_path(path)
    with held_folder(partial, path):
        with can_be_made(path):
            (partial / "whole").mkdir(exist_ok=True)
        try:
            with room_for(path):
                yield partial / "whole"
                os.replace(partial / "whole", path)  # an empty folder at `path` is replaced
        except (RunError, MidwayError):
            raise
        except UserError:
            _discard(partial)
            raise
        _discard(partial)


def _discard(partial: Path) -> None:
    # Renamed first, so that a process that comes now makes a folder of its own and doesn't lose it.
    dropped = partial.with_name(f"{partial.name}.{os.getpid()}")
    os.replace(partial, dropped)
    shutil.rmtree(dropped, ignore_errors=True)
