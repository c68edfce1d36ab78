"""Outputs appear whole or not at all."""

import os
import stat
from pathlib import Path

import micro
import pytest

from electra_jax.errors import RunError, UserError
from electra_jax.files import can_be_made, check_absent, new_folder, write_text


def names(folder: Path) -> list[str]:
    """Everything in `folder`, hidden entries too."""
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_appears_when_it_is_complete(tmp_path: Path) -> None:
    with new_folder(tmp_path / "parents" / "out") as scratch:
        (scratch / "a.txt").write_text("a")
        assert not (tmp_path / "parents" / "out").exists()
    assert names(tmp_path / "parents") == ["out"]
    assert (tmp_path / "parents" / "out" / "a.txt").read_text() == "a"


def test_a_folder_has_the_rights_of_any_other(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with new_folder(tmp_path / "out"):
        pass
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_an_exception_leaves_nothing(tmp_path: Path, kind: type[BaseException]) -> None:
    with pytest.raises(kind), new_folder(tmp_path / "out") as scratch:  # noqa: PT012
        (scratch / "a.txt").write_text("a")
        raise kind
    assert names(tmp_path) == []


def test_an_empty_folder_may_be_there(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with new_folder(tmp_path / "out") as scratch:
        (scratch / "a.txt").write_text("a")
    assert names(tmp_path / "out") == ["a.txt"]


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept.txt").write_text("kept")
    with pytest.raises(UserError, match=r"out: already exists and is not empty"), new_folder(tmp_path / "out"):
        pass
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["kept.txt"]


def test_a_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("kept")
    with pytest.raises(UserError, match=r"out: is a file"), new_folder(tmp_path / "out"):
        pass
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out").read_text() == "kept"


def test_a_file_where_a_parent_belongs(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with (
        pytest.raises(UserError, match=r"file/out: can't be made there: .*file: File exists"),
        new_folder(tmp_path / "file" / "out"),
    ):
        pass
    assert (tmp_path / "file").read_text() == "kept"


def test_a_text_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a longer text that was there before")
    write_text(path, "新")
    assert path.read_text(encoding="utf-8") == "新"
    assert names(tmp_path) == ["a.txt"]


def test_a_text_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "begun \ud800")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_link_goes_on_pointing_to_the_text(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"
    assert names(tmp_path) == ["link", "real"]


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    write_text(path, "text")
    assert os.read(reader, 100) == b"text"
    os.close(reader)
    assert path.is_fifo()


def test_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="udce9': the name is not UTF-8; choose another"):
        check_absent(tmp_path / "caf\udce9")


@pytest.mark.parametrize("target", ["there", "nowhere"])
def test_a_link_is_left_alone(tmp_path: Path, target: str) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / target)
    with (
        pytest.raises(UserError, match="link: is a link; name the folder that it points to"),
        new_folder(tmp_path / "link"),
    ):
        pass


def test_the_current_folder_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (Path(), tmp_path):
        with pytest.raises(UserError, match="is the current folder, and a new folder is to be made"), new_folder(path):
            pass


def test_a_folder_above_another_is_no_new_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"new/\.\.: ends in \.\., and a new folder is to be made"):
        check_absent(tmp_path / "new" / "..")


def test_a_mount_point_is_left_alone() -> None:
    with pytest.raises(UserError, match="/dev/shm: is a mount point"):
        check_absent(Path("/dev/shm"))


def test_a_full_disk_is_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    said = r"a\.txt: can't be written: File too large; make room, and run the same command again$"
    with micro.little_room(100), pytest.raises(RunError, match=said), can_be_made(path):
        write_text(path, "text" * 100)
    assert names(tmp_path) == []


def test_a_folder_that_another_makes_meanwhile_is_left_alone(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"out: already exists and is not empty; choose"),
        new_folder(tmp_path / "out"),
        new_folder(tmp_path / "out") as theirs,
    ):
        (theirs / "theirs").touch()
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["theirs"]
