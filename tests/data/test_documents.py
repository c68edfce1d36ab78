import gzip
import io
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from datasets import Dataset, DatasetDict

from electra_jax.config import PrepareConfig
from electra_jax.data.documents import read_documents, split_documents
from electra_jax.errors import UserError

TEXTS = ["First one.\nIts second sentence.", "第二篇文章。", "NA", 'Comma, "quote" and tab\there.']
Write = Callable[[Path], object]


def read(sources: list[Path | str], **changes: object) -> list[str]:
    config = PrepareConfig(tuple(map(str, sources)), "unused", Path("unused"))
    return list(read_documents(replace(config, **changes)))  # type: ignore[arg-type]


def table(texts: list[str] = TEXTS) -> Dataset:
    return Dataset.from_dict({"text": texts, "number": list(range(len(texts)))})


def to_csv_bytes() -> bytes:
    buffer = io.BytesIO()
    table().to_csv(buffer)
    return buffer.getvalue()


def test_a_blank_line_ends_a_paragraph():
    lines = ["", "a", "b", " \t", "", "c", "　", "d"]
    assert list(split_documents(lines, "paragraph")) == ["a\nb", "c", "d"]
    assert list(split_documents(lines, "line")) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_plain_text(tmp_path: Path, end: str, mark: str):
    path = tmp_path / "a.txt"
    path.write_bytes((mark + f"{end}{end}".join(TEXTS).replace("First one.\n", f"First one.{end}")).encode())
    assert read([path]) == TEXTS


def test_gzip_and_lines(tmp_path: Path):
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"a\nb\n\nc\n"))
    assert read([path], documents="line") == ["a", "b", "c"]


def test_a_text_file_of_any_name(tmp_path: Path):
    (tmp_path / "WIKI_00.v2").write_text("some text")
    assert read([tmp_path / "WIKI_00.v2"]) == ["some text"]


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.csv", lambda path: table().to_csv(path)),
        ("a.tsv", lambda path: table().to_csv(path, sep="\t")),
        ("a.csv.gz", lambda path: path.write_bytes(gzip.compress(to_csv_bytes()))),
        ("a.jsonl", lambda path: table().to_json(path)),
        ("a.v1.jsonl.gz", lambda path: table().to_json(path, compression="gzip")),
        ("a.json", lambda path: path.write_text(json.dumps([{"text": text} for text in TEXTS]))),
        ("b.json", lambda path: path.write_text(json.dumps({"data": [{"text": text} for text in TEXTS]}, indent=1))),
        ("lines.json", lambda path: table().to_json(path)),
        ("wiki[1]*.csv", lambda path: path.write_bytes(to_csv_bytes())),
        ("a::b.csv", lambda path: path.write_bytes(to_csv_bytes())),
        ("a.parquet", lambda path: table().to_parquet(path)),
        ("saved", lambda path: table().save_to_disk(path)),
        ("splits", lambda path: DatasetDict(train=table(), test=table(["other"])).save_to_disk(path)),
    ],
)
def test_sources_with_columns(tmp_path: Path, name: str, write: Write):
    write(tmp_path / name)
    before = sorted(tmp_path.rglob("*"))
    assert read([tmp_path / name]) == TEXTS
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_a_column_that_is_not_asked_for_does_not_matter(tmp_path: Path, name: str):
    values: list[object] = [*range(20_000), "A1"] if name == "a.csv" else [None] * 20_000 + [{"deep": ["b"]}]
    rows = [{"note": value, "text": "2024-01-01"} for value in values]
    if name == "a.jsonl":
        (tmp_path / name).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    else:
        frame = pd.DataFrame(rows)
        frame.to_csv(tmp_path / name, index=False) if name == "a.csv" else frame.to_parquet(tmp_path / name)
    assert read([tmp_path / name]) == ["2024-01-01"] * 20_001


def test_a_pipe_is_no_file(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(UserError, match=r"pipe\.txt: is no regular file; write its text to one"):
        read([tmp_path / "pipe.txt"])


def test_sources_follow_one_another(tmp_path: Path):
    (tmp_path / "a.txt").write_text("one")
    Dataset.from_dict({"body": ["two", None, "", " \n", "three"]}).to_parquet(tmp_path / "b.parquet")
    Dataset.from_dict({"body": ["four"]}).save_to_disk(tmp_path / "saved")
    sources: list[Path | str] = [tmp_path / "saved", tmp_path / "a.txt", tmp_path / "b.parquet", tmp_path / "a.txt"]
    assert read(sources, field="body") == ["four", "one", "two", "three", "one"]


def test_a_split_by_name(tmp_path: Path):
    DatasetDict(train=table(), test=table(["other"])).save_to_disk(tmp_path / "splits")
    assert read([tmp_path / "splits"], split="test") == ["other"]
    with pytest.raises(UserError, match="no split 'dev'; there are: train, test"):
        read([tmp_path / "splits"], split="dev")


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.txt", b"\n \n", r"a\.txt: no text"),
        ("a.txt", b"", r"a\.txt: no text"),
        ("a.txt", b"a\n\n\0", r"a\.txt:3: holds a NUL byte"),
        ("a.txt", b"a\n\n\xe4\xb8\n", r"a\.txt:3: byte 1 of the line is not UTF-8"),
        ("a.txt.gz", b"text", r"a\.txt\.gz: not a complete \.gz file"),
        ("a.csv", b"body,number\nx,1\n", r"a\.csv: row 1: has no column 'text'; there are: body, number"),
        ("a.csv", b"text,label\nx,1,\n", r"a\.csv: row 1 \(line 2\) has 3 fields, and the header has 2"),
        ("a.tsv", b'text\tn\na\t1\n"b\t2\nc\n', r"a\.tsv: row 2 \(line 4\): unexpected end of data"),
        ("a.csv", b"", r"a\.csv: holds no rows"),
        ("a.jsonl", b'{"text": ["a"]}\n', r"a\.jsonl: row 1, column 'text' holds a list, and a text is wanted; name"),
        ("a.jsonl", b'{"text": "a"}\n{"text": 1}\n', r"a\.jsonl: row 2, column 'text' holds a int"),
        ("a.jsonl", b"not json\n", r"a\.jsonl: row 1: is no JSON"),
        ("a.parquet", b"not parquet\n", r"a\.parquet: can't be read as Parquet"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, name: str, content: bytes, complaint: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=complaint) as error:
        read([tmp_path / name])
    assert "\n" not in str(error.value)


def test_what_is_not_there(tmp_path: Path, offline: None):
    for source in ("absent.txt", "absent.csv", "dir/absent.txt.gz", str(tmp_path / "absent"), "./absent"):
        with pytest.raises(UserError, match=r"absent.*: no such file or folder"):
            read([source])
    with pytest.raises(UserError, match="someone/nothing: no such file, and no dataset of that name"):
        read(["someone/nothing"])
    with pytest.raises(UserError, match="not a folder that `datasets` saved"):
        read([tmp_path])


def test_a_hub_dataset(monkeypatch: pytest.MonkeyPatch):
    asked = []

    def load(*names: str | None, split: str) -> Dataset:
        asked.append((*names, split))
        return table()

    monkeypatch.setattr("electra_jax.data.documents.load_dataset", load)
    assert read(["org/set.v1"], subset="zh", split="validation") == TEXTS
    assert asked == [("org/set.v1", "zh", "validation")]
