"""The package's train step as a worker of tools/benchmark.py.

python tools/jax_electra.py run CONFIG.toml
python tools/jax_electra.py check CONFIG.toml DRAWN.npz
"""

import json
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx
from tyro.conf import Positional
from workers import (
    CLS,
    MASK,
    SEP,
    Answer,
    enough_operations,
    made_up_batches,
    peak_resident_bytes,
    serve,
    time_product,
)

from electra_jax.config import PretrainConfig
from electra_jax.data.rows import Batch
from electra_jax.hub.names import TOWERS
from electra_jax.hub.weights import to_state
from electra_jax.objectives.corruption import corrupt, draw_keys
from electra_jax.objectives.electra import electra
from electra_jax.objectives.masking import SpecialTokens
from electra_jax.objectives.metrics import summarize
from electra_jax.presets import read_toml
from electra_jax.train.cache import compile_now
from electra_jax.train.kept import compile_step
from electra_jax.train.library import takes_onednn
from electra_jax.train.memory import hand_back, keep_memory
from electra_jax.train.optimizer import Params
from electra_jax.train.sharding import make_mesh, put_rows, shardings
from electra_jax.train.step import abstract_state, graph_of, init_params, init_state, options_of, read_tokens

SPECIAL = SpecialTokens(CLS, SEP, MASK)


class Ours:
    """The step that `pretrain` runs, compiled; its state stays on the device."""

    def __init__(
        self, config: PretrainConfig, batches: Iterator[Batch] | None = None, special: SpecialTokens = SPECIAL
    ):
        self.config, self.mesh = config, make_mesh(config.mesh, config.batch_size)
        self.batches = cycle(made_up_batches(config)) if batches is None else batches
        places = shardings(abstract_state(config), self.mesh)
        start = time.perf_counter()
        self.step = compile_step(config, special, self.mesh, put_rows(next(self.batches), self.mesh), keep=True)
        self.ready: Answer = {"compile_seconds": time.perf_counter() - start}
        begin = jax.jit(
            lambda: init_state(config, init_params(config)), out_shardings=places, compiler_options=options_of(config)
        )
        self.state = jax.block_until_ready(begin())
        hand_back()  # as `pretrain` does

    def run(self, steps: int) -> Answer:
        """Train for so many steps; nothing is read from the device before the last."""
        start = time.perf_counter()
        for _ in range(steps):
            self.state, counts = self.step(self.state, put_rows(next(self.batches), self.mesh))
        jax.block_until_ready(self.state)
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "loss": summarize(jax.device_get(counts), self.config.objective)["loss"]}

    def products(self, shapes: list[tuple[int, int, int]], dtype: str) -> Answer:
        """Seconds of XLA's matrix product of each shape."""
        return {"seconds": [seconds_of_product(m, k, n, dtype) for m, k, n in shapes]}

    def memory(self) -> Answer:
        """Of the process, or of the GPU."""
        if jax.default_backend() == "cpu":
            return {"peak_bytes": peak_resident_bytes()}
        statistics = jax.local_devices()[0].memory_stats() or {}
        return {"peak_bytes": statistics["peak_bytes_in_use"]}


matmul = jax.jit(jnp.matmul)


def seconds_of_product(m: int, k: int, n: int, dtype: str) -> float:
    """The best that XLA does. Of random numbers: of ones, a GPU's product takes less power, and is faster."""
    a, b = (jax.random.normal(jax.random.key(0), shape, dtype) for shape in ((m, k), (k, n)))
    device = jax.default_backend()
    last = matmul(a, b)

    def start() -> None:
        nonlocal last
        last = matmul(a, b)
        if device == "cpu":  # where calls might overlap, and not wait for each other as on a GPU
            last.block_until_ready()

    return time_product(start, lambda: last.block_until_ready(), 2.0 * m * k * n, enough_operations(device))


# --- the check ----------------------------------------------------------------------------------------------------


def check(config: PretrainConfig, drawn: Path) -> float:
    """The loss of a batch without dropout. Weights, masks and samples are written to `drawn`, by Hugging Face keys."""
    params = perturbed(init_params(config), config.seed)
    tokens = read_tokens(made_up_batches(config, 1, padded=True)[0])
    graph, key = graph_of(config), jax.random.key(config.seed)

    @jax.jit
    def joint(params: Params) -> tuple[jax.Array, dict[str, jax.Array]]:
        model = nnx.merge(graph, params)
        loss, _ = electra(model, tokens, key, SPECIAL, config.objective, dropout=False)
        made = corrupt(model, tokens, draw_keys(key, len(tokens.ids), dropout=False), SPECIAL, config.objective)
        arrays = {"ids": tokens.ids, "mask": tokens.mask, "types": tokens.types, "masked": made.masked.ids}
        return loss, arrays | {"corrupted": made.tokens.ids, "positions": made.picks.positions, "used": made.picks.used}

    loss, arrays = compile_now(joint, params, onednn=takes_onednn(config))(params)
    np.savez(drawn, **tensors(config, params), **jax.device_get(arrays))
    return float(loss)


def perturbed(params: Params, seed: int) -> Params:
    """No parameter zero or one, so that none can be left out unseen."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: a + jnp.asarray(rng.normal(0, 0.02, a.shape), a.dtype), params)


def tensors(config: PretrainConfig, params: Params) -> dict[str, Any]:
    """Both towers' tensors as "discriminator/KEY" and "generator/KEY"."""
    return {
        f"{kind}/{key}": tensor
        for kind in TOWERS
        for key, tensor in to_state(
            {"embeddings": params["embeddings"], **params[kind]}, config.model.tower(kind), kind
        ).items()
    }


def main(
    do: Positional[Literal["run", "check"]], config: Positional[Path], drawn: Positional[Path | None] = None
) -> None:
    """Answer on stdout: of a contestant, or of the check, which writes `drawn`."""
    settings = read_toml(PretrainConfig, config)
    keep_memory()  # as the command `electra-jax pretrain` does
    with jax.set_mesh(make_mesh(settings.mesh, settings.batch_size)):
        if do == "run":
            serve(lambda: Ours(settings))
        else:
            assert drawn is not None, "the check needs a file to write to"
            print(json.dumps({"loss": check(settings, drawn)}))


if __name__ == "__main__":
    tyro.cli(main)
