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

from electra_jax.config import ModelConfig, ObjectiveConfig, PretrainConfig, TowerConfig
from electra_jax.data.tokenizer import load_tokenizer
from electra_jax.errors import UserError
from electra_jax.finetuning.score import score
from electra_jax.finetuning.start import load_start
from electra_jax.hub.names import flat
from electra_jax.model import Tokens
from electra_jax.objectives.electra import electra
from electra_jax.objectives.registry import OBJECTIVES, Objective
from electra_jax.train.convert import export, import_pretrained
from electra_jax.train.flops import step_flops
from electra_jax.train.models import started_from_one
from electra_jax.train.pretrain import pretrain
from electra_jax.train.run import restore_params
from electra_jax.train.step import graph_of, init_params

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
    predicted = "encoder_loss" if "encoder_loss" in last else "mlm_loss"  # what is judged follows the samples
    assert last[predicted] < first[predicted]
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
    config = with_objective(finished, tmp_path / "run", "electra-15")
    pretrain(config)
    discriminator, _ = export(config.out, tmp_path / "exported")
    imported = import_pretrained(discriminator, tmp_path / "imported")
    for folder in (discriminator, *export(imported, tmp_path / "again")):
        assert AutoConfig.from_pretrained(folder).pretraining_objective == "electra-15"


@pytest.mark.parametrize("tie", [pytest.param("none", marks=pytest.mark.slow), "gdes"])
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
    run, folder = (flat(load_start(str(place))[1]) for place in (config.out, discriminator))  # where fine-tuning starts
    for path, leaf in folder.items():
        np.testing.assert_array_equal(run[path], leaf, err_msg=path)


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


def test_a_frozen_generator_of_gdes_keeps_its_tables(finished: PretrainConfig, tmp_path: Path) -> None:
    config = with_objective(finished, tmp_path / "first", "electra", tie="gdes")
    pretrain(config)
    objective = ObjectiveConfig(generator_weight=0.0)
    second = replace(config, out=tmp_path / "second", objective=objective, init_from=config.out, steps=3)
    pretrain(second)
    before, after = restore_params(config.out)[1], restore_params(second.out)[1]
    for name in ("embeddings", "generator"):
        assert micro.equal_bits(flat(before[name]), flat(after[name]))
    assert not micro.equal_bits(flat(before["discriminator"]), flat(after["discriminator"]))


def test_differences_are_added_where_one_encoder_starts_both_towers(finished: PretrainConfig) -> None:
    """Of a run with tie gdes, whose discriminator has tables of its own beside the shared ones."""
    config = with_objective(finished, finished.out, "electra", tie="gdes")
    params = jax.tree.map(lambda leaf: np.asarray(leaf) + 0.5, init_params(config))
    del params["generator"]
    started = started_from_one(params, replace(config.model, tie="embeddings"), config.model.discriminator)
    both = params["embeddings"]["word"] + params["discriminator"]["embeddings"]["word"]
    np.testing.assert_array_equal(started["embeddings"]["word"], both)
    assert "embeddings" not in started["discriminator"]
    apart = started_from_one(params, config.model, config.model.discriminator)["discriminator"]["embeddings"]
    assert micro.equal_bits(flat(apart), flat({"norm": params["discriminator"]["embeddings"]["norm"]}))


def test_a_frozen_generator_must_come_from_somewhere(finished: PretrainConfig, tmp_path: Path) -> None:
    objective = ObjectiveConfig(generator_weight=0.0)
    with pytest.raises(UserError, match=r"objective.generator_weight: 0 leaves the generator as it starts"):
        pretrain(replace(finished, out=tmp_path / "run", objective=objective))
    assert not (tmp_path / "run").exists()
    unigram = replace(finished.model, generator_kind="unigram")
    run = replace(finished, out=tmp_path / "run", objective=objective, model=unigram, steps=2)
    pretrain(run)
    unused = replace(unigram, generator=replace(unigram.generator, num_hidden_layers=2))  # a tower that it has not
    pretrain(replace(run, out=tmp_path / "again", model=unused, init_from=run.out))


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
        ({"tie": "gdes"}, {"name": "mlm"}, "model.tie: gdes takes a generator that trains .*, and mlm has none"),
        ({"type_vocab_size": 1}, {}, "model.type_vocab_size: 1, and rows have two segments"),
        ({"embedding_size": 0}, {}, "model.embedding_size: 0 is not above 0"),
        ({"hidden_dropout_prob": 1.0}, {}, "model.hidden_dropout_prob: 1.0 is not a number from 0 to below 1"),
        ({"generator": TowerConfig(1, 0, 1, 8)}, {}, "model.generator.hidden_size: 0 is not above 0"),
        ({"generator": TowerConfig(1, 16, 1, 0)}, {}, "model.generator.intermediate_size: 0 is not above 0"),
        ({}, {"generator_weight": float("nan")}, "objective.generator_weight: nan is not a number of at least 0"),
        ({}, {"mask_token_prob": 1.5}, "objective.mask_token_prob: 1.5 is not a number from 0 to 1"),
        ({}, {"name": "mlm", "adversarial_weight": 1.0}, "objective.adversarial_weight: mlm has no discriminator"),
        ({}, {"adversarial_weight": 1.0, "disallow_correct": True}, "objective.adversarial_weight: its gradient"),
        (
            {"generator_kind": "uniform"},
            {"adversarial_weight": 1.0},
            "objective.adversarial_weight: a uniform generator",
        ),
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


def test_lamb_takes_no_tables_of_differences(finished: PretrainConfig, tmp_path: Path) -> None:
    model, optimizer = replace(finished.model, tie="gdes"), replace(finished.optimizer, name="lamb")
    with pytest.raises(UserError, match=r"model.tie: gdes has tables that start from 0, where lamb would hold them"):
        pretrain(replace(finished, out=tmp_path / "run", model=model, optimizer=optimizer))
    assert not (tmp_path / "run").exists()


def test_an_objective_may_count_no_tokens(
    finished: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def quiet(*arguments: Any, **options: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        loss, counts = electra(*arguments, **options)
        return loss, {name: count for name, count in counts.items() if name != "tokens"}

    monkeypatch.setitem(OBJECTIVES, "quiet", Objective(quiet))
    config = with_objective(finished, tmp_path / "run", "quiet")
    pretrain(config)
    written = (config.out / "metrics.jsonl").read_text()
    assert "peak_share" in written
    assert "tokens_per_second" not in written


def test_a_model_of_electric_scores_texts(finished: PretrainConfig, tmp_path: Path, fail: micro.Failing) -> None:
    config = with_objective(finished, tmp_path / "run", "electric")
    pretrain(config)
    (folder,) = export(config.out, tmp_path / "exported")
    text = "the lazy fox jumps over quiet towns."
    (one,) = score(folder, [text])

    tokenizer = load_tokenizer(folder)
    with torch.no_grad():
        energies = ElectraForPreTraining.from_pretrained(folder)(**tokenizer(text, return_tensors="pt")).logits
    np.testing.assert_allclose(one.log_likelihoods, -energies[0, 1:-1].numpy(), atol=1e-5)
    assert one.total == pytest.approx(sum(one.log_likelihoods))
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "An Electric model" in card
    assert "replaced" not in card.split("## Usage")[1].split("## Data")[0]
    line = fail("detect", "--model", folder, text)
    assert line.endswith(
        "pretraining_objective is electric, whose outputs are energies; it scores texts (`electra-jax score`)"
    )
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
    frozen = step_flops(replace(finished, objective=ObjectiveConfig(generator_weight=0.0)))
    assert flops("electra") - encoder == pytest.approx(3 * (frozen - encoder))
    bigger = ModelConfig(**{**vars(finished.model), "generator": finished.model.discriminator})
    assert step_flops(replace(finished, model=bigger)) > flops("electra")


@pytest.mark.parametrize("name", ["all-tokens-mlm", "electric"])
def test_an_objective_under_another_name_is_counted_alike(
    finished: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(OBJECTIVES, "mine", OBJECTIVES[name])
    config = with_objective(finished, tmp_path, name)
    mine = replace(config, objective=replace(config.objective, name="mine"))

    assert step_flops(mine) == step_flops(config)


def test_the_loss_that_is_recorded_has_the_adversarial_part(finished: PretrainConfig, tmp_path: Path) -> None:
    adversarial = replace(finished.objective, adversarial_weight=10.0)
    pretrain(replace(finished, out=tmp_path / "run", objective=adversarial, steps=1))

    first = micro.records(tmp_path / "run")[0]

    assert first["adversarial_loss"] != 0
    parts = first["mlm_loss"] + 50 * first["discriminator_loss"] + 10 * first["adversarial_loss"]
    assert first["loss"] == pytest.approx(parts, rel=1e-5)


def test_a_two_tower_generator_is_counted_twice(finished: PretrainConfig) -> None:
    deeper = replace(finished.model.generator, num_hidden_layers=2)
    layer = {}
    for kind in ("masked-lm", "two-tower"):
        one = with_objective(finished, finished.out, "electra", generator_kind=kind)
        layer[kind] = step_flops(replace(one, model=replace(one.model, generator=deeper))) - step_flops(one)
    assert layer["two-tower"] == 2 * layer["masked-lm"] > 0


@pytest.mark.parametrize(
    ("name", "picks", "everywhere"),
    [("electra", 3, 0), ("mlm", 3, 0), ("replace-mlm", 6, 0), ("all-tokens-mlm", 3, 3), ("electric", 0, 4)],
)
def test_an_entry_of_the_vocabulary_is_counted_where_it_is_predicted(
    finished: PretrainConfig, name: str, picks: int, everywhere: int
) -> None:
    config = with_objective(finished, finished.out, name)
    larger = replace(config, model=replace(config.model, vocab_size=config.model.vocab_size + 1))
    positions = picks * config.objective.slots(config.length) + everywhere * config.length
    expected = config.batch_size * 2 * config.model.embedding_size * positions
    assert step_flops(larger) - step_flops(config) == expected
