"""What a folder of prepared rows says about itself."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from electra_jax.errors import UserError
from electra_jax.files import write_text

FORMAT_VERSION = 1
FILE_NAME = "manifest.json"


@dataclass(frozen=True)
class SplitManifest:
    """Counts over the rows of one split."""

    documents: int
    rows: int
    tokens: int
    """Without padding, with [CLS] and [SEP]."""
    text_tokens: int
    """Without [CLS] and [SEP] too."""
    unknown_tokens: int
    """[UNK] among the text's tokens."""
    padding_rate: float
    """Share of the rows' positions that are padding."""
    rows_hash: str
    """SHA-256 (hexadecimal) over the columns input_ids, length and first_length (or segments), rows in order."""
    examples: int | None = None
    """Of packed rows: how many they hold, each of which would have been a row of its own."""

    @property
    def unk_rate(self) -> float:
        """Share of [UNK] among the text's tokens."""
        return self.unknown_tokens / max(1, self.text_tokens)


@dataclass(frozen=True)
class Manifest:
    """How rows were made, and what they hold. Equal for equal input under equal names, settings and seed, whatever the
    workers."""

    sources: tuple[str, ...]
    """As they were named in the settings."""
    tokenizer_hash: str
    """`electra_jax.data.tokenizer.tokenizer_hash` of the folder's tokenizer."""
    vocab_size: int
    pad_id: int
    unk_id: int
    cls_id: int
    sep_id: int
    mask_id: int
    length: int
    """Tokens in a row (L), padding included."""
    seed: int
    train: SplitManifest
    eval: SplitManifest
    format_version: int = FORMAT_VERSION

    @property
    def packed(self) -> bool:
        """Whether a row holds several examples."""
        return self.train.examples is not None

    @staticmethod
    def read(folder: Path) -> "Manifest":
        """The manifest of a prepared folder; raises UserError where it is none, or of another version."""
        manifests = read_manifests(folder)
        if len(manifests) != 1:
            raise UserError(f"{folder}: not a folder that `electra-jax prepare` wrote, but a run on several")
        return manifests[0]

    def write(self, folder: Path) -> None:
        """Write manifest.json into `folder`."""
        write_manifests(folder, [self])


def read_manifests(folder: Path) -> tuple[Manifest, ...]:
    """Those of a prepared folder (one), or of the rows that a run trains on; raises UserError as `Manifest.read`."""
    path = folder / FILE_NAME
    if not path.is_file():
        raise UserError(f"{folder}: not a folder that `electra-jax prepare` wrote (it has no {FILE_NAME})")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        manifests = tuple(_parse(one, path) for one in (content if isinstance(content, list) else [content]))
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}); prepare the rows again") from error
    if not manifests:
        raise UserError(f"{path}: damaged (an empty list); prepare the rows again")
    return manifests


def same_rows(some: Sequence[Manifest], others: Sequence[Manifest]) -> bool:
    """Whether these are the same rows, whatever the text's files were called."""
    return without_sources(some) == without_sources(others)


def without_sources(manifests: Sequence[Manifest]) -> list[Manifest]:
    """What is the same of the same rows: all but the names of the text's files."""
    return [replace(manifest, sources=()) for manifest in manifests]


def write_manifests(folder: Path, manifests: Sequence[Manifest]) -> None:
    """Write manifest.json into `folder`: an object, or a list of them where there are several."""
    tables = [asdict(manifest, dict_factory=_without_none) for manifest in manifests]
    content = tables[0] if len(tables) == 1 else tables
    write_text(folder / FILE_NAME, json.dumps(content, ensure_ascii=False, indent=2) + "\n")


def summary(manifest: Manifest, seconds: float) -> Table:
    """A table of both splits for the terminal; `seconds` is the time that preparing took."""
    tokens = manifest.train.tokens + manifest.eval.tokens
    table = Table(caption=f"{tokens / max(seconds, 1e-9):,.0f} tokens/s", caption_justify="left")
    table.add_column("split")
    columns: list[str | Text] = [
        "documents",
        "rows",
        "tokens",
        Text("[UNK]"),
        "padding",
        *(["examples a row"] if manifest.packed else []),
    ]
    for column in columns:
        table.add_column(column, justify="right")
    for name, split in (("train", manifest.train), ("eval", manifest.eval)):
        counts = (f"{count:,}" for count in (split.documents, split.rows, split.tokens))
        packed = [] if split.examples is None else [f"{split.examples / max(1, split.rows):.1f}"]
        table.add_row(name, *counts, f"{split.unk_rate:.2%}", f"{split.padding_rate:.1%}", *packed)
    return table


def _without_none(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in fields if value is not None}


def _parse(content: dict[str, Any], path: Path) -> Manifest:
    version = content["format_version"]
    if version != FORMAT_VERSION:
        raise UserError(f"{path}: format {version}, and this version reads {FORMAT_VERSION}; prepare the rows again")
    parts: dict[str, Any] = {name: SplitManifest(**content[name]) for name in ("train", "eval")}
    return Manifest(**content | parts | {"sources": tuple(content["sources"])})
