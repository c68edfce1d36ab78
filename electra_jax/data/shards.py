"""Shards: successive documents of one split, tokenized at once and written to a file of their own."""

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, get_args

import datasets
import pyarrow as pa
import tokenizers
from datasets import Dataset

import electra_jax
from electra_jax.data.ahead import one_ahead
from electra_jax.data.encoding import Encoder
from electra_jax.data.packing import pack
from electra_jax.data.rows import ROWS_IN_CHUNK

Split = Literal["train", "eval"]
DOCUMENTS_AT_ONCE = 256
"""Of which the rows are made at once: with fewer, short ones would leave the tokenizer's threads idle."""
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass
class TextShard:
    """Documents `first`, `first + 1`, ... of a split, where `number` shards precede it."""

    split: Split
    number: int = 0
    first: int = 0
    texts: list[str] = field(default_factory=list)


def cut_shards(texts: Iterable[str], is_held_out: Callable[[str], bool], characters: int) -> Iterator[TextShard]:
    """Divide documents into splits, and each split, in order, into shards that end where they reach `characters`.

    Two unfinished shards are in memory at a time, and the caller's.
    """
    open_shards = {split: TextShard(split) for split in SPLITS}
    sizes = dict.fromkeys(open_shards, 0)
    for text in texts:
        shard = open_shards["eval" if is_held_out(text) else "train"]
        shard.texts.append(text)
        sizes[shard.split] += len(text)
        if sizes[shard.split] >= characters:
            open_shards[shard.split] = TextShard(shard.split, shard.number + 1, shard.first + len(shard.texts))
            sizes[shard.split] = 0
            yield shard
    yield from (shard for shard in open_shards.values() if shard.texts)


def namer(encoder: Encoder) -> Callable[[TextShard], str]:
    """The function from a shard to its file's name, which holds a hash of all that its rows depend on.

    So a file that is there already has the rows of these very documents and settings.
    """
    versions = [electra_jax.__version__, tokenizers.__version__]
    base = hashlib.sha256(json.dumps([versions, asdict(encoder)]).encode())

    def name(shard: TextShard) -> str:
        digest = base.copy()
        digest.update(json.dumps([shard.split, shard.first, [len(text) for text in shard.texts]]).encode())
        for text in shard.texts:
            digest.update(text.encode())
        return f"data-{shard.number:05d}-{digest.hexdigest()[:32]}.arrow"

    return name


def write_shard(shard: TextShard, encoder: Encoder, file: Path) -> None:
    """Write the rows of a shard to `file` (an Arrow stream), which appears whole or not at all."""
    scratch = file.with_name(f".{file.name}.{uuid.uuid4().hex}")  # unlike any other process's, on any machine
    schema = encoder.features.arrow_schema
    try:
        with scratch.open("wb") as stream:
            with pa.ipc.new_stream(stream, schema) as writer:
                for table in _batches(_encoded(shard, encoder)):
                    rows = pack(table, encoder.special_ids[0]) if encoder.pack else table
                    writer.write_table(rows.cast(schema))
            stream.flush()
            os.fsync(stream.fileno())  # or a power failure could leave the name without the rows
        os.replace(scratch, file)
    finally:
        scratch.unlink(missing_ok=True)


def join_shards(folder: Path, names: list[str], encoder: Encoder) -> Dataset:
    """Make `folder` a data set of `datasets` of the shards `names` in it, in that order, and load it.

    No row is copied. Files of other shards (of other settings, or half-written) are deleted.
    """
    empty = Dataset.from_dict({name: [] for name in encoder.features}, features=encoder.features)
    empty.save_to_disk(folder, num_shards=1)  # the files that describe a data set, and one without rows
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    if names:
        state["_data_files"] = [{"filename": name} for name in names]
        (folder / "state.json").write_text(json.dumps(state, indent=2, sort_keys=True), encoding="utf-8")
    kept = {"state.json", "dataset_info.json", *(file["filename"] for file in state["_data_files"])}
    for path in folder.iterdir():
        if path.name not in kept:
            path.unlink()
    return datasets.load_from_disk(str(folder))


def _encoded(shard: TextShard, encoder: Encoder) -> Iterator[pa.Table]:
    starts = range(0, len(shard.texts), DOCUMENTS_AT_ONCE)
    tokens = (encoder.tokenize(shard.texts[start : start + DOCUMENTS_AT_ONCE]) for start in starts)
    for start, some in zip(starts, one_ahead(tokens), strict=True):
        yield encoder.rows(some, shard.split, shard.first + start)


def _batches(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    gathered: list[pa.Table] = []
    for table in tables:
        gathered.append(table)
        if sum(map(len, gathered)) >= ROWS_IN_CHUNK:
            yield pa.concat_tables(gathered).combine_chunks()
            gathered = []
    if gathered:
        yield pa.concat_tables(gathered).combine_chunks()
