"""Documents to rows of token ids, a folder that training reads ([G] build_pretraining_dataset.py)."""

import hashlib
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import datasets
import numpy as np
from transformers import PreTrainedTokenizerFast

from electra_jax.config import PrepareConfig
from electra_jax.data.documents import read_documents
from electra_jax.data.encoding import Encoder
from electra_jax.data.engines import Work, check_engine, write_shards
from electra_jax.data.manifest import Manifest, SplitManifest, summary
from electra_jax.data.partial import partial_folder
from electra_jax.data.rows import Rows
from electra_jax.data.shards import SPLITS, Split, TextShard, cut_shards, join_shards, namer
from electra_jax.data.tokenizer import load_tokenizer, max_length, save_tokenizer, tokenizer_hash
from electra_jax.errors import MidwayError, RunError, UserError
from electra_jax.files import is_unicode

__all__ = ["Manifest", "prepare", "summary"]

SHORTEST_LENGTH = 8
CHECKED_FIRST = 2**20
"""Characters whose [UNK] are counted before the work begins, so that a wrong tokenizer is told of at once."""


def prepare(config: PrepareConfig) -> Manifest:
    """Write the folder `config.out`: rows in train/ and eval/ (Arrow), tokenizer/ and manifest.json.

    The rows depend on the text, the tokenizer and the settings but `workers`, `engine` and (unless packed)
    `shard_characters`. The folder appears whole or not at all. Interrupted, or stopped by text that can't be read, and
    called again, it makes only the shards that are not finished: they lie in `.NAME.partial` beside it, each under a
    hash of its text and settings. Raises UserError for settings out of range, text that can't be read or has too many
    [UNK], where no document is left for training, and while another process prepares the same folder.
    """
    tokenizer = load_tokenizer(config.tokenizer)
    _check(config, tokenizer)
    with partial_folder(config.out) as folder, _settings_of_libraries(config):
        rows = _write_rows(config, Encoder.of(config, tokenizer), folder, tokenizer.unk_token_id)
        manifest = _manifest(config, tokenizer, rows)
        splits = (manifest.train, manifest.eval)
        tokens = sum(split.text_tokens for split in splits)
        _check_unknown(sum(split.unknown_tokens for split in splits), tokens, config)
        (folder / "tokenizer").mkdir(exist_ok=True)
        save_tokenizer(tokenizer, folder / "tokenizer")
        manifest.write(folder)
    return manifest


def _check(config: PrepareConfig, tokenizer: PreTrainedTokenizerFast) -> None:
    longest = max_length(tokenizer)
    if not config.sources:
        raise UserError("sources: none is given; name at least one text file, folder or dataset")
    for source in config.sources:
        if not is_unicode(source):
            raise UserError(f"{source!a}: its name is not UTF-8; rename it")
    if not 0 <= config.seed < 2**32:
        raise UserError(f"seed {config.seed}: a number from 0 to 2**32 - 1 is needed")
    if config.length < SHORTEST_LENGTH:
        raise UserError(f"length {config.length}: a row needs at least {SHORTEST_LENGTH} tokens")
    if longest is not None and config.length > longest:
        raise UserError(
            f"length {config.length}: {config.tokenizer} takes at most {longest} (model_max_length); make a "
            f"vocabulary with a larger --max-length, and give the model as many positions"
        )
    for name in ("workers", "shard_characters"):
        if getattr(config, name) < 1:
            raise UserError(f"{name} {getattr(config, name)}: at least one is needed")
    if not 0 <= config.held_out < 1:
        raise UserError(f"held_out {config.held_out}: a share from 0 to below 1 is needed")
    for name in ("single_segment_prob", "short_row_prob", "max_unk_rate"):
        if not 0 <= getattr(config, name) <= 1:
            raise UserError(f"{name} {getattr(config, name)}: a share from 0 to 1 is needed")
    check_engine(config)


@contextmanager
def _settings_of_libraries(config: PrepareConfig) -> Iterator[None]:
    """Parallel by threads or by processes, not both; progress bars on a terminal alone."""
    variable, before = "TOKENIZERS_PARALLELISM", os.environ.get("TOKENIZERS_PARALLELISM")
    bars_were_off = datasets.are_progress_bars_disabled()
    os.environ[variable] = "true" if config.engine == "local" and config.workers == 1 else "false"
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before
        if not bars_were_off:
            datasets.enable_progress_bars()


def _write_rows(config: PrepareConfig, encoder: Encoder, folder: Path, unk_id: int) -> dict[Split, tuple[int, Rows]]:
    """Write both splits; returns the documents and the rows of each."""
    parts = {split: _Part(folder / split) for split in SPLITS}
    try:
        shards = _checked(_shards(config), encoder, config, unk_id)
        write_shards(_unfinished(shards, parts, encoder), encoder, config)
    except UserError as error:
        if isinstance(error, RunError) or not any(folder.glob("*/data-*.arrow")):
            raise
        raise MidwayError(f"{error}. Finished rows are kept; run the same command again to go on") from error
    written = {
        split: (part.documents, Rows(join_shards(part.folder, part.names, encoder))) for split, part in parts.items()
    }
    if len(written["train"][1]) == 0:
        total, held_out = sum(part.documents for part in parts.values()), parts["eval"].documents
        raise UserError(
            f"no rows to train on: of {total} documents {held_out} are held out, and no other has a token; "
            f"give more text, smaller documents, or a smaller held_out"
        )
    return written


@dataclass
class _Part:
    """What is known of a split while its shards are made."""

    folder: Path
    documents: int = 0
    names: list[str] = field(default_factory=list)


def _shards(config: PrepareConfig) -> Iterator[TextShard]:
    """All documents, as shards."""
    texts = datasets.utils.tqdm(read_documents(config), desc="documents", unit="")
    return cut_shards(texts, lambda text: _is_held_out(text, config), config.shard_characters)


def _checked(shards: Iterator[TextShard], encoder: Encoder, config: PrepareConfig, unk_id: int) -> Iterator[TextShard]:
    """The same shards; raises UserError where the beginning of the first has too many [UNK], if it is long enough."""
    for first in islice(shards, 1):
        ends = np.cumsum([len(text) for text in first.texts])
        if ends[-1] >= CHECKED_FIRST:
            ids = encoder.tokenize(first.texts[: np.searchsorted(ends, CHECKED_FIRST) + 1]).ids
            _check_unknown(int((ids == unk_id).sum()), len(ids), config, "first ")
        yield first
    yield from shards


def _unfinished(shards: Iterable[TextShard], parts: dict[Split, _Part], encoder: Encoder) -> Iterator[Work]:
    """The shards that an interrupted run hasn't made, each with its file; `parts` takes note of all."""
    name = namer(encoder)
    for part in parts.values():
        part.folder.mkdir(exist_ok=True)
    for shard in shards:
        part = parts[shard.split]
        part.documents += len(shard.texts)
        part.names.append(name(shard))
        file = part.folder / part.names[-1]
        if not file.exists():
            yield shard, file


def _is_held_out(text: str, config: PrepareConfig) -> bool:
    """By the text itself, so that a document's repetitions fall on the same side."""
    digest = hashlib.blake2b(text.encode(), digest_size=8, key=str(config.seed).encode()).digest()
    return int.from_bytes(digest, "big") < config.held_out * 2**64


def _manifest(
    config: PrepareConfig, tokenizer: PreTrainedTokenizerFast, rows: dict[Split, tuple[int, Rows]]
) -> Manifest:
    return Manifest(
        sources=config.sources,
        tokenizer_hash=tokenizer_hash(tokenizer),
        vocab_size=len(tokenizer),
        pad_id=tokenizer.pad_token_id,
        unk_id=tokenizer.unk_token_id,
        cls_id=tokenizer.cls_token_id,
        sep_id=tokenizer.sep_token_id,
        mask_id=tokenizer.mask_token_id,
        length=config.length,
        seed=config.seed,
        train=_count(*rows["train"], config.length, tokenizer.unk_token_id),
        eval=_count(*rows["eval"], config.length, tokenizer.unk_token_id),
    )


def _count(documents: int, rows: Rows, length: int, unk_id: int) -> SplitManifest:
    ids, lengths, last = (rows.column_chunks(name) for name in rows.columns)
    tokens = sum(int(chunk.sum()) for chunk in lengths)
    packed = "segments" in rows.columns
    if packed:
        examples, segments = sum((_count_segments(chunk) for chunk in last), np.zeros(2, int)).tolist()
    else:
        examples = len(rows)
        segments = examples + sum(int((one > first).sum()) for one, first in zip(lengths, last, strict=True))
    return SplitManifest(
        documents=documents,
        rows=len(rows),
        tokens=tokens,
        text_tokens=tokens - examples - segments,  # a [CLS] in every example, a [SEP] in every segment
        unknown_tokens=sum(int((chunk == unk_id).sum()) for chunk in ids),
        padding_rate=1 - tokens / (len(rows) * length) if len(rows) else 0.0,
        rows_hash=_hash([*ids, *lengths, *last]),
        examples=examples if packed else None,
    )


def _count_segments(numbers: np.ndarray) -> np.ndarray:
    """Examples and segments of packed rows, given their column "segments" [n, L]."""
    begins = np.diff(numbers.astype(np.int32), axis=1, prepend=0) > 0
    return np.array([(begins & (numbers % 2 == 1)).sum(), begins.sum()])


def _hash(chunks: Iterable[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(np.ascontiguousarray(chunk).data)
    return digest.hexdigest()


def _check_unknown(unknown: int, tokens: int, config: PrepareConfig, which: str = "") -> None:
    rate = unknown / max(1, tokens)
    if rate > config.max_unk_rate:
        raise UserError(
            f"wrong tokenizer for this text? {rate:.0%} of the {which}tokens are [UNK], and max_unk_rate is "
            f"{config.max_unk_rate:.0%}; take another tokenizer than {config.tokenizer}, or raise max_unk_rate"
        )
