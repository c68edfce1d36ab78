import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny import CONFIGS

from electra_jax.config import ComputeConfig
from electra_jax.errors import UserError
from electra_jax.hub.names import flat, parameter_shapes
from electra_jax.hub.pretrained import Discriminator, Generator


def test_shapes(discriminator: Discriminator, generator: Generator, ids: np.ndarray) -> None:
    assert discriminator(ids).shape == (2, 7)
    assert discriminator.hidden_states(ids).shape == (2, 7, 16)
    assert generator(ids).shape == (2, 7, 40)
    assert generator.hidden_states(ids).shape == (2, 7, 8)


def test_parameters_have_the_layout_of_one_model(generator: Generator) -> None:
    shapes = {path: leaf.shape for path, leaf in flat(generator.params).items()}

    assert shapes == parameter_shapes(CONFIGS["generator"], "generator")


@pytest.mark.parametrize("compute", [ComputeConfig(), ComputeConfig("bfloat16", scan_layers=True)])
def test_saved_and_loaded_it_is_the_same_model(
    discriminator: Discriminator, compute: ComputeConfig, ids: np.ndarray, tmp_path: Path
) -> None:
    before = Discriminator.from_params(discriminator.config, discriminator.params, compute)
    before.save_pretrained(tmp_path / "model")
    after = Discriminator.from_pretrained(str(tmp_path / "model"), compute)

    assert after.config == before.config
    np.testing.assert_array_equal(after(ids), before(ids))


def test_loading_draws_no_weights(discriminator_folder: Path) -> None:
    drawn = []

    class Watched(Discriminator):
        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            drawn.append(not isinstance(self.embeddings.word[...], jax.core.Tracer))

    Watched.from_pretrained(discriminator_folder)
    assert drawn == [False]
    Watched(CONFIGS["discriminator"], rngs=nnx.Rngs(0))
    assert drawn == [False, True]


def test_an_existing_folder_is_not_overwritten(discriminator: Discriminator, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(UserError, match="already exists"):
        discriminator.save_pretrained(tmp_path)


def test_padding_does_not_matter(discriminator: Discriminator, ids: np.ndarray) -> None:
    mask = np.array([[1] * 7, [1] * 4 + [0] * 3])
    other = np.where(mask, ids, 5)

    np.testing.assert_array_equal(discriminator(ids, mask)[1, :4], discriminator(other, mask)[1, :4])


def test_a_second_model_of_the_same_settings_is_not_compiled_again(ids: np.ndarray) -> None:
    from electra_jax.hub import pretrained

    first, second = (Generator(CONFIGS["generator"], rngs=nnx.Rngs(seed)) for seed in (1, 2))
    first(ids)
    compiled = pretrained._jitted._cache_size()
    first(ids + 0)
    second(ids)

    assert pretrained._jitted._cache_size() == compiled


def test_gradients_flow(discriminator: Discriminator, ids: np.ndarray) -> None:
    gradient = nnx.grad(lambda model: model(ids).sum())(discriminator)

    assert all(float(abs(leaf).max()) > 0 for leaf in jax.tree.leaves(nnx.to_pure_dict(gradient)["tower"]["head"]))


def test_rows_longer_than_the_positions(discriminator: Discriminator) -> None:
    with pytest.raises(ValueError, match="13 tokens in a row, and the model has 12 positions"):
        discriminator(np.zeros((1, 13), int))


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        ([[1, 10**6]], "to 1000000, and"),
        ([[1, CONFIGS["discriminator"].vocab_size]], "and the vocabulary has"),
        ([[-1, 1]], "from -1"),
        ([[]], "no ids"),
    ],
)
def test_ids_that_are_none(discriminator: Discriminator, ids: list, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        discriminator(jnp.array(ids))


@pytest.mark.parametrize("types", [[[0, 2]], [[-1, 0]]])
def test_types_that_are_none(discriminator: Discriminator, types: list) -> None:
    with pytest.raises(ValueError, match=r"token_type_ids from .* to ., and the model has 2 types"):
        discriminator(np.array([[1, 2]]), token_type_ids=np.array(types))


def test_one_row_without_its_batch(discriminator: Discriminator) -> None:
    with pytest.raises(ValueError, match=r"input_ids has shape \(5,\), and must be \[batch, length\]"):
        discriminator(np.zeros(5, int))


@pytest.mark.parametrize(("name", "shape"), [("attention_mask", (2, 1)), ("token_type_ids", (5,))])
def test_a_mask_or_types_of_another_shape(discriminator: Discriminator, name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"{name} has shape .*, and input_ids \(2, 5\); give it the same"):
        discriminator(np.ones((2, 5), int), **{name: np.ones(shape, int)})


def test_an_id_beyond_32_bits(discriminator: Discriminator) -> None:
    with pytest.raises(ValueError, match="input_ids from 3 to 4294967301, and the vocabulary has 40 entries"):
        discriminator(np.array([[2**32 + 5, 3]]))


def test_a_way_to_compute_that_there_is_not(discriminator_folder: Path) -> None:
    with pytest.raises(UserError, match="ComputeConfig: dtype: 'float16' is none of"):
        Discriminator.from_pretrained(discriminator_folder, ComputeConfig(dtype="float16"))  # type: ignore[arg-type]


def test_parameters_of_other_settings(discriminator: Discriminator) -> None:
    with pytest.raises(UserError, match=r"the parameters: .* has shape"):
        Discriminator.from_params(CONFIGS["generator"], discriminator.params)


def test_torch_is_not_needed(discriminator_folder: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from electra_jax.hub.pretrained import Discriminator\n"
        f"print(Discriminator.from_pretrained({str(discriminator_folder)!r})([[1, 2]]).shape)"
    )
    run = subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True, text=True)

    assert run.stdout == "(1, 2)\n", run.stderr
