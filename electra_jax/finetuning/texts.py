"""Texts as a discriminator reads them that has not been fine-tuned: what it says of each token."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from tokenizers import Encoding

from electra_jax.data.tokenizer import fitting, load_tokenizer
from electra_jax.errors import UserError
from electra_jax.files import is_unicode
from electra_jax.finetuning.buckets import BATCH_SIZE, eval_plans, fixed_buckets
from electra_jax.finetuning.examples import Feature, check_several, collate, sequence_of
from electra_jax.hub.pretrained import Discriminator
from electra_jax.hub.source import local_folder
from electra_jax.train.step import read_tokens


class Reading(NamedTuple):
    """A text's tokens without [CLS] and [SEP], each with its place and its logit."""

    text: str
    tokens: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]
    """First character, and that behind the last."""
    logits: Float[np.ndarray, " tokens"]


def read_texts(model: str | Path, texts: Sequence[str]) -> list[Reading]:
    """Each text with the logits of the discriminator in a folder, or of that name on the hub.

    In batches of like lengths, padded to few of them, so that as few shapes are compiled however many texts there are.
    Raises UserError where there is no discriminator, and for a text that is empty, no UTF-8, or longer than the model's
    positions; TypeError for one text in place of several.
    """
    check_several(texts)
    folder = local_folder(model)
    discriminator = Discriminator.from_pretrained(folder)
    tokenizer = fitting(load_tokenizer(folder), discriminator.config.vocab_size, model)
    positions = discriminator.config.max_position_embeddings
    encodings = [
        _encode(tokenizer, text, positions, "the text" if len(texts) == 1 else f"text {number}")
        for number, text in enumerate(texts, start=1)
    ]
    found = dict(_logits(discriminator, encodings))
    if not all(np.isfinite(logits).all() for logits in found.values()):
        raise UserError(f"{model}: the model's logits are no numbers; its weights are damaged")
    return [
        Reading(text, tuple(encoding.tokens[1:-1]), tuple(encoding.offsets[1:-1]), found[i][1:-1])
        for i, (text, encoding) in enumerate(zip(texts, encodings, strict=True))
    ]


def _encode(tokenizer: object, text: str, positions: int, name: str) -> Encoding:
    """The text as `tokenizers` encodes it, [CLS] to [SEP]."""
    if not is_unicode(text):
        raise UserError(f"{name}: {text!a} is not UTF-8; convert it")
    encoding = tokenizer(text, verbose=False).encodings[0]  # type: ignore[operator]
    if len(encoding.ids) == 2:
        raise UserError(f"{name}: is empty; give some words")
    if len(encoding.ids) > positions:
        raise UserError(f"{name}: has {len(encoding.ids)} tokens, and the model {positions} positions; divide it")
    return encoding


def _logits(
    discriminator: Discriminator, encodings: Sequence[Encoding]
) -> Iterator[tuple[int, Float[np.ndarray, " L"]]]:
    """The number of each text, and the logits of its tokens, [CLS] and [SEP] too."""
    features = [Feature((ids,), (first_length,)) for ids, first_length in map(sequence_of, encodings)]
    lengths = np.array([feature.length for feature in features], int)
    for plan in eval_plans(lengths, fixed_buckets(discriminator.config.max_position_embeddings), BATCH_SIZE):
        rows = 1 << (len(plan.indices) - 1).bit_length()  # few of these too
        tokens = read_tokens(collate([features[i] for i in plan.indices], rows, plan.length))
        logits = np.asarray(discriminator(tokens.ids, tokens.mask))
        yield from ((int(i), logits[row, : lengths[i]]) for row, i in enumerate(plan.indices))
