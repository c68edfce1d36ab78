"""Tokenizers from and to folders that `transformers` reads, version 4.46 and later and 5 alike."""

import codecs
import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

from tokenizers.processors import BertProcessing
from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerFast

from electra_jax.errors import UserError, first_line

SPECIAL_NAMES = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
SIDES = ("padding_side", "truncation_side")
VOCABULARIES = ("tokenizer.json", "vocab.txt")
"""Files of which a tokenizer's folder has one or both."""
SETTINGS = "tokenizer_config.json"
"""What a folder says of its tokenizer beside the vocabulary."""
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
"""A repository of the hub: owner/name. Names without an owner hold no ELECTRA, and would be mistyped folders."""
LONGEST = 10**6
"""A model_max_length above this is transformers' way of saying that none is set."""


def load_tokenizer(name_or_folder: str | Path) -> PreTrainedTokenizerFast:
    """The WordPiece tokenizer in a folder, or, of a name that is no `Path`, of a model on the Hugging Face hub.

    Raises UserError where there is none, where it is no WordPiece tokenizer, and where it lacks one of
    [PAD], [UNK], [CLS], [SEP] and [MASK].
    """
    name, folder = str(name_or_folder), Path(name_or_folder)
    if folder.is_dir():
        _check_files(folder)
    elif isinstance(name_or_folder, Path) or folder.exists() or not HUB_NAME.fullmatch(name):
        raise UserError(f"{name}: no such folder; give a tokenizer's, or a model's name on the hub (owner/name)")
    try:
        # ElectraTokenizer is another name of BertTokenizer.
        loader = BertTokenizer if _has_bare_vocabulary(folder) else AutoTokenizer
        tokenizer = loader.from_pretrained(name)
    except Exception as error:  # some twenty kinds, of three libraries
        raise UserError(_load_message(name, folder.is_dir(), error)) from error
    return _checked(tokenizer, name)


def load_vocabulary(file: Path, lowercase: bool, strip_accents: bool, max_length: int) -> PreTrainedTokenizerFast:
    """The BERT tokenizer of a vocab.txt, one token a line, as the original release has it.

    Raises UserError where it can't be read, and where it lacks one of [PAD], [UNK], [CLS], [SEP] and [MASK].
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: the vocabulary can't be read: {first_line(error)}") from error
    lines = text.rstrip("\n").split("\n")  # not splitlines: some tokens are separators
    tokenizer = BertTokenizer(
        vocab={line.strip(): index for index, line in enumerate(lines)},
        do_lower_case=lowercase,
        strip_accents=lowercase and strip_accents,
        model_max_length=max_length,
    )
    return _checked(tokenizer, str(file))


def tokenizer_hash(tokenizer: PreTrainedTokenizerFast) -> str:
    """SHA-256 (hexadecimal) of what determines the ids of a text: vocabulary, normalizer, splitting, added tokens.

    It does not depend on where the tokenizer lies, nor on padding and truncation, and survives `save_tokenizer`.
    """
    state = _backend_state(tokenizer)
    normalizer = dict(state["normalizer"] or {})
    if normalizer.get("strip_accents", True) is None:  # BERT's default: as lowercase
        normalizer["strip_accents"] = normalizer["lowercase"]
    model = {key: value for key, value in state["model"].items() if key != "vocab"}
    parts = [vocabulary(tokenizer), model, normalizer, state["pre_tokenizer"], state["added_tokens"]]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def vocabulary(tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """Every token, added ones included, in the order of the ids."""
    ids = tokenizer.get_vocab()
    return sorted(ids, key=lambda token: ids[token])


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path, positions: int | None = None) -> None:
    """Write tokenizer.json, tokenizer_config.json and vocab.txt (one token a line) into the existing `folder`.

    `positions` are those of the model that goes with it, which transformers then cuts texts at, if it is told to.
    """
    state = _backend_state(tokenizer)
    _write_json(folder / "tokenizer.json", state)
    _write_json(folder / SETTINGS, _limited(_tokenizer_config(tokenizer, state), positions))
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in vocabulary(tokenizer)), encoding="utf-8")


def fitting(tokenizer: PreTrainedTokenizerFast, vocab_size: int, name: object) -> PreTrainedTokenizerFast:
    """The tokenizer of model `name`; raises UserError where it has more entries than the model has embeddings."""
    if len(tokenizer) > vocab_size:
        raise UserError(f"{name}: its tokenizer has {len(tokenizer)} entries, its model {vocab_size}; give its own")
    return tokenizer


def max_length(tokenizer: PreTrainedTokenizerFast) -> int | None:
    """Most tokens in a row of the tokenizer's model, or None where it doesn't say."""
    return tokenizer.model_max_length if tokenizer.model_max_length <= LONGEST else None


def limit_length(folder: Path, positions: int) -> None:
    """Have the settings of the tokenizer in `folder`, if it has any, say that its model has `positions` at most."""
    file = folder / SETTINGS
    if not file.is_file():
        return
    settings = json.loads(file.read_text(encoding="utf-8"))
    if _limited(settings, positions) != settings:  # or else it stays as it was written
        _write_json(file, _limited(settings, positions))


def _limited(settings: dict[str, Any], positions: int | None) -> dict[str, Any]:
    if positions is None or settings.get("model_max_length", math.inf) <= positions:
        return settings
    return settings | {"model_max_length": positions}


def holds_tokenizer(folder: Path) -> bool:
    """Whether a folder has a vocabulary, in either form."""
    return any((folder / name).is_file() for name in VOCABULARIES)


def _backend_state(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """The contents of tokenizer.json, without padding and truncation, which the last call left behind."""
    return json.loads(tokenizer.backend_tokenizer.to_str()) | {"padding": None, "truncation": None}


def _tokenizer_config(tokenizer: PreTrainedTokenizerFast, state: dict[str, Any]) -> dict[str, Any]:
    standard = _is_standard(state)
    # ElectraTokenizer rebuilds all but the vocabulary from this file; the general class takes tokenizer.json as it is.
    config: dict[str, Any] = {"tokenizer_class": "ElectraTokenizer" if standard else "PreTrainedTokenizerFast"}
    if standard:
        normalizer = state["normalizer"]
        config["do_lower_case"] = normalizer["lowercase"]
        config["strip_accents"] = normalizer["strip_accents"]
        config["tokenize_chinese_chars"] = normalizer["handle_chinese_chars"]
    if max_length(tokenizer) is not None:
        config["model_max_length"] = max_length(tokenizer)
    return config | {name: getattr(tokenizer, name) for name in (*SPECIAL_NAMES, *SIDES)}


def _is_standard(state: dict[str, Any]) -> bool:
    """Whether it is what ElectraTokenizer makes of a vocabulary, lower case, accents and Chinese characters apart."""
    normalizer, model = state["normalizer"] or {}, state["model"]
    return (
        normalizer.get("type") == "BertNormalizer"
        and normalizer["clean_text"]
        and state["pre_tokenizer"] == {"type": "BertPreTokenizer"}
        and model["continuing_subword_prefix"] == "##"
        and model["max_input_chars_per_word"] == 100
    )


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _check_files(folder: Path) -> None:
    # transformers takes a folder without these for a vocabulary of five tokens, and says nothing.
    if not holds_tokenizer(folder):
        raise UserError(f"{folder}: holds no tokenizer: neither vocab.txt nor tokenizer.json is there")
    vocabulary = folder / "vocab.txt"
    if not (folder / "tokenizer.json").is_file() and vocabulary.read_bytes().startswith(codecs.BOM_UTF8):
        raise UserError(f"{vocabulary}: begins with a byte order mark; save it as UTF-8 without one")


def _has_bare_vocabulary(folder: Path) -> bool:
    """Whether `folder` has a vocab.txt and nothing that names a class, as older models are handed round."""
    if not (folder / "vocab.txt").is_file() or (folder / "tokenizer.json").is_file():
        return False
    settings = folder / SETTINGS
    named = settings.is_file() and "tokenizer_class" in json.loads(settings.read_text(encoding="utf-8"))
    return not named and not (folder / "config.json").is_file()


def _load_message(name: str, is_folder: bool, error: Exception) -> str:
    reason = first_line(error)
    if is_folder:
        return f"{name}: the tokenizer can't be read: {reason}"
    return f"{name}: no such folder, and no tokenizer of that name could be fetched from the hub: {reason}"


def _checked(tokenizer: Any, name: str) -> PreTrainedTokenizerFast:
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UserError(f"{name}: has no tokenizer.json, and its {type(tokenizer).__name__} can't be converted")
    model = _backend_state(tokenizer)["model"]
    if model["type"] != "WordPiece":
        raise UserError(
            f"{name}: a {model['type']} tokenizer; ELECTRA takes WordPiece (`electra-jax vocab` trains one)"
        )
    # transformers adds a special token that a vocabulary lacks at its end, and the model has no row for it.
    given = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False)
    missing = [f"[{special[:-6].upper()}]" for special in SPECIAL_NAMES if getattr(tokenizer, special) not in given]
    if missing:
        raise UserError(f"{name}: the vocabulary lacks {', '.join(missing)}; add the special tokens to it")
    if model["unk_token"] != tokenizer.unk_token:
        raise UserError(
            f"{name}: its model (tokenizer.json) writes {model['unk_token']} for an unknown word, and its unk_token is "
            f"{tokenizer.unk_token}; make them the same"
        )
    if len(tokenizer) <= len(SPECIAL_NAMES):
        raise UserError(f"{name}: the tokenizer has {len(tokenizer)} tokens only; is its vocabulary file there?")
    if max(tokenizer.get_vocab().values()) != len(tokenizer) - 1:
        raise UserError(f"{name}: the vocabulary's ids have gaps; give each token one line, or one number from 0")
    _put_between_cls_and_sep(tokenizer)
    return tokenizer


def _put_between_cls_and_sep(tokenizer: PreTrainedTokenizerFast) -> None:
    """Have it give `[CLS] A [SEP]`, as ELECTRA reads a text, where its file doesn't say so."""
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    if tokenizer("").input_ids != [cls, sep]:
        tokenizer.backend_tokenizer.post_processor = BertProcessing(
            (tokenizer.sep_token, sep), (tokenizer.cls_token, cls)
        )
