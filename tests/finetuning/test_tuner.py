"""The step of fine-tuning: what its loss is a mean of, and that its dropout is drawn anew."""

import json
import math
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from rich.console import Console
from scipy.special import log_softmax

from electra_jax.config import FinetuneConfig
from electra_jax.finetuning.data import load_data
from electra_jax.finetuning.examples import Batch, collate
from electra_jax.finetuning.start import load_start
from electra_jax.finetuning.tasks import make_task
from electra_jax.finetuning.tuner import State, Tuner
from electra_jax.train.step import read_tokens


def make_tuner(learning: FinetuneConfig, dropout: float) -> Tuner:
    """One that leaves the weights as they are."""
    config = replace(learning, learning_rate=0.0)
    model, body, tokenizer = load_start(config.model)
    model = replace(model, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    data = load_data(config, make_task(config, tokenizer, model))
    return Tuner(config, model, body, data, Console(quiet=True))


def batch_of(tuner: Tuner, examples: int) -> Batch:
    length = max(tuner.lengths[:examples])
    return collate([tuner.features[i] for i in range(examples)], tuner.config.batch_size, int(length))


def losses(tuner: Tuner, batch: Batch, steps: int) -> tuple[State, list[float]]:
    """Of each step on the same batch."""
    state = tuner.start(np.uint32(3), tuner.body)
    totals = [0.0]
    for _ in range(steps):
        state = tuner.step(state, batch, np.uint32(3))
        totals.append(float(state["window"][0]))
    return state, np.diff(totals).tolist()


def test_a_last_batch_is_a_mean_over_its_examples(learning: FinetuneConfig) -> None:
    tuner = make_tuner(learning, dropout=0.0)
    batch = batch_of(tuner, 3)
    state, (loss,) = losses(tuner, batch, 1)

    logits = jax.jit(lambda params: nnx.merge(tuner.graph, params)(read_tokens(batch)))(state["params"])
    log_p = log_softmax(np.asarray(logits, np.float64)[:3], axis=-1)
    assert loss == pytest.approx(-log_p[np.arange(3), batch["target"][:3]].mean(), rel=1e-5)


@pytest.mark.parametrize(("dropout", "different"), [(0.1, 3), (0.0, 1)])
def test_every_step_draws_its_own_dropout(learning: FinetuneConfig, dropout: float, different: int) -> None:
    tuner = make_tuner(learning, dropout)
    found = losses(tuner, batch_of(tuner, 8), 3)[1]
    assert len({round(loss, 4) for loss in found}) == different


def test_an_evaluation_that_is_no_number_is_the_worst(learning: FinetuneConfig, tmp_path: Path) -> None:
    tuner = make_tuner(replace(learning, patience=2), 0.0)
    scores = [0.8, math.nan, math.nan]
    lines = [{"step": 10 * (i + 1), "kind": "eval", "score": score} for i, score in enumerate(scores)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    assert tuner._best_step(tmp_path) == 10
    assert tuner._gave_up(scores)
