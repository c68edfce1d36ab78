"""Train steps on prepared rows, as workers of tools/bench_packing.py.

python tools/packing_workers.py ours|theirs CONFIG.toml
"""

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
from electra_jax.train.memory import keep_memory


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
    from jax_electra import Ours

    from electra_jax.objectives.masking import SpecialTokens

    class OnRows(Ours):
        def __init__(self) -> None:
            manifest = Manifest.read(config.data[0])
            self.counted = Counted(config)
            super().__init__(config, self.counted, SpecialTokens(manifest.cls_id, manifest.sep_id, manifest.mask_id))

        def run(self, steps: int) -> Answer:
            before = self.counted.tokens
            return super().run(steps) | {"tokens": self.counted.tokens - before}

    return OnRows()


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
    keep_memory()  # as the command `electra-jax pretrain` does
    serve(partial({"ours": ours, "theirs": theirs}[name], settings))


if __name__ == "__main__":
    tyro.cli(main)
