"""The ordinary transformers script for classification, in PyTorch: what our fine-tuning is compared with.

    python tools/hf_trainer.py MODEL TRAIN.csv TEST.csv OUT.json [--epochs 3 --learning-rate 5e-4 --seed 0 ...]

ElectraTokenizer, ElectraForSequenceClassification and Trainer as their documentation has them; the CSVs have columns
label and text. OUT.json holds the accuracy on TEST, the examples a second of training, and every warning.
"""

import csv
import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
import tyro
from transformers import (  # type: ignore[attr-defined]  # of what its lazy module makes
    DataCollatorWithPadding,
    ElectraForSequenceClassification,
    ElectraTokenizer,
    Trainer,
    TrainingArguments,
)
from tyro.conf import Positional


@dataclass(frozen=True)
class Arguments:
    """What the script is given."""

    model: Positional[str]
    train: Positional[Path]
    test: Positional[Path]
    out: Positional[Path]
    epochs: float = 3
    learning_rate: float = 5e-4
    batch_size: int = 32
    length: int = 128
    seed: int = 0
    threads: int = 2


class Examples(torch.utils.data.Dataset):
    """The rows of a CSV, tokenized."""

    def __init__(self, path: Path, tokenizer: Any, labels: list[str], length: int):
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        self.items = tokenizer([row["text"] for row in rows], truncation=True, max_length=length)
        self.labels = [labels.index(row["label"]) for row in rows]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {name: values[index] for name, values in self.items.items()} | {"labels": self.labels[index]}


class Collected(logging.Handler):
    """Keeps every warning."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:  # noqa: D102
        self.lines.append(record.getMessage())


def main(arguments: Arguments) -> None:
    """Fine-tune, evaluate, and write what came out."""
    torch.set_num_threads(arguments.threads)
    warnings = Collected()
    transformers.utils.logging.add_handler(warnings)
    tokenizer = ElectraTokenizer.from_pretrained(arguments.model)
    with arguments.train.open(encoding="utf-8", newline="") as file:
        labels = sorted({row["label"] for row in csv.DictReader(file)})
    model = ElectraForSequenceClassification.from_pretrained(arguments.model, num_labels=len(labels))
    train, test = (Examples(path, tokenizer, labels, arguments.length) for path in (arguments.train, arguments.test))
    settings = TrainingArguments(
        output_dir=str(arguments.out.with_suffix(".trainer")),
        num_train_epochs=arguments.epochs,
        learning_rate=arguments.learning_rate,
        per_device_train_batch_size=arguments.batch_size,
        per_device_eval_batch_size=arguments.batch_size,
        lr_scheduler_type="linear",
        warmup_steps=round(0.1 * arguments.epochs * len(train) / arguments.batch_size),
        weight_decay=0.01,
        seed=arguments.seed,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = Trainer(model, settings, DataCollatorWithPadding(tokenizer), train)
    start = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - start
    predicted = np.asarray(trainer.predict(test).predictions).argmax(-1)
    result = {
        "accuracy": float(np.mean(predicted == np.array(test.labels))),
        "train_seconds": seconds,
        "examples_per_second": arguments.epochs * len(train) / seconds,
        "warnings": warnings.lines,
    }
    arguments.out.write_text(json.dumps(result, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
