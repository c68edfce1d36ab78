"""Rows of tables in every format, and what is said of those that can't be read."""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from electra_jax.data.records import Record, read_file, require_rows
from electra_jax.errors import UserError

ROWS = [{"label": "good", "text": "一行\n两行"}, {"label": "bad", "text": 'a "quoted", word'}]
FORMATS = ["csv", "tsv", "json", "data.json", "jsonl", "parquet"]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """`rows` in the format of the suffix."""
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    with gzip.open(path, "wt", encoding="utf-8") if path.suffix == ".gz" else path.open("w", encoding="utf-8") as file:
        if name.endswith((".csv", ".tsv")):
            writer = csv.writer(file, delimiter="\t" if name.endswith(".tsv") else ",", lineterminator="\n")
            writer.writerows([list(rows[0]), *(list(row.values()) for row in rows)])
        elif name.endswith(".jsonl"):
            file.writelines(json.dumps(row) + "\n" for row in rows)
        else:
            json.dump({"data": rows} if name.endswith("data.json") else rows, file)
    return path


@pytest.mark.parametrize("suffix", [*FORMATS, "csv.gz", "tsv.gz", "json.gz", "jsonl.gz"])
def test_every_format_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"rows.{suffix}", ROWS)
    assert list(read_file(path)) == [Record(str(path), number, row) for number, row in enumerate(ROWS, start=1)]


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=8)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json", "parquet"])
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(pairs=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4))
def test_any_text_is_read_as_it_was_written(tmp_path: Path, suffix: str, pairs: list[tuple[str, str]]) -> None:
    rows = [dict(zip("ab", pair, strict=True)) for pair in pairs]
    assert [record.values for record in read_file(write(tmp_path / f"rows.{suffix}", rows))] == rows


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json"])
def test_a_byte_order_mark_is_no_text(tmp_path: Path, name: str, mark: str) -> None:
    path = write(tmp_path / name, ROWS)
    path.write_text(mark + path.read_text(encoding="utf-8"), encoding="utf-8")
    assert [record.values for record in read_file(path)] == ROWS


def test_empty_lines_are_no_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\nlabel,text\n\na,b\n\n")
    (tmp_path / "a.jsonl").write_text('\n{"label": "a", "text": "b"}\n \n')
    for name in ("a.csv", "a.jsonl"):
        assert [(record.number, record.values) for record in read_file(tmp_path / name)] == [
            (1, {"label": "a", "text": "b"})
        ]


def read_all(path: Path) -> None:
    for record in require_rows(read_file(path), str(path)):
        for column in ("label", "text"):
            record.get(column)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", b"label,text\na,b\nc,caf\xe9\n", "a.csv: row 2, column 'text': byte 0xE9 is not UTF-8; convert"),
        ("a.tsv", b"label\ttext\n\xff\tb\n", "a.tsv: row 1, column 'label': byte 0xFF is not UTF-8"),
        ("a.jsonl", b'{"label": "a", "text": "caf\xe9"}\n', "a.jsonl: row 1, column 'text': byte 0xE9 is not UTF-8"),
        ("a.csv", b"label,text\na,b,c\n", "a.csv: row 1 (line 2) has 3 fields, and the header has 2; correct the row"),
        ("a.csv", b'label,text\na,b\nc,"d\n', "a.csv: row 2 (line 3): unexpected end of data"),
        ("a.csv", b"text,text\na,b\n", "a.csv: the header has column 'text' twice; rename one of them"),
        ("a.csv", b"label,text\na,b\0\n", "a.csv: row 1, column 'text' holds a NUL byte"),
        ("a.csv", b"", "a.csv: holds no rows"),
        ("a.csv", b"label,text\n", "a.csv: holds no rows"),
        ("a.jsonl", b"", "a.jsonl: holds no rows"),
        ("a.jsonl", b'{"label": "a", "text": "b"}\nno\n', "a.jsonl: row 2: is no JSON"),
        ("a.jsonl", b'["a"]\n', "a.jsonl: row 1 is no JSON object"),
        ("a.json", b"{", "a.json: is no JSON"),
        ("a.json", b'{"rows": []}', "a.json: is neither a list of rows nor an object whose"),
        ("a.json", b"[1]", "a.json: row 1 is no JSON object"),
        ("a.parquet", b"PAR1 not", "a.parquet: can't be read as Parquet: "),
        ("a.csv.gz", b"\x1f\x8b\x08", "a.csv.gz: can't be read: "),
        ("a.xlsx", b"", "a.xlsx: files of this kind can't be read; give .csv, .tsv, .json, .jsonl or .parquet"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        read_all(tmp_path / name)
    assert str(error.value).startswith(f"{tmp_path}/{says}")
    assert "\n" not in str(error.value)


def test_a_column_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(UserError, match=r"a.csv: row 3: has no column 'txt'; there are: label, text"):
        Record("a.csv", 3, {"label": "a", "text": "b"}).get("txt")
