"""Rows of tables in every format, and what is said of those that can't be read."""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from electra_jax.data.records import ROWS_AT_ONCE, Record, format_of, read_file, require_rows
from electra_jax.errors import UserError

ROWS = [{"label": "good", "text": "一行\n两行"}, {"label": "bad", "text": 'a "quoted", word'}]
FORMATS = ["csv", "tsv", "json", "data.json", "jsonl", "parquet"]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """`rows` in the format of the suffix."""
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    how: dict[str, Any] = {"encoding": "utf-8", "newline": ""}
    with gzip.open(path, "wt", **how) if path.suffix == ".gz" else path.open("w", **how) as file:
        if name.endswith((".csv", ".tsv")):
            writer = csv.writer(file, delimiter="\t" if name.endswith(".tsv") else ",")
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


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json", "parquet"])
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(pairs=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4))
def test_any_text_is_read_as_it_was_written(tmp_path: Path, suffix: str, pairs: list[tuple[str, str]]) -> None:
    if suffix == "tsv":  # a tab and a line's end in one field could be those of another row, in a file without quoting
        assume(not any("\t" in text and set(text) & {"\n", "\r"} for pair in pairs for text in pair))
    rows = [dict(zip("ab", pair, strict=True)) for pair in pairs]
    assert [record.values for record in read_file(write(tmp_path / f"rows.{suffix}", rows))] == rows


@pytest.mark.parametrize(
    ("lines", "texts"),
    [
        (['1\t"well', "0\tso it says", '1\tdone"'], ['"well', "so it says", 'done"']),
        (['1\t"a" and "b"', '0\t5" nails', '1\t"'], ['"a" and "b"', '5" nails', '"']),
        (['1\t"say ""a"""', '0\t""', '1\t"b"'], ['say "a"', "", "b"]),  # as CSV quotes
        (['1\t"a', 'b"', '0\tc"d'], ["a\nb", 'c"d']),
        (['1\t"a\tb"', "", "0\tc"], ["a\tb", "c"]),
    ],
)
def test_quotes_of_tsv_are_characters_where_each_line_is_a_row(
    tmp_path: Path, lines: list[str], texts: list[str]
) -> None:
    (tmp_path / "a.tsv").write_text("\n".join(['"label"\ttext', *lines]) + "\n")
    assert [record.get("text") for record in read_file(tmp_path / "a.tsv")] == texts
    assert all(list(record.values) == ["label", "text"] for record in read_file(tmp_path / "a.tsv"))


def test_a_line_that_ends_otherwise_than_rows_is_within_a_field(tmp_path: Path) -> None:
    with (tmp_path / "a.tsv").open("w", newline="") as file:  # whose rows end in CR LF
        csv.writer(file, delimiter="\t").writerows([("label", "text"), ("good", "room\nfood\tpoor"), ("bad", "noise")])
    assert [record.get("text") for record in read_file(tmp_path / "a.tsv")] == ["room\nfood\tpoor", "noise"]


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json", "a.csv.gz", "a.json.gz"])
def test_a_byte_order_mark_is_no_text(tmp_path: Path, name: str, mark: str) -> None:
    content = write(tmp_path / name.removesuffix(".gz"), ROWS).read_bytes()
    marked = mark.encode() + content
    (tmp_path / name).write_bytes(gzip.compress(marked) if name.endswith(".gz") else marked)
    assert [record.values for record in read_file(tmp_path / name)] == ROWS


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_of_every_system(tmp_path: Path, end: str) -> None:
    (tmp_path / "a.csv").write_bytes(end.join(["label,text", "a,b", "", "c,d"]).encode())
    (tmp_path / "a.jsonl").write_bytes(end.join(['{"label": "a"}', "", '{"label": "c"}']).encode())
    assert [record.values for record in read_file(tmp_path / "a.csv")] == [
        {"label": "a", "text": "b"},
        {"label": "c", "text": "d"},
    ]
    assert [(record.number, record.values["label"]) for record in read_file(tmp_path / "a.jsonl")] == [
        (1, "a"),
        (2, "c"),
    ]


def test_a_text_may_be_longer_than_the_csv_module_has_it(tmp_path: Path) -> None:
    rows = [{"label": "a", "text": "word " * 50_000}]
    assert [record.values for record in read_file(write(tmp_path / "a.csv", rows))] == rows


def test_rows_of_parquet_are_counted_from_batch_to_batch(tmp_path: Path) -> None:
    count = 2 * ROWS_AT_ONCE + 1
    path = write(tmp_path / "a.parquet", [{"n": n} for n in range(1, count + 1)])
    assert [(record.number, record.values["n"]) for record in read_file(path)] == [(n, n) for n in range(1, count + 1)]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_rows_are_read_as_they_are_asked_for(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a.{suffix}", [{"label": "a", "text": str(n)} for n in range(3000)])
    records = read_file(path)
    assert [next(records).number for _ in range(3)] == [1, 2, 3]
    records.close()  # type: ignore[attr-defined]
    path.unlink()


def test_empty_lines_are_no_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\nlabel,text\n\na,b\n\n")
    (tmp_path / "a.jsonl").write_text('\n{"label": "a", "text": "b"}\n \n')
    for name in ("a.csv", "a.jsonl"):
        assert [(record.number, record.values) for record in read_file(tmp_path / name)] == [
            (1, {"label": "a", "text": "b"})
        ]


def test_a_blank_line_of_one_column_is_an_empty_field(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\ntext\na\n\n\nb\n\n")
    assert [record.values["text"] for record in read_file(tmp_path / "a.csv")] == ["a", "", "", "b"]


PACKED = gzip.compress(b"label,text\n" + b"a,some text of a row\n" * 5000)
DAMAGED = PACKED[:20] + bytes(byte ^ 0xFF for byte in PACKED[20:60]) + PACKED[60:]


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
        (
            "a.jsonl",
            b'{"label": ["a", "\xff"], "text": ""}\n',
            "a.jsonl: row 1, column 'label': byte 0xFF is not UTF-8",
        ),
        (
            "a.jsonl",
            b'{"label": "a", "text": "\\ud83d"}\n',
            r"a.jsonl: row 1, column 'text': \ud83d is half a character",
        ),
        (
            "a.jsonl",
            b'{"label": {"a": [{"\\ud83d": 1}]}, "text": ""}\n',
            r"a.jsonl: row 1, column 'label': \ud83d is half a character",
        ),
        ("a.csv", b"label,text,\xe9\na,b,c\n", "a.csv: the header: byte 0xE9 is not UTF-8; convert the file to UTF-8"),
        ("a.csv", "label,text\na,b\n".encode("utf-16"), "a.csv: is UTF-16; save it as UTF-8"),
        ("a.csv", "label,text\na,b\n".encode("utf-16-le"), "a.csv: the header holds a NUL byte, so the file is binary"),
        (
            "a.csv",
            b"label;text\na;b,c\n",
            "a.csv: the header is divided by ';'; save it with commas, or by tabs as .tsv",
        ),
        ("a.csv", b"label,text\na,b\nc\n", "a.csv: row 2 (line 3) has 1 fields, and the header has 2; correct the row"),
        ("a.csv", b'label,text\na,"b\nc"\n\nd\n', "a.csv: row 2 (line 5) has 1 fields"),
        ("a.tsv", b'label\ttext\na\t"b" c\td\n', "a.tsv: row 1 (line 2): "),
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
        ("a.parquet", b"", "a.parquet: can't be read as Parquet: "),
        ("a.csv.gz", b"\x1f\x8b\x08", "a.csv.gz: can't be read: "),
        ("a.csv.gz", b"label,text\na,b\n", "a.csv.gz: can't be read: Not a gzipped file"),
        ("a.csv.gz", PACKED[:-20], "a.csv.gz: can't be read: Compressed file ended before"),
        ("a.csv.gz", DAMAGED, "a.csv.gz: can't be read: Error -3 while decompressing"),
        ("a.json.gz", DAMAGED, "a.json.gz: can't be read: Error -3 while decompressing"),
        ("a.jsonl", b'{"label": "a"}\n', "a.jsonl: row 1: has no column 'text'; there are: label"),
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


@pytest.mark.parametrize("row", [1, ROWS_AT_ONCE + 3])
def test_broken_text_in_parquet_is_told_with_its_row_and_column(tmp_path: Path, row: int) -> None:
    texts = [b"fine"] * (ROWS_AT_ONCE + 5)
    texts[row - 1] = b"caf\xe9"
    broken = pa.array(texts, pa.binary()).cast(pa.string(), safe=False)
    pq.write_table(pa.table({"label": ["a"] * len(texts), "text": broken}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=rf"a\.parquet: row {row}, column 'text': byte 0xE9 is not UTF-8"):
        list(read_file(tmp_path / "a.parquet"))


def test_a_parquet_file_damaged_within_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", [{"text": f"{'x' * 100}{n}"} for n in range(3000)])
    content = path.read_bytes()
    for broken in (content[:2000] + b"\xff" * 200 + content[2200:], content[:-50]):
        path.write_bytes(broken)
        with pytest.raises(UserError, match=r"a\.parquet: can't be read as Parquet: ") as error:
            read_all(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["none.csv", "none.json", "none.jsonl.gz", "none.parquet", "folder.csv"])
def test_what_is_no_file_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(UserError, match=rf"{name}: can't be read"):
        list(read_file(tmp_path / name))


def test_a_file_of_no_rows_is_told_when_all_is_read(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a.parquet")
    (tmp_path / "a.json").write_text("[]")
    for name in ("a.parquet", "a.json"):
        assert list(read_file(tmp_path / name)) == []
        with pytest.raises(UserError, match=f"{name}: holds no rows; give a file with at least one"):
            list(require_rows(read_file(tmp_path / name), name))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.csv", ".csv"),
        ("a.CSV", ".csv"),
        ("a.v1.jsonl.gz", ".jsonl"),
        ("a.ndjson", ".jsonl"),
        ("a.jsonlines.gz", ".jsonl"),
        ("a.Parquet", ".parquet"),
        ("a.csv.bak", ".bak"),
        ("a.gz", ""),
        ("csv", ""),
    ],
)
def test_the_last_suffix_tells_the_kind(name: str, kind: str) -> None:
    assert format_of(Path("some.csv") / name) == kind


def test_a_date_beyond_those_of_python_is_told(tmp_path: Path) -> None:
    table = pa.table({"text": ["a", "b"], "day": pa.array([0, 2**31 - 1], pa.date32())})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: row 2, column 'day': .*; correct it$"):
        list(read_file(tmp_path / "a.parquet"))
