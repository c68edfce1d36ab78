"""Sources of every kind to documents."""

import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Literal

from datasets import Dataset, DatasetDict, Value, load_dataset, load_from_disk

from electra_jax.config import PrepareConfig
from electra_jax.data.lines import read_lines
from electra_jax.data.records import FORMATS, Record, format_of, read_file, require_rows
from electra_jax.errors import UserError, first_line

HUB_DATASET = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
"""A data set of the hub: name or owner/name."""
TEXT_TYPES = ("string", "large_string", "string_view")
DOCUMENTS_AT_ONCE = 64


def read_documents(config: PrepareConfig) -> Iterator[str]:
    """The documents of all sources in the order given, each with its sentences separated by newlines.

    Documents without any text are skipped. Raises UserError, before any is read, where a source can't be found or has
    no column of the name; and where one can't be read to its end, or none has text.
    """
    for source in config.sources:
        check_source(source)
    return _documents(config.sources, [_texts(source, config) for source in config.sources])


def split_documents(lines: Iterable[str], documents: Literal["paragraph", "line"]) -> Iterator[str]:
    """Documents of a text file: paragraphs between blank lines, or single lines. White space alone is blank."""
    gathered: list[str] = []
    for line in lines:
        blank = not line.strip()
        if not blank:
            gathered.append(line)
        if gathered and (blank or documents == "line"):
            yield "\n".join(gathered)
            gathered = []
    if gathered:
        yield "\n".join(gathered)


def table_texts(path: Path, field: str) -> Generator[str]:
    """The texts of a column of a CSV, TSV, JSON, JSONL or Parquet file; raises UserError where one is no text."""
    for record in require_rows(read_file(path, field), str(path)):
        text = record.get(field)
        if text is not None:
            yield _text(text, field, record)


def _text(value: object, field: str, record: Record) -> str:
    if not isinstance(value, str):
        kind = type(value).__name__
        raise UserError(f"{record.where}, column {field!r} holds a {kind}, and a text is wanted; name another --field")
    return value


def _documents(sources: Sequence[str], texts: Iterable[Iterable[str | None]]) -> Iterator[str]:
    found = False
    for text in chain.from_iterable(texts):
        if text and not text.isspace():
            found = True
            yield text
    if not found:
        raise UserError(f"{', '.join(sources)}: no text in it")


def _texts(source: str, config: PrepareConfig) -> Iterator[str | None]:
    path = Path(source)
    if path.is_file():
        if format_of(path) in FORMATS:
            with closing(table_texts(path, config.field)) as texts:
                next(texts, None)  # or a column that isn't there would be told when this table's turn comes
            return table_texts(path, config.field)
        return split_documents(read_lines(path), config.documents)
    return _column(load_split(source, config.split, config.subset), config.field, source)


def check_source(source: str) -> None:
    """Raise UserError for what is neither a file or folder nor could be the name of a hub dataset."""
    path = Path(source)
    try:
        if path.is_file() or path.is_dir():
            return
        if path.exists():
            raise UserError(f"{source}: is no regular file; write its text to one")
    except OSError as error:  # no rights to its folder, or a name too long
        raise UserError(f"{source}: {error.strerror}") from error
    if format_of(path) in (*FORMATS, ".txt") or not HUB_DATASET.fullmatch(source):
        raise UserError(f"{source}: no such file or folder")


def load_split(source: str, split: str, subset: str | None) -> Dataset:
    """A split of what `datasets` saved in a folder, or of a hub dataset; raises UserError where there is none."""
    path = Path(source)
    return load_saved(path, split) if path.is_dir() else load_hub(source, subset, split)


def load_saved(path: Path, split: str) -> Dataset:
    """What `datasets` saved in a folder, `split` of it where it has several; raises UserError where there is none."""
    try:
        dataset = load_from_disk(str(path))
    except Exception as error:
        raise UserError(
            f"{path}: not a folder that `datasets` saved; for files in it, name the files: {_reason(error)}"
        ) from error
    return _pick_split(dataset, split, path) if isinstance(dataset, DatasetDict) else dataset


def _pick_split(splits: DatasetDict, split: str, path: Path) -> Dataset:
    if split not in splits:
        raise UserError(f"{path}: has no split '{split}'; there are: {', '.join(splits)}")
    return splits[split]


def load_hub(name: str, subset: str | None, split: str) -> Dataset:
    """A set from the hub, kept where `datasets` keeps what it fetches, so that it is fetched once."""
    try:
        return load_dataset(name, subset, split=split)
    except Exception as error:  # of datasets, huggingface_hub, fsspec and the network
        raise UserError(
            f"{name}: no such file, and no dataset of that name could be fetched from the hub: {_reason(error)}"
        ) from error


def _column(dataset: Dataset, field: str, source: str) -> Iterator[str | None]:
    if field not in dataset.column_names:
        raise UserError(f"{source}: has no field '{field}'; there are: {', '.join(dataset.column_names)}")
    kind = dataset.features[field]
    if not (isinstance(kind, Value) and kind.dtype in TEXT_TYPES):
        raise UserError(f"{source}: field '{field}' is not text but {getattr(kind, 'dtype', kind)}; name another field")
    batches = dataset.select_columns(field).with_format("arrow").iter(DOCUMENTS_AT_ONCE)
    return chain.from_iterable(batch[field].to_pylist() for batch in batches)


def _reason(error: BaseException) -> str:
    """The first line of what went wrong at the bottom."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)
