"""Lines of text files, with errors that name the file and the line."""

import codecs
import gzip
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from electra_jax.errors import UserError

BYTE_ORDER_MARK = "\ufeff"


OTHERS: dict[str, tuple[bytes, ...]] = {
    "is UTF-16; save it as UTF-8": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
    "is compressed; decompress it, or compress it as .gz": (b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ\0", b"PK\3\4"),
}
"""What files that are no UTF-8 begin with; the last are of zstd, bzip2, xz and zip."""


def check_beginning(content: bytes, path: Path) -> None:
    """Raise UserError where the first bytes of `path` are those of another kind of file than text."""
    for kind, beginnings in OTHERS.items():
        if content.startswith(beginnings):
            raise UserError(f"{path}: {kind}")


def check_files(paths: Iterable[Path]) -> None:
    """Raise UserError for the first of `paths` that is not a file."""
    for path in paths:
        if path.is_dir():
            raise UserError(f"{path}: is a folder; name the text files in it")
        if not path.is_file():
            raise UserError(f"{path}: {'is no regular file' if path.exists() else 'no such file'}")


def read_lines(path: Path) -> Iterator[str]:
    """Lines of a UTF-8 file, plain or .gz, without line ends and byte order mark; one line in memory at a time.

    A carriage return alone ends a line too, as Python's own text files have it.

    Raises UserError, naming file and line, where the content is binary, is not UTF-8, or can't be read.
    """
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                yield from _decode(line, path, number).split("\r")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: not a complete .gz file ({error}); compress or copy it again") from error
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror}") from error


def _decode(line: bytes, path: Path, number: int) -> str:
    if number == 1:
        check_beginning(line, path)
    if b"\0" in line:
        raise UserError(f"{path}:{number}: holds a NUL byte, so it is a binary file; give UTF-8 text, plain or .gz")
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}:{number}: byte {error.start + 1} of the line is not UTF-8; convert the file to UTF-8"
        ) from error
    if number == 1:
        text = text.removeprefix(BYTE_ORDER_MARK)
    return text.rstrip("\r\n")
