"""Rows of a table, one at a time, whatever it is stored in."""

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from electra_jax.data.lines import BYTE_ORDER_MARK, check_beginning
from electra_jax.errors import UserError, first_line

ROWS_AT_ONCE = 1024
FORMATS = (".csv", ".tsv", ".json", ".jsonl", ".parquet")


class Record(NamedTuple):
    """One row, and where it stands."""

    source: str
    number: int
    """Counted from 1; a header is not counted."""
    values: dict[str, Any]

    @property
    def where(self) -> str:
        """How an error names the row."""
        return f"{self.source}: row {self.number}"

    def get(self, column: str) -> Any:
        """The value of a column, its strings checked to be text. Raises UserError where there is no column."""
        if column not in self.values:
            raise UserError(f"{self.where}: has no column {column!r}; there are: {', '.join(map(str, self.values))}")
        for text in _texts([column, self.values[column]]):
            _check_text(text, f"{self.where}, column {column!r}")
        return self.values[column]


def _texts(value: Any) -> Iterator[str]:
    """The strings in a value, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for part in value:
            yield from _texts(part)
        if isinstance(value, dict):
            yield from _texts(list(value.values()))


def _check_text(text: str, place: str) -> None:
    if "\0" in text:
        raise UserError(f"{place} holds a NUL byte, so the file is binary or damaged; give UTF-8 text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        broken = ord(text[error.start])
        if not 0xDC80 <= broken <= 0xDCFF:  # JSON's escapes can name half of a pair
            raise UserError(f"{place}: \\u{broken:04x} is half a character; correct it") from None
        byte = broken & 0xFF  # surrogateescape keeps a broken byte in the low half
        raise UserError(f"{place}: byte 0x{byte:02X} is not UTF-8; convert the file to UTF-8") from None


def format_of(path: Path) -> str:
    """The suffix that tells how to read a file, that of compression apart: ".jsonl" for x.jsonl.gz and x.ndjson."""
    suffixes = [suffix for suffix in path.name.lower().split(".")[1:] if suffix != "gz"]
    suffix = f".{suffixes[-1]}" if suffixes else ""
    return ".jsonl" if suffix in (".ndjson", ".jsonlines") else suffix


def read_file(path: Path, column: str | None = None) -> Iterator[Record]:
    """The rows of a CSV, TSV, JSON, JSONL or Parquet file, plain or .gz; few in memory at a time (but for JSON).

    CSV and TSV have a header, and may have a byte order mark and line ends within quotes. In a TSV whose lines all have
    the header's fields, quotes are characters, unless a field is as CSV would quote it. JSON is a list of objects,
    or an object whose "data" is one, or JSONL. Where `column` is named, Parquet's others aren't read. Raises UserError,
    which names file and row, for what can't be read.
    """
    kind = format_of(path)
    if kind not in FORMATS:
        raise UserError(f"{path}: files of this kind can't be read; give {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    if kind == ".parquet":
        return _read_parquet(path, column)
    if kind in (".csv", ".tsv"):
        return _read_csv(path, "\t" if kind == ".tsv" else ",")
    return _read_jsonl(path) if kind == ".jsonl" or has_lines_of_json(path) else _read_json(path)


def is_marked(path: Path) -> bool:
    """Whether it is a CSV or TSV file that begins with a byte order mark, as those that Excel saves as UTF-8 do."""
    if format_of(path) not in (".csv", ".tsv") or not path.is_file():
        return False
    with _open(path, encoding="utf-8") as file:
        return file.read(1) == BYTE_ORDER_MARK


def require_rows(records: Iterable[Record], source: str) -> Iterator[Record]:
    """The same records; raises UserError where there is none."""
    empty = True
    for record in records:
        empty = False
        yield record
    if empty:
        raise UserError(f"{source}: holds no rows; give a file with at least one")


@contextmanager
def _open(path: Path, encoding: str = "utf-8-sig") -> Iterator[io.TextIOBase]:
    """The file as text. Bytes that are not UTF-8 are kept, so that the row and column they are in can be told."""
    how: dict[str, Any] = {"encoding": encoding, "errors": "surrogateescape", "newline": ""}
    try:
        with path.open("rb") as beginning:
            check_beginning(beginning.read(8), path)
        with gzip.open(path, "rt", **how) if path.suffix.lower() == ".gz" else path.open(**how) as file:
            yield file
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: can't be read: {reason}") from error


def _read_csv(path: Path, delimiter: str) -> Iterator[Record]:
    csv.field_size_limit(sys.maxsize)  # or a text of over 131,072 characters is an error
    rows_are_lines = delimiter == "\t" and _has_lines_alike(path)
    with _open(path) as file:
        reader = _lines_of_fields(file) if rows_are_lines else csv.reader(file, delimiter=delimiter, strict=True)
        header: list[str] | None = None
        number = 0
        try:
            for fields in _without_blank_lines(reader):
                if rows_are_lines:
                    fields = [_unquoted(text) for text in fields]
                if header is None:
                    header = _header(fields, path)
                    continue
                number += 1
                if len(fields) != len(header):
                    counts = f"{len(fields)} fields, and the header has {len(header)}"
                    raise UserError(f"{path}: row {number} (line {reader.line_num}) has {counts}; correct the row")
                yield Record(str(path), number, dict(zip(header, fields, strict=True)))
        except csv.Error as error:
            raise UserError(f"{path}: row {number + 1} (line {reader.line_num}): {error}; correct the row") from None


def _lines_of_fields(lines: Iterable[str]) -> Any:
    return csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)


def _has_lines_alike(path: Path) -> bool:
    """Whether each line has as many fields, two or more, and the same end: in a TSV as GLUE's a quote is a character.

    Where rows end in CR LF and some lines in LF, those are within a field.
    """
    with _open(path) as file:
        ends: set[bool] = set()

        def lines() -> Iterator[str]:
            for line in file:
                if line.endswith("\n"):  # the last one may have no end
                    ends.add(line.endswith("\r\n"))
                yield line

        counts = (len(fields) for fields in _lines_of_fields(lines()) if fields)
        columns = next(counts, 0)
        return columns > 1 and all(count == columns for count in counts) and len(ends) < 2


def _unquoted(text: str) -> str:
    """A field between quotes, those within it doubled, as CSV has it; itself otherwise."""
    inner = text[1:-1].replace('""', "")
    quoted = len(text) > 1 and text[0] == text[-1] == '"' and '"' not in inner
    return text[1:-1].replace('""', '"') if quoted else text


def _without_blank_lines(reader: Iterable[list[str]]) -> Iterator[list[str]]:
    """The rows; in a table of one column a blank line is an empty field, but for those at the end."""
    columns = blank = 0
    for fields in reader:
        if not fields:
            blank += columns == 1
            continue
        yield from [[""]] * blank
        yield fields
        columns, blank = columns or len(fields), 0


def _header(fields: list[str], path: Path) -> list[str]:
    repeated = [name for name in fields if fields.count(name) > 1]
    if repeated:
        raise UserError(f"{path}: the header has column {repeated[0]!r} twice; rename one of them")
    for name in fields:
        _check_text(name, f"{path}: the header")
    divider = next((one for one in (";", "\t") if one in fields[0]), None)
    if len(fields) == 1 and divider:
        raise UserError(f"{path}: the header is divided by {divider!r}; save it with commas, or by tabs as .tsv")
    return fields


def _read_jsonl(path: Path) -> Iterator[Record]:
    with _open(path) as file:
        number = 0
        for line in file:
            if line.isspace():
                continue
            number += 1
            yield _object(_parse(line, f"{path}: row {number}"), path, number)


def _read_json(path: Path) -> Iterator[Record]:
    content = read_json(path)
    rows = content.get("data") if isinstance(content, dict) else content
    if not isinstance(rows, list):
        raise UserError(f'{path}: is neither a list of rows nor an object whose "data" is one; give JSONL, or mend it')
    for number, row in enumerate(rows, start=1):
        yield _object(row, path, number)


def has_lines_of_json(path: Path) -> bool:
    """Whether a file is JSONL, whatever its name: several lines, and the first of them an object."""
    with _open(path) as file:
        lines = (line for line in file if not line.isspace())
        first = next(lines, "").removeprefix(BYTE_ORDER_MARK)
        try:
            return isinstance(json.loads(first), dict) and next(lines, None) is not None
        except (ValueError, RecursionError):
            return False


def read_json(path: Path) -> Any:
    """The content of a JSON file; raises UserError where it is none."""
    with _open(path) as file:
        return _parse(file.read().removeprefix(BYTE_ORDER_MARK), str(path))


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: is no JSON ({error}); correct it") from None


def _object(row: Any, path: Path, number: int) -> Record:
    if not isinstance(row, dict):
        raise UserError(f"{path}: row {number} is no JSON object; give one object of columns a row")
    return Record(str(path), number, row)


def _read_parquet(path: Path, column: str | None) -> Iterator[Record]:
    try:
        with pq.ParquetFile(path) as file:
            number = 0
            columns = [column] if column in file.schema_arrow.names else None
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=columns):
                for values in _rows(batch, path, number):
                    number += 1
                    yield Record(str(path), number, values)
    except (pa.ArrowException, OSError) as error:
        reason = first_line(error)
        raise UserError(f"{path}: can't be read as Parquet: {reason}") from error


def _rows(batch: pa.RecordBatch, path: Path, before: int) -> list[dict[str, Any]]:
    try:
        return batch.to_pylist()
    except (UnicodeDecodeError, OverflowError):
        return [_row(batch.slice(i, 1), f"{path}: row {before + i + 1}") for i in range(len(batch))]


def _row(batch: pa.RecordBatch, where: str) -> dict[str, Any]:
    values = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            values[name] = column[0].as_py()
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            raise UserError(f"{where}, column {name!r}: byte 0x{byte:02X} is not UTF-8; correct it") from None
        except OverflowError as error:  # a date, after the year 9999
            raise UserError(f"{where}, column {name!r}: {first_line(error)}; correct it") from None
    return values
