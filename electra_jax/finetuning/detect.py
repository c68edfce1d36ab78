"""Which tokens of a text look replaced: a discriminator's own task, shown."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.text import Text
from scipy.special import expit

from electra_jax.errors import UserError
from electra_jax.files import can_be_made, write_text
from electra_jax.finetuning.texts import read_texts
from electra_jax.hub.configs import FILE_NAME, read_objective
from electra_jax.hub.source import local_folder

LOUD = 0.5
"""Probability above which a token is taken for a replaced one."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Replaced tokens</title>
<style>
body {{ font-family: sans-serif; max-width: 48rem; margin: 2rem auto; line-height: 2.2; }}
span {{ border-radius: .2rem; padding: .1rem .15rem; }}
.loud {{ font-weight: bold; text-decoration: underline; }}
</style>
</head>
<body>
<h1>Replaced tokens</h1>
<p>The redder a token, the likelier it was replaced, as {name} has it; underlined above 50%. Point at one to see.</p>
{paragraphs}
</body>
</html>
"""


@dataclass(frozen=True)
class Detected:
    """A text's tokens without [CLS] and [SEP], each with the probability that it was replaced, and its place."""

    text: str
    tokens: tuple[str, ...]
    probabilities: tuple[float, ...]
    spans: tuple[tuple[int, int], ...]
    """First character, and that behind the last."""


def detect(model: str | Path, texts: Sequence[str]) -> list[Detected]:
    """What the discriminator in a folder, or of that name on the hub, says of every token of each text.

    Raises UserError where there is no discriminator or it is of electric, and for a text that is empty or longer than
    the model's positions; TypeError for one text in place of several.
    """
    folder = local_folder(model)
    if read_objective(folder) == "electric":
        raise UserError(
            f"{folder / FILE_NAME}: pretraining_objective is electric, whose outputs are energies; it scores texts "
            f"(`electra-jax score`)"
        )
    read = read_texts(folder, texts)
    return [Detected(one.text, one.tokens, tuple(expit(one.logits).tolist()), one.spans) for one in read]


def coloured(found: Detected) -> Text:
    """The text for a terminal: the redder, the likelier replaced, with the probability in percent where it is loud."""
    line, end = Text(), 0
    for (start, stop), probability in zip(found.spans, found.probabilities, strict=True):
        line.append(found.text[end:start])
        shade = round(255 * (1 - probability))
        loud = probability > LOUD
        line.append(found.text[start:stop], style=f"{'bold underline ' if loud else ''}rgb(255,{shade},{shade})")
        if loud:
            line.append(f"({probability:.0%})", style="dim")
        end = stop
    line.append(found.text[end:])
    return line


def write_html(found: Sequence[Detected], name: str, path: Path) -> None:
    """The texts as one page that needs nothing else."""
    paragraphs = "\n".join(f"<p>{_paragraph(one)}</p>" for one in found)
    with can_be_made(path):
        write_text(path, PAGE.format(name=html.escape(name), paragraphs=paragraphs))


def _paragraph(found: Detected) -> str:
    parts, end = [], 0
    for token, (start, stop), probability in zip(found.tokens, found.spans, found.probabilities, strict=True):
        parts.append(html.escape(found.text[end:start]))
        loud = ' class="loud"' if probability > LOUD else ""
        style, title = f"background: rgba(220, 0, 0, {probability:.3f})", html.escape(f"{token} {probability:.1%}")
        parts.append(f'<span{loud} style="{style}" title="{title}">{html.escape(found.text[start:stop])}</span>')
        end = stop
    return "".join([*parts, html.escape(found.text[end:])])
