"""Examples that a model of random weights learns within seconds."""

import csv
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import micro

DECIDING = {"fox": "good", "dogs": "bad"}
"""The word that decides the label."""
OTHERS = [word for word in micro.WORDS.split() if word not in DECIDING]


def sentences(count: int, seed: int = 0) -> Iterator[tuple[str, str]]:
    """Texts of three or six words, one of them deciding, and their labels."""
    rng = random.Random(seed)
    for number in range(count):
        some, deciding = rng.sample(OTHERS, 2 if number % 2 else 5), rng.choice(list(DECIDING))
        some.insert(rng.randint(0, len(some)), deciding)
        yield " ".join(some), DECIDING[deciding]


def write_csv(path: Path, header: tuple[str, ...], rows: Any) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path
