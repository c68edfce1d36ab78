import json
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, BertTokenizer, ElectraTokenizer, PreTrainedTokenizerFast

from electra_jax.data.tokenizer import load_tokenizer, load_vocabulary, max_length, save_tokenizer, tokenizer_hash
from electra_jax.errors import UserError

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["hello", "Hello", "##s", "你", "好", "é", "e"]
TEXT = "Hello hellos 你好 É [MASK] zzz"


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A folder as older models are handed round: vocab.txt and a config that names no class."""
    folder = tmp_path / "bare"
    folder.mkdir()
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in SPECIALS + WORDS), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True, "model_max_length": 128}))
    return folder


def saved(tokenizer: PreTrainedTokenizerFast, folder: Path) -> Path:
    folder.mkdir()
    save_tokenizer(tokenizer, folder)
    return folder


@pytest.mark.parametrize("loader", [AutoTokenizer, ElectraTokenizer])
@pytest.mark.parametrize("lowercase", [True, False])
def test_a_bare_vocabulary_survives_saving(bare: Path, tmp_path: Path, loader: type, lowercase: bool):
    (bare / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lowercase}))
    tokenizer = load_tokenizer(bare)
    again = loader.from_pretrained(saved(tokenizer, tmp_path / "again"))
    assert again(TEXT)["input_ids"] == tokenizer(TEXT)["input_ids"]
    assert (SPECIALS + WORDS).index("hello" if lowercase else "Hello") == again(TEXT)["input_ids"][1]
    assert tokenizer_hash(again) == tokenizer_hash(tokenizer)
    assert (tmp_path / "again" / "vocab.txt").read_bytes() == (bare / "vocab.txt").read_bytes()


def test_settings_survive_saving(bare: Path, tmp_path: Path):
    folder = saved(load_tokenizer(bare), tmp_path / "again")
    assert max_length(load_tokenizer(folder)) == 128
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "ElectraTokenizer"
    assert config["mask_token"] == "[MASK]"


def test_the_side_that_is_cut_survives_saving(bare: Path, tmp_path: Path):
    tokenizer = load_tokenizer(bare)
    tokenizer.truncation_side = tokenizer.padding_side = "left"
    again = load_tokenizer(saved(tokenizer, tmp_path / "again"))
    assert again("hello 你 好", truncation=True, max_length=4).input_ids[1:-1] == again("你 好").input_ids[1:-1]
    assert again.padding_side == "left"


def test_no_length_is_no_number(bare: Path):
    (bare / "tokenizer_config.json").unlink()
    assert max_length(load_tokenizer(bare)) is None


def test_the_hash_is_of_what_determines_the_ids(bare: Path, tokenizer_folder: Path, tmp_path: Path):
    copy = shutil.copytree(tokenizer_folder, tmp_path / "copy")
    used = load_tokenizer(copy)
    used("a", padding="max_length", truncation=True, max_length=4)
    assert tokenizer_hash(used) == tokenizer_hash(load_tokenizer(tokenizer_folder))
    assert tokenizer_hash(load_tokenizer(saved(used, tmp_path / "again"))) == tokenizer_hash(used)
    changed = [load_tokenizer(bare)]
    (bare / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    changed.append(load_tokenizer(bare))
    (bare / "vocab.txt").write_text("".join(f"{token}\n" for token in SPECIALS + WORDS[::-1]), encoding="utf-8")
    changed.append(load_tokenizer(bare))
    assert len({tokenizer_hash(tokenizer) for tokenizer in [used, *changed]}) == 4


def test_a_splitting_of_its_own_survives_saving(tmp_path: Path):
    backend = Tokenizer(models.WordPiece({token: i for i, token in enumerate(SPECIALS + WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {f"{token[1:-1].lower()}_token": token for token in SPECIALS}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **names)
    again = load_tokenizer(saved(tokenizer, tmp_path / "again"))
    assert again.tokenize(TEXT) == tokenizer.tokenize(TEXT)
    assert tokenizer_hash(again) == tokenizer_hash(tokenizer)


def test_what_is_no_tokenizer(bare: Path, tmp_path: Path, offline: None):
    (tmp_path / "empty").mkdir()
    byte_pairs = tmp_path / "bpe"
    byte_pairs.mkdir()
    Tokenizer(models.BPE({"a": 0, "b": 1}, [])).save(str(byte_pairs / "tokenizer.json"))
    (byte_pairs / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "tokenizer.json").write_text("{")
    (tmp_path / "file.txt").touch()
    for name, complaint in (
        (tmp_path / "absent", "no such folder"),
        (tmp_path / "file.txt", "no such folder"),
        ("someone/nothing", "could be fetched from the hub"),
        (tmp_path / "empty", "neither vocab.txt nor tokenizer.json"),
        (byte_pairs, "a BPE tokenizer"),
        (tmp_path / "broken", "can't be read"),
    ):
        with pytest.raises(UserError, match=complaint) as error:
            load_tokenizer(name)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("tokens", "complaint"),
    [(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS], r"lacks \[MASK\]"), (SPECIALS, "has 5 tokens only")],
)
def test_a_vocabulary_that_lacks_something(bare: Path, tokens: list[str], complaint: str):
    (bare / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
    with pytest.raises(UserError, match=complaint):
        load_tokenizer(bare)


def test_electra_and_bert_tokenizers_are_one_class():
    assert ElectraTokenizer is BertTokenizer


def test_a_tokenizer_that_does_not_say_so_puts_texts_between_cls_and_sep(bare: Path, tmp_path: Path):
    folder = saved(load_tokenizer(bare), tmp_path / "silent")
    state = json.loads((folder / "tokenizer.json").read_text()) | {"post_processor": None}
    (folder / "tokenizer.json").write_text(json.dumps(state))
    named = json.loads((folder / "tokenizer_config.json").read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    expected = load_tokenizer(bare)("Hello", TEXT)
    for tokenizer in (load_tokenizer(folder), load_tokenizer(saved(load_tokenizer(folder), tmp_path / "again"))):
        assert tokenizer("Hello", TEXT, return_token_type_ids=True).encodings[0].type_ids == expected["token_type_ids"]
        assert tokenizer("Hello", TEXT)["input_ids"] == expected["input_ids"]


def test_a_model_whose_unknown_token_is_another(bare: Path, tmp_path: Path):
    folder = saved(load_tokenizer(bare), tmp_path / "again")
    state = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    state["model"]["unk_token"] = "zzz"
    (folder / "tokenizer.json").write_text(json.dumps(state), encoding="utf-8")
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    config["tokenizer_class"] = "PreTrainedTokenizerFast"  # which takes the file's model as it is
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UserError, match=r"writes zzz for an unknown word, and its unk_token is \[UNK\]"):
        load_tokenizer(folder)


def test_a_vocabulary_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    text = "".join(f"{token}\n" for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"))
    (tmp_path / "vocab.txt").write_text(text, encoding="utf-8-sig")

    assert load_vocabulary(tmp_path / "vocab.txt", True, True, 8)("a").input_ids == [2, 5, 3]


def test_a_path_is_not_asked_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("electra_jax.data.tokenizer.AutoTokenizer.from_pretrained", None)

    with pytest.raises(UserError, match="released/tokenizer: no such folder; give a tokenizer's, or"):
        load_tokenizer(Path("released/tokenizer"))


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("model", "max_input_chars_per_word", 200),
        ("model", "continuing_subword_prefix", "@@"),
        ("normalizer", "clean_text", False),
    ],
)
def test_a_wordpiece_that_is_not_electras_survives_saving(bare: Path, tmp_path: Path, part: str, name: str, value):
    file = saved(load_tokenizer(bare), tmp_path / "other") / "tokenizer.json"
    state = json.loads(file.read_text(encoding="utf-8"))
    state[part][name] = value
    file.write_text(json.dumps(state), encoding="utf-8")
    (tmp_path / "other" / "tokenizer_config.json").write_text(
        json.dumps(
            {"tokenizer_class": "PreTrainedTokenizerFast"}
            | {f"{special[1:-1].lower()}_token": special for special in SPECIALS}
        )
    )
    tokenizer = load_tokenizer(tmp_path / "other")
    again = load_tokenizer(saved(tokenizer, tmp_path / "again"))
    assert tokenizer_hash(again) == tokenizer_hash(tokenizer) != tokenizer_hash(load_tokenizer(bare))
    assert again("hellos " + "e" * 150).input_ids == tokenizer("hellos " + "e" * 150).input_ids


def test_a_vocabulary_with_a_byte_order_mark(bare: Path):
    (bare / "vocab.txt").write_text("\n".join(SPECIALS + WORDS), encoding="utf-8-sig")
    with pytest.raises(UserError, match=r"vocab\.txt: begins with a byte order mark; save it as UTF-8 without one$"):
        load_tokenizer(bare)
