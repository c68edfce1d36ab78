"""Rows to files: what is written is read again, and a file appears whole or not at all."""

import datetime
import gzip
import json
import math
import os
import stat
from pathlib import Path
from typing import Any

import micro
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from electra_jax.data import writers
from electra_jax.data.records import Record, read_file
from electra_jax.data.writers import row_writer
from electra_jax.errors import RunError, UserError
from electra_jax.finetuning.examples import list_of

SUFFIXES = ["csv", "tsv", "jsonl", "parquet", "csv.gz", "tsv.gz", "jsonl.gz"]
ROWS = [{"text": "一行\n两行", "label": "good"}, {"text": 'a "quoted",\tword', "label": ""}]
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)


def write(path: Path, *parts: list[dict[str, Any]]) -> Path:
    with row_writer(path) as append:
        for rows in parts:
            append(rows)
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [record.values for record in read_file(path)]


# --- what is written ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rows_are_read_as_they_were_written_part_by_part(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a.{suffix}", [], ROWS, [], ROWS[::-1])
    assert read(path) == ROWS + ROWS[::-1]
    assert list(read(path)[0]) == ["text", "label"]
    assert path.read_bytes().startswith(b"\x1f\x8b") == suffix.endswith(".gz")


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet", "csv.gz"])
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(pairs=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4), names=st.tuples(TEXTS, TEXTS))
@example(pairs=[("", "")], names=("\ufeff", ""))
def test_any_text_is_read_as_it_was_written(
    tmp_path: Path, suffix: str, pairs: list[tuple[str, str]], names: tuple[str, str]
) -> None:
    columns = [f"{name}{place}" for place, name in enumerate(names)]
    rows = [dict(zip(columns, pair, strict=True)) for pair in pairs]
    assert read(write(tmp_path / f"a.{suffix}", rows)) == rows


@pytest.mark.parametrize("text", ["\r", "a\rb", "\r\n", "\n", "a\r\nb\r"])
def test_every_end_of_a_line_is_kept_within_a_text(tmp_path: Path, text: str) -> None:
    rows = [{"text": text}, {"text": "b"}]
    assert read(write(tmp_path / "a.csv", rows)) == rows


def test_lines_end_as_unix_has_them(tmp_path: Path) -> None:
    rows = [{"text": "a\r\nb", "label": 1}]
    assert write(tmp_path / "a.csv", rows).read_bytes() == b'text,label\n"a\r\nb",1\n'
    assert write(tmp_path / "a.jsonl", rows).read_bytes() == b'{"text": "a\\r\\nb", "label": 1}\n'


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_values_keep_their_kind_where_the_format_has_it(tmp_path: Path, suffix: str) -> None:
    rows = [{"a": 1, "b": 0.1, "c": None, "d": [1, 2], "e": {"f": ["g"]}, "h": True}]
    assert read(write(tmp_path / f"a.{suffix}", rows)) == rows


def test_values_that_csv_has_no_form_for(tmp_path: Path) -> None:
    row = {"a": 1, "b": 0.1, "c": None, "d": ["x", "y"], "e": {"f": ["王"]}}
    (found,) = read(write(tmp_path / "a.csv", [row]))
    assert found == {"a": "1", "b": "0.1", "c": "", "d": '["x", "y"]', "e": '{"f": ["王"]}'}
    assert list_of(Record("a.csv", 1, found), "d", None) == row["d"]


def test_numbers_are_written_with_all_their_digits(tmp_path: Path) -> None:
    rows = [{"p": x} for x in (0.1, 1 / 3, 1e-300, 2.0**-1074, 1 - 2.0**-53)]
    assert [float(row["p"]) for row in read(write(tmp_path / "a.csv", rows))] == [row["p"] for row in rows]


# --- rows that are not alike --------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", [{"text": "b"}, {"text": "b", "label": "c", "more": "d"}, {"text": "b", "tag": "c"}])
@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
def test_rows_of_other_columns_make_no_table(tmp_path: Path, suffix: str, other: dict[str, str]) -> None:
    with pytest.raises(UserError, match=r"can't be a table, for a row has columns text.*; name a \.jsonl file"):
        write(tmp_path / f"a.{suffix}", [{"text": "a", "label": "b"}], [other])
    assert list(tmp_path.iterdir()) == []


def test_rows_of_the_same_columns_in_another_order_are_a_table(tmp_path: Path) -> None:
    for suffix in ("csv", "parquet"):
        path = write(tmp_path / f"a.{suffix}", [{"a": "1", "b": "2"}, {"b": "4", "a": "3"}])
        assert read(path) == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]


@pytest.mark.parametrize("values", [("a", 1), (1, "a"), (1, 2.5), ([1], [2.5])])
def test_kinds_that_change_from_part_to_part_are_no_parquet(tmp_path: Path, values: tuple[Any, Any]) -> None:
    parts = [[{"a": value}] for value in values]
    with pytest.raises(UserError, match=r"a\.parquet: can't be a table: .*; name a \.jsonl file") as error:
        write(tmp_path / "a.parquet", *parts)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []
    assert read(write(tmp_path / "a.jsonl", *parts)) == [{"a": value} for value in values]


@pytest.mark.parametrize("later", [2, None, 2.5])
def test_a_number_or_nothing_after_a_number_is_of_its_kind(tmp_path: Path, later: Any) -> None:
    assert read(write(tmp_path / "a.parquet", [{"a": 1.5}], [{"a": later}])) == [{"a": 1.5}, {"a": later}]


@pytest.mark.parametrize("empty", [[], {"b": []}, {"b": None}, [None], [{"b": []}]])
@pytest.mark.parametrize("held", [2, writers.MOST_HELD])
def test_lists_that_begin_empty_are_of_the_kind_that_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty: Any, held: int
) -> None:
    monkeypatch.setattr(writers, "MOST_HELD", held)
    full = json.loads(json.dumps(empty).replace("[]", '["x"]').replace("null", '"x"'))
    for later in (full, empty):
        parts = [[{"a": empty}], [{"a": empty}], [{"a": later}]]
        assert read(write(tmp_path / "a.parquet", *parts)) == [row for rows in parts for row in rows]


@pytest.mark.parametrize("first", ["a", 2, 2.5, [1], None])
def test_a_column_that_begins_with_nothing_is_of_the_kind_that_follows(tmp_path: Path, first: Any) -> None:
    parts = [[{"a": None, "b": 1}], [{"a": None, "b": 2}], [{"a": first, "b": 3}], [{"a": None, "b": 4}]]
    assert read(write(tmp_path / "a.parquet", *parts)) == [row for rows in parts for row in rows]


def test_a_column_of_nothing_for_long_is_of_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writers, "MOST_HELD", 2)
    parts = [[{"a": None}], [{"a": None}], [{"a": "b"}]]
    assert read(write(tmp_path / "a.parquet", *parts)) == [row for rows in parts for row in rows]
    with pytest.raises(UserError, match=r"can't be a table"):
        write(tmp_path / "b.parquet", *parts[:2], [{"a": 1}])


def test_jsonl_takes_rows_of_any_columns(tmp_path: Path) -> None:
    rows = [{"a": 1}, {"b": [2]}, {}]
    assert read(write(tmp_path / "a.jsonl", rows)) == rows


# --- whole or not at all ------------------------------------------------------------------------------------------


def write_and_fail(path: Path, error: BaseException) -> None:
    with row_writer(path) as append:
        append(ROWS)
        raise error


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_block_that_fails_leaves_nothing(tmp_path: Path, suffix: str, error: type[BaseException]) -> None:
    with pytest.raises(error):
        write_and_fail(tmp_path / f"a.{suffix}", error("no"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_is_replaced_only_when_all_is_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_text("kept")
    with pytest.raises(ValueError, match="no"):
        write_and_fail(path, ValueError("no"))
    assert path.read_text() == "kept"
    with row_writer(path) as append:
        append(ROWS)
        assert path.read_text() == "kept"
    assert read(path) == ROWS
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["a.json", "a.xlsx", "a", "a.gz", "a.csv.bak"])
def test_a_file_of_another_kind_is_refused_before_anything_is_made(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"{name}: files of this kind can't be written; name one of \.csv, \.tsv"):
        write(tmp_path / name, ROWS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("parent", ["absent", "a-file"])
def test_a_file_that_cannot_be_made_is_told(tmp_path: Path, parent: str) -> None:
    (tmp_path / "a-file").write_text("a")
    with pytest.raises(UserError, match=rf"{parent}/a\.csv: can't be made there: "):
        write(tmp_path / parent / "a.csv", ROWS)
    assert [path.name for path in tmp_path.iterdir()] == ["a-file"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_the_file_has_the_permissions_of_an_ordinary_one(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        path = write(tmp_path / "a.csv", ROWS)
        assert os.umask(umask) == umask  # and it is left as it was
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_packed_file_is_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv.gz", [{"text": "a"}] * 10_000)
    assert gzip.decompress(path.read_bytes()) == b"text\n" + b"a\n" * 10_000


DEEP = {"day": datetime.date(2026, 1, 31), "parts": [{"a": 1}, "b,c"]}


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_what_has_no_form_in_a_format_is_text(tmp_path: Path, suffix: str) -> None:
    (row,) = read(write(tmp_path / f"a.{suffix}", [DEEP | {"inside": {"day": DEEP["day"]}}]))
    plain = {name: json.loads(row[name]) if isinstance(row[name], str) else row[name] for name in ("parts", "inside")}
    assert row["day"] == "2026-01-31"
    assert plain == {"parts": DEEP["parts"], "inside": {"day": "2026-01-31"}}


def test_a_number_that_parquet_cannot_hold_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.parquet: can't be a table: .*; name a \.jsonl file"):
        write(tmp_path / "a.parquet", [{"n": 10**30}])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_no_file_to_write(tmp_path: Path) -> None:
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(UserError, match=r"a\.csv: is a folder, and a file is to be written there"):
        write(tmp_path / "a.csv", ROWS)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, suffix: str) -> None:
    rows = [{"text": str(hash(str(number)))} for number in range(10_000)]
    with micro.little_room(5_000), pytest.raises(RunError) as error:
        write(tmp_path / f"a.{suffix}", rows)
    assert str(error.value).startswith(f"{tmp_path}/a.{suffix}: can't be written: ")
    assert str(error.value).endswith("; make room, and run the same command again")
    assert list(tmp_path.iterdir()) == []


def test_a_link_goes_on_pointing_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "real.csv").write_text("old")
    (tmp_path / "link.csv").symlink_to("folder/real.csv")
    write(tmp_path / "link.csv", ROWS)
    assert (tmp_path / "link.csv").is_symlink()
    assert read(tmp_path / "folder" / "real.csv") == ROWS
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["real.csv"]


def test_what_is_no_number_is_null_in_json(tmp_path: Path) -> None:
    row = {"x": math.nan, "list": [1.5, -math.inf], "day": datetime.date(2024, 5, 1), "text": "NaN 好"}
    (line,) = write(tmp_path / "a.jsonl", [row]).read_text(encoding="utf-8").splitlines()
    assert line == '{"x": null, "list": [1.5, null], "day": "2024-05-01", "text": "NaN 好"}'


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
@pytest.mark.parametrize("value", [b"\0\xff", [b"a"], {"bytes": b"a", "number": math.nan}])
def test_bytes_are_no_text(tmp_path: Path, suffix: str, value: Any) -> None:
    with pytest.raises(UserError, match=r"/a\.\w+: a column holds bytes, which are no text; name a \.parquet file$"):
        write(tmp_path / f"a.{suffix}", [{"image": value}])
