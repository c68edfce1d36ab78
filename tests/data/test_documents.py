import gzip
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict

from electra_jax.config import PrepareConfig
from electra_jax.data.documents import read_documents, split_documents
from electra_jax.errors import UserError

TEXTS = ["First one.\nIts second sentence.", "第二篇文章。", "NA", 'Comma, "quote" and tab\there.']
Write = Callable[[Path], object]


def read(sources: list[Path | str], scratch: Path, **changes: object) -> list[str]:
    config = PrepareConfig(tuple(map(str, sources)), "unused", Path("unused"))
    return list(read_documents(replace(config, **changes), scratch))  # type: ignore[arg-type]


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    return tmp_path / "scratch"


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
def test_plain_text(tmp_path: Path, scratch: Path, end: str, mark: str):
    path = tmp_path / "a.txt"
    path.write_bytes((mark + f"{end}{end}".join(TEXTS).replace("First one.\n", f"First one.{end}")).encode())
    assert read([path], scratch) == TEXTS


def test_gzip_and_lines(tmp_path: Path, scratch: Path):
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"a\nb\n\nc\n"))
    assert read([path], scratch, documents="line") == ["a", "b", "c"]


def test_a_text_file_of_any_name(tmp_path: Path, scratch: Path):
    (tmp_path / "WIKI_00.v2").write_text("some text")
    assert read([tmp_path / "WIKI_00.v2"], scratch) == ["some text"]


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.csv", lambda path: table().to_csv(path)),
        ("a.tsv", lambda path: table().to_csv(path, sep="\t")),
        ("a.csv.gz", lambda path: path.write_bytes(gzip.compress(to_csv_bytes()))),
        ("a.jsonl", lambda path: table().to_json(path)),
        ("a.v1.jsonl.gz", lambda path: table().to_json(path, compression="gzip")),
        ("a.json", lambda path: path.write_text(json.dumps([{"text": text} for text in TEXTS]))),
        ("a.parquet", lambda path: table().to_parquet(path)),
        ("saved", lambda path: table().save_to_disk(path)),
        ("splits", lambda path: DatasetDict(train=table(), test=table(["other"])).save_to_disk(path)),
    ],
)
def test_sources_with_columns(tmp_path: Path, scratch: Path, name: str, write: Write):
    write(tmp_path / name)
    before = sorted(tmp_path.rglob("*"))
    assert read([tmp_path / name], scratch) == TEXTS
    assert [path for path in sorted(tmp_path.rglob("*")) if scratch not in (path, *path.parents)] == before


def test_sources_follow_one_another(tmp_path: Path, scratch: Path):
    (tmp_path / "a.txt").write_text("one")
    Dataset.from_dict({"body": ["two", None, "", " \n", "three"]}).to_parquet(tmp_path / "b.parquet")
    Dataset.from_dict({"body": ["four"]}).save_to_disk(tmp_path / "saved")
    sources: list[Path | str] = [tmp_path / "saved", tmp_path / "a.txt", tmp_path / "b.parquet", tmp_path / "a.txt"]
    assert read(sources, scratch, field="body") == ["four", "one", "two", "three", "one"]


def test_a_split_by_name(tmp_path: Path, scratch: Path):
    DatasetDict(train=table(), test=table(["other"])).save_to_disk(tmp_path / "splits")
    assert read([tmp_path / "splits"], scratch, split="test") == ["other"]
    with pytest.raises(UserError, match="no split 'dev'; there are: train, test"):
        read([tmp_path / "splits"], scratch, split="dev")


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.txt", b"\n \n", r"a\.txt: no text"),
        ("a.txt", b"", r"a\.txt: no text"),
        ("a.txt", b"a\n\n\0", r"a\.txt:3: holds a NUL byte"),
        ("a.txt", b"a\n\n\xe4\xb8\n", r"a\.txt:3: byte 1 of the line is not UTF-8"),
        ("a.txt.gz", b"text", r"a\.txt\.gz: not a complete \.gz file"),
        ("a.csv", b"body,number\nx,1\n", "no field 'text'; there are: body, number"),
        ("a.csv", b"text,number\n1,1\n", "field 'text' is not text but int64"),
        ("a.csv", b"", r"a\.csv: can't be read as csv"),
        ("a.jsonl", b'{"text": ["a"]}\n', "field 'text' is not text"),
        ("a.jsonl", b"not json\n", r"a\.jsonl: can't be read as json"),
        ("a.parquet", b"not parquet\n", r"a\.parquet: can't be read as parquet"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, scratch: Path, name: str, content: bytes, complaint: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=complaint) as error:
        read([tmp_path / name], scratch)
    assert "\n" not in str(error.value)


def test_what_is_not_there(tmp_path: Path, scratch: Path, offline: None):
    for source in ("absent.txt", "absent.csv", "dir/absent.txt.gz", str(tmp_path / "absent"), "./absent"):
        with pytest.raises(UserError, match=r"absent.*: no such file or folder"):
            read([source], scratch)
    with pytest.raises(UserError, match="someone/nothing: no such file, and no dataset of that name"):
        read(["someone/nothing"], scratch)
    with pytest.raises(UserError, match="not a folder that `datasets` saved"):
        read([tmp_path], scratch)


def test_a_hub_dataset(monkeypatch: pytest.MonkeyPatch, scratch: Path):
    asked = []

    def load(*names: str | None, split: str) -> Dataset:
        asked.append((*names, split))
        return table()

    monkeypatch.setattr("electra_jax.data.documents.load_dataset", load)
    assert read(["org/set.v1"], scratch, subset="zh", split="validation") == TEXTS
    assert asked == [("org/set.v1", "zh", "validation")]
