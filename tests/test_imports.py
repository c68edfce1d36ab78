"""What a start imports, which is most of its time, and what it may not."""

import micro


def modules(*names: str) -> set[str]:
    """All that is there when these have been imported by a new process."""
    found = set(micro.python("-c", f"import sys, {', '.join(names)}; print(*sys.modules)").stdout.split())
    assert found.issuperset(names)
    return found


def test_preparing_does_not_import_jax() -> None:
    # Its workers are forked, and a process with JAX's threads must not be.
    assert "jax" not in modules("electra_jax.data.vocab", "electra_jax.data.prepare")


def test_a_start_of_pretraining_takes_neither_transformers_nor_a_gpus_kernels() -> None:
    found = modules("electra_jax.train.pretrain")
    assert "transformers" not in found
    assert not any("pallas.triton" in name for name in found)


def test_a_program_ends_quietly_with_batches_still_open() -> None:
    code = """
from datasets import Dataset, Features, List, Value
from electra_jax.data.batches import Rows, train_batches
names = ("input_ids", "length", "first_length")
kinds = Features({"input_ids": List(Value("uint16"), length=4)} | dict.fromkeys(names[1:], Value("int32")))
columns = {"input_ids": [[1] * 4] * 9, "length": [4] * 9, "first_length": [4] * 9}
batches = train_batches(Rows(Dataset.from_dict(columns, features=kinds)), 2, seed=0)
next(batches)
"""
    result = micro.python("-c", code)
    assert (result.returncode, result.stderr) == (0, "")
