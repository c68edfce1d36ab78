from dataclasses import replace

import pytest

from electra_jax.config import ElectraConfig
from electra_jax.hub.names import BODY, HEADS, flat, nested, parameter_shapes, tensors

SMALL, WIDE = ElectraConfig(), ElectraConfig(embedding_size=256)


@pytest.mark.parametrize("kind", ["discriminator", "generator"])
def test_each_parameter_and_key_stands_in_the_table_once(kind: str) -> None:
    names = [*BODY, *HEADS[kind]]

    assert len({name.path for name in names}) == len({name.key for name in names}) == len(names)
    assert {name.path for name in names} == set(parameter_shapes(SMALL, kind))


@pytest.mark.parametrize("kind", ["discriminator", "generator"])
def test_only_differing_widths_are_projected(kind: str) -> None:
    projected, plain = ({tensor.key for tensor in tensors(config, kind)} for config in (SMALL, WIDE))

    assert projected - plain == {"electra.embeddings_project.weight", "electra.embeddings_project.bias"}
    assert plain < projected


def test_each_layer_has_its_own_tensors_in_torch_orientation() -> None:
    config = replace(SMALL, num_hidden_layers=3)
    by_key = {tensor.key: tensor for tensor in tensors(config, "discriminator")}
    last = by_key["electra.encoder.layer.2.intermediate.dense.weight"]

    assert last == (last.key, "encoder/layers/feed_forward/intermediate/kernel", 2, True, (1024, 256))
    assert "electra.encoder.layer.3.intermediate.dense.weight" not in by_key


def test_a_table_that_lacks_a_parameter_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("electra_jax.hub.names.BODY", BODY[1:])

    with pytest.raises(AssertionError, match="drifted apart"):
        tensors(SMALL, "generator")


def test_nested_undoes_flat() -> None:
    tree = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}

    assert flat(tree) == {"a/b": 1, "a/c/d": 2, "e": 3}
    assert nested(flat(tree).items()) == tree
