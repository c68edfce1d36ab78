"""When oneDNN makes a step's products, and what becomes of the compiled step."""

import threading
import warnings
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from micro import AMD, INTEL

from electra_jax.config import ComputeConfig, PretrainConfig
from electra_jax.errors import UserError
from electra_jax.model import onednn
from electra_jax.presets import load_config
from electra_jax.train.cache import compile_now, compiler_options, unkept
from electra_jax.train.check import check_compute
from electra_jax.train.flops import step_flops
from electra_jax.train.library import LONG, can_take_onednn, faster_in_bfloat16, has_onednn, takes_onednn
from electra_jax.train.step import options_of

MAKER, INSTRUCTIONS = "electra_jax.train.processor._maker", "electra_jax.train.processor.instructions"
NAME = "jax_persistent_cache_min_compile_time_secs"
with_onednn = pytest.mark.skipif(not has_onednn(), reason="XLA here has no oneDNN")


def long_run(preset: str = "small", **compute: str) -> PretrainConfig:
    config = load_config(preset, data=Path("data"), out=Path("out"))
    config = replace(config, compute=replace(config.compute, **compute))  # type: ignore[arg-type]
    return replace(config, steps=round(LONG[config.compute.dtype] / step_flops(config)) + 1)


def test_a_short_run_of_a_small_model_alone_is_compiled_in_less_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "")
    lean, otherwise = compiler_options(lean=True), compiler_options()
    assert lean != otherwise or jax.default_backend() != "cpu" or jax.__version_info__ >= (0, 11)
    config = long_run("tiny")
    assert options_of(config) == otherwise
    assert options_of(replace(config, steps=config.steps - 2)) == lean
    assert options_of(replace(long_run("small"), steps=1)) == otherwise


@with_onednn
def test_left_to_itself_a_long_run_on_a_processor_with_avx512_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    config = long_run()
    monkeypatch.setattr(INSTRUCTIONS, lambda: b"flags\t: fpu avx2 avx512f avx512bw")
    assert takes_onednn(config)
    assert not takes_onednn(replace(config, steps=config.steps - 2))
    assert not takes_onednn(long_run(products="xla"))
    assert not takes_onednn(long_run(remat="dots_saveable"))
    assert takes_onednn(long_run(remat="nothing_saveable"))
    monkeypatch.setattr(INSTRUCTIONS, lambda: b"flags\t: fpu avx2")
    assert not takes_onednn(config)
    assert takes_onednn(replace(long_run(products="onednn"), steps=1))


@with_onednn
@pytest.mark.parametrize(
    ("maker", "flags"), [(INTEL, b"avx512_bf16 amx_bf16"), (AMD, b"avx512_bf16"), (AMD, b"avx512_bf16 amx_bf16")]
)
def test_in_bfloat16_a_processor_that_multiplies_it_takes_it(
    maker: bytes, flags: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = long_run(dtype="bfloat16")
    assert config.steps < long_run().steps
    monkeypatch.setattr(MAKER, lambda: maker)
    monkeypatch.setattr(INSTRUCTIONS, lambda: b"flags\t: fpu avx512bw " + flags + b" sse4_2")
    assert takes_onednn(config)
    assert not takes_onednn(replace(config, steps=config.steps - 2))
    check_compute(ComputeConfig(products="onednn", dtype="bfloat16"))


@with_onednn
@pytest.mark.parametrize(("maker", "flags"), [(INTEL, b"avx512_bf16"), (AMD, b"")])
def test_in_bfloat16_no_other_takes_it(maker: bytes, flags: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MAKER, lambda: maker)
    monkeypatch.setattr(INSTRUCTIONS, lambda: b"flags\t: fpu avx512bw " + flags + b" sse4_2")
    assert takes_onednn(long_run())
    assert not takes_onednn(long_run(dtype="bfloat16"))
    with pytest.raises(
        UserError,
        match=r"onednn takes an x86 CPU \(for compute\.dtype bfloat16 with AMX, or AMD's since Zen 4\), .* give auto$",
    ):
        check_compute(ComputeConfig(products="onednn", dtype="bfloat16"))


@with_onednn
def test_a_run_that_would_be_faster_in_bfloat16_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("electra_jax.train.library.has_avx512", lambda: True)
    monkeypatch.setattr("electra_jax.train.library.has_fast_bfloat16", lambda: True)
    config = long_run()
    assert faster_in_bfloat16(config)
    assert not faster_in_bfloat16(long_run(dtype="bfloat16"))
    assert not faster_in_bfloat16(long_run(products="xla"))
    assert not faster_in_bfloat16(replace(config, steps=1))
    monkeypatch.setattr("electra_jax.train.library.has_fast_bfloat16", lambda: False)
    assert not faster_in_bfloat16(config)
    assert not faster_in_bfloat16(long_run(products="onednn"))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for kernels in (True, False):
        monkeypatch.setattr("electra_jax.train.library.has_triton", lambda dtype, kernels=kernels: kernels)
        assert faster_in_bfloat16(config) == kernels


@pytest.mark.parametrize(
    "compute",
    [
        ComputeConfig(products="onednn", remat="dots_saveable"),
        ComputeConfig(products="onednn", remat="dots_with_no_batch_dims_saveable"),
    ],
)
def test_where_it_cannot_be_had_that_is_told(compute: ComputeConfig) -> None:
    with pytest.raises(UserError, match=r"^compute\.products: onednn takes an x86 CPU \(.*\), .* give auto$"):
        check_compute(compute)


def test_an_xla_that_does_not_know_the_call_goes_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "CALL", "__onednn$no_such")
    assert not has_onednn.__wrapped__()
    monkeypatch.setattr("electra_jax.train.library.has_onednn", lambda: False)
    assert not can_take_onednn(ComputeConfig())
    with pytest.raises(UserError, match=r"^compute\.products: "):
        check_compute(ComputeConfig(products="onednn"))


def test_an_xla_that_makes_another_product_goes_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("electra_jax.train.library.matmul", lambda a, b, **_: 2 * jnp.einsum("bml,bnm->bln", a, b))
    assert not has_onednn.__wrapped__()


@with_onednn
def test_what_it_is_in_is_kept_nowhere(kept: Path) -> None:
    def product(a: jax.Array) -> jax.Array:
        return onednn.matmul(a, a) if onednn.takes(a, a) else a @ a

    a = jnp.eye(8)
    kept_before = {path.name for path in kept.iterdir()}
    with warnings.catch_warnings(action="error"):  # as JAX warns where a program can't be written down
        assert (compile_now(jax.jit(product), a, onednn=True)(a) == a).all()
    assert {path.name for path in kept.iterdir() if "product" in path.name} <= kept_before
    assert jax.config.values[NAME] == 0
    assert (compile_now(jax.jit(product), a)(a) == a).all()  # traced anew, without it
    assert any("product" in path.name for path in kept.iterdir())


def test_a_thread_waits_until_another_has_put_the_setting_back() -> None:
    before, entered = jax.config.values[NAME], threading.Event()

    def enter() -> None:
        with unkept():
            entered.set()

    other = threading.Thread(target=enter)
    with unkept():
        other.start()
        assert not entered.wait(0.2)
    other.join()
    assert entered.is_set()
    assert jax.config.values[NAME] == before


def test_after_a_failure_all_is_kept_as_before(kept: Path) -> None:
    def fail(x: jax.Array) -> jax.Array:
        assert jax.config.values[NAME] == float("inf")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        compile_now(jax.jit(fail), jnp.eye(2), onednn=True)
    assert jax.config.values[NAME] == 0
