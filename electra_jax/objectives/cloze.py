"""What the generator says at the picks: its loss ([P] section 2, L_MLM), a sample, and whether it would have hit.

The logits over the vocabulary are the largest arrays of a step. Here they exist for a few hundred picks at a time, and
only their exponentials are kept while the gradient is computed, which is done at once: the loss is a sum, so what
comes back to it is one factor.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from electra_jax.config import ObjectiveConfig
from electra_jax.model.layers import barrier, matmul, transposed_product
from electra_jax.model.lookup import add_by_id
from electra_jax.objectives.sampling import draw, weigh

CHUNK, LARGE_CHUNK = 512, 4096
"""Most picks whose logits exist at a time, on a CPU and elsewhere: 62 and 500 MB of them at a vocabulary of 30,522."""


class Picked(NamedTuple):
    """The picks of a batch, one after the other."""

    states: Float[Array, "P E"]
    """What the head makes of the hidden state at the pick, to be multiplied with the word table."""
    targets: Int[Array, " P"]
    used: Bool[Array, " P"]
    """False in unused slots."""
    uniforms: Float[Array, "P 2"]
    """Of which the sample is a function."""


class Cloze(NamedTuple):
    """What comes out."""

    nll_sum: Float[Array, ""]
    """Negative log-likelihood of the original tokens, summed over the picks: the only one with a gradient."""
    correct: Float[Array, ""]
    """Picks at which no token is likelier than the original."""
    sampled: Int[Array, " P"]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def cloze(config: ObjectiveConfig, picked: Picked, table: Float[Array, "V E"], bias: Float[Array, " V"]) -> Cloze:
    """Predict and sample the tokens at the picks, from the logits states @ table.T + bias (float32)."""
    (nll_sum, correct), sampled = in_chunks(lambda some: _predict(config, some, table, bias)[:2], picked)
    return Cloze(nll_sum, correct, sampled)


def _cloze(config: ObjectiveConfig, picked: Picked, table: Array, bias: Array) -> tuple[Cloze, tuple[Array, ...]]:
    def predict(some: Picked) -> tuple:
        sums, sampled, exps = _predict(config, some, table, bias)
        of_parameters, of_states = _differentiate(exps, some, table)
        return (sums, of_parameters), (sampled, of_states)

    ((nll_sum, correct), (of_table, of_bias)), (sampled, of_states) = in_chunks(predict, picked)
    used = picked.used.astype(jnp.float32)
    of_table = add_by_id(of_table, picked.targets, -used[:, None] * picked.states)
    of_bias = of_bias.at[picked.targets].add(-used)  # whole numbers: in any order, the same bits
    return Cloze(nll_sum, correct, sampled), (of_states, of_table, of_bias)


def _backward(config: ObjectiveConfig, gradient: tuple[Array, ...], g: Cloze) -> tuple[Picked, Array, Array]:
    states, table, bias = ((g.nll_sum * part).astype(part.dtype) for part in gradient)
    return Picked(states, None, None, None), table, bias  # type: ignore[arg-type]  # None: no gradient


cloze.defvjp(_cloze, _backward)


def _predict(config: ObjectiveConfig, picked: Picked, table: Array, bias: Array) -> tuple[tuple, Array, Array]:
    """Both sums, the samples, and exp(logits - the largest) [P, V]."""
    table = table.astype(picked.states.dtype)
    logits = matmul(picked.states, table, transpose_b=True, dtype=jnp.float32) + bias
    largest, target = logits.max(-1), jnp.take_along_axis(logits, picked.targets[:, None], axis=1)[:, 0]
    exps = barrier(jnp.exp(logits - largest[:, None]))
    nll = jnp.log(exps.sum(-1)) + largest - target
    sums = jnp.sum(jnp.where(picked.used, nll, 0)), jnp.sum(picked.used & (target >= largest), dtype=jnp.float32)
    with jax.named_scope("sampling"):
        sampled = draw(weigh(exps, picked.targets, config), picked.uniforms)
    return sums, sampled, exps


def _differentiate(exps: Float[Array, "P V"], picked: Picked, table: Array) -> tuple[tuple[Array, Array], Array]:
    """Of the sum by table and bias, and by states: softmax - one-hot, whose normalisation goes to the small factors.

    By table and bias without the one-hot, which is taken off for all picks at once.
    """
    states, targets, used, dtype = picked.states, picked.targets, picked.used[:, None], picked.states.dtype
    scale, exps = used / exps.sum(-1, keepdims=True), exps.astype(dtype)
    of_states = scale * matmul(exps, table.astype(dtype)) - used * table[targets]
    with_one = jnp.concatenate([states, jnp.ones_like(used, dtype)], axis=1)  # by which the bias is multiplied
    by_entry = transposed_product(exps, (scale * with_one).astype(dtype)).astype(jnp.float32)
    return (by_entry[:, :-1], by_entry[:, -1]), of_states.astype(dtype)


def in_chunks(function: Callable[[Any], tuple[Any, Any]], rows: Any) -> tuple[Any, Any]:
    """`function` of at most a chunk of `rows` (arrays with the same first axis) at a time.

    Of the two that it returns, the first is summed, the second joined.
    """
    size = len(jax.tree.leaves(rows)[0])
    chunks = -(-size // (CHUNK if jax.default_backend() == "cpu" else LARGE_CHUNK))
    if chunks == 1:
        return function(rows)
    missing = -size % chunks
    padded = jax.tree.map(lambda a: jnp.pad(a, [(0, missing)] + [(0, 0)] * (a.ndim - 1)), rows)
    divided = jax.tree.map(lambda a: a.reshape(chunks, -1, *a.shape[1:]), padded)
    nothing = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(function, rows)[0])

    def add(total: Any, some: Any) -> tuple[Any, Any]:
        sums, each = function(some)
        return jax.tree.map(jnp.add, total, sums), each

    total, each = jax.lax.scan(add, nothing, divided)
    return total, jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:size], each)
