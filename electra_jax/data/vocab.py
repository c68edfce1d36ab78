"""Training a WordPiece vocabulary on text of one's own."""

import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import BertTokenizer

from electra_jax.config import VocabConfig
from electra_jax.data.documents import table_texts
from electra_jax.data.lines import check_files, read_lines
from electra_jax.data.records import FORMATS, format_of
from electra_jax.data.tokenizer import save_tokenizer
from electra_jax.errors import UserError
from electra_jax.files import new_folder

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""Ids 0 to 4, as in the release's vocabulary but without its unused entries between."""

AT_LEAST_1 = ("size", "min_frequency", "limit_alphabet", "max_length")
LONGEST_WORD = 100
"""Characters of the longest word that BERT's tokenizer divides; a longer one is [UNK]."""
PREFIX = "##"
"""Of a token that goes on a word."""
ACCENTED = ("LATIN", "GREEK", "CYRILLIC", "HEBREW", "ARABIC", "COMBINING")
"""How Unicode's names of characters begin that can be read without their accents or points."""
SAMPLE = 2_000_000
"""Characters, from the beginning of each file alike, that are looked at for those of other scripts."""


@dataclass(frozen=True)
class VocabResult:
    """A tokenizer's folder and the entries it has, which is what a model's `vocab_size` must be."""

    folder: Path
    size: int
    """Special tokens included; less than was asked for where the text has no more pairs to merge."""
    stripped: float
    """Share of the characters that `strip_accents` takes off or apart, and that are no accents, where files begin.
    Above a percent, the language needs them."""


def train_vocabulary(config: VocabConfig) -> VocabResult:
    """Train a BERT-style WordPiece tokenizer and write its folder, which `transformers` reads.

    The same text and settings give the same bytes. Raises UserError where a file is missing, empty or not
    UTF-8 text, where `size` doesn't hold the text's characters, and where `out` is taken.
    """
    if not config.text:
        raise UserError("text: none is given; name at least one text file")
    for name in AT_LEAST_1:
        value = getattr(config, name)
        if value is not None and not 1 <= value < 2**31:
            raise UserError(f"{name}: {value} is not between 1 and 2**31 - 1")
    check_files(config.text)
    with new_folder(config.out) as folder:
        vocabulary = _train(config)
        tokenizer = BertTokenizer(  # which ElectraTokenizer is another name of
            vocab={token: index for index, token in enumerate(vocabulary)},
            do_lower_case=config.lowercase,
            strip_accents=_strips(config),
            tokenize_chinese_chars=config.split_chinese,
            model_max_length=config.max_length,
        )
        save_tokenizer(tokenizer, folder)
    return VocabResult(config.out, len(vocabulary), _stripped(config))


def _train(config: VocabConfig) -> list[str]:
    """The vocabulary in the order of its ids.

    The trainer numbers the continuing characters ("##a") as a hash map yields them, anew in each run, and breaks
    ties between pairs by these numbers. Hence two passes: the first learns the characters alone, the second is
    given them in a fixed order.
    """
    lines = partial(_lines, config, _rare(config))
    characters = _characters(config, lines)
    needed = len(SPECIAL_TOKENS) + len(characters)
    if len(characters) == 0:
        raise UserError(f"{', '.join(map(str, config.text))}: no text to learn a vocabulary from")
    if config.size < needed:
        raise UserError(
            f"size {config.size} is too small: the text's characters, each at a word's start and within words, and "
            f"the {len(SPECIAL_TOKENS)} special tokens are {needed} entries already; ask for more than {needed}, or "
            f"keep the most frequent characters alone by limit_alphabet"
        )
    return _pass(config, lines, [*SPECIAL_TOKENS, *characters], config.size, show_progress=sys.stderr.isatty())


def _characters(config: VocabConfig, lines: Callable[[], Iterator[str]]) -> list[str]:
    """The text's characters, those at a word's start ("a") before those within words ("##a")."""
    found = set(_pass(config, lines, [], size=0, show_progress=False))
    return sorted(found, key=lambda token: (len(token), token))


def _rare(config: VocabConfig) -> dict[int, str]:
    """A translation to spaces of the characters that `limit_alphabet` leaves out, which are to become [UNK]."""
    if config.limit_alphabet is None:
        return {}
    counts: Counter[str] = Counter()
    for line in _lines(config, {}):
        counts.update("".join(line.split()))
    # Of equally frequent ones the first by code point, so that no run differs.
    ranked = sorted(counts, key=lambda character: (-counts[character], character))
    return {ord(character): " " for character in ranked[config.limit_alphabet :]}


def _pass(
    config: VocabConfig, lines: Callable[[], Iterator[str]], first: list[str], size: int, show_progress: bool
) -> list[str]:
    """One run of the trainer over the text: `first`, then characters, then merged pairs up to `size` entries."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        min_frequency=config.min_frequency,
        special_tokens=first,
        continuing_subword_prefix=PREFIX,
        show_progress=show_progress,
    )
    tokenizer.train_from_iterator(lines(), trainer)
    ids = tokenizer.get_vocab()
    return sorted(ids, key=lambda token: ids[token])


def _normalizer(config: VocabConfig) -> normalizers.BertNormalizer:
    return normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=config.split_chinese,
        strip_accents=_strips(config),
        lowercase=config.lowercase,
    )


def _strips(config: VocabConfig) -> bool:
    """As in BERT's tokenizer, a cased text keeps its accents."""
    return config.lowercase and config.strip_accents


def _stripped(config: VocabConfig) -> float:
    """`VocabResult.stripped`."""
    if not _strips(config):
        return 0.0
    counts: Counter[str] = Counter()
    for path in config.text:
        characters = chain.from_iterable(_raw_lines(path, config.field))
        counts.update(islice(characters, -(-SAMPLE // len(config.text))))
    return sum(counts[character] for character in counts if _is_stripped(character)) / max(1, counts.total())


def _is_stripped(character: str) -> bool:
    parts = unicodedata.normalize("NFD", character)
    altered = parts != character or unicodedata.category(character) == "Mn"
    return altered and not unicodedata.name(character, "").startswith(ACCENTED)


def _lines(config: VocabConfig, rare: dict[int, str]) -> Iterator[str]:
    """The text's lines, normalized as the tokenizer will, without the rare characters and words it can't divide."""
    normalizer = _normalizer(config)
    for path in config.text:
        for line in _raw_lines(path, config.field):
            yield _without_long_words(normalizer.normalize_str(line).translate(rare))


def _raw_lines(path: Path, field: str) -> Iterator[str]:
    if format_of(path) not in FORMATS:
        return read_lines(path)
    return (line for text in table_texts(path, field) for line in text.split("\n"))


def _without_long_words(line: str) -> str:
    if len(max(line.split(), key=len, default="")) <= LONGEST_WORD:
        return line
    words = (word for word, _ in pre_tokenizers.BertPreTokenizer().pre_tokenize_str(line))
    return " ".join(word for word in words if len(word) <= LONGEST_WORD)
