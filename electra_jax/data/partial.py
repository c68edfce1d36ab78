"""A folder that appears whole or not at all, and whose unfinished work outlives an interruption."""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from electra_jax.errors import UserError
from electra_jax.files import can_be_made, check_absent

HELD = (errno.EACCES, errno.EAGAIN)
"""What the system says of a lock that another process has."""


def partial_path(path: Path) -> Path:
    """Where the unfinished work on the folder `path` lies: `.NAME.partial` beside it."""
    return path.parent / f".{path.name}.partial"


@contextmanager
def partial_folder(path: Path) -> Iterator[Path]:
    """The folder `whole` in `.NAME.partial`, which becomes `path` when the block ends without an exception.

    An interrupted block (also by SIGKILL) leaves what it wrote for the next one; a UserError leaves nothing. Whatever
    else the block puts into `.NAME.partial` is dropped at its end. Raises UserError where `path` already holds
    something or can't be made, and while another process is in such a block.
    """
    check_absent(path)
    partial = partial_path(path)
    with can_be_made(path):
        (partial / "whole").mkdir(parents=True, exist_ok=True)
        lock = (partial / "lock").open("w")
    with lock:
        _lock(lock, path)
        try:
            yield partial / "whole"
            os.replace(partial / "whole", path)  # an empty folder at `path` is replaced
        except UserError:
            _discard(partial)
            raise
        _discard(partial)


def _lock(file: IO[str], path: Path) -> None:
    """Hold `file` until it is closed, or the process is gone."""
    busy = UserError(f"{path}: another process is preparing it; wait for its end, or choose another name")
    try:
        # Not `flock`, whose locks a killed process's forked workers would go on holding.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in HELD:
            raise busy from None
        raise UserError(f"{path}: its file system has no locks ({error.strerror}); choose another place") from error
    if not (os.path.exists(file.name) and os.path.samestat(os.fstat(file.fileno()), os.stat(file.name))):
        raise busy  # the other process discarded the file between its opening and its locking


def _discard(partial: Path) -> None:
    # Renamed first, so that a process that comes now makes a folder of its own and doesn't lose it.
    dropped = partial.with_name(f"{partial.name}.{os.getpid()}")
    os.replace(partial, dropped)
    shutil.rmtree(dropped, ignore_errors=True)
