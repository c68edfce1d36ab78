"""Sources of every kind to documents."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset, DatasetDict, Value, load_dataset, load_from_disk

from electra_jax.config import PrepareConfig
from electra_jax.data.lines import read_lines
from electra_jax.data.records import format_of
from electra_jax.errors import UserError, first_line

TABLES: dict[str, tuple[str, dict[str, Any]]] = {
    ".csv": ("csv", {"keep_default_na": False}),  # or "NA" and "null" wouldn't be texts
    ".tsv": ("csv", {"keep_default_na": False, "sep": "\t"}),
    ".json": ("json", {}),
    ".jsonl": ("json", {}),
    ".parquet": ("parquet", {}),
}
HUB_DATASET = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
"""A data set of the hub: name or owner/name."""
TEXT_TYPES = ("string", "large_string", "string_view")
DOCUMENTS_AT_ONCE = 64


def read_documents(config: PrepareConfig, scratch: Path) -> Iterator[str]:
    """The documents of all sources in the order given, each with its sentences separated by newlines.

    Documents without any text are skipped. Tables are read by way of files in `scratch`, which the caller deletes.
    Raises UserError where a source can't be found (before any is read) or read, or where none has text.
    """
    for source in config.sources:
        check_source(source)
    return _documents(config, scratch)


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


def _documents(config: PrepareConfig, scratch: Path) -> Iterator[str]:
    found = False
    for source in config.sources:
        for text in _texts(source, config, scratch):
            if text and not text.isspace():
                found = True
                yield text
    if not found:
        raise UserError(f"{', '.join(config.sources)}: no text in it")


def _texts(source: str, config: PrepareConfig, scratch: Path) -> Iterator[str | None]:
    path = Path(source)
    if path.is_file() and format_of(path) not in TABLES:
        return split_documents(read_lines(path), config.documents)
    if path.is_file():
        dataset = _load_table(path, scratch)
    elif path.is_dir():
        dataset = load_saved(path, config.split)
    else:
        dataset = load_hub(source, config.subset, config.split)
    return _column(dataset, config.field, source)


def check_source(source: str) -> None:
    """Raise UserError for what is neither a file or folder nor could be the name of a hub dataset."""
    path = Path(source)
    if path.exists():
        return
    if format_of(path) in (*TABLES, ".txt") or not HUB_DATASET.fullmatch(source):
        raise UserError(f"{source}: no such file or folder")


def _load_table(path: Path, scratch: Path) -> Dataset:
    reader, options = TABLES[format_of(path)]
    try:
        return load_dataset(reader, data_files=str(path), split="train", cache_dir=str(scratch), **options)
    except Exception as error:  # pandas, pyarrow and datasets each have their own
        raise UserError(f"{path}: can't be read as {reader}: {_reason(error)}") from error


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
    for batch in dataset.select_columns(field).with_format("arrow").iter(DOCUMENTS_AT_ONCE):
        yield from batch[field].to_pylist()


def _reason(error: BaseException) -> str:
    """The first line of what went wrong at the bottom."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)
