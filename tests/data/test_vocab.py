import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoTokenizer, ElectraTokenizer

from electra_jax.config import VocabConfig
from electra_jax.data.tokenizer import load_tokenizer
from electra_jax.data.vocab import SPECIAL_TOKENS, train_vocabulary
from electra_jax.errors import UserError


def read_all(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_same_text_gives_the_same_bytes(corpus: Path, tokenizer_folder: Path, tmp_path: Path):
    again = train_vocabulary(VocabConfig((corpus,), tmp_path / "again", size=150))
    assert read_all(again.folder) == read_all(tokenizer_folder)


def test_the_vocabulary_has_the_size_that_is_reported(corpus: Path, tmp_path: Path):
    full = train_vocabulary(VocabConfig((corpus,), tmp_path / "full", size=100))
    short_of_pairs = train_vocabulary(VocabConfig((corpus,), tmp_path / "short", size=5000))
    for result in (full, short_of_pairs):
        tokens = (result.folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
        assert result.size == len(tokens) == len(set(tokens))
        assert tuple(tokens[:5]) == SPECIAL_TOKENS
    assert full.size == 100
    assert short_of_pairs.size < 5000


@pytest.mark.parametrize("loader", [AutoTokenizer, ElectraTokenizer])
def test_transformers_reads_the_folder(tokenizer_folder: Path, loader: type):
    tokenizer = loader.from_pretrained(tokenizer_folder)
    tokens = (tokenizer_folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    assert tokenizer.get_vocab() == {token: index for index, token in enumerate(tokens)}
    assert tokenizer.model_max_length == 512
    assert tokenizer.tokenize("CAFÉ 我们") == [*tokenizer.tokenize("cafe"), "我", "们"]
    pair = tokenizer("the dogs", "学习")
    assert tokenizer.convert_ids_to_tokens(pair["input_ids"])[:1] == ["[CLS]"]
    assert pair["input_ids"].count(tokenizer.sep_token_id) == 2
    assert pair["token_type_ids"][-3:] == [1, 1, 1]
    assert tokenizer.decode(pair["input_ids"], skip_special_tokens=True) == "the dogs 学 习"


def test_case_and_accents_are_kept_on_request(corpus: Path, tmp_path: Path):
    config = VocabConfig((corpus,), tmp_path / "cased", size=200, lowercase=False, strip_accents=False)
    tokenizer = AutoTokenizer.from_pretrained(train_vocabulary(config).folder)
    assert "".join(tokenizer.tokenize("The café")).replace("##", "") == "Thecafé"


def test_a_cased_vocabulary_has_its_accents(corpus: Path, tmp_path: Path):
    config = VocabConfig((corpus,), tmp_path / "cased", size=200, lowercase=False)
    tokenizer = AutoTokenizer.from_pretrained(train_vocabulary(config).folder)
    assert "".join(tokenizer.tokenize("The café")).replace("##", "") == "Thecafé"


@pytest.mark.parametrize(
    ("text", "stripped"),
    [
        ("the café Ёлка çok güzel שָׁלוֹם عَرَبِيّ e\u0301", 0.0),
        ("你好，世界", 0.0),
        ("नमस्ते", 2 / 6),  # virama and e; what is left reads otherwise
        ("がくこう", 1 / 4),
        ("안녕", 1.0),
    ],
)
def test_characters_that_are_no_accents_are_told_of(tmp_path: Path, text: str, stripped: float):
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    config = VocabConfig((tmp_path / "text.txt",), tmp_path / "out")
    assert train_vocabulary(config).stripped == pytest.approx(stripped)
    assert train_vocabulary(replace(config, out=tmp_path / "kept", strip_accents=False)).stripped == 0


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_table_is_read_by_its_column(corpus: Path, tmp_path: Path, name: str):
    rows = [{"title": "ZZZ", "body": text} for text in corpus.read_text(encoding="utf-8").split("\n\n")]
    if name == "a.csv":
        with (tmp_path / name).open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["title", "body"])
            writer.writeheader()
            writer.writerows(rows)
    else:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = train_vocabulary(VocabConfig((tmp_path / name,), tmp_path / "table", field="body", size=150))
    plain = train_vocabulary(VocabConfig((corpus,), tmp_path / "plain", size=150))
    assert read_all(table.folder) == read_all(plain.folder)


def test_words_that_are_never_divided_are_not_learnt(corpus: Path, tmp_path: Path):
    long = "xyz" * 34  # 102 characters
    (tmp_path / "long.txt").write_text(
        f"{corpus.read_text(encoding='utf-8')}\n{long} {long}, ({long[:100]}) {'ж' * 10**6}"
    )
    folder = train_vocabulary(VocabConfig((tmp_path / "long.txt",), tmp_path / "out", size=400)).folder
    tokens = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    assert {"x", "##y", "##z"} <= set(tokens)  # of the word of 100
    assert not {"ж", "##ж"} & set(tokens)
    tokenizer = load_tokenizer(folder)
    assert tokenizer.tokenize(long) == ["[UNK]"] != tokenizer.tokenize(long[:100])


def test_mistakes_are_told_in_one_line(corpus: Path, tmp_path: Path):
    config = VocabConfig((corpus,), tmp_path / "out")
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "broken.txt").write_bytes(b"fine\n\xff\xfe\n")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    before = sorted(tmp_path.iterdir())
    for change, complaint in (
        ({"text": ()}, "text: none is given"),
        ({"text": (tmp_path / "absent.txt",)}, r"absent\.txt: no such file"),
        ({"text": (tmp_path / "empty.txt",)}, r"empty\.txt: no text"),
        ({"text": (tmp_path / "broken.txt",)}, r"broken\.txt:2: byte 1"),
        ({"size": 20}, r"size 20 is too small.* are \d+ entries already"),
        ({"out": tmp_path / "taken"}, "taken: already exists"),
    ):
        with pytest.raises(UserError, match=complaint) as error:
            train_vocabulary(replace(config, **change))
        assert "\n" not in str(error.value)
    assert sorted(tmp_path.iterdir()) == before


def test_limit_alphabet_keeps_the_most_frequent_characters(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("一一一一 二二二 三三 四\n" * 3, encoding="utf-8")
    result = train_vocabulary(VocabConfig(text=(text,), out=tmp_path / "out", size=100, limit_alphabet=2))
    tokenizer = load_tokenizer(result.folder)
    assert tokenizer.tokenize("一二三四") == ["一", "二", "[UNK]", "[UNK]"]


def test_chinese_words_stay_whole_on_request(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("酒店不错\n不错的酒店\n" * 9, encoding="utf-8")
    folder = train_vocabulary(VocabConfig((text,), tmp_path / "out", size=100, split_chinese=False)).folder
    for tokenizer in (load_tokenizer(folder), ElectraTokenizer.from_pretrained(folder)):
        assert tokenizer.tokenize("酒店不错") == ["酒店不错"]
        assert tokenizer.tokenize("酒店 不错") == ["酒店", "不错"]
