import subprocess
import sys

import micro


def test_preparing_does_not_import_jax():
    # Its workers are forked, and a process with JAX's threads must not be.
    code = "import sys, electra_jax.data.vocab, electra_jax.data.prepare; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_start_of_pretraining_takes_neither_transformers_nor_a_gpus_kernels():
    code = "import sys, electra_jax.train.pretrain; print(*sys.modules)"
    modules = micro.python("-c", code).stdout.split()
    assert "transformers" not in modules
    assert not any("pallas.triton" in name for name in modules)


def test_a_program_ends_quietly_with_batches_still_open():
    code = """
from datasets import Dataset, Features, List, Value
from electra_jax.data.batches import Rows, train_batches
names = ("input_ids", "length", "first_length")
kinds = Features({"input_ids": List(Value("uint16"), length=4)} | dict.fromkeys(names[1:], Value("int32")))
columns = {"input_ids": [[1] * 4] * 9, "length": [4] * 9, "first_length": [4] * 9}
batches = train_batches(Rows(Dataset.from_dict(columns, features=kinds)), 2, seed=0)
next(batches)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
