"""The command `electra-jax`: one function a subcommand, no logic of its own."""

import errno
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from electra_jax import __version__
from electra_jax.config import (
    ComputeConfig,
    FinetuneConfig,
    PrepareConfig,
    PretrainConfig,
    TensorflowConfig,
    VocabConfig,
)
from electra_jax.errors import INTERRUPTED, RunError, UserError

REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP)
"""What the system says of a path that a person can mend."""
UNREAD = 141  # what a shell gives for SIGPIPE


PRETRAINING = """A pretraining run. --config names a TOML file, or a preset (tiny, small, base, large, ...: README); its
settings are the defaults that are shown, and those of small without it."""


@dataclass(frozen=True)
class PlanArguments:
    """What a run would take, from the compiled step; nothing is trained."""

    config: str
    """TOML file, or name of a preset."""
    memory: str = "80GB"
    """Of a device."""
    mesh: str | None = None
    """data=8, or data=2,fsdp=4; the file's, unless given. On a CPU, for as many virtual devices."""
    peak_tflops: float = 312.0
    """Of a device; 312 is an A100's in bfloat16."""
    utilisation: float = 0.4
    """Share of the peak that training reaches."""


@dataclass(frozen=True)
class ExportArguments:
    """A run to folders that transformers loads: of discriminator, encoder and generator, what its objective has."""

    run: tyro.conf.Positional[Path]
    """Folder of a run, or of imported weights."""
    out: Path
    """Folder to make, for discriminator/ and generator/, or encoder/."""
    step: int | None = None
    """Checkpoint to export; the newest unless named."""


@dataclass(frozen=True)
class ImportArguments:
    """Released weights to a folder that `pretrain --init-from` starts from."""

    discriminator: tyro.conf.Positional[str]
    """Folder of an ElectraForPreTraining, or its name on the hub; or a TensorFlow checkpoint of
    google-research/electra, which holds both towers: its folder, or the prefix of its files."""
    out: Path
    """Folder of the imported weights."""
    generator: str | None = None
    """Folder or hub name of its ElectraForMaskedLM; without it, a run starts with a fresh generator."""
    tensorflow: TensorflowConfig = TensorflowConfig()


@dataclass(frozen=True)
class ReportArguments:
    """A page about one run, or several drawn over each other."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of pretraining runs; one may still be going on."""
    out: Path
    """HTML file, which needs nothing else."""
    examples: int = 4
    """Held-out rows to show of each run, as its newest checkpoint corrupts and judges them."""


@dataclass(frozen=True)
class PredictArguments:
    """Rows with what a fine-tuned model says of them."""

    model: str
    """Folder of a fine-tuned model, or its name on the hub."""
    source: Annotated[str, tyro.conf.arg(name="in")]
    """CSV, TSV, JSON, JSONL or Parquet file, folder saved by `datasets`, or a hub dataset's name."""
    out: Path
    """CSV, TSV, JSONL or Parquet file, by its suffix."""
    empty: Literal["error", "skip"] = "error"
    """What to do about rows whose text is empty: stop, or leave them out and say which."""
    split: str = "train"
    """Split of a folder that has several, or of a hub dataset."""
    subset: str | None = None
    """Configuration of a hub dataset."""
    text: tuple[str, ...] | None = None
    """Columns that the model reads; those of its training, unless set."""
    null_threshold: float | None = None
    """question-answering: how far "no answer" may score above the best answer; the model's own, unless set."""
    max_answer_length: int | None = None
    """question-answering: most tokens of an answer; the model's own, unless set."""
    compute: ComputeConfig = ComputeConfig()


@dataclass(frozen=True)
class EvaluateArguments:
    """Scores of a fine-tuned model."""

    model: str
    """Folder of a fine-tuned model, or its name on the hub."""
    data: str
    """Labelled examples, as training reads them."""
    out: Path | None = None
    """Folder of metrics.json and pictures; MODEL/evaluation/DATA-SUBSET-SPLIT, unless set."""
    empty: Literal["error", "skip"] = "error"
    """What to do about rows whose text or label is empty: stop, or leave them out and say which."""
    split: str = "validation"
    """Split of a folder that has several, or of a hub dataset."""
    subset: str | None = None
    """Configuration of a hub dataset."""
    text: tuple[str, ...] | None = None
    """Columns that the model reads; those of its training, unless set."""
    label: tuple[str, ...] | None = None
    """Column of the labels, likewise."""
    null_threshold: float | None = None
    """question-answering: how far "no answer" may score above the best answer; the model's own, unless set."""
    max_answer_length: int | None = None
    """question-answering: most tokens of an answer; the model's own, unless set."""
    compute: ComputeConfig = ComputeConfig()


@dataclass(frozen=True)
class DetectArguments:
    """A text's tokens, coloured by how likely each was replaced."""

    text: tyro.conf.Positional[tuple[str, ...]]
    """One text or several, each quoted."""
    model: str
    """Folder of a discriminator, or its name on the hub."""
    html: Path | None = None
    """File to write the same to, as a page."""


@dataclass(frozen=True)
class ScoreArguments:
    """Pseudo-log-likelihoods of texts, by a model that objective electric pretrained."""

    text: tyro.conf.Positional[tuple[str, ...]]
    """One text or several, each quoted."""
    model: str
    """Folder of a discriminator of objective electric, or its name on the hub."""
    tokens: bool = False
    """Tell each token's too."""


def vocab(arguments: Sequence[str], console: Console) -> None:
    """Train a WordPiece vocabulary on text files."""
    from electra_jax.data.vocab import train_vocabulary

    config = tyro.cli(VocabConfig, args=arguments, prog="electra-jax vocab")
    result = train_vocabulary(config)
    console.print(f"{result.folder}: {result.size:,} entries (--model.vocab-size {result.size})", soft_wrap=True)
    if result.stripped > 0.01:
        console.print(
            f"{result.stripped:.0%} of the text's characters are taken off or apart as if they were accents; "
            f"give --no-strip-accents for this script",
            soft_wrap=True,
        )


def prepare(arguments: Sequence[str], console: Console) -> None:
    """Turn text into rows of token ids; interrupted and run again, it goes on where it stopped."""
    from electra_jax.data.prepare import prepare, summary

    config = tyro.cli(PrepareConfig, args=arguments, prog="electra-jax prepare")
    start = time.perf_counter()
    try:
        console.print(summary(prepare(config), time.perf_counter() - start))
    except KeyboardInterrupt:
        console.print(f"{config.out}: interrupted; run the same command again to go on from the finished shards")
        raise


def pretrain(arguments: Sequence[str], console: Console) -> None:
    """Pretrain a generator and a discriminator on prepared rows; run again, it goes on where it stopped."""
    from electra_jax.presets import read_fields

    preset, arguments = _take(arguments, "--config")
    required = {"data": tyro.MISSING, "out": tyro.MISSING}
    default = PretrainConfig(**(required | (read_fields(preset) if preset else {})))
    prog = "electra-jax pretrain [--config PRESET]"
    config = tyro.cli(PretrainConfig, default=default, args=arguments, prog=prog, description=PRETRAINING)

    from electra_jax.train.memory import keep_memory
    from electra_jax.train.pretrain import pretrain
    from electra_jax.train.processes import names_others

    _keep_compiled()
    _hush_threads()
    if not names_others(config.distributed):
        keep_memory()  # of several, one that waits for a lost process must hear of it, and so not wait within a step
    try:
        pretrain(config, console, keep_step=True)
    except KeyboardInterrupt:
        console.print(f"{config.out}: interrupted; run the same command again to go on from the newest checkpoint")
        raise


def plan(arguments: Sequence[str], console: Console) -> None:
    """Tell what a run would take: memory, largest batch, communication, time."""
    given = tyro.cli(PlanArguments, args=arguments, prog="electra-jax plan")

    from electra_jax.presets import load_config
    from electra_jax.report.progress import table
    from electra_jax.train.plan import describe, plan, virtual_devices

    _keep_compiled()
    mesh = {} if given.mesh is None else {"mesh": given.mesh}
    config = load_config(given.config, data=Path("data"), out=Path("out"), **mesh)
    virtual_devices(config.mesh)
    found = plan(config, given.memory, given.peak_tflops * 1e12, given.utilisation)
    console.print(table(given.config, describe(found, given.memory, given.utilisation)))


def export(arguments: Sequence[str], console: Console) -> None:
    """Write a run's models, such as discriminator and generator, as Hugging Face folders."""
    from electra_jax.train.convert import export

    given = tyro.cli(ExportArguments, args=arguments, prog="electra-jax export")
    for folder in export(given.run, given.out, given.step):
        console.print(str(folder), soft_wrap=True)


def import_(arguments: Sequence[str], console: Console) -> None:
    """Read Hugging Face folders, or a TensorFlow checkpoint, as weights that a run starts from."""
    from electra_jax.train.convert import import_pretrained

    given = tyro.cli(ImportArguments, args=arguments, prog="electra-jax import")
    _hush_threads()
    run = import_pretrained(given.discriminator, given.out, given.generator, given.tensorflow, console)
    console.print(f"{run}: start from it with electra-jax pretrain --init-from {run}", soft_wrap=True)


def report(arguments: Sequence[str], console: Console) -> None:
    """Write a page about runs: curves, calibration, example rows, settings."""
    given = tyro.cli(ReportArguments, args=arguments, prog="electra-jax report")

    from electra_jax.report.write import write_report

    _keep_compiled()
    console.print(str(write_report(given.runs, given.out, given.examples)), soft_wrap=True)


def finetune(arguments: Sequence[str], console: Console) -> None:
    """Fine-tune a pretrained model on labelled examples."""
    config = tyro.cli(FinetuneConfig, args=arguments, prog="electra-jax finetune")

    from electra_jax.finetuning.finetune import finetune

    _keep_compiled()
    _hush_threads()
    try:
        finetune(config, console)
    except KeyboardInterrupt:
        console.print(f"{config.out}: interrupted; run the same command again to go on from the last evaluation")
        raise


def predict(arguments: Sequence[str], console: Console) -> None:
    """Write what a fine-tuned model says of each row of a file."""
    given = tyro.cli(PredictArguments, args=arguments, prog="electra-jax predict")

    from electra_jax.finetuning.predict import predict

    _keep_compiled()
    reading = given.empty, given.compute, given.split, given.subset
    settings = given.null_threshold, given.max_answer_length, given.text
    result = predict(given.model, given.source, given.out, *reading, *settings)
    _print_skipped(console, result.skipped)
    console.print(f"{given.out}: {result.rows:,} rows", soft_wrap=True)


def evaluate(arguments: Sequence[str], console: Console) -> None:
    """Score a fine-tuned model on labelled examples."""
    given = tyro.cli(EvaluateArguments, args=arguments, prog="electra-jax evaluate")

    from electra_jax.finetuning.evaluate import FILES, evaluate
    from electra_jax.report.progress import table

    _keep_compiled()
    reading = given.empty, given.compute, given.split, given.subset
    settings = given.null_threshold, given.max_answer_length, given.text, given.label
    found = evaluate(given.model, given.data, given.out, *reading, *settings)
    _print_skipped(console, found.skipped)
    scores = {name: f"{value:.4f}" for name, value in found.scores.items()}
    console.print(table(f"{given.data}: {found.examples:,} examples", scores))
    written = [name for name in FILES if (found.folder / name).exists()]
    console.print(f"{found.folder}: {', '.join(written)}", soft_wrap=True)


def detect(arguments: Sequence[str], console: Console) -> None:
    """Colour each token of a text by its probability of having been replaced."""
    given = tyro.cli(DetectArguments, args=arguments, prog="electra-jax detect")

    from electra_jax.finetuning.detect import coloured, detect, write_html

    _keep_compiled()
    _require_text(given.text)
    found = detect(given.model, given.text)
    for one in found:
        Console().print(coloured(one), soft_wrap=True)
    if given.html is not None:
        write_html(found, given.model, given.html)
        console.print(str(given.html), soft_wrap=True)


def score(arguments: Sequence[str], console: Console) -> None:
    """Tell how likely texts are, by a discriminator that objective electric pretrained."""
    given = tyro.cli(ScoreArguments, args=arguments, prog="electra-jax score")

    from electra_jax.finetuning.score import score

    _keep_compiled()
    _require_text(given.text)
    for one in score(given.model, given.text):
        print(f"{one.total:.3f}\t{one.text}")
        for token, value in zip(one.tokens, one.log_likelihoods, strict=True) if given.tokens else ():
            print(f"\t{value:.3f}\t{token}")


def _keep_compiled() -> None:
    from electra_jax.train.cache import keep_compiled

    keep_compiled()


def _hush_threads() -> None:
    """Leave out the tracebacks that orbax and tensorstore write of a failed save, which is told in a line."""
    from absl import logging

    before = sys.unraisablehook

    def hook(raised: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            before(raised)

    logging.set_verbosity(logging.FATAL)
    sys.unraisablehook = hook


def _require_text(texts: Sequence[str]) -> None:
    if not texts:
        raise UserError("text: none is given; put one or several, quoted, behind the command")


def _print_skipped(console: Console, skipped: Sequence[str]) -> None:
    for line in skipped:
        console.print(f"left out: {line}", soft_wrap=True, highlight=False)


COMMANDS: dict[str, Callable[[Sequence[str], Console], None]] = {
    "vocab": vocab,
    "prepare": prepare,
    "plan": plan,
    "pretrain": pretrain,
    "report": report,
    "export": export,
    "import": import_,
    "finetune": finetune,
    "predict": predict,
    "evaluate": evaluate,
    "detect": detect,
    "score": score,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; exits with status 2 and one line for an input that a person can mend."""
    name, *rest = [*(sys.argv[1:] if arguments is None else arguments), ""]
    if name not in COMMANDS:
        _usage(name)
    console = Console(stderr=True, markup=False)
    # Or else transformers, which is here for its tokenizers, begins with a line on torch where there is none.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    try:
        COMMANDS[name](rest[:-1], console)
    except UserError as error:
        print(f"electra-jax {name}: {error}", file=sys.stderr, flush=True)
        if isinstance(error, RunError):  # everything is closed, but threads of a failed save write tracebacks at exit
            os._exit(error.status)
        sys.exit(error.status)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        if not _reader_is_gone():  # it was another pipe or a connection
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered goes there at exit
        sys.exit(UNREAD)
    except OSError as error:
        if error.errno not in REFUSED or not error.filename:
            raise
        print(f"electra-jax {name}: {error.filename}: {error.strerror}", file=sys.stderr, flush=True)
        sys.exit(UserError.status)


def _reader_is_gone() -> bool:
    """Whether nobody reads what is printed any more, as after `| head`."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)  # an error is reported unasked
    return any(events & select.POLLERR for _, events in poll.poll(0))


def _usage(name: str) -> None:
    lines = [f"  {command:9} {(function.__doc__ or '').strip()}" for command, function in COMMANDS.items()]
    usage = "\n".join(["usage: electra-jax COMMAND [options]; electra-jax COMMAND --help lists them", "", *lines])
    if name in ("-h", "--help"):
        print(usage)
        sys.exit(0)
    if name == "--version":
        print(f"electra-jax {__version__}")
        sys.exit(0)
    print(f"{usage}\n\nelectra-jax: {f'no command {name!r}' if name else 'a command is missing'}", file=sys.stderr)
    sys.exit(2)


def _take(arguments: Sequence[str], flag: str) -> tuple[str | None, list[str]]:
    """The value of `flag` (as "flag value" or "flag=value"), and the arguments without it."""
    rest = list(arguments)
    for i, argument in enumerate(rest):
        if argument == flag and i + 1 < len(rest):
            return rest[i + 1], rest[:i] + rest[i + 2 :]
        if argument.startswith(flag + "="):
            return argument.removeprefix(flag + "="), rest[:i] + rest[i + 1 :]
    return None, rest
