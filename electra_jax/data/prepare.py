"""Documents to rows of token ids, a folder that training reads ([G] build_pretraining_dataset.py)."""

import hashlib
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import datasets
import numpy as np
from datasets import Dataset, Features, Value
from transformers import PreTrainedTokenizerFast

from electra_jax.config import PrepareConfig
from electra_jax.data.documents import DOCUMENTS_AT_ONCE, load_documents
from electra_jax.data.encoding import encode_documents
from electra_jax.data.manifest import Manifest, SplitManifest, summary
from electra_jax.data.rows import COLUMNS, Rows
from electra_jax.data.tokenizer import load_tokenizer, max_length, save_tokenizer, tokenizer_hash
from electra_jax.errors import UserError
from electra_jax.files import new_folder

__all__ = ["Manifest", "prepare", "summary"]

SHORTEST_LENGTH = 8
Split = Literal["train", "eval"]


def prepare(config: PrepareConfig) -> Manifest:
    """Write the folder `config.out`: rows in train/ and eval/ (Arrow), tokenizer/ and manifest.json.

    The rows depend on the text, the tokenizer and the settings but `workers`. The folder appears whole or not at
    all. Raises UserError for settings out of range, text that can't be read or has too many [UNK], and where no
    document is left for training.
    """
    tokenizer = load_tokenizer(config.tokenizer)
    _check(config, tokenizer)
    with new_folder(config.out) as folder:
        scratch = folder / "scratch"
        with _settings_of_libraries(config.workers):
            rows = _write_rows(config, tokenizer, folder, scratch)
        manifest = _manifest(config, tokenizer, rows)
        _check_unknown(config, manifest)
        (folder / "tokenizer").mkdir()
        save_tokenizer(tokenizer, folder / "tokenizer")
        manifest.write(folder)
        shutil.rmtree(scratch)
    return manifest


def _check(config: PrepareConfig, tokenizer: PreTrainedTokenizerFast) -> None:
    longest = max_length(tokenizer)
    if not config.sources:
        raise UserError("sources: none is given; name at least one text file, folder or dataset")
    if config.length < SHORTEST_LENGTH:
        raise UserError(f"length {config.length}: a row needs at least {SHORTEST_LENGTH} tokens")
    if longest is not None and config.length > longest:
        raise UserError(f"length {config.length}: {config.tokenizer} takes at most {longest} (model_max_length)")
    if config.workers < 1:
        raise UserError(f"workers {config.workers}: at least one is needed")
    if not 0 <= config.held_out < 1:
        raise UserError(f"held_out {config.held_out}: a share from 0 to below 1 is needed")
    for name in ("single_segment_prob", "short_row_prob", "max_unk_rate"):
        if not 0 <= getattr(config, name) <= 1:
            raise UserError(f"{name} {getattr(config, name)}: a share from 0 to 1 is needed")


@contextmanager
def _settings_of_libraries(workers: int) -> Iterator[None]:
    """Parallel by threads or by processes, not both; progress bars on a terminal alone."""
    variable, before = "TOKENIZERS_PARALLELISM", os.environ.get("TOKENIZERS_PARALLELISM")
    bars_were_off = datasets.are_progress_bars_disabled()
    os.environ[variable] = "true" if workers == 1 else "false"
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


def _write_rows(
    config: PrepareConfig, tokenizer: PreTrainedTokenizerFast, folder: Path, scratch: Path
) -> dict[Split, tuple[int, Rows]]:
    """Write both splits; returns the documents and the rows of each."""
    documents = load_documents(config, scratch)
    held_out = np.array([_is_held_out(text, config) for text in _texts(documents)])
    written: dict[Split, tuple[int, Rows]] = {}
    for split, chosen in _splits(held_out).items():
        rows = _tokenize(documents.select(chosen), config, tokenizer, split, scratch / f"{split}.arrow")
        rows.save_to_disk(folder / split, num_shards=None if len(rows) else 1)  # none can't be loaded again
        written[split] = len(chosen), Rows(datasets.load_from_disk(str(folder / split)))
    if len(written["train"][1]) == 0:
        raise UserError(
            f"no rows to train on: of {len(documents)} documents {held_out.sum()} are held out, and the others have "
            f"no tokens; give more text, smaller documents, or a smaller held_out"
        )
    return written


def _splits(held_out: np.ndarray) -> dict[Split, np.ndarray]:
    """The documents of each split, by number."""
    return {"train": np.flatnonzero(~held_out), "eval": np.flatnonzero(held_out)}


def _texts(documents: Dataset) -> Iterator[str]:
    for batch in documents.with_format("arrow").iter(DOCUMENTS_AT_ONCE):
        yield from batch["text"].to_pylist()


def _is_held_out(text: str, config: PrepareConfig) -> bool:
    """By the text itself, so that a document's repetitions fall on the same side."""
    digest = hashlib.blake2b(text.encode(), digest_size=8, key=str(config.seed).encode()).digest()
    return int.from_bytes(digest, "big") < config.held_out * 2**64


def _tokenize(
    documents: Dataset, config: PrepareConfig, tokenizer: PreTrainedTokenizerFast, split: Split, file: Path
) -> Dataset:
    features = _features(config.length, len(tokenizer))
    if len(documents) == 0:
        return Dataset.from_dict({name: [] for name in COLUMNS}, features=features)
    # Arrow in, Arrow out: the rows don't pass through Python lists.
    rows = documents.with_format("arrow").map(
        encode_documents,
        batched=True,
        batch_size=DOCUMENTS_AT_ONCE,
        with_indices=True,
        fn_kwargs={
            "config": config,
            "split": split,
            "backend": tokenizer.backend_tokenizer.to_str(),
            "special_ids": (tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id),
            "dtype": features["input_ids"].feature.dtype,
        },
        remove_columns=["text"],
        features=features,
        num_proc=min(config.workers, len(documents)) if config.workers > 1 else None,
        cache_file_name=str(file),
        load_from_cache_file=False,
        desc=f"tokenizing ({split})",
    )
    return rows.with_format(None)


def _features(length: int, vocab_size: int) -> Features:
    token = Value("uint16" if vocab_size <= 2**16 else "uint32")
    return Features({"input_ids": datasets.List(token, length=length)} | dict.fromkeys(COLUMNS[1:], Value("int32")))


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
    ids, lengths, firsts = (rows.column_chunks(name) for name in COLUMNS)
    tokens = sum(int(chunk.sum()) for chunk in lengths)
    # [CLS] and [SEP] in every row, a second [SEP] in those of two segments
    two_segments = sum(int((one > first).sum()) for one, first in zip(lengths, firsts, strict=True))
    return SplitManifest(
        documents=documents,
        rows=len(rows),
        tokens=tokens,
        text_tokens=tokens - 2 * len(rows) - two_segments,
        unknown_tokens=sum(int((chunk == unk_id).sum()) for chunk in ids),
        padding_rate=1 - tokens / (len(rows) * length) if len(rows) else 0.0,
        rows_hash=_hash([*ids, *lengths, *firsts]),
    )


def _hash(chunks: Iterable[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(np.ascontiguousarray(chunk).data)
    return digest.hexdigest()


def _check_unknown(config: PrepareConfig, manifest: Manifest) -> None:
    splits = (manifest.train, manifest.eval)
    rate = sum(split.unknown_tokens for split in splits) / max(1, sum(split.text_tokens for split in splits))
    if rate > config.max_unk_rate:
        raise UserError(
            f"wrong tokenizer for this text? {rate:.0%} of the tokens are [UNK], and max_unk_rate is "
            f"{config.max_unk_rate:.0%}; take another tokenizer than {config.tokenizer}, or raise max_unk_rate"
        )
