"""Rows to a file, one after the other, which appears when all are written."""

import csv
import gzip
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from electra_jax.data.lines import BYTE_ORDER_MARK
from electra_jax.data.records import format_of
from electra_jax.errors import UserError, first_line
from electra_jax.files import can_be_made, room_for, umask

Write = Callable[[list[dict[str, Any]]], None]
"""Appends some rows."""
FORMATS = (".csv", ".tsv", ".jsonl", ".parquet")
MOST_HELD = 2**16
"""Rows that Parquet waits with for a value in each column, which tells its type."""


@contextmanager
def row_writer(path: Path, marked: bool = False) -> Iterator[Write]:
    """A function that appends rows, of the same columns each, to a CSV, TSV, JSONL or Parquet file (or .gz of text).

    CSV and TSV begin with a byte order mark, by which Excel knows UTF-8, where they are to be `marked`. The file is
    written beside `path`, and renamed when the block ends without an exception; else nothing is left. A link goes on
    pointing where it does. Raises UserError where the kind is another, the file can't be made, or rows make no table
    (JSONL takes any), and RunError where there is no room.
    """
    kind = format_of(path)
    if kind not in FORMATS:
        raise UserError(f"{path}: files of this kind can't be written; name one of {', '.join(FORMATS)}")
    if path.is_dir():
        raise UserError(f"{path}: is a folder, and a file is to be written there; choose another name")
    target = Path(os.path.realpath(path))
    with can_be_made(path):
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    os.close(handle)
    scratch = Path(name)
    try:
        with room_for(path), ExitStack() as stack:
            write = _WRITERS[kind](stack, scratch, path.suffix.lower() == ".gz", marked)
            yield write if kind == ".jsonl" else _as_table(write, path)
        scratch.chmod(0o666 & ~umask())  # mkstemp makes it private
        os.replace(scratch, target)
    except _BytesError:
        raise UserError(f"{path}: a column holds bytes, which are no text; name a .parquet file") from None
    finally:
        scratch.unlink(missing_ok=True)


def _open_text(stack: ExitStack, path: Path, compressed: bool) -> Any:
    if compressed:
        return stack.enter_context(gzip.open(path, "wt", encoding="utf-8", newline=""))
    return stack.enter_context(path.open("w", encoding="utf-8", newline=""))


def _as_table(write: Write, path: Path) -> Write:
    """The same function, for rows that must be alike; those of JSON may differ in columns and kinds of values."""
    header: list[str] = []

    def write_alike(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            if not header:
                header.extend(row)
            if row.keys() != set(header):
                columns = f"{', '.join(row)}, and others {', '.join(header)}"
                raise UserError(f"{path}: can't be a table, for a row has columns {columns}; name a .jsonl file")
        try:
            write(rows)
        except (pa.ArrowException, OverflowError) as error:
            reason = first_line(error)
            raise UserError(f"{path}: can't be a table: {reason}; name a .jsonl file") from error

    return write_alike


class _Lines:
    """Lines that end in CR LF, written with LF. Before Python 3.13, `csv` quotes a CR only if it is of a line's end."""

    def __init__(self, file: Any):
        self.file = file

    def write(self, line: str) -> None:
        self.file.write(line.removesuffix("\r\n") + "\n")


def _csv_writer(stack: ExitStack, path: Path, compressed: bool, marked: bool, delimiter: str = ",") -> Write:
    file = _open_text(stack, path, compressed)
    writer = csv.writer(_Lines(file), delimiter=delimiter, lineterminator="\r\n")
    header: list[str] = []

    def write(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            if not header:
                header.extend(row)
                if marked or next(iter(header), "").startswith(BYTE_ORDER_MARK):
                    file.write(BYTE_ORDER_MARK)  # readers take the file's first, and leave the name's
                writer.writerow(header)
            writer.writerow([_cell(row[column]) for column in header])

    return write


def _tsv_writer(stack: ExitStack, path: Path, compressed: bool, marked: bool) -> Write:
    return _csv_writer(stack, path, compressed, marked, "\t")


def _jsonl_writer(stack: ExitStack, path: Path, compressed: bool, marked: bool) -> Write:
    file = _open_text(stack, path, compressed)

    def write(rows: list[dict[str, Any]]) -> None:
        file.writelines(_json(row) + "\n" for row in rows)

    return write


def _parquet_writer(stack: ExitStack, path: Path, compressed: bool, marked: bool) -> Write:
    opened: list[pq.ParquetWriter] = []
    held: list[dict[str, Any]] = []  # until every column's type is known

    def write(rows: list[dict[str, Any]]) -> None:
        if not rows:
            return
        rows = held + rows
        if not opened:
            schema = pa.Table.from_pylist(rows).schema
            if _without_nulls(schema) != schema and len(rows) < MOST_HELD:
                held[:] = rows
                return
            held.clear()
            opened.append(stack.enter_context(pq.ParquetWriter(path, _without_nulls(schema))))
        _write_alike(opened[0], rows)

    def write_held() -> None:
        if held:
            table = pa.Table.from_pylist(held)
            pq.write_table(table.cast(_without_nulls(table.schema)), path)

    stack.callback(write_held)
    return write


def _without_nulls(schema: pa.Schema) -> pa.Schema:
    """Columns that have no value yet, and lists and fields within them, become strings."""
    return pa.schema([field.with_type(_known(field.type)) for field in schema])


def _known(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_list(kind):
        return pa.list_(_known(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_known(field.type)) for field in kind])
    return pa.string() if pa.types.is_null(kind) else kind


def _write_alike(writer: pq.ParquetWriter, rows: list[dict[str, Any]]) -> None:
    schema = writer.schema
    table = pa.Table.from_pylist(rows, schema=schema)  # refuses other kinds, but cuts 2.5 to an integer's 2
    pa.Table.from_pylist(rows).select(schema.names).cast(schema)  # refuses that
    writer.write_table(table)


def _cell(value: Any) -> Any:
    """What CSV has no form for: lists and objects as JSON, which is read again."""
    return _json(value) if isinstance(value, (list, dict, bytes)) else value


def _json(value: Any) -> str:
    """What JSON has no form for, such as a date, as text, and numbers that are none as null."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_as_text)
    except ValueError:  # NaN or infinity, which readers but Python's refuse
        plain = json.loads(json.dumps(value, default=_as_text), parse_constant=lambda _: None)
        return json.dumps(plain, ensure_ascii=False)


class _BytesError(Exception):
    """A value that no text says."""


def _as_text(value: Any) -> str:
    if isinstance(value, bytes):
        raise _BytesError
    return str(value)


_WRITERS = {".csv": _csv_writer, ".tsv": _tsv_writer, ".jsonl": _jsonl_writer, ".parquet": _parquet_writer}
