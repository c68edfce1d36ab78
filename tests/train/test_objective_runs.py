"""Runs of every objective, generator and tie: they learn, they go on, and what is exported is what was trained."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import micro
import numpy as np
import pytest
import torch
from transformers import AutoConfig, ElectraForMaskedLM, ElectraForPreTraining

from electra_jax.config import ModelConfig, ObjectiveConfig, PretrainConfig
from electra_jax.data.tokenizer import load_tokenizer
from electra_jax.errors import UserError
from electra_jax.finetuning.score import score
from electra_jax.finetuning.start import load_start
from electra_jax.hub.names import flat
from electra_jax.model import Tokens
from electra_jax.objectives.registry import OBJECTIVES
from electra_jax.train.convert import export, import_pretrained
from electra_jax.train.flops import step_flops
from electra_jax.train.pretrain import pretrain
from electra_jax.train.run import restore_params
from electra_jax.train.step import graph_of

pytestmark = pytest.mark.usefixtures("quick_compilation")

FOLDERS = {
    "electra-15": {"discriminator", "generator"},
    "replace-mlm": {"encoder", "generator"},
    "all-tokens-mlm": {"discriminator", "encoder", "generator"},
    "mlm": {"encoder"},
    "electric": {"discriminator"},
}
"""What each objective's run is exported as; transformers has no class for electric's generator."""


def with_objective(config: PretrainConfig, out: Path, name: str, **model: Any) -> PretrainConfig:
    model |= {"generator_kind": "two-tower"} if name == "electric" else {}
    changed = replace(config.model, **model)
    return replace(config, out=out, objective=replace(config.objective, name=name), model=changed)


def ids_of(config: PretrainConfig) -> np.ndarray:
    return np.random.default_rng(0).integers(5, config.model.vocab_size, (2, config.length))


def kept(config: PretrainConfig, ids: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Logits of a run's discriminator and of its masked-language-model head, as the run computes them."""
    from flax import nnx

    model = nnx.merge(graph_of(config), restore_params(config.out)[1])
    tokens = Tokens(jnp.asarray(ids), jnp.ones(ids.shape, bool), jnp.zeros(ids.shape, jnp.int32))
    detects, predicts = OBJECTIVES[config.objective.name].parts[1:]
    logits = None
    if predicts:
        table, bias = model.prediction
        logits = np.asarray(model.discriminator.lm_states(model.hidden(tokens)) @ table.T + bias)
    return np.asarray(model.discriminate(tokens)) if detects else None, logits


@pytest.mark.parametrize("name", FOLDERS)
def test_a_run_learns_and_transformers_loads_what_it_kept(finished: PretrainConfig, tmp_path: Path, name: str) -> None:
    config = with_objective(finished, tmp_path / "run", name)
    pretrain(config)
    first, last = (line for line in micro.records(config.out) if line["kind"] == "eval")
    assert last["loss"] < first["loss"]
    parts = OBJECTIVES[name].parts
    assert ("mlm_loss" in last, "auc" in last, "encoder_loss" in last) == tuple(parts)

    folders = {folder.name: folder for folder in export(config.out, tmp_path / "exported")}
    assert set(folders) == FOLDERS[name]
    ids = ids_of(config)
    for role, expected in zip(("discriminator", "encoder"), kept(config, ids), strict=True):
        if role in folders:
            cls = ElectraForPreTraining if role == "discriminator" else ElectraForMaskedLM
            assert AutoConfig.from_pretrained(folders[role]).architectures == [cls.__name__]
            with torch.no_grad():
                theirs = cls.from_pretrained(folders[role])(torch.as_tensor(ids)).logits
            np.testing.assert_allclose(theirs, expected, atol=1e-5)
    _, body, _ = load_start(str(next(iter(folders.values()))))  # fine-tuning starts from it
    assert micro.equal_bits(flat(jax.device_get(body)), flat(jax.device_get(load_start(str(config.out))[1])))


def test_an_import_keeps_the_name_of_what_was_learnt(finished: PretrainConfig, tmp_path: Path) -> None:
    config = replace(with_objective(finished, tmp_path / "run", "electra-15"), steps=1, eval_every=1)
    pretrain(config)
    discriminator, _ = export(config.out, tmp_path / "exported")
    imported = import_pretrained(discriminator, tmp_path / "imported")
    for folder in (discriminator, *export(imported, tmp_path / "again")):
        assert AutoConfig.from_pretrained(folder).pretraining_objective == "electra-15"


@pytest.mark.parametrize("tie", ["none", "gdes"])
def test_what_is_exported_of_a_pair_that_shares_less(finished: PretrainConfig, tmp_path: Path, tie: str) -> None:
    config = with_objective(finished, tmp_path / "run", "electra", tie=tie)
    pretrain(config)
    discriminator, generator = export(config.out, tmp_path / "exported")
    ids = ids_of(config)
    with torch.no_grad():
        theirs = ElectraForPreTraining.from_pretrained(discriminator)(torch.as_tensor(ids)).logits
    np.testing.assert_allclose(theirs, kept(config, ids)[0], atol=1e-5)
    tables = [model.electra.embeddings.word_embeddings.weight for model in _pair(discriminator, generator)]
    assert not np.allclose(*(table.detach().numpy() for table in tables), atol=1e-4)


def _pair(discriminator: Path, generator: Path) -> tuple[ElectraForPreTraining, ElectraForMaskedLM]:
    return ElectraForPreTraining.from_pretrained(discriminator), ElectraForMaskedLM.from_pretrained(generator)


def test_two_stage_training_is_two_runs(finished: PretrainConfig, tmp_path: Path) -> None:
    size = finished.model.discriminator
    first = with_objective(finished, tmp_path / "first", "mlm", generator=size, tie="none")
    pretrain(first)
    second = replace(
        with_objective(finished, tmp_path / "second", "electra", generator=size, tie="none"),
        objective=ObjectiveConfig(generator_weight=0.0),
        init_from=first.out,
        steps=3,
    )
    pretrain(second)

    before, after = restore_params(first.out)[1], restore_params(second.out)[1]
    frozen = {"embeddings": before["embeddings"], "encoder": before["discriminator"]["encoder"]}
    frozen |= {"head": before["discriminator"]["lm_head"]}
    assert micro.equal_bits(flat(frozen), flat(after["generator"]))
    old, new = (flat(params["discriminator"]["encoder"]) for params in (before, after))
    assert 0 < max(np.abs(new[path] - old[path]).max() for path in old) < 0.02  # it started from the first stage's


def test_a_frozen_generator_must_come_from_somewhere(finished: PretrainConfig, tmp_path: Path) -> None:
    objective = ObjectiveConfig(generator_weight=0.0)
    with pytest.raises(UserError, match=r"objective.generator_weight: 0 leaves the generator as it starts"):
        pretrain(replace(finished, out=tmp_path / "run", objective=objective))
    assert not (tmp_path / "run").exists()
    unigram = replace(finished.model, generator_kind="uniform")
    pretrain(replace(finished, out=tmp_path / "run", objective=objective, model=unigram, steps=2))


@pytest.mark.parametrize(
    ("model", "objective", "complaint"),
    [
        ({}, {"name": "elektra"}, "objective.name: 'elektra' is none of electra, electra-15, replace-mlm"),
        ({}, {"name": "electric"}, "model.generator_kind: electric asks for the probability of every token"),
        (
            {"generator_kind": "two-tower"},
            {"name": "electric", "temperature": 2.0},
            "objective.temperature: electric takes samples of the generator's own distribution",
        ),
        ({"generator_kind": "unigram", "tie": "gdes"}, {}, "model.tie: gdes takes a generator that trains the tables"),
        ({}, {"name": "mlm", "adversarial_weight": 1.0}, "objective.adversarial_weight: mlm has no discriminator"),
        ({}, {"adversarial_weight": 1.0, "disallow_correct": True}, "objective.adversarial_weight: its gradient"),
    ],
)
def test_settings_that_do_not_fit_each_other(
    finished: PretrainConfig, tmp_path: Path, model: dict[str, Any], objective: dict[str, Any], complaint: str
) -> None:
    config = replace(
        finished,
        out=tmp_path / "run",
        model=replace(finished.model, **model),
        objective=replace(finished.objective, **objective),
    )
    with pytest.raises(UserError, match=complaint):
        pretrain(config)


def test_a_model_of_electric_scores_texts(finished: PretrainConfig, tmp_path: Path, fail: micro.Failing) -> None:
    config = with_objective(finished, tmp_path / "run", "electric")
    pretrain(replace(config, steps=200, eval_every=200, checkpoint_every=200))
    (folder,) = export(config.out, tmp_path / "exported")
    text = "the lazy fox jumps over quiet towns."
    one, nonsense = score(folder, [text, "the the , . ing ##s fox fox"])

    tokenizer = load_tokenizer(folder)
    with torch.no_grad():
        energies = ElectraForPreTraining.from_pretrained(folder)(**tokenizer(text, return_tensors="pt")).logits
    np.testing.assert_allclose(one.log_likelihoods, -energies[0, 1:-1].numpy(), atol=1e-5)
    assert one.total == pytest.approx(sum(one.log_likelihoods))
    assert one.total / len(one.tokens) > nonsense.total / len(nonsense.tokens)
    line = fail("score", "--model", export(finished.out, tmp_path / "other")[0], text)
    assert line.endswith("has no pretraining_objective; only a discriminator of electric scores texts")


def test_another_objective_is_another_run(finished: PretrainConfig) -> None:
    with pytest.raises(UserError, match=r"this run has objective.name = 'electra', not 'electra-15'"):
        pretrain(with_objective(finished, finished.out, "electra-15"))


def test_an_objective_is_counted_by_what_it_computes(finished: PretrainConfig) -> None:
    def flops(name: str, **model: Any) -> float:
        return step_flops(with_objective(finished, finished.out, name, **model))

    encoder = flops("electra", generator_kind="uniform")
    assert flops("electra") == flops("electra-15") > encoder
    assert flops("mlm") < flops("replace-mlm") < flops("all-tokens-mlm")
    assert flops("electra", generator_kind="unigram") == encoder
    bigger = ModelConfig(**{**vars(finished.model), "generator": finished.model.discriminator})
    assert step_flops(replace(finished, model=bigger)) > flops("electra")
