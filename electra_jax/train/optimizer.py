"""The optimisers ([G] model/optimization.py; LAMB: You et al., 2020), of optax's parts."""

import re
from collections.abc import Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from electra_jax.config import OptimizerConfig
from electra_jax.model.layers import barrier, outline

Params = dict[str, Any]

NOT_DECAYED = re.compile(r"(^|/)(norm/(scale|bias)|bias)$")
STACKED = re.compile(r"(^|/)layers/.*[a-z]$")
"""Of an array with all layers of a tower along its first axis; the path of one of a single layer
(`electra_jax.train.apart`) ends in its number."""


def paths(params: Params) -> Params:
    """The same tree with each leaf's path, as "discriminator/encoder/layers/attention/query/kernel"."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: jax.tree_util.keystr(path, simple=True, separator="/"), params
    )


def count_parameters(params: Params) -> int:
    """How many numbers the tree holds, of arrays or of their shapes (which `optax.tree.size` is to refuse)."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def decay_mask(params: Params) -> Params:
    """True where weight decay applies: everything but LayerNorms and biases ([G])."""
    return jax.tree.map(lambda path: NOT_DECAYED.search(path) is None, paths(params))


def schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """learning_rate * (1 - t/steps)^power * min(1, t/warmup), with t the number of updates already done.

    With `decay_after_warmup`, t and steps in the first factor are counted from the end of the warm-up.
    """
    start = config.warmup_steps if config.decay_after_warmup else 0

    def rate(count: Int[Array, ""]) -> Array:
        done = jnp.clip((count - start) / max(steps - start, 1), 0.0, 1.0)
        warm = jnp.minimum(1.0, count / config.warmup_steps) if config.warmup_steps else 1.0
        return config.learning_rate * (1 - done) ** config.power * warm

    return rate


def make_optimizer(
    config: OptimizerConfig, steps: int, frozen: Collection[str] = ()
) -> optax.GradientTransformationExtraArgs:
    """Clip by the global norm, precondition, decay, scale by the schedule; nothing below the keys `frozen` moves.

    The state stays as it was where `update` is told that a step isn't `good` (bool, by default that it is); the updates
    are then of no use.
    """
    parts = [
        clip_by_global_norm(config.clip_norm),
        scale_by_moments(config.b1, config.b2, config.eps, corrected=config.name != "adam"),
        optax.add_decayed_weights(config.weight_decay, mask=decay_mask),
    ]
    if config.name == "lamb":
        parts.append(scale_by_trust_ratio_a_layer())
    parts.append(keep_where_bad(optax.scale_by_learning_rate(outline(schedule(config, steps)))))
    if frozen:
        parts.append(optax.masked(optax.set_to_zero(), lambda updates: {name: name in frozen for name in updates}))
    return optax.chain(*parts)


def select(condition: Bool[Array, ""] | bool, these: Any, those: Any) -> Any:
    """One of two trees of arrays."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), these, those)


def keep_where_bad(part: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """`part`, whose state stays as it was where a step isn't `good`."""

    def update(
        updates: Params, state: optax.OptState, params: Params | None = None, *, good: Bool[Array, ""] | bool = True
    ) -> tuple[Params, optax.OptState]:
        updates, new = part.update(updates, state, params)
        return updates, select(good, new, state)

    return optax.GradientTransformationExtraArgs(part.init, update)


def squared_norm(tree: Params) -> Float[Array, ""]:
    """The sum of the squares of all elements.

    As `optax.tree.norm(tree, squared=True)`, which asks for real and imaginary parts: four more calls to be traced for
    each array.
    """
    return optax.tree.sum(jax.tree.map(jnp.square, tree))


def updates_made(state: optax.OptState) -> Int[Array, ""]:
    """How many updates the schedule of `make_optimizer` has counted in its `state`: bad steps are none."""
    return optax.tree.get_all_with_path(state, "count")[-1][1]


def clip_by_global_norm(norm: float) -> optax.GradientTransformation:
    """Shorten a gradient that is longer than `norm` ([G]); by one factor, where optax divides each element.

    A division XLA makes once, in memory, rather than in each of the three passes that read it.
    """

    def clip(gradients: Params, params: Params | None) -> Params:
        factor = outline(lambda length: jnp.minimum(1, norm / length))(jnp.sqrt(squared_norm(gradients)))
        return optax.tree.scale(factor, gradients)

    return optax.stateless(clip)


class Moments(NamedTuple):
    """First and second moment of each gradient."""

    mu: Params
    nu: Params


def scale_by_moments(b1: float, b2: float, eps: float, *, corrected: bool) -> optax.GradientTransformationExtraArgs:
    """Adam, eps outside the square root; its moments `corrected` for their start from 0 (`optax.scale_by_adam`), or not
    ([G] AdamWeightDecayOptimizer).

    Where a step isn't `good`, its state stays as it was.
    """

    def init(params: Params) -> optax.OptState:
        zeros = optax.tree.zeros_like
        if not corrected:
            return Moments(zeros(params), zeros(params))
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), zeros(params), zeros(params))

    def update(
        gradients: Params, state: optax.OptState, params: Params | None = None, *, good: Bool[Array, ""] | bool = True
    ) -> tuple[Params, optax.OptState]:
        new = state._replace(
            mu=optax.tree.update_moment(gradients, state.mu, b1, 1),
            nu=optax.tree.update_moment(gradients, state.nu, b2, 2),
        )
        if corrected:
            new = new._replace(count=optax.safe_increment(state.count))
        # Read from memory by what follows. Computed in it anew, from the old ones, those would first be copied: their
        # own memory is written meanwhile.
        new = barrier(select(good, new, state))
        mu, nu = new.mu, new.nu
        if corrected:
            mu, nu = (optax.tree.bias_correction(m, b, new.count) for m, b in ((mu, b1), (nu, b2)))
        return jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mu, nu), new

    return optax.GradientTransformationExtraArgs(init, update)


def scale_by_trust_ratio_a_layer() -> optax.GradientTransformation:
    """LAMB's trust ratio for each layer's own matrix, though a tower's layers are stacked in one array.

    LayerNorms and biases move as Adam has it (the authors' own exclusion, and NVIDIA's --skip_adaptive): of a bias,
    which starts from 0, the ratio would be next to nothing.
    """
    whole = optax.scale_by_trust_ratio()

    def one(path: str, update: Array, param: Array) -> Array:
        if NOT_DECAYED.search(path):
            return update

        def scaled(update: Array, param: Array) -> Array:
            return whole.update(update, optax.EmptyState(), param)[0]

        return jax.vmap(scaled)(update, param) if STACKED.search(path) else scaled(update, param)

    def update(updates: Params, state: optax.EmptyState, params: Params) -> tuple[Params, optax.EmptyState]:
        return jax.tree.map(one, paths(params), updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
