import io
import json
import os
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
from rich.console import Console

from electra_jax.config import PrepareConfig, VocabConfig
from electra_jax.data.manifest import Manifest, summary
from electra_jax.data.partial import partial_path
from electra_jax.data.prepare import prepare
from electra_jax.data.rows import open_rows
from electra_jax.data.tokenizer import load_tokenizer, tokenizer_hash
from electra_jax.data.vocab import train_vocabulary
from electra_jax.errors import UserError


@pytest.fixture
def config(corpus: Path, tokenizer_folder: Path, tmp_path: Path) -> PrepareConfig:
    return PrepareConfig((str(corpus),), str(tokenizer_folder), tmp_path / "rows", length=32, held_out=0.2)


def real_tokens(folder: Path, split: str, skipped: tuple[int, ...] = ()) -> list[int]:
    """Tokens of all rows in order, those in `skipped` left out."""
    rows = every_row(folder, split)
    each = (ids[:length].tolist() for ids, length in zip(rows["input_ids"], rows["length"], strict=True))
    return [token for row in each for token in row if token not in skipped]


def every_row(folder: Path, split: str) -> dict[str, np.ndarray]:
    rows = open_rows([folder], split)  # type: ignore[arg-type]
    return rows.take(range(len(rows)))


def test_rows_hold_every_token_of_the_text_once(prepared: tuple[Path, Manifest], corpus: Path):
    folder, manifest = prepared
    tokenizer = load_tokenizer(folder / "tokenizer")
    specials = (manifest.cls_id, manifest.sep_id)
    found = Counter(real_tokens(folder, "train", specials) + real_tokens(folder, "eval", specials))
    text = corpus.read_text(encoding="utf-8")
    assert found == Counter(tokenizer(text, add_special_tokens=False)["input_ids"])
    assert manifest.train.documents + manifest.eval.documents == 200
    assert manifest.train.unknown_tokens == 0


def test_rows_decode_to_the_text_in_order(prepared: tuple[Path, Manifest], corpus: Path, config: PrepareConfig):
    prepare(replace(config, held_out=0.0))
    tokenizer = load_tokenizer(config.tokenizer)
    ids = real_tokens(config.out, "train", (tokenizer.cls_token_id, tokenizer.sep_token_id))
    text = corpus.read_text(encoding="utf-8")
    assert tokenizer.decode(ids) == tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True)


def test_the_layout_of_rows(prepared: tuple[Path, Manifest]):
    folder, manifest = prepared
    rows = every_row(folder, "train")
    assert {name: (column.shape[1:], column.dtype) for name, column in rows.items()} == {
        "input_ids": ((32,), np.uint16),
        "length": ((), np.int32),
        "first_length": ((), np.int32),
    }
    two_segments = 0
    for ids, length, first in zip(*rows.values(), strict=True):
        assert ids[0] == manifest.cls_id
        assert ids[length - 1] == ids[first - 1] == manifest.sep_id
        assert (ids[length:] == manifest.pad_id).all()
        assert (ids[:length] != manifest.pad_id).all()
        assert list(ids).count(manifest.sep_id) == 1 + (first < length)
        two_segments += first < length
    assert two_segments > len(rows["length"]) / 4


def test_the_manifest_counts_what_is_there(prepared: tuple[Path, Manifest], config: PrepareConfig):
    folder, manifest = prepared
    assert Manifest.read(folder) == manifest
    assert manifest.tokenizer_hash == tokenizer_hash(load_tokenizer(config.tokenizer))
    assert manifest.tokenizer_hash == tokenizer_hash(load_tokenizer(folder / "tokenizer"))
    tokens = real_tokens(folder, "train")
    assert manifest.train.tokens == len(tokens)
    assert manifest.train.text_tokens == len([t for t in tokens if t not in (manifest.cls_id, manifest.sep_id)])
    assert manifest.train.rows == len(open_rows([folder], "train"))
    assert manifest.train.padding_rate == pytest.approx(1 - len(tokens) / manifest.train.rows / 32)
    assert str(folder.parent) not in (folder / "manifest.json").read_text()


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_change_nothing(prepared: tuple[Path, Manifest], config: PrepareConfig, workers: int):
    assert prepare(replace(config, workers=workers)) == prepared[1]


def test_packed_rows_hold_the_same_examples(prepared: tuple[Path, Manifest], config: PrepareConfig):
    manifest = prepare(replace(config, pack=True))
    assert Manifest.read(config.out) == manifest
    assert (manifest.packed, prepared[1].packed) == (True, False)
    for split in ("train", "eval"):
        ours, theirs = getattr(manifest, split), getattr(prepared[1], split)
        assert Counter(real_tokens(config.out, split)) == Counter(real_tokens(prepared[0], split))
        assert ours.examples == theirs.rows > ours.rows == len(open_rows([config.out], split))
        for count in ("documents", "tokens", "text_tokens", "unknown_tokens"):
            assert getattr(ours, count) == getattr(theirs, count)
        assert ours.padding_rate == pytest.approx(1 - ours.tokens / ours.rows / 32)
    assert manifest.train.padding_rate < 0.03 < prepared[1].train.padding_rate
    rows = every_row(config.out, "train")
    assert {name: (column.shape[1:], column.dtype) for name, column in rows.items()} == {
        "input_ids": ((32,), np.uint16),
        "length": ((), np.int32),
        "segments": ((32,), np.uint8),
    }


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_pack_the_same_rows(config: PrepareConfig, tmp_path: Path, workers: int):
    several = replace(config, pack=True, shard_characters=2**12)
    assert prepare(replace(several, workers=workers)) == prepare(replace(several, out=tmp_path / "one"))
    assert len(list((config.out / "train").glob("data-*.arrow"))) > 3


def test_a_manifest_of_rows_that_are_not_packed_says_nothing_of_packing(prepared: tuple[Path, Manifest]):
    assert not {"examples", "packed"} & json.loads((prepared[0] / "manifest.json").read_text())["train"].keys()


def test_nothing_to_pack(config: PrepareConfig):
    manifest = prepare(replace(config, pack=True, held_out=0.0))
    assert (manifest.eval.rows, manifest.eval.examples, len(open_rows([config.out], "eval"))) == (0, 0, 0)


def test_the_seed_changes_the_rows(prepared: tuple[Path, Manifest], config: PrepareConfig):
    assert prepare(replace(config, seed=1)).train.rows_hash != prepared[1].train.rows_hash


def test_datasets_reads_the_rows(prepared: tuple[Path, Manifest]):
    dataset = datasets.load_from_disk(str(prepared[0] / "train"))
    assert dataset.column_names == ["input_ids", "length", "first_length"]
    assert dataset[3]["input_ids"] == every_row(prepared[0], "train")["input_ids"][3].tolist()


def test_rows_lie_in_large_chunks(config: PrepareConfig, tmp_path: Path):
    (tmp_path / "lines.txt").write_text("the dogs jump\n" * 2500)
    prepare(replace(config, sources=(str(tmp_path / "lines.txt"),), documents="line", held_out=0.0))
    assert [len(chunk) for chunk in open_rows([config.out], "train").column_chunks("length")] == [2500]


def test_repeated_documents_fall_on_one_side(config: PrepareConfig, tmp_path: Path):
    documents = [f"the dogs jump {'lazy ' * i}" for i in range(60)] * 2
    (tmp_path / "twice.txt").write_text("\n\n".join(documents))
    manifest = prepare(replace(config, sources=(str(tmp_path / "twice.txt"),), held_out=0.3))
    assert manifest.eval.documents % 2 == 0
    assert 10 <= manifest.eval.documents <= 64
    train, held_out = (Counter(real_tokens(config.out, split)) for split in ("train", "eval"))
    assert all(count % 2 == 0 for count in (train + held_out).values())


def test_the_share_of_short_and_single_rows_can_be_set(config: PrepareConfig):
    prepare(replace(config, single_segment_prob=1.0, held_out=0.0))
    rows = every_row(config.out, "train")
    assert (rows["length"] == rows["first_length"]).all()
    lengths = {}
    for share in (0.0, 1.0):
        settings = replace(config, short_row_prob=share, held_out=0.0, out=config.out.with_name(f"short-{share}"))
        lengths[share] = prepare(settings).train
    assert lengths[1.0].rows > 1.1 * lengths[0.0].rows  # of the same text


def test_nothing_held_out(config: PrepareConfig):
    manifest = prepare(replace(config, held_out=0.0))
    assert (manifest.eval.documents, manifest.eval.rows, len(open_rows([config.out], "eval"))) == (0, 0, 0)


def test_special_tokens_in_a_text_are_text(config: PrepareConfig, tmp_path: Path):
    (tmp_path / "bert.txt").write_text("the dogs [MASK] jump [SEP] over [PAD] lazy dogs " * 20)
    prepare(replace(config, sources=(str(tmp_path / "bert.txt"),), held_out=0.0, max_unk_rate=1.0))
    tokenizer = load_tokenizer(config.tokenizer)
    rows = every_row(config.out, "train")
    for ids, first in zip(rows["input_ids"], rows["first_length"], strict=True):
        inner = ids[1 : first - 1]
        assert not {tokenizer.mask_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id} & set(inner.tolist())


def test_a_large_vocabulary_takes_wider_ids(config: PrepareConfig, corpus: Path, tmp_path: Path):
    (tmp_path / "tokenizer").mkdir()
    tokens = (Path(config.tokenizer) / "vocab.txt").read_text(encoding="utf-8")
    tokens += "".join(f"{number:x}q\n" for number in range(70_000))
    (tmp_path / "tokenizer" / "vocab.txt").write_text(tokens, encoding="utf-8")
    prepare(replace(config, tokenizer=str(tmp_path / "tokenizer"), sources=(str(corpus),)))
    assert every_row(config.out, "train")["input_ids"].dtype == np.uint32


def test_chinese_is_split_into_characters(config: PrepareConfig, tmp_path: Path):
    (tmp_path / "zh.txt").write_text("我们在北京大学学习\n自然语言", encoding="utf-8")
    manifest = prepare(replace(config, sources=(str(tmp_path / "zh.txt"),), held_out=0.0))
    assert (manifest.train.text_tokens, manifest.train.unknown_tokens) == (13, 0)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"length": 7}, "length 7: a row needs at least 8"),
        ({"length": 513}, "length 513: .* takes at most 512"),
        ({"workers": 0}, "workers 0"),
        ({"held_out": 1.0}, "held_out 1.0"),
        ({"short_row_prob": 1.5}, "short_row_prob 1.5"),
        ({"tokenizer": "/nowhere"}, "/nowhere: no such folder"),
        ({"sources": ()}, "sources: none is given"),
        ({"sources": ("absent.txt",)}, "absent.txt: no such file"),
        ({"field": "text"}, "wrong tokenizer for this text"),
        ({"held_out": 0.999999}, "no rows to train on"),
    ],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_mistakes_leave_nothing_behind(
    config: PrepareConfig, tmp_path: Path, changes: dict[str, object], complaint: str, workers: int
):
    russian = tmp_path / "russian.txt"
    russian.write_text("Съешь же ещё этих мягких французских булок\n\nда выпей чаю", encoding="utf-8")
    before = sorted(tmp_path.iterdir())
    settings = {"sources": (str(russian),), "workers": workers} | changes
    with pytest.raises(UserError, match=complaint) as error:
        prepare(replace(config, **settings))  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.iterdir()) == before


def test_a_wrong_tokenizer_is_told_of_by_the_first_text(
    config: PrepareConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("electra_jax.data.prepare.CHECKED_FIRST", 200)
    text = tmp_path / "text.txt"
    settings = replace(config, sources=(str(text),), shard_characters=500, held_out=0.0)
    known, broken = Path(config.sources[0]).read_bytes(), b"\n\n\xff\n"  # where reading goes on, it ends there
    text.write_bytes("слово и слово\n\n".encode() * 100 + known + broken)
    with pytest.raises(UserError, match=r"wrong tokenizer .* 100% of the first tokens are \[UNK\]"):
        prepare(settings)
    assert not partial_path(config.out).exists()
    text.write_bytes(known + "слово и слово\n\n".encode() * 100 + broken)
    with pytest.raises(UserError, match="is not UTF-8"):
        prepare(settings)


def test_what_is_finished_before_a_mistake_is_kept(prepared: tuple[Path, Manifest], config: PrepareConfig):
    partial = partial_path(config.out)
    text, broken = Path(config.sources[0]), config.out.with_name("broken.txt")
    broken.write_bytes(text.read_bytes() + b"\n\n\xff\n")
    settings = replace(config, sources=(str(broken),), shard_characters=500)
    with pytest.raises(UserError, match=r"is not UTF-8; .* Finished rows are kept; run the same command again"):
        prepare(settings)
    finished = {file: file.stat().st_ino for file in partial.glob("whole/*/data-*.arrow")}
    assert len(finished) > 2
    with pytest.raises(UserError, match=r"brokn\.txt: no such file .* Finished rows are kept; run the same command"):
        prepare(replace(settings, sources=(str(broken.with_name("brokn.txt")),)))
    broken.write_bytes(text.read_bytes())
    again = prepare(settings)
    files = {partial / "whole" / file.relative_to(config.out): file for file in config.out.glob("*/data-*.arrow")}
    assert {file: files[file].stat().st_ino for file in finished if file in files}.items() <= finished.items()
    assert len(finished.keys() & files.keys()) > 2
    assert (again.train, again.eval) == (prepared[1].train, prepared[1].eval)
    assert not partial.exists()


@pytest.mark.parametrize("name", ["b.jsonl", "b.csv", "saved"])
def test_a_column_that_is_missing_is_told_before_any_text_is_read(config: PrepareConfig, tmp_path: Path, name: str):
    rows = [{"body": "one"}, {"body": "two"}]
    if name == "saved":
        datasets.Dataset.from_list(rows).save_to_disk(tmp_path / name)
    elif name == "b.csv":
        (tmp_path / name).write_text("body\none\ntwo\n")
    else:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = replace(config, sources=(*config.sources, str(tmp_path / name)), shard_characters=500)
    with pytest.raises(UserError, match=r"(column|field) 'text'"):
        prepare(settings)
    assert not partial_path(config.out).exists()


def test_an_occupied_folder_is_left_alone(config: PrepareConfig):
    config.out.mkdir()
    (config.out / "mine").touch()
    with pytest.raises(UserError, match="already exists"):
        prepare(config)
    assert [path.name for path in config.out.iterdir()] == ["mine"]


def test_the_environment_is_as_before(config: PrepareConfig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "mine")
    datasets.enable_progress_bars()
    prepare(config)
    assert os.environ["TOKENIZERS_PARALLELISM"] == "mine"
    assert not datasets.are_progress_bars_disabled()


def test_a_folder_that_is_not_prepared(tmp_path: Path, prepared: tuple[Path, Manifest]):
    with pytest.raises(UserError, match="not a folder that `electra-jax prepare` wrote"):
        open_rows([tmp_path], "train")
    path = tmp_path / "manifest.json"
    for content, complaint in (
        ("{", "damaged"),
        ("{}", "damaged"),
        ("[]", "damaged"),
        ('{"format_version": 99}', "format 99"),
    ):
        path.write_text(content)
        with pytest.raises(UserError, match=complaint):
            Manifest.read(tmp_path)
    path.write_bytes((prepared[0] / "manifest.json").read_bytes())
    with pytest.raises(UserError, match="the rows can't be read"):
        open_rows([tmp_path], "train")


def test_the_summary(prepared: tuple[Path, Manifest]):
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(summary(prepared[1], seconds=2.0))
    text = console.export_text()
    tokens = prepared[1].train.tokens + prepared[1].eval.tokens
    assert f"{tokens / 2:,.0f} tokens/s" in text
    assert "[UNK]" in text
    assert f"{prepared[1].train.rows:,}" in text
    assert "examples a row" not in text


def test_the_summary_of_packed_rows(config: PrepareConfig):
    manifest = prepare(replace(config, pack=True))
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(summary(manifest, seconds=2.0))
    text = console.export_text()
    assert "examples a row" in text
    assert manifest.train.examples is not None
    assert f"{manifest.train.examples / manifest.train.rows:.1f}" in text


def test_a_new_text_with_a_vocabulary_of_its_own_has_few_unknown(tmp_path: Path):
    rng = random.Random(1)
    alphabet = "абвгдежзийклмнопрстуфхцчшщъыьэюя"
    words = ["".join(rng.choices(alphabet, k=rng.randint(2, 8))) for _ in range(300)]
    (tmp_path / "a.txt").write_text("\n\n".join(" ".join(rng.choices(words, k=40)) for _ in range(100)), "utf-8")
    train_vocabulary(VocabConfig((tmp_path / "a.txt",), tmp_path / "tokenizer", size=400))
    manifest = prepare(PrepareConfig((str(tmp_path / "a.txt"),), str(tmp_path / "tokenizer"), tmp_path / "rows"))
    assert manifest.train.unk_rate == 0
