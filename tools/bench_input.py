"""Whether input keeps training waiting: opening many rows, and the loader's rows a second beside the step's.

    python tools/bench_input.py FOLDER [--tokens 1000000000 --steps 100 ...]

Writes made-up rows into FOLDER, which must not exist yet, and deletes it in the end. They are opened in a process of
its own, with none of them in the page cache; loader and step then take turns in this one.
"""

import json
import math
import multiprocessing
import os
import resource
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import tyro
from datasets import Dataset, Features
from tyro.conf import Positional

from electra_jax.config import PretrainConfig
from electra_jax.data.batches import open_rows, train_batches
from electra_jax.data.manifest import Manifest, SplitManifest
from electra_jax.data.rows import ROWS_IN_CHUNK, id_dtype, row_features
from electra_jax.presets import load_config

CHUNKS_IN_FILE = 100
"""For files of some hundred megabytes, as `datasets` writes them."""
PAD, UNK, CLS, SEP, MASK, WORDS = range(6)
GOALS = {"seconds": 5.0, "peak_megabytes": 500.0, "ratio": 20.0}
"""Most, most, least."""


@dataclass(frozen=True)
class Arguments:
    """What is made, and how often it is read."""

    folder: Positional[Path]
    """To write the rows to; deleted in the end."""
    tokens: int = 1_000_000_000
    preset: str = "tiny"
    """Whose step it is, and whose length and batch."""
    steps: int = 100
    """In a turn of the step; the loader's turns have ten times as many."""
    rounds: int = 3


def main(arguments: Arguments) -> None:
    """Print the figures as JSON and as a line; exits with status 1 where a goal is missed."""
    datasets.disable_progress_bars()
    config = load_config(arguments.preset, data=arguments.folder, out=Path("unused"))
    arguments.folder.mkdir(parents=True)
    try:
        write_folder(arguments.folder, config, arguments.tokens)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            found = pool.submit(opening, config).result()
        found |= compare(config, arguments.steps, arguments.rounds)
    finally:
        shutil.rmtree(arguments.folder)
    print(json.dumps(found, indent=2))
    print(
        f"{found['rows']:,} rows of {config.length} tokens: open in {found['seconds']:.2f} s, the process then at most "
        f"{found['peak_megabytes']:.0f} MB ({found['anonymous_megabytes']:.0f} MB without mapped files); the loader "
        f"gives {found['loader']:,.0f} rows/s, and the step takes {found['step']:,.0f}: {found['ratio']:.0f} times"
    )
    if any(found[name] > GOALS[name] for name in ("seconds", "peak_megabytes")) or found["ratio"] < GOALS["ratio"]:
        sys.exit(f"a goal is missed: {GOALS}")


def opening(config: PretrainConfig) -> dict[str, float]:
    """Seconds and memory of this process for the first batch, the rows still to be opened."""
    before = {"peak_megabytes_before": peak_megabytes(), "anonymous_megabytes_before": anonymous_megabytes()}
    start = time.perf_counter()
    rows = open_rows(config.data, "train")
    with closing(train_batches(rows, config.batch_size, config.seed)) as batches:
        next(batches)
        seconds = time.perf_counter() - start
        return {
            "rows": len(rows),
            "seconds": seconds,
            "peak_megabytes": peak_megabytes(),
            "anonymous_megabytes": anonymous_megabytes(),
            **before,
        }


def peak_megabytes() -> float:
    """Most resident memory of this process so far (ru_maxrss): its own, and what it has touched of mapped files."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def anonymous_megabytes() -> float:
    """Resident memory of this process that is no mapped file's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon:")).split()[1]) / 1e3


def compare(config: PretrainConfig, steps: int, rounds: int) -> dict[str, float]:
    """Rows a second of the loader alone and of the step alone, in turns; the medians and their ratio."""
    load, step = loader(config), stepper(config)
    rates = [(rate(load, config, 10 * steps), rate(step, config, steps)) for _ in range(rounds)]
    loads, trains = (statistics.median(each) for each in zip(*rates, strict=True))
    return {"loader": loads, "step": trains, "ratio": loads / trains}


def rate(run: Callable[[int], None], config: PretrainConfig, steps: int) -> float:
    """Rows a second of `run`."""
    start = time.perf_counter()
    run(steps)
    return steps * config.batch_size / (time.perf_counter() - start)


def loader(config: PretrainConfig) -> Callable[[int], None]:
    """Reads so many batches, with the threads started anew."""
    rows = open_rows(config.data, "train")

    def run(steps: int) -> None:
        with closing(train_batches(rows, config.batch_size, config.seed)) as batches:
            for _ in islice(batches, steps):
                pass

    return run


def stepper(config: PretrainConfig) -> Callable[[int], None]:
    """Trains for so many steps, on one batch that is on the device; compiled already."""
    import jax  # here, for the process that only opens rows to be without it

    from electra_jax.objectives.masking import SpecialTokens
    from electra_jax.train.sharding import make_mesh
    from electra_jax.train.step import init_params, init_state, make_step

    with closing(train_batches(open_rows(config.data, "train"), config.batch_size, config.seed)) as batches:
        batch = jax.device_put(next(batches))
    mesh = make_mesh(None, config.batch_size)
    step = jax.jit(make_step(config, SpecialTokens(CLS, SEP, MASK), mesh), donate_argnums=0)
    state = init_state(config, jax.jit(init_params, static_argnums=0)(config))

    def run(steps: int) -> None:
        nonlocal state
        for _ in range(steps):
            state, _ = step(state, batch)
        jax.block_until_ready(state)

    run(1)
    return run


def write_folder(folder: Path, config: PretrainConfig, tokens: int) -> None:
    """A folder as `prepare` writes it, but for the tokenizer; at least `tokens` in full rows to train on."""
    chunks = math.ceil(tokens / (config.length * ROWS_IN_CHUNK))
    train, held_out = write_split(folder / "train", config, chunks), write_split(folder / "eval", config, 1)
    ids = (config.model.vocab_size, PAD, UNK, CLS, SEP, MASK)
    Manifest(("made up",), "none", *ids, config.length, 0, train, held_out).write(folder)


def write_split(folder: Path, config: PretrainConfig, chunks: int) -> SplitManifest:
    """Write the rows. Files and chunks are those of `save_to_disk`, which would take minutes."""
    features = row_features(config.length, id_dtype(config.model.vocab_size))
    chunk = made_up_rows(features, config)
    Dataset(pa.table(chunk)).cast(features).save_to_disk(folder)  # for what lies beside the rows
    (folder / "data-00000-of-00001.arrow").unlink()
    state = json.loads((folder / "state.json").read_text())
    files = math.ceil(chunks / CHUNKS_IN_FILE)
    names = [f"data-{i:05d}-of-{files:05d}.arrow" for i in range(files)]
    (folder / "state.json").write_text(json.dumps(state | {"_data_files": [{"filename": name} for name in names]}))
    for i, name in enumerate(names):
        write_file(folder / name, chunk, min(CHUNKS_IN_FILE, chunks - i * CHUNKS_IN_FILE))
    rows = chunks * ROWS_IN_CHUNK
    return SplitManifest(1, rows, rows * config.length, rows * (config.length - 2), 0, 0.0, "not counted")


def made_up_rows(features: Features, config: PretrainConfig) -> pa.RecordBatch:
    """A chunk of full rows of random words, in one segment."""
    schema = features.arrow_schema
    ids = np.random.default_rng(0).integers(WORDS, config.model.vocab_size, (ROWS_IN_CHUNK, config.length))
    ids[:, 0], ids[:, -1] = CLS, SEP
    words = pa.array(ids.ravel(), schema.field("input_ids").type.value_type, safe=False)
    full = pa.array(np.full(ROWS_IN_CHUNK, config.length, np.int32))
    return pa.record_batch([pa.FixedSizeListArray.from_arrays(words, config.length), full, full], schema=schema)


def write_file(path: Path, chunk: pa.RecordBatch, times: int) -> None:
    """The same chunk again and again, on disk and out of the page cache."""
    with path.open("wb") as file:
        with pa.ipc.new_stream(file, chunk.schema) as writer:
            for _ in range(times):
                writer.write_batch(chunk)
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
