"""Outputs that appear whole or not at all: written beside, then renamed into place."""

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from electra_jax.errors import RunError, UserError

HELD = (errno.EACCES, errno.EAGAIN)
"""What the system says of a lock that another process has."""
LOCK = "lock"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What it says where there is no room for more."""


def check_absent(path: Path) -> None:
    """Raise UserError where no new folder can be renamed to `path`, or it has anything in it."""
    if not is_unicode(str(path)):  # settings and cards, which hold it, are UTF-8
        raise UserError(f"{str(path)!a}: the name is not UTF-8; choose another")
    if path.name == "..":
        raise UserError(f"{path}: ends in .., and a new folder is to be made; give its name")
    if path.is_symlink():
        raise UserError(f"{path}: is a link; name the folder that it points to")
    if path.is_dir() and (os.path.ismount(path) or path.samefile(Path())):
        kind = "a mount point" if os.path.ismount(path) else "the current folder"
        raise UserError(f"{path}: is {kind}, and a new folder is to be made; name one in it")
    if path.is_file():
        raise UserError(f"{path}: is a file, and a folder is to be written there; choose another name")
    if path.is_dir() and any(path.iterdir()):
        raise UserError(f"{path}: already exists and is not empty; choose another name, or delete it first")


@contextmanager
def can_be_made(path: Path) -> Iterator[None]:
    """Raise UserError where the block can't make `path`, and RunError where there is no room."""
    try:
        with room_for(path):
            yield
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise UserError(f"{path}: can't be made there: {where}{error.strerror}") from error


@contextmanager
def room_for(path: Path) -> Iterator[None]:
    """Raise RunError where the block, which writes `path`, finds the disk full or the file too large for it."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        said = f"{path}: can't be written: {error.strerror}; make room, and run the same command again"
        raise RunError(said) from error


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`, which becomes `path` when the block ends without an exception.

    Raises UserError where `path` already holds something or can't be made, and RunError where there is no room; on any
    exception nothing is left behind.
    """
    check_absent(path)
    with can_be_made(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        with room_for(path):
            yield scratch
        scratch.chmod(0o777 & ~umask())  # mkdtemp makes it private
        check_absent(path)  # of another process that made it meanwhile
        os.replace(scratch, path)  # an empty folder at `path` is replaced
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def held_folder(folder: Path, path: Path) -> Iterator[None]:
    """Make `folder`, of the unfinished work on `path`, and hold its file LOCK for as long as the block takes.

    Raises UserError where it can't be made, and where another process holds it.
    """
    with can_be_made(path):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("w")
    with lock:
        try:
            hold(lock, path)
        except OSError as error:
            raise UserError(f"{path}: its file system has no locks ({error.strerror}); choose another place") from error
        yield


def hold(file: IO[str], path: Path) -> None:
    """Lock an open file, until it is closed, for this process to work on `path`.

    Raises UserError where another process holds it, and OSError where its file system has no locks.
    """
    busy = UserError(f"{path}: another process is making it; wait for its end, or choose another name")
    try:
        # Not `flock`, whose locks a killed process's forked workers would go on holding.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in HELD:
            raise busy from None
        raise
    if not (os.path.exists(file.name) and os.path.samestat(os.fstat(file.fileno()), os.stat(file.name))):
        raise busy  # the other process moved or discarded the file between its opening and its locking


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of `text` in UTF-8."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` so that `path` holds either its old content or all of the new.

    A link goes on pointing where it does, and a device or a pipe is written to.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    path = Path(os.path.realpath(path))
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_bytes(content)
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def is_unicode(text: str) -> bool:
    """Whether it can be UTF-8: bytes of an argument or a file's name that aren't are halves of characters to Python."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def umask() -> int:
    """The rights that new files of this process don't get."""
    value = os.umask(0)
    os.umask(value)
    return value
