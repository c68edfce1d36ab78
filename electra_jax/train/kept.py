"""The compiled step in a file of the cache, found by all that it is made from.

JAX's own cache finds a program by its text, and to write that down, by tracing and lowering in Python, takes longer
than to load the program. A start that finds the file does neither. It is the command's: what a program of one's own has
changed in the package, or given it, isn't seen here.
"""

import hashlib
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from jax.experimental.serialize_executable import deserialize_and_load, serialize
from jax.sharding import Mesh

from electra_jax.config import PretrainConfig
from electra_jax.files import write_bytes
from electra_jax.objectives.masking import SpecialTokens
from electra_jax.train.cache import compile_now, compiler_options
from electra_jax.train.library import takes_onednn
from electra_jax.train.processor import cores, instructions
from electra_jax.train.run import settings
from electra_jax.train.sharding import abstract
from electra_jax.train.step import abstract_state, jit_step

OUTSIDE = {"data", "data_weights", "out", "init_from", "word_start", "log_every", "eval_every", "eval_rows"}
OUTSIDE |= {"checkpoint_every", "checkpoints_kept", "keep_best", "max_time", "distributed"}
"""Settings of a run that its step doesn't depend on."""
MOST = 16
"""Files in the folder; of `small` each has 7 MB."""
PACKAGE = Path(__file__).parents[1]


def compile_step(
    config: PretrainConfig, special: SpecialTokens, mesh: Mesh, batch: Any, *, keep: bool
) -> jax.stages.Compiled:
    """The train step for batches like this one, of arrays or of their shapes, dtypes and places.

    With `keep` it is what an earlier start has kept, or is kept for the next one: of one process on a CPU, with
    products by XLA (the call of oneDNN's can't be written down), and with JAX's cache in a folder.
    """
    arguments = abstract(abstract_state(config), mesh), jax.tree.map(_abstract, batch)
    onednn = takes_onednn(config)

    def compiling() -> jax.stages.Compiled:
        return compile_now(jit_step(config, special, mesh), *arguments, onednn=onednn)

    folder = steps_folder() if keep and not onednn else None
    if folder is None:
        return compiling()
    return find_or_make(folder / digest(settings(config, OUTSIDE), special, mesh, arguments), compiling)


def _abstract(array: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)


def steps_folder() -> Path | None:
    """Where steps are kept; None where they aren't."""
    folder = jax.config.values["jax_compilation_cache_dir"]
    enabled = folder and jax.config.values["jax_enable_compilation_cache"]
    alone = jax.default_backend() == "cpu" and jax.process_count() == 1
    return Path(folder) / "steps" if enabled and alone and "://" not in folder else None


def find_or_make(file: Path, compiling: Callable[[], jax.stages.Compiled]) -> jax.stages.Compiled:
    """The program in `file`, or else what `compiling` makes, which is kept there."""
    with suppress(Exception):  # whatever a file that is missing or damaged raises: it is made anew
        compiled = deserialize_and_load(*pickle.loads(file.read_bytes()))
        os.utime(file)
        return compiled
    with _hits() as hits:
        compiled = compiling()
    if not hits:  # XLA writes of a program that it has loaded a part alone, which ends where it is run
        with suppress(Exception):  # the disk is full, or JAX can't write this one down: the next start compiles again
            _write(file, pickle.dumps(serialize(compiled)))
    return compiled


@contextmanager
def _hits() -> Iterator[list[str]]:
    """Whether JAX's cache has what is compiled last meanwhile: an event, or none."""
    found: list[str] = []

    def note(event: str, **_: Any) -> None:
        match event.removeprefix("/jax/compilation_cache/"):
            case "compile_requests_use_cache":  # of another program, as tracing has small ones
                found.clear()
            case "cache_hits":
                found.append(event)

    jax.monitoring.register_event_listener(note)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_listener(note)


def _write(file: Path, content: bytes) -> None:
    """Write `file` whole, and let go of those that are longest unused."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # who writes there can have this user run anything
    write_bytes(file, content)
    for old in sorted(file.parent.iterdir(), key=lambda one: one.stat().st_mtime)[:-MOST]:
        old.unlink(missing_ok=True)


def digest(*of: Any) -> str:
    """Of what is given and of all else that a compiled step depends on: another one has another name."""
    jaxs = {name: value for name, value in jax.config.values.items() if "compilation_cache" not in name}
    system = sys.version, cores(), instructions(), jax.devices(), os.environ.get("XLA_FLAGS")
    return hashlib.sha256(repr((of, jaxs, system, compiler_options(), _sources())).encode()).hexdigest()


@cache
def _sources() -> tuple[str, ...]:
    """What the package says, and which versions of the libraries it says it to."""
    ours = hashlib.sha256()
    for file in sorted(PACKAGE.rglob("*.py")):
        ours.update(f"{file.relative_to(PACKAGE)}\n".encode() + file.read_bytes())
    return ours.hexdigest(), *map(version, ("jax", "jaxlib", "flax", "optax", "numpy"))
