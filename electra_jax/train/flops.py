"""Floating-point operations of a step, and the most that the devices can do."""

import time
from collections import Counter
from typing import NamedTuple

import jax

from electra_jax.config import ElectraConfig, PretrainConfig
from electra_jax.model.layers import matmul
from electra_jax.objectives.registry import find
from electra_jax.train.cache import compile_now
from electra_jax.train.models import LEARNED


class Product(NamedTuple):
    """A matrix product, [m, k] @ [k, n], and how often a step has it."""

    m: int
    k: int
    n: int
    times: int

    @property
    def flops(self) -> float:
        """Of one."""
        return 2.0 * self.m * self.k * self.n


def step_flops(config: PretrainConfig) -> float:
    """Multiplications and additions of a step's matrix products; the backward pass costs two forward passes.

    Of what is predicted, the picks: but every position for the discriminator of all-tokens-mlm, and for the generator
    of electric, which is asked twice. A generator that is not trained has no backward pass. A last layer that is
    computed at the picks alone counts as if it were at every position.
    """
    length, picks = config.length, config.objective.slots(config.length)
    objective = find(config.objective.name)
    parts, contrasts = objective.parts, objective.judges == "noise"
    discriminator, generator = config.model.tower("discriminator"), config.model.tower("generator")
    kept = length * _encoder(discriminator, length)
    kept += length * _replaced_token_head(discriminator) if parts.detects else 0
    if parts.predicts:
        kept += (length if objective.predicts == "tokens" else picks) * _masked_lm_head(discriminator)
    proposed = 0
    if parts.generator and config.model.generator_kind in LEARNED:
        towers = 2 if config.model.generator_kind == "two-tower" else 1
        predicted = length if contrasts else picks
        proposed = towers * length * _encoder(generator, length) + predicted * _masked_lm_head(generator)
    passes = 3.0 if config.objective.trains_generator else 1.0
    again = length * 2 * generator.embedding_size * generator.vocab_size if contrasts else 0
    return config.batch_size * (3.0 * kept + passes * proposed + again)


def run_flops(config: PretrainConfig) -> float:
    """Those of all of its steps."""
    return step_flops(config) * config.steps


def _encoder(c: ElectraConfig, length: int) -> int:
    """Per position: four projections, the two products of attention, the two of feed-forward."""
    layer = 8 * c.hidden_size**2 + 4 * length * c.hidden_size + 4 * c.hidden_size * c.intermediate_size
    project = 2 * c.embedding_size * c.hidden_size if c.embedding_size != c.hidden_size else 0
    return c.num_hidden_layers * layer + project


def _replaced_token_head(c: ElectraConfig) -> int:
    return 2 * c.hidden_size**2 + 2 * c.hidden_size


def _masked_lm_head(c: ElectraConfig) -> int:
    return 2 * c.hidden_size * c.embedding_size + 2 * c.embedding_size * c.vocab_size


def dense_products(config: PretrainConfig) -> list[Product]:
    """What most of `step_flops` is made of: of each dense layer, the forward product and the two of the backward pass.

    Left out are attention's products, which are batches of small ones, and the replaced-token head's of one column.
    """
    rows, picks = config.batch_size * config.length, config.batch_size * config.objective.slots(config.length)
    discriminator, generator = config.model.tower("discriminator"), config.model.tower("generator")
    layers = _dense_layers(discriminator, rows) + _dense_layers(generator, rows)
    layers[rows, discriminator.hidden_size, discriminator.hidden_size] += 1
    layers[picks, generator.hidden_size, generator.embedding_size] += 1
    layers[picks, generator.embedding_size, generator.vocab_size] += 1
    products: Counter[tuple[int, int, int]] = Counter()
    for (m, k, n), times in layers.items():
        for shape in ((m, k, n), (m, n, k), (k, m, n)):  # the output; the gradients of input and kernel
            products[shape] += times
    return [Product(*shape, times) for shape, times in products.items()]


def _dense_layers(c: ElectraConfig, rows: int) -> Counter[tuple[int, int, int]]:
    """Rows, inputs and outputs of an encoder's layers, and how many there are."""
    wide, deep = (rows, c.hidden_size, c.intermediate_size), (rows, c.intermediate_size, c.hidden_size)
    layers: Counter[tuple[int, int, int]] = Counter()
    for shape, times in (((rows, c.hidden_size, c.hidden_size), 4), (wide, 1), (deep, 1)):
        layers[shape] += times * c.num_hidden_layers
    if c.embedding_size != c.hidden_size:
        layers[rows, c.embedding_size, c.hidden_size] += 1
    return layers


def measure_peak(dtype: str, onednn: bool = False, seconds: float = 0.3) -> float:
    """FLOP/s of all devices in large matrix products of `dtype`, by XLA or oneDNN: one device is measured, the others
    taken as alike."""
    size = 1024 if jax.default_backend() == "cpu" else 8192
    a = jax.random.normal(jax.random.key(0), (size, size), dtype)
    product = compile_now(jax.jit(matmul), a, a, onednn=onednn)
    jax.block_until_ready(product(a, a))
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        jax.block_until_ready(product(a, a))
        best = min(best, time.perf_counter() - start)
    return jax.device_count() * 2 * size**3 / best
