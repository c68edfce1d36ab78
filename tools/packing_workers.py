"""Train steps on prepared rows, as workers of tools/bench_packing.py.

python tools/packing_workers.py ours|theirs CONFIG.toml
"""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from tyro.conf import Positional
from workers import Answer, serve

from electra_jax.config import PretrainConfig
from electra_jax.data.batches import train_batches
from electra_jax.data.manifest import Manifest
from electra_jax.data.rows import Batch, open_rows
from electra_jax.presets import read_toml


class Counted:
    """Batches of a run, and how many real tokens were in those that were read."""

    def __init__(self, config: PretrainConfig):
        self.batches, self.tokens = train_batches(open_rows(config.data, "train"), config.batch_size, config.seed), 0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        batch = next(self.batches)
        self.tokens += int(batch["length"].sum())
        return batch


def ours(config: PretrainConfig) -> Any:
    """The step that `pretrain` runs, on packed rows or others."""
    import jax

    from electra_jax.objectives.masking import SpecialTokens
    from electra_jax.objectives.metrics import summarize
    from electra_jax.train.sharding import make_mesh, put_rows, shardings
    from electra_jax.train.step import abstract_state, init_params, init_state, jit_step

    class Ours:
        def __init__(self) -> None:
            manifest = Manifest.read(config.data[0])
            self.batches, self.mesh = Counted(config), make_mesh(config.mesh, config.batch_size)
            places = shardings(abstract_state(config), self.mesh)
            params = jax.jit(partial(init_params, config), out_shardings=places["params"])()
            self.state = jax.jit(partial(init_state, config), out_shardings=places)(params)
            self.step = jit_step(config, SpecialTokens(manifest.cls_id, manifest.sep_id, manifest.mask_id), self.mesh)
            self.ready: Answer = {"compile_seconds": self.run(1)["seconds"]}

        def run(self, steps: int) -> Answer:
            start, before = time.perf_counter(), self.batches.tokens
            for _ in range(steps):
                self.state, counts = self.step(self.state, put_rows(next(self.batches), self.mesh))
            jax.block_until_ready(self.state)
            seconds = time.perf_counter() - start
            loss = summarize(jax.device_get(counts), 1.0, 50.0)["loss"]
            return {"seconds": seconds, "loss": loss, "tokens": self.batches.tokens - before}

    return Ours()


def theirs(config: PretrainConfig) -> Any:
    """PyTorch's, with the generator's head on the picks."""
    import torch
    from torch_electra import Arguments, Theirs

    class OnRows(Theirs):
        def __init__(self) -> None:
            device: Literal["cpu", "gpu"] = "gpu" if torch.cuda.is_available() else "cpu"
            super().__init__(config, Arguments("run", Path(), device=device))
            self.counted = Counted(config)
            batches: Any = map(widened, self.counted)  # in place of made-up ones
            self.batches = batches

        def run(self, steps: int) -> Answer:
            before = self.counted.tokens
            return super().run(steps) | {"tokens": self.counted.tokens - before}

    return OnRows()


def widened(batch: Batch) -> Batch:
    """In a type that every version of PyTorch takes."""
    return {name: column.astype(np.int32) for name, column in batch.items()}


def main(name: Positional[Literal["ours", "theirs"]], config: Positional[Path]) -> None:
    """Answer on stdout."""
    settings = read_toml(PretrainConfig, config)
    serve(partial({"ours": ours, "theirs": theirs}[name], settings))


if __name__ == "__main__":
    tyro.cli(main)
