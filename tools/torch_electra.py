"""The joint step in PyTorch, of transformers' classes, as a worker of tools/benchmark.py. Knows nothing of JAX.

python tools/torch_electra.py run CONFIG.toml [--logits picks --compile --device cpu]
python tools/torch_electra.py check CONFIG.toml --drawn DRAWN.npz
"""

import json
import time
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from torch.nn import functional
from transformers import ElectraConfig, ElectraForMaskedLM, ElectraForPreTraining
from tyro.conf import Positional
from workers import (
    CLS,
    MASK,
    SEP,
    Answer,
    enough_operations,
    made_up_batches,
    peak_resident_bytes,
    serve,
    time_product,
)

from electra_jax.config import ObjectiveConfig, OptimizerConfig, PretrainConfig
from electra_jax.presets import read_toml

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Arguments:
    """Which contestant, or the check."""

    do: Positional[Literal["run", "check"]]
    config: Positional[Path]
    """TOML of a PretrainConfig."""
    drawn: Path | None = None
    """check: weights, masks and samples, as tools/jax_electra.py writes them."""
    logits: Literal["picks", "everywhere"] = "picks"
    """Where the generator's head looks: at the picks alone, or at every position, as most ports do."""
    compile: bool = False
    device: Literal["cpu", "gpu"] = "cpu"
    sampler: Literal["gumbel", "inverse"] = "gumbel"
    """gumbel: the largest of logits and Gumbel noise, as the original and its ports draw. inverse: of the cumulative
    distribution, which takes one random number a pick."""


class Joint(torch.nn.Module):
    """Two models over one set of embeddings, and their joint loss."""

    def __init__(self, config: PretrainConfig, logits: str, sampler: str):
        super().__init__()
        self.objective, self.logits, self.sampler = config.objective, logits, sampler
        self.generator = ElectraForMaskedLM(ElectraConfig(**asdict(config.model.tower("generator"))))
        self.discriminator = ElectraForPreTraining(ElectraConfig(**asdict(config.model.tower("discriminator"))))
        embeddings = self.discriminator.electra.embeddings
        self.generator.electra.embeddings = embeddings
        self.generator.generator_lm_head.weight = embeddings.word_embeddings.weight

    def forward(self, batch: Tensors, picks: Tensors) -> torch.Tensor:
        """The loss of a batch. `picks` may have the corrupted ids; they are drawn otherwise."""
        shared = {"attention_mask": batch["mask"], "token_type_ids": batch["types"]}
        logits = self.generate(picks["masked"], picks["positions"], shared).float()
        targets = batch["ids"].gather(1, picks["positions"])
        losses = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        mlm = (losses * picks["used"].flatten()).sum() / picks["used"].sum()

        corrupted = picks["corrupted"] if "corrupted" in picks else self.corrupt(batch["ids"], picks, logits.detach())
        verdicts = self.discriminator(input_ids=corrupted, **shared).logits.float()
        replaced = (corrupted != batch["ids"]).float()
        losses = functional.binary_cross_entropy_with_logits(verdicts, replaced, reduction="none")
        discriminator = (losses * batch["mask"]).sum() / batch["mask"].sum()
        return self.objective.generator_weight * mlm + self.objective.discriminator_weight * discriminator

    def generate(self, ids: torch.Tensor, positions: torch.Tensor, shared: Tensors) -> torch.Tensor:
        """The generator's logits at `positions`."""
        if self.logits == "everywhere":
            return gather_rows(self.generator(input_ids=ids, **shared).logits, positions)
        hidden = gather_rows(self.generator.electra(input_ids=ids, **shared).last_hidden_state, positions)
        return self.generator.generator_lm_head(self.generator.generator_predictions(hidden))

    def corrupt(self, ids: torch.Tensor, picks: Tensors, logits: torch.Tensor) -> torch.Tensor:
        """`ids` with a draw from softmax(logits / temperature) at each pick."""
        sampled = SAMPLERS[self.sampler](logits / self.objective.temperature)
        sampled = torch.where(picks["used"], sampled, ids.gather(1, picks["positions"]))
        return ids.scatter(1, picks["positions"], sampled)


def gather_rows(x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """x[b, positions[b, k]]."""
    return x.gather(1, positions[..., None].expand(-1, -1, x.shape[-1]))


def _gumbel(logits: torch.Tensor) -> torch.Tensor:
    return (logits - torch.log(-torch.log(torch.rand_like(logits)))).argmax(-1)


def _inverse(logits: torch.Tensor) -> torch.Tensor:
    cumulative = torch.softmax(logits, -1).cumsum(-1)
    uniform = torch.rand((*logits.shape[:-1], 1), device=logits.device) * cumulative[..., -1:]
    return torch.searchsorted(cumulative, uniform).squeeze(-1).clamp_max(logits.shape[-1] - 1)


SAMPLERS = {"gumbel": _gumbel, "inverse": _inverse}


def draw(batch: Tensors, objective: ObjectiveConfig) -> Tensors:
    """Fresh picks of each row, without replacement, most of them masked."""
    ids = batch["ids"]
    slots = objective.slots(ids.shape[1])
    special = (ids == CLS) | (ids == SEP) | (ids == MASK)
    candidates = batch["mask"].bool() & ~special
    positions = torch.rand(ids.shape, device=ids.device).masked_fill(~candidates, -1.0).topk(slots, 1).indices
    wanted = (batch["mask"].sum(1) * objective.mask_prob).round().clamp(1, slots).minimum(candidates.sum(1))
    used = torch.arange(slots, device=ids.device) < wanted[:, None]
    chosen = used & (torch.rand(used.shape, device=ids.device) < objective.mask_token_prob)
    masked = ids.scatter(1, positions, torch.where(chosen, MASK, ids.gather(1, positions)))
    return {"positions": positions, "used": used, "masked": masked}


def read_batch(batch: dict[str, np.ndarray], device: torch.device) -> Tensors:
    """A stored batch as the models read it."""
    ids, lengths, first = (torch.from_numpy(batch[name]).to(device) for name in ("input_ids", "length", "first_length"))
    position = torch.arange(ids.shape[1], device=device)
    mask = position < lengths[:, None]
    return {"ids": ids.long(), "mask": mask.long(), "types": (mask & (position >= first[:, None])).long()}


class Theirs:
    """The train step: forward, backward, clip by the global norm, AdamW."""

    def __init__(self, config: PretrainConfig, arguments: Arguments):
        torch.manual_seed(config.seed)
        self.config = config
        self.device = torch.device("cpu" if arguments.device == "cpu" else "cuda")
        self.dtype = DTYPES[config.compute.dtype]
        self.batches = cycle(made_up_batches(config))
        model = Joint(config, arguments.logits, arguments.sampler).train().to(self.device)
        self.parameters = list(model.parameters())
        self.optimizer, self.schedule = make_optimizer(self.parameters, config.optimizer, config.steps)
        self.model = torch.compile(model) if arguments.compile else model
        self.ready: Answer = {"compile_seconds": self.run(1)["seconds"] if arguments.compile else 0.0}

    def run(self, steps: int) -> Answer:
        """Train for so many steps; nothing is read from the device before the last."""
        start = time.perf_counter()
        for _ in range(steps):
            loss = self.step()
        last = loss.item()
        self.wait()
        return {"seconds": time.perf_counter() - start, "loss": last}

    def step(self) -> torch.Tensor:
        """One update; its loss."""
        batch = read_batch(next(self.batches), self.device)
        picks = draw(batch, self.config.objective)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not torch.float32):
            loss = self.model(batch, picks)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.config.optimizer.clip_norm)
        self.optimizer.step()
        self.schedule.step()
        return loss.detach()

    def wait(self) -> None:
        """Until the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def products(self, shapes: list[tuple[int, int, int]], dtype: str) -> Answer:
        """Seconds of PyTorch's matrix product of each shape."""
        return {"seconds": [self.seconds_of_product(m, k, n, DTYPES[dtype]) for m, k, n in shapes]}

    def seconds_of_product(self, m: int, k: int, n: int, dtype: torch.dtype) -> float:
        """The best that PyTorch does, of random numbers."""
        a, b, out = (torch.randn(shape, dtype=dtype, device=self.device) for shape in ((m, k), (k, n), (m, n)))
        device = "cpu" if self.device.type == "cpu" else "gpu"
        return time_product(lambda: torch.mm(a, b, out=out), self.wait, 2.0 * m * k * n, enough_operations(device))

    def memory(self) -> Answer:
        """Of the process, or of the GPU."""
        on_cpu = self.device.type == "cpu"
        return {"peak_bytes": peak_resident_bytes() if on_cpu else torch.cuda.max_memory_allocated()}


def make_optimizer(
    parameters: list[torch.nn.Parameter], config: OptimizerConfig, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    """AdamW in its fused form, which decays all but LayerNorms and biases, and the package's schedule."""
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    betas = (config.b1, config.b2)
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, eps=config.eps, fused=True)

    def share(done: int) -> float:
        return max(0.0, 1 - done / steps) ** config.power * min(1.0, done / max(config.warmup_steps, 1))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, share)


def check(config: PretrainConfig, drawn: Path, logits: str) -> float:
    """The loss of the batch, weights, masks and samples in a file, without dropout."""
    arrays = {name: torch.from_numpy(array) for name, array in np.load(drawn).items()}
    model = Joint(config, logits, "gumbel").eval()
    for kind in ("discriminator", "generator"):
        state = {name.removeprefix(f"{kind}/"): a for name, a in arrays.items() if name.startswith(f"{kind}/")}
        missing, unexpected = getattr(model, kind).load_state_dict(state, strict=False)
        if unexpected or set(missing) - {"generator_lm_head.weight"}:
            raise ValueError(f"{kind}: without {missing}, and with {unexpected} beside")
    batch = {name: arrays[name].long() for name in ("ids", "mask", "types")}
    picks = {name: arrays[name].long() for name in ("positions", "masked", "corrupted")} | {"used": arrays["used"]}
    with torch.no_grad():
        return model(batch, picks).item()


def main(arguments: Arguments) -> None:
    """Answer on stdout: of a contestant, or of the check."""
    config = read_toml(PretrainConfig, arguments.config)
    if arguments.do == "run":
        serve(lambda: Theirs(config, arguments))
    else:
        assert arguments.drawn is not None, "the check needs a file to read"
        print(json.dumps({"loss": check(config, arguments.drawn, arguments.logits)}))


if __name__ == "__main__":
    main(tyro.cli(Arguments))
