import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from electra_jax.config import ModelConfig, OptimizerConfig, TowerConfig
from electra_jax.hub.names import flat, tensors
from electra_jax.model import Electra
from electra_jax.train.optimizer import Params, decay_mask, make_optimizer, schedule

STEPS, WARMUP = 20, 5
LAYERS = 3
SHAPES = {
    "embeddings/word": (7, 4),
    "encoder/norm/scale": (4,),
    "encoder/norm/bias": (4,),
    "encoder/layers/dense/kernel": (LAYERS, 4, 6),
    "encoder/layers/dense/bias": (LAYERS, 6),
    "encoder/layers/norm/scale": (LAYERS, 6),
    "head/bias": (7,),
}
DECAYED = {"embeddings/word", "encoder/layers/dense/kernel"}


def config(**fields: float | str) -> OptimizerConfig:
    defaults = {"learning_rate": 0.01, "warmup_steps": WARMUP, "weight_decay": 0.1}
    return OptimizerConfig(**{**defaults, **fields})


def nest(leaves: dict[str, np.ndarray]) -> Params:
    root: Params = {}
    for path, leaf in leaves.items():
        *folders, name = path.split("/")
        folder = root
        for part in folders:
            folder = folder.setdefault(part, {})
        folder[name] = jnp.asarray(leaf, jnp.float32)
    return root


def random_leaves(seed: int, scale: float = 1.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {path: scale * rng.normal(size=shape) for path, shape in SHAPES.items()}


def gradient_at(step: int) -> dict[str, np.ndarray]:
    """Now within the clipping norm, now beyond it."""
    return random_leaves(100 + step, scale=0.5 if step % 2 else 0.01)


def run(optimizer: optax.GradientTransformation, steps: int = STEPS) -> dict[str, np.ndarray]:
    params = nest(random_leaves(0))
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for step in range(steps):
        updates, state = update(nest(gradient_at(step)), state, params)
        params = optax.apply_updates(params, updates)
    return flat(params)


def assert_equal(ours: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert ours.keys() == expected.keys() == SHAPES.keys()
    for path in SHAPES:
        np.testing.assert_allclose(ours[path], expected[path], rtol=2e-5, atol=2e-6, err_msg=path)


@pytest.mark.parametrize("power", [1.0, 0.5])
def test_adam_is_the_references(power: float) -> None:
    params = random_leaves(0)
    m, v = ({path: np.zeros(shape) for path, shape in SHAPES.items()} for _ in range(2))
    for t in range(STEPS):
        gradient = gradient_at(t)
        norm = np.sqrt(sum((leaf**2).sum() for leaf in gradient.values()))
        rate = 0.01 * (1 - t / STEPS) ** power * min(1, t / WARMUP)
        for path, leaf in gradient.items():
            g = leaf / max(1, norm)
            m[path] = 0.9 * m[path] + 0.1 * g
            v[path] = 0.999 * v[path] + 0.001 * g**2
            decay = 0.1 * params[path] if path in DECAYED else 0
            params[path] = params[path] - rate * (m[path] / (np.sqrt(v[path]) + 1e-6) + decay)

    assert_equal(run(make_optimizer(config(power=power), STEPS)), params)


def test_adamw_is_optaxs() -> None:
    settings = config(name="adamw")
    theirs = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(schedule(settings, STEPS), b1=0.9, b2=0.999, eps=1e-6, weight_decay=0.1, mask=decay_mask),
    )

    assert_equal(run(make_optimizer(settings, STEPS)), run(theirs))


def unstack(params: Params) -> Params:
    """A tree of its own for each layer."""
    layers = params["encoder"]["layers"]
    split = [jax.tree.map(lambda leaf, i=i: leaf[i], layers) for i in range(LAYERS)]
    return {**params, "encoder": {**params["encoder"], "layers": split}}


def restack(params: Params) -> Params:
    layers = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params["encoder"]["layers"])
    return {**params, "encoder": {**params["encoder"], "layers": layers}}


def test_lamb_trusts_each_stacked_layer_as_optaxs_does_each_layer_alone() -> None:
    """LayerNorms and biases apart, as in NVIDIA's run_pretraining.sh (--skip_adaptive)."""
    settings = config(name="lamb", b1=0.878, b2=0.974, power=0.5)
    lamb = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.scale_by_adam(b1=0.878, b2=0.974, eps=1e-6),
        optax.add_decayed_weights(0.1, mask=decay_mask),
        optax.masked(optax.scale_by_trust_ratio(), decay_mask),
        optax.scale_by_learning_rate(schedule(settings, STEPS)),
    )

    def update(gradients: Params, state: optax.OptState, params: Params) -> tuple[Params, optax.OptState]:
        updates, state = lamb.update(unstack(gradients), state, unstack(params))
        return restack(updates), state

    apart = optax.GradientTransformation(lambda params: lamb.init(unstack(params)), update)
    assert_equal(run(make_optimizer(settings, STEPS)), run(apart))


# --- schedule -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("done", "power", "share"),
    [
        (0, 1, 0),
        (1, 1, 0.01 * 0.999),
        (100, 1, 0.9),
        (550, 1, 0.45),
        (1000, 1, 0),
        (1001, 1, 0),
        (50, 0.5, 0.5 * 0.95**0.5),
        (640, 0.5, 0.6),
        (1000, 0.5, 0),
    ],
)
def test_the_rate_warms_up_and_decays_to_zero(done: int, power: float, share: float) -> None:
    rate = schedule(config(learning_rate=3e-4, warmup_steps=100, power=power), 1000)

    np.testing.assert_allclose(rate(jnp.int32(done)), 3e-4 * share, rtol=1e-5, atol=1e-10)


@pytest.mark.parametrize(("done", "share"), [(0, 0), (50, 0.5), (100, 1), (325, 0.75**0.5), (1000, 0), (1001, 0)])
def test_the_rate_may_decay_after_the_warmup_alone(done: int, share: float) -> None:
    """As NVIDIA's WarmUp and PolynomialDecay, of steps less the warm-up's, have it."""
    rate = schedule(config(learning_rate=3e-4, warmup_steps=100, power=0.5, decay_after_warmup=True), 1000)

    np.testing.assert_allclose(rate(jnp.int32(done)), 3e-4 * share, rtol=1e-5, atol=1e-10)


def test_without_warmup_the_rate_starts_at_its_peak() -> None:
    rate = schedule(config(warmup_steps=0), 1000)

    np.testing.assert_allclose([rate(jnp.int32(done)) for done in (0, 1)], [0.01, 0.01 * 0.999], rtol=1e-6)


# --- what is decayed ----------------------------------------------------------------------------------------------


def test_all_but_layer_norms_and_biases_is_decayed() -> None:
    sizes = ModelConfig(
        vocab_size=20,
        embedding_size=8,
        discriminator=TowerConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=12),
        generator=TowerConfig(num_hidden_layers=1, hidden_size=4, num_attention_heads=2, intermediate_size=12),
    )
    model = nnx.eval_shape(lambda: Electra(sizes, rngs=nnx.Rngs(0)))
    mask = flat(decay_mask(nnx.to_pure_dict(nnx.state(model))))

    expected = {}
    for kind in ("discriminator", "generator"):
        for tensor in tensors(sizes.tower(kind), kind):
            path = tensor.path if tensor.path.startswith("embeddings/") else f"{kind}/{tensor.path}"
            # The exclusions of the reference, by its own names.
            expected[path] = "LayerNorm" not in tensor.key and "bias" not in tensor.key
    assert mask == expected
    assert [mask[f"embeddings/{table}"] for table in ("word", "position", "type")] == [True, True, True]
