"""Every setting, as frozen dataclasses. A preset in configs/ is these and nothing else.

Defaults are those of the original release's small model; [G] is google-research/electra, [P] the paper
(Clark et al., ICLR 2020), [HF] transformers.
"""

from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
from tyro import MISSING
from tyro.conf import Positional


class _Settings:
    """Takes texts for paths and paths for texts, one alone, or a list, for a tuple of them, and NumPy's numbers.

    Other types are taken as they are, and told by `electra_jax.presets.check_types` where they are used.
    """

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            object.__setattr__(self, name, _as_declared(hint, getattr(self, name)))


def _as_declared(hint: Any, value: Any) -> Any:
    if value is None or value is MISSING:
        return value
    kinds = [kind for kind in get_args(hint) if kind is not NoneType] if NoneType in get_args(hint) else [hint]
    if kinds == [Path] and isinstance(value, str):
        return Path(value)
    if kinds == [str] and isinstance(value, Path):
        return str(value)
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if get_origin(kinds[0]) is tuple:
        several = value if isinstance(value, list | tuple) else [value]
        return tuple(_as_declared(get_args(kinds[0])[0], one) for one in several)
    return value


@dataclass(frozen=True)
class ElectraConfig:
    """One encoder with its head. The fields are those of `transformers.ElectraConfig`."""

    vocab_size: int = 30522
    embedding_size: int = 128
    """Width of the word, position and type tables (E)."""
    hidden_size: int = 256
    """Width of the encoder (H)."""
    num_hidden_layers: int = 12
    num_attention_heads: int = 4
    intermediate_size: int = 1024
    """Width of the feed-forward layer (F)."""
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0

    @property
    def head_size(self) -> int:
        """Width of one attention head (D)."""
        return self.hidden_size // self.num_attention_heads


@dataclass(frozen=True)
class TowerConfig(_Settings):
    """What differs between the two encoders of a pair."""

    num_hidden_layers: int
    hidden_size: int
    num_attention_heads: int
    intermediate_size: int


@dataclass(frozen=True)
class ModelConfig(_Settings):
    """A generator and a discriminator over one set of embeddings ([P] section 3.2)."""

    vocab_size: int = 30522
    embedding_size: int = 128
    """Width of the word, position and type tables, which both towers share."""
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    initializer_range: float = 0.02
    """Standard deviation of the truncated normal that weights start from."""
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0
    """Id of [PAD] in the tokenizer; exported, since transformers keeps it with the model."""
    discriminator: TowerConfig = TowerConfig(12, 256, 4, 1024)
    generator: TowerConfig = TowerConfig(12, 64, 1, 256)
    tie: Literal["none", "embeddings", "gdes", "all"] = "embeddings"
    """What the two towers share ([P] section 3.2). none: nothing. embeddings: the tables. gdes: the discriminator reads
    the generator's tables, which its loss does not move, and adds a table of differences of its own (DeBERTaV3's
    gradient-disentangled embedding sharing, He et al., 2023, section 3.2). all: the encoder too, which takes towers of
    the same size; what the generator learns then serves the discriminator, which helps most where training is short."""
    generator_kind: Literal["masked-lm", "two-tower", "unigram", "uniform"] = "masked-lm"
    """What proposes replacements. masked-lm: an encoder of the size of `generator`, which reads the masked row.
    two-tower: two of them, which read what stands before and what stands after (Clark et al., 2020, "Electric"); they
    know the probability of every token without masking any. unigram: the frequency of each entry, which is learned.
    uniform: every entry alike."""

    def tower(self, name: Literal["discriminator", "generator"]) -> ElectraConfig:
        """The named tower as a model of its own, with the shared fields filled in."""
        size: TowerConfig = getattr(self, name)
        return ElectraConfig(
            vocab_size=self.vocab_size,
            embedding_size=self.embedding_size,
            hidden_size=size.hidden_size,
            num_hidden_layers=size.num_hidden_layers,
            num_attention_heads=size.num_attention_heads,
            intermediate_size=size.intermediate_size,
            hidden_dropout_prob=self.hidden_dropout_prob,
            attention_probs_dropout_prob=self.attention_probs_dropout_prob,
            max_position_embeddings=self.max_position_embeddings,
            type_vocab_size=self.type_vocab_size,
            initializer_range=self.initializer_range,
            layer_norm_eps=self.layer_norm_eps,
            pad_token_id=self.pad_token_id,
        )


@dataclass(frozen=True)
class ObjectiveConfig(_Settings):
    """What is learned ([P] section 2; [G] configure_pretraining.py)."""

    name: str = "electra"
    """electra: tell of every token whether it was replaced. electra-15: of the picks alone. replace-mlm: predict the
    originals of the picks, where samples stand in place of [MASK]. all-tokens-mlm: of every token. mlm: BERT's, with no
    generator ([P] section 3.5). electric: an energy of every token (Clark et al., 2020, "Electric")."""
    mask_prob: float = 0.15
    """Share of a row's tokens that the generator predicts."""
    mask_token_prob: float = 0.85
    """Share of the picks whose input becomes [MASK]; the others keep their token."""
    temperature: float = 1.0
    """Of the softmax that replacements are drawn from."""
    disallow_correct: bool = False
    """Never draw the token that stood there."""
    generator_weight: float = 1.0
    """Weight of the masked-language-model loss. 0 leaves the generator as it starts, unless it is adversarial; but what
    it shares with the discriminator (`model.tie` embeddings or all) learns by the discriminator's loss."""
    discriminator_weight: float = 50.0
    """Weight of the discriminator's loss (lambda, [P] equation 3)."""
    adversarial_weight: float = 0.0
    """Weight of the discriminator's loss in what the generator maximises, by REINFORCE ([P] appendix F, with
    generator_weight 0); objectives electra and electra-15."""

    @property
    def trains_generator(self) -> bool:
        """Whether a generator, if there is one, has a loss; a `generator_weight` that JAX traces counts as one."""
        weights = self.generator_weight, self.adversarial_weight
        return not all(isinstance(weight, int | float) and weight == 0 for weight in weights)

    def slots(self, length: int) -> int:
        """Most picks in a row of `length` positions: 19 at 128, 79 at 512 ([G])."""
        return min(length, int((self.mask_prob + 0.005) * length))


@dataclass(frozen=True)
class OptimizerConfig(_Settings):
    """The optimiser and its schedule ([G] model/optimization.py)."""

    name: Literal["adam", "adamw", "lamb"] = "adam"
    """adam: the reference's, without bias correction. adamw: with it. lamb: for large batches, with it."""
    learning_rate: float = 5e-4
    warmup_steps: int = 10_000
    power: float = 1.0
    """Of the decay to zero: learning_rate * (1 - t/steps)^power * min(1, t/warmup_steps)."""
    decay_after_warmup: bool = False
    """Decay from the end of the warm-up on, over the steps that are left, as NVIDIA and transformers do; the original
    release decays from the first step."""
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-6
    weight_decay: float = 0.01
    """Decoupled; on all parameters but LayerNorms and biases."""
    clip_norm: float = 1.0
    """Largest global norm of the gradient."""


RematPolicy = Literal[
    "none", "nothing_saveable", "dots_saveable", "dots_with_no_batch_dims_saveable", "everything_saveable"
]

Dtype = Literal["float32", "bfloat16"]
ProductLibrary = Literal["auto", "xla", "onednn"]


@dataclass(frozen=True)
class ComputeConfig(_Settings):
    """How the same numbers are computed."""

    dtype: Dtype = "float32"
    """Of activations and matrix products; parameters and optimiser state are float32 always. bfloat16 is faster on
    GPUs, and in pretraining on CPUs that multiply it (Intel's Xeons since 2023, with AMX, and AMD's processors since
    2022, Zen 4); on others it is slower."""
    scan_layers: bool = False
    """Loop over a tower's layers by `jax.lax.scan`: compiles faster, and on CPU steps about 25% slower."""
    remat: RematPolicy = "none"
    """What a layer keeps for the backward pass, by the name of a policy of `jax.checkpoint_policies`; it computes the
    rest again. nothing_saveable takes the least memory, dots_saveable keeps the matrix products; none: no remat."""
    attention: Literal["auto", "xla", "triton", "cudnn"] = "auto"
    """triton: a kernel each way that keeps no scores, on NVIDIA GPUs since Ampere in bfloat16, for heads as wide as a
    power of 2 from 16 on, with the very dropout of xla. cudnn: its own such kernels where attention has no dropout (in
    training with `model.attention_probs_dropout_prob` 0), and auto elsewhere. auto: triton if it can be had, or xla."""
    layer_norm: Literal["auto", "xla", "triton"] = "auto"
    """Of dropout, residual and LayerNorm together. triton: a kernel each way, on the same GPUs; auto as above."""
    products: ProductLibrary = "auto"
    """Who makes a CPU's matrix products in pretraining. onednn: faster steps on x86, by a tenth in float32 and by
    twice and more in bfloat16, for which it takes a processor that multiplies it (above); but compiled anew at each
    start. auto: onednn on processors with AVX-512 for runs of 5e14 operations and more, an hour on two cores (in
    bfloat16 1e13, a minute), and else xla."""


@dataclass(frozen=True)
class DistributedConfig(_Settings):
    """Processes that train as one (`jax.distributed`). Without any of these there is one."""

    cluster: bool = False
    """Ask Slurm, Open MPI or Kubernetes for the other processes."""
    coordinator: str | None = None
    """Or else: host:port of process 0, which all processes can reach, ..."""
    processes: int | None = None
    """... how many there are, ..."""
    process: int | None = None
    """... and which one this is, from 0."""
    timeout: int = 30
    """Seconds without a sign of life after which a process counts as lost, and the others end."""


@dataclass(frozen=True)
class PretrainConfig(_Settings):
    """A pretraining run."""

    data: tuple[Path, ...]
    """Folders that `electra-jax prepare` wrote, with the same tokenizer and length."""
    out: Path
    """Folder of the run; one that exists is resumed."""
    data_weights: tuple[float, ...] = ()
    """How much to draw from each folder of `data`, to any sum; in proportion to their rows, unless set."""
    init_from: Path | None = None
    """Run whose weights to start from (of `import` or `pretrain`), with a fresh optimiser."""
    word_start: Literal["random", "neighbours"] = "random"
    """What the word table starts from, without `init_from`. neighbours: which tokens of `data` stand near each other,
    as word2vec has it; for short runs on little text, whose encoder has no time to find it out."""
    seed: int = 0
    length: int = 128
    """Tokens in a row; what the data was prepared with."""
    batch_size: int = 128
    """Rows in a step, over all devices and accumulated parts."""
    accumulate: int = 1
    """Parts that a device's rows are computed in, one after the other, for one update; the loss is the batch's."""
    mesh: str | None = None
    """How the devices are laid out: data=8, or data=2,fsdp=4. All along data, unless set."""
    ema_decay: float = 0.0
    """Of an exponential moving average of the parameters, which then is what is evaluated and exported. 0: none."""
    max_bad_steps: int = 10
    """Steps in a row with a loss or gradient that isn't finite, after which the run stops. None changes anything."""
    steps: int = 1_000_000
    log_every: int = 100
    """Steps between lines of metrics, each an average over the steps since the last."""
    eval_every: int = 10_000
    """Steps between evaluations on held-out rows."""
    eval_rows: int = 4096
    """Most held-out rows in an evaluation."""
    checkpoint_every: int = 10_000
    checkpoints_kept: int = 3
    keep_best: bool = False
    """Keep the checkpoint of the lowest held-out loss too; `checkpoint_every` must be a multiple of `eval_every`."""
    max_time: str | None = None
    """Time after which the run saves and stops, to go on when it is run again: 23:50:00, 90m or 2h."""
    distributed: DistributedConfig = DistributedConfig()
    model: ModelConfig = ModelConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    compute: ComputeConfig = ComputeConfig()


@dataclass(frozen=True)
class TensorflowConfig(_Settings):
    """What a checkpoint of google-research/electra doesn't say of itself."""

    heads: int | None = None
    """Attention heads of the discriminator; hidden size / 64, unless set."""
    vocab: Path | None = None
    """Its vocabulary; vocab.txt beside it, or where its run looked for one, unless set."""
    lowercase: bool = True
    """Whether it was trained with do_lower_case."""
    strip_accents: bool = True
    """Whether its text was prepared with --do-strip-accents; without `lowercase`, accents stay in any case."""


@dataclass(frozen=True)
class VocabConfig(_Settings):
    """Training a WordPiece vocabulary."""

    text: Positional[tuple[Path, ...]]
    """Text files, plain or .gz, or CSV, TSV, JSON, JSONL or Parquet files."""
    out: Path
    """Folder of the tokenizer."""
    field: str = "text"
    """Column that holds the text, where the file has columns."""
    size: int = 30522
    """Most entries of the vocabulary, special tokens included; a small corpus has fewer pieces."""
    min_frequency: int = 2
    """Fewest occurrences of a pair that is merged."""
    limit_alphabet: int | None = None
    """Most characters kept, the most frequent ones; the others become [UNK]. All of them, unless set."""
    lowercase: bool = True
    """Make capital letters small."""
    strip_accents: bool = True
    """Take accents off where letters are made small, as BERT does. It takes vowel signs (Devanagari, Tamil, Thai) and
    dakuten (Japanese) off too, and Hangul apart."""
    split_chinese: bool = True
    """Make each Chinese character a word of its own, as BERT does. Without it, entries are of several characters, as in
    other scripts: rows get shorter, and masking hides whole words rather than characters that their neighbours tell."""
    max_length: int = 512
    """The tokenizer's model_max_length."""


@dataclass(frozen=True)
class PrepareConfig(_Settings):
    """Text to rows of token ids ([G] build_pretraining_dataset.py)."""

    sources: Positional[tuple[str, ...]]
    """Text files (plain or .gz), CSV, TSV, JSON, JSONL or Parquet files, a folder saved by `datasets`, or a hub
    dataset's name."""
    tokenizer: str
    """Folder of a tokenizer, or a model's name on the hub."""
    out: Path
    """Folder of the rows."""
    length: int = 128
    """Tokens in a row (L)."""
    pack: bool = False
    """Put the rows of several short documents into one, attention kept inside each: hardly any padding."""
    documents: Literal["paragraph", "line"] = "paragraph"
    """In text files, a document ends at a blank line (paragraph), or each line is one (line)."""
    field: str = "text"
    """Column that holds the text, where the source has columns."""
    split: str = "train"
    """Split of a hub dataset."""
    subset: str | None = None
    """Configuration of a hub dataset."""
    held_out: float = 0.01
    """Share of the documents kept for evaluation."""
    seed: int = 0
    workers: int = 1
    """Processes that tokenize, with the local engine. The rows do not depend on it."""
    engine: Literal["local", "ray"] = "local"
    """local: processes of this machine. ray: a Ray cluster, which tokenizes what this machine reads and writes it to
    `out` itself, so all its machines must see that folder. The rows do not depend on it."""
    shard_characters: int = 2**23
    """Text in a shard, which is tokenized at once, is a file of the rows, and is kept when preparing is interrupted.
    The rows do not depend on it, unless they are packed, which is done within a shard."""
    max_unk_rate: float = 0.2
    """Largest share of [UNK] among the tokens; above it the tokenizer is taken for a wrong one."""
    single_segment_prob: float = 0.1
    """How often a row has one segment by choice."""
    short_row_prob: float = 0.05
    """How often a row's target is a random length in [5, L]."""


TaskName = Literal["classification", "regression", "tagging", "question-answering", "multiple-choice"]
GlueName = Literal["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"]
AnyTask = Literal[TaskName, GlueName]


@dataclass(frozen=True)
class FinetuneConfig(_Settings):
    """Fine-tuning on a task ([G] finetune/, configure_finetuning.py). What is None is the task's own."""

    model: str
    """Folder of an ELECTRA model as transformers saves it, of a pretraining run, or a model's name on the hub."""
    out: Path
    """Folder of the fine-tuned model."""
    train: str | None = None
    """CSV, TSV, JSON, JSONL or Parquet file (or .gz of it), folder saved by `datasets`, or a hub dataset's name; a
    GLUE task has its own."""
    task: AnyTask = "classification"
    """A kind of task, or a GLUE task by name, which presets columns, metric and epochs."""
    eval: str | None = None
    """Examples to evaluate on, as `train`. Without it, `eval_fraction` of the training examples."""
    train_split: str = "train"
    """Split of `train`, where that is a folder of several or a hub dataset."""
    eval_split: str | None = None
    """Split of `eval`, or, without one, of `train`; validation, or a GLUE task's, unless set."""
    eval_fraction: float = 0.1
    """Share of the training examples kept for evaluation, repetitions of a text all on one side. 0: none."""
    stratify: bool = False
    """Keep each label's share the same on both sides of that split."""
    subset: str | None = None
    """Configuration of a hub dataset."""
    text: tuple[str, ...] | None = None
    """The column, or the two columns, that the model reads. tagging: the words; question-answering: the question
    and the context; multiple-choice: the context, and perhaps how each choice begins."""
    label: tuple[str, ...] | None = None
    """The column of the labels. With `multi_label`, either one with a list (in CSV divided by commas), or one of 0 and
    1 for each label."""
    choices: tuple[str, ...] | None = None
    """multiple-choice: the columns of the choices, or one with a list of them."""
    multi_label: bool = False
    """classification: any number of labels an example."""
    empty: Literal["error", "skip"] = "error"
    """What to do about rows whose text or label is empty: stop, or leave them out and say which."""
    length: int | None = None
    """Most tokens that the model reads at once; 128, question-answering 512, unless set. Of a longer text the beginning
    is read; a question's context, and tagging's words, are read in windows."""
    stride: int = 128
    """question-answering: tokens that neighbouring windows of a long context share, at most half of them."""
    max_answer_length: int = 30
    """question-answering: most tokens of an answer that is given; a Chinese character is a token."""
    epochs: float | None = None
    """Passes over the training examples; 3, or the task's, unless set."""
    batch_size: int = 32
    """Examples in a step, over all devices."""
    learning_rate: float = 1e-4
    """Of the head; 3e-4 for small models, 5e-5 for large ones ([P] table 7)."""
    layer_decay: float = 0.8
    """Factor of the learning rate from each layer to the one below it; 0.9 for large models."""
    warmup_fraction: float = 0.1
    optimizer: Literal["adam", "adamw"] = "adam"
    """adam: the reference's, without bias correction. adamw: with it."""
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    dropout: float | None = None
    """Of hidden states and attention weights; the pretrained model's own, unless set."""
    seed: int = 0
    """Of the split and, counted up from here, of each seed's head, order and dropout."""
    seeds: int = 1
    """How often to fine-tune; the best is kept, and the median of the scores told."""
    eval_every: int | None = None
    """Steps between evaluations; an epoch's, unless set."""
    patience: int | None = None
    """Evaluations in a row without a better score after which a seed stops."""
    metric: str | None = None
    """The score that says which checkpoint is best."""
    log_every: int = 50
    """Steps between lines of metrics."""
    compute: ComputeConfig = ComputeConfig()
