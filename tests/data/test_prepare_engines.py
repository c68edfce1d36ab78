"""What tokenizes, and interruptions: neither changes a row."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import micro
import numpy as np
import pytest
from bilingual import make_documents

from electra_jax.config import PrepareConfig
from electra_jax.data.manifest import Manifest
from electra_jax.data.partial import partial_path
from electra_jax.data.prepare import prepare
from electra_jax.data.rows import COLUMNS, open_rows
from electra_jax.errors import RunError, UserError

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="takes the extra ray")
ONE = pytest.param({}, id="one")
TWO = pytest.param({"workers": 2}, id="two")
RAY = pytest.param({"engine": "ray"}, id="ray", marks=needs_ray)
SLOW_RAY = pytest.param({"engine": "ray"}, id="ray", marks=[needs_ray, pytest.mark.slow])


@pytest.fixture(scope="module")
def long_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of about a hundred shards."""
    path = tmp_path_factory.mktemp("long") / "long.txt"
    path.write_text("\n\n".join(make_documents(3000)) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def config(long_text: Path, tokenizer_folder: Path, tmp_path: Path) -> PrepareConfig:
    sources, out = (str(long_text),), tmp_path / "rows"
    return PrepareConfig(sources, str(tokenizer_folder), out, length=32, held_out=0.2, shard_characters=2**12)


@pytest.fixture(scope="module")
def whole(long_text: Path, tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    """The same text, prepared at one stretch and as one shard a split."""
    out = tmp_path_factory.mktemp("whole") / "rows"
    return out, prepare(PrepareConfig((str(long_text),), str(tokenizer_folder), out, length=32, held_out=0.2))


@pytest.fixture
def start(config: PrepareConfig) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts `prepare` in a process, and in a process group, of its own."""
    processes = []

    def run(**changes: object) -> subprocess.Popen[bytes]:
        settings = asdict(replace(config, **changes))  # type: ignore[arg-type]
        code = f"from pathlib import *; import electra_jax as ej; ej.prepare(ej.PrepareConfig(**{settings}))"
        command = [sys.executable, "-c", code]
        processes.append(subprocess.Popen(command, env=micro.environment(), start_new_session=True))
        return processes[-1]

    yield run
    for process in processes:
        process.kill()
        process.wait()


def shard_files(folder: Path) -> dict[str, tuple[int, int]]:
    """Each file of rows by its name within `folder`, with what changes where it is written again."""
    files = {str(path.relative_to(folder)): path.stat() for path in folder.glob("*/data-*.arrow")}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in files.items()}


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def kill_amid(process: subprocess.Popen[bytes], out: Path) -> dict[str, tuple[int, int]]:
    """Kill a process when it has made a few shards; returns the files of those."""
    folder = partial_path(out) / "whole"
    until(lambda: len(shard_files(folder)) >= 3 or process.poll() is not None)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not out.exists()
    return shard_files(folder)


def assert_same_rows(folder: Path, other: Path) -> None:
    for split in ("train", "eval"):
        one, two = (open_rows([path], split) for path in (folder, other))  # type: ignore[arg-type]
        for name in COLUMNS:
            np.testing.assert_array_equal(*(np.concatenate(rows.column_chunks(name)) for rows in (one, two)))


@pytest.mark.parametrize("engine", [ONE, TWO, RAY])
def test_engines_and_shards_change_nothing(
    config: PrepareConfig, whole: tuple[Path, Manifest], engine: dict[str, object]
):
    assert prepare(replace(config, **engine)) == whole[1]  # type: ignore[arg-type]
    assert_same_rows(config.out, whole[0])
    assert len(shard_files(config.out)) > 30
    assert sorted(path.name for path in config.out.parent.iterdir()) == ["rows"]


@pytest.mark.parametrize("engine", [ONE, TWO, SLOW_RAY])
def test_killed_it_goes_on(
    config: PrepareConfig, whole: tuple[Path, Manifest], start: Callable[..., subprocess.Popen[bytes]], engine: dict
):
    finished = kill_amid(start(**engine), config.out)
    assert prepare(replace(config, **engine)) == whole[1]
    after = shard_files(config.out)
    assert 3 <= len(finished) < len(after)
    assert {name: after[name] for name in finished} == finished
    assert_same_rows(config.out, whole[0])
    assert sorted(path.name for path in config.out.parent.iterdir()) == ["rows"]


def test_another_engine_goes_on_too(
    config: PrepareConfig, whole: tuple[Path, Manifest], start: Callable[..., subprocess.Popen[bytes]]
):
    finished = kill_amid(start(workers=2), config.out)
    assert prepare(config) == whole[1]
    assert finished.items() <= shard_files(config.out).items()


def test_the_workers_of_a_killed_process_end(config: PrepareConfig, start: Callable[..., subprocess.Popen[bytes]]):
    process = start(workers=2)
    kill_amid(process, config.out)

    def gone() -> bool:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return True
        return False

    until(gone, seconds=10)


def assert_starts_over(config: PrepareConfig, stale: dict[str, tuple[int, int]]) -> None:
    fresh = replace(config, out=config.out.parent / "fresh")
    assert prepare(config) == prepare(fresh)
    assert not stale.keys() & shard_files(config.out).keys()
    assert shard_files(config.out).keys() == shard_files(fresh.out).keys()


def test_other_settings_start_over(
    config: PrepareConfig, start: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
):
    stale = kill_amid(start(), config.out)
    shutil.copytree(partial_path(config.out), tmp_path / "kept")
    (tmp_path / "tokenizer").mkdir()
    tokens = (Path(config.tokenizer) / "vocab.txt").read_text(encoding="utf-8")
    (tmp_path / "tokenizer" / "vocab.txt").write_text(tokens + "another\n", encoding="utf-8")
    changes = ({"seed": 1}, {"length": 16}, {"short_row_prob": 0.5}, {"held_out": 0.5})
    for change in (*changes, {"tokenizer": str(tmp_path / "tokenizer")}):
        assert_starts_over(replace(config, **change), stale)  # type: ignore[arg-type]
        for folder in (config.out, tmp_path / "fresh"):
            shutil.rmtree(folder)
        shutil.copytree(tmp_path / "kept", partial_path(config.out))


def test_shards_of_changed_text_are_made_again(
    config: PrepareConfig, start: Callable[..., subprocess.Popen[bytes]], long_text: Path, tmp_path: Path
):
    """Also where neither size nor time of the file tell; the shards before the change are kept."""
    text = tmp_path / "text.txt"
    text.write_bytes(long_text.read_bytes())
    stat = text.stat()
    config = replace(config, sources=(str(text),), held_out=0.0)
    finished = kill_amid(start(sources=config.sources, held_out=0.0), config.out)
    content = text.read_text(encoding="utf-8")
    middle = 3 * 2**11  # within the second shard
    text.write_text(content[:middle] + content[middle:].replace("dogs", "jump"), encoding="utf-8")
    os.utime(text, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert text.stat().st_size == stat.st_size
    assert prepare(config) == prepare(replace(config, out=tmp_path / "fresh"))
    assert len(finished.items() & shard_files(config.out).items()) == 1


def test_one_process_at_a_time(
    config: PrepareConfig, whole: tuple[Path, Manifest], start: Callable[..., subprocess.Popen[bytes]]
):
    process = start()
    until(lambda: len(shard_files(partial_path(config.out) / "whole")) > 0)
    process.send_signal(signal.SIGSTOP)
    with pytest.raises(UserError, match=r"rows: another process is making it; wait for its end") as error:
        prepare(config)
    assert "\n" not in str(error.value)
    process.send_signal(signal.SIGCONT)
    assert process.wait(60) == 0
    assert Manifest.read(config.out) == whole[1]
    assert_same_rows(config.out, whole[0])


@pytest.mark.parametrize("workers", [1, 2])
def test_a_mistake_found_late_leaves_whole_shards_alone(config: PrepareConfig, tmp_path: Path, workers: int):
    (tmp_path / "late.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(UserError, match=r"late.txt:1: .* not UTF-8.* are kept; run the same command again"):
        prepare(replace(config, sources=(*config.sources, str(tmp_path / "late.txt")), workers=workers))
    assert not config.out.exists()
    assert shard_files(partial_path(config.out) / "whole")
    (tmp_path / "late.txt").unlink()
    prepare(config)
    assert [path.name for path in tmp_path.iterdir()] == [config.out.name]


FULL = """
import resource, signal, sys
from pathlib import Path
import electra_jax as ej
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
ej.prepare(ej.PrepareConfig((sys.argv[2],), sys.argv[3], Path(sys.argv[4]), length=32, held_out=0.2))
"""


def test_a_full_disk_keeps_what_there_is(config: PrepareConfig, whole: tuple[Path, Manifest]):
    """A limit of a file's size stands for it: the system's error is another, and the way it takes the same."""
    source, out = config.sources[0], config.out
    ended = micro.python("-c", FULL, str(2**14), source, config.tokenizer, str(out))
    says = f"RunError: {out}: can't be written: File too large; make room, and run the same command again"
    assert ended.stderr.strip().splitlines()[-1].endswith(says)
    assert partial_path(out).is_dir()
    assert prepare(replace(config, shard_characters=2**23)) == whole[1]
    assert not partial_path(out).exists()


def test_shards_of_a_split_that_is_empty_now_are_deleted(config: PrepareConfig, start: Callable[..., Any]):
    process = start(held_out=0.5)
    while len(list(partial_path(config.out).glob("whole/eval/data-*.arrow"))) < 3:
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    prepare(replace(config, held_out=0.0))
    assert [path.name for path in (config.out / "eval").glob("*.arrow")] == ["data-00000-of-00001.arrow"]


def test_a_worker_that_is_killed_is_told(config: PrepareConfig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("electra_jax.data.engines.write_shard", _end)
    with pytest.raises(RunError, match="a worker was killed, perhaps for want of memory; run the same command again"):
        prepare(replace(config, workers=2))
    assert partial_path(config.out).is_dir()


def _end(*arguments: object) -> None:
    os._exit(9)


def test_a_shard_without_rows(config: PrepareConfig, tmp_path: Path):
    """Text that the tokenizer drops; here control characters."""
    (tmp_path / "some.txt").write_text("\u0007 \u0008\n\nthe dogs jump\n\n\u0007\n", encoding="utf-8")
    manifest = prepare(replace(config, sources=(str(tmp_path / "some.txt"),), held_out=0.0, shard_characters=1))
    assert (manifest.train.documents, manifest.train.rows, len(shard_files(config.out))) == (3, 1, 4)
    assert len(open_rows([config.out], "train")) == 1


@needs_ray
@pytest.mark.parametrize("address", ["nonsense", pytest.param("127.0.0.1:9", marks=pytest.mark.slow)])
def test_an_address_without_a_cluster(config: PrepareConfig, monkeypatch: pytest.MonkeyPatch, address: str):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError, match=r"engine ray: no cluster can be reached or started: .+") as error:
        prepare(replace(config, engine="ray"))
    assert "\n" not in str(error.value)
    assert not partial_path(config.out).exists()


def test_an_engine_that_is_not_installed(config: PrepareConfig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # Python's way to say that there is none
    with pytest.raises(UserError, match=r"ray is not installed; pip install 'electra-jax\[ray\]'"):
        prepare(replace(config, engine="ray"))
    assert not config.out.exists()
    assert not partial_path(config.out).exists()
