import codecs
import gzip
from pathlib import Path

import pytest

from electra_jax.data.lines import check_files, read_lines
from electra_jax.errors import UserError


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("packed", [False, True])
def test_line_ends_marks_and_gzip_leave_no_trace(tmp_path: Path, end: bytes, mark: bytes, packed: bool):
    content = mark + end.join([b"one", "二".encode(), b"", b"four"])
    path = tmp_path / ("a.txt.gz" if packed else "a.txt")
    path.write_bytes(gzip.compress(content) if packed else content)
    assert list(read_lines(path)) == ["one", "二", "", "four"]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (codecs.BOM_UTF16_LE + b"a\0", r"a\.txt: is UTF-16; save it as UTF-8"),
        (b"\x28\xb5\x2f\xfda", r"a\.txt: is compressed; decompress it, or compress it as \.gz"),
        (b"a\nb\0c\n", r"a\.txt:2: holds a NUL byte"),
        (b"a\nb\n\xff\n", r"a\.txt:3: byte 1 .* not UTF-8"),
    ],
)
def test_what_is_no_text_is_named_by_line(tmp_path: Path, content: bytes, complaint: str):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(UserError, match=complaint):
        list(read_lines(tmp_path / "a.txt"))


@pytest.mark.parametrize("content", [b"plain", gzip.compress(b"text " * 1000, mtime=0)[:-20]])
def test_a_broken_gzip_file(tmp_path: Path, content: bytes):
    (tmp_path / "a.gz").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.gz: not a complete \.gz file"):
        list(read_lines(tmp_path / "a.gz"))


def test_files_that_are_not_there(tmp_path: Path):
    with pytest.raises(UserError, match="no such file"):
        check_files([tmp_path / "a.txt"])
    with pytest.raises(UserError, match="is a folder"):
        check_files([tmp_path])
