"""Settings to and from TOML: each field by its name and type."""

import re
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from electra_jax.config import (
    ComputeConfig,
    FinetuneConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    PrepareConfig,
    PretrainConfig,
    TowerConfig,
    VocabConfig,
)
from electra_jax.errors import UserError
from electra_jax.presets import check_types, load_config, parse, parse_fields, read_fields, to_toml
from electra_jax.train.check import check_settings

CONFIGS = Path(__file__).parent.parent / "configs"
PATHS = {"data": "rows", "out": "run"}
EVERYTHING_CHANGED = PretrainConfig(
    data=(Path("rows"), Path("more")),
    out=Path("run"),
    data_weights=(0.7, 0.3),
    init_from=Path("imported"),
    seed=3,
    length=64,
    model=ModelConfig(embedding_size=64, generator=TowerConfig(3, 32, 2, 64)),
    objective=ObjectiveConfig(mask_prob=0.25, disallow_correct=True),
    optimizer=OptimizerConfig(name="lamb", learning_rate=1e-3, eps=1e-8),
    compute=ComputeConfig(dtype="bfloat16", scan_layers=True),
)


def read(table: dict[str, Any]) -> PretrainConfig:
    return parse(PretrainConfig, PATHS | table, "my.toml")


@pytest.mark.parametrize("config", [PretrainConfig((Path("rows"),), Path("run")), EVERYTHING_CHANGED])
def test_what_was_written_is_read(config: PretrainConfig) -> None:
    assert parse(PretrainConfig, tomllib.loads(to_toml(config)), "my.toml") == config


def test_what_is_not_set_is_left_out() -> None:
    assert "init_from" not in tomllib.loads(to_toml(PretrainConfig((Path("rows"),), Path("run"))))


def test_whole_numbers_do_for_floats() -> None:
    rate = read({"optimizer": {"learning_rate": 1}}).optimizer.learning_rate
    assert rate == 1.0
    assert isinstance(rate, float)


def test_paths_are_paths() -> None:
    config = read({"init_from": "imported"})
    assert (config.data, config.init_from) == ((Path("rows"),), Path("imported"))


def test_in_python_texts_are_paths_and_one_needs_no_tuple() -> None:
    config = PretrainConfig(data="rows", out="run", init_from="old")  # type: ignore[arg-type]
    assert (config.data, config.out, config.init_from) == ((Path("rows"),), Path("run"), Path("old"))
    prepare = PrepareConfig(sources="corpus.txt", tokenizer="tokenizer", out="rows")  # type: ignore[arg-type]
    assert (prepare.sources, prepare.out) == (("corpus.txt",), Path("rows"))
    vocab = VocabConfig(["a.txt", Path("b.txt")], "tokenizer")  # type: ignore[arg-type, list-item]
    assert (vocab.text, vocab.out) == ((Path("a.txt"), Path("b.txt")), Path("tokenizer"))
    assert FinetuneConfig("model", "out", text="review").text == ("review",)  # type: ignore[arg-type]


def test_in_python_paths_are_texts_and_numpys_numbers_are_numbers() -> None:
    config = FinetuneConfig(Path("model"), "out", train=Path("a.csv"), seed=np.int64(3), learning_rate=np.float64(0.1))  # type: ignore[arg-type]
    assert (config.model, config.train) == ("model", "a.csv")
    assert [type(one) for one in (config.seed, config.learning_rate)] == [int, float]
    assert parse(FinetuneConfig, tomllib.loads(to_toml(config)), "my.toml") == config
    assert PrepareConfig((Path("a"), "b"), Path("tokenizer"), "rows").sources == ("a", "b")  # type: ignore[arg-type]


def test_in_python_numpys_numbers_are_numbers_within_settings_too() -> None:
    tower = TowerConfig(*np.array([1, 16, 2, 32]))
    optimizer = OptimizerConfig(learning_rate=np.float32(0.5), warmup_steps=np.int64(3))  # type: ignore[arg-type]
    config = PretrainConfig(
        "rows", "run", np.array([1.0, 2.0]), model=ModelConfig(generator=tower), optimizer=optimizer
    )  # type: ignore[arg-type]
    assert parse(PretrainConfig, tomllib.loads(to_toml(config)), "my.toml") == config
    assert config.data_weights == (1.0, 2.0)
    check_types(config)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"optimizer": OptimizerConfig(name="sgd")}, "optimizer: name: 'sgd' is none of 'adam'"),  # type: ignore[arg-type]
        ({"optimizer": OptimizerConfig(warmup_steps=2e3)}, "optimizer: warmup_steps: expected a int, and 2000.0 is a"),  # type: ignore[arg-type]
        ({"model": ModelConfig(tie="both")}, "model: tie: 'both' is none of"),  # type: ignore[arg-type]
        ({"word_start": "neighbors"}, "word_start: 'neighbors' is none of"),
        ({"compute": ComputeConfig(attention="flash")}, "compute: attention: 'flash' is none of"),  # type: ignore[arg-type]
        ({"steps": 6.0}, "steps: expected a int, and 6.0 is a float"),
        ({"mesh": 1}, "mesh: expected a str, and 1 is a int"),
        ({"data_weights": "half"}, "data_weights: expected a float, and 'half' is a str"),
    ],
)
def test_in_python_no_field_takes_what_a_file_could_not_give_it(changes: dict[str, Any], complaint: str) -> None:
    config = replace(PretrainConfig("rows", "run"), **changes)  # type: ignore[arg-type]
    for check in (check_types, check_settings):
        with pytest.raises(UserError, match=f"^PretrainConfig: {re.escape(complaint)}"):
            check(config)


def test_one_folder_of_data_needs_no_list() -> None:
    alone = [read({"data": "rows"}), read({"data": ["rows"]})]
    alone += [PretrainConfig(data, Path("run")) for data in (Path("rows"), "rows", (Path("rows"),))]  # type: ignore[arg-type]
    assert {config.data for config in alone} == {(Path("rows"),)}
    assert read({"data": ["rows", "more"], "data_weights": [1, 0.5]}).data_weights == (1.0, 0.5)


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ({"batchsize": 8}, "my.toml: unknown field 'batchsize'; did you mean 'batch_size'?"),
        ({"optimizer": {"learningrate": 1.0}}, "my.toml: optimizer: unknown field 'learningrate'; did you mean"),
        ({"compute": {"qqq": 1}}, "my.toml: compute: unknown field 'qqq'; known ones: dtype, scan_layers"),
        (
            {"model": {"generator": {"hidden": 1}}},
            "my.toml: model: generator: unknown field 'hidden'; did you mean 'hidden_size'?",
        ),
        ({"steps": "many"}, "my.toml: steps: expected a int, and 'many' is a str"),
        ({"steps": True}, "my.toml: steps: expected a int, and True is a bool"),
        ({"steps": 1.5}, "my.toml: steps: expected a int, and 1.5 is a float"),
        ({"steps": [1, 2]}, "my.toml: steps: expected a int, and [1, 2] is a list"),
        ({"steps": {"a": 1}}, "my.toml: steps: expected a int, and {'a': 1} is a dict"),
        ({"data": 3}, "my.toml: data: expected a Path, and 3 is a int"),
        ({"data": ["rows", 3]}, "my.toml: data: expected a Path, and 3 is a int"),
        ({"data_weights": ["all"]}, "my.toml: data_weights: expected a float, and 'all' is a str"),
        ({"init_from": 3}, "my.toml: init_from: expected a Path, and 3 is a int"),
        ({"model": 3}, "my.toml: model: expected a table, and 3 is a int"),
        ({"compute": {"scan_layers": 1}}, "my.toml: compute: scan_layers: expected a bool, and 1 is a int"),
        ({"optimizer": {"eps": True}}, "my.toml: optimizer: eps: expected a float, and True is a bool"),
        (
            {"compute": {"dtype": "float16"}},
            "my.toml: compute: dtype: 'float16' is none of 'float32', 'bfloat16'",
        ),
        (
            {"model": {"generator": {"hidden_size": 8}}},
            "my.toml: model: generator: field 'num_hidden_layers' is missing",
        ),
    ],
)
def test_a_mistake_is_told_with_its_field(table: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=re.escape(complaint)):
        read(table)


def test_a_missing_field_is_told() -> None:
    with pytest.raises(UserError, match=r"my.toml: field 'out' is missing"):
        parse(PretrainConfig, {"data": "rows"}, "my.toml")


def test_a_number_too_large_for_a_float() -> None:
    with pytest.raises(UserError, match="here: ema_decay: the number is too large"):
        parse_fields(PretrainConfig, {"ema_decay": 10**400}, "here")


@pytest.mark.parametrize("content", [b"steps = ", b"steps = 1\nsteps = 2", b"\xff\xfe"])
def test_a_file_that_is_no_toml(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "my.toml").write_bytes(content)
    with pytest.raises(UserError, match=r"my.toml: not a TOML file: "):
        read_fields(tmp_path / "my.toml")


def test_a_byte_order_mark_is_no_toml(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"\xef\xbb\xbfsteps = 3\n")
    assert read_fields(tmp_path / "a.toml") == {"steps": 3}


def test_a_preset_that_is_not_there() -> None:
    with pytest.raises(UserError, match=r"no-such: no such file; presets are base, base-lamb-phase1, .*tiny"):
        read_fields("no-such")


def test_a_preset_by_its_name_is_the_file() -> None:
    assert read_fields("small") == read_fields(CONFIGS / "small.toml")


def test_what_is_given_beside_a_preset_wins() -> None:
    config = load_config("small", data=Path("rows"), out=Path("run"), steps=7)
    assert (config.steps, config.data, config.batch_size) == (7, (Path("rows"),), read_fields("small")["batch_size"])


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_a_preset_says_where_it_is_from_and_how_to_run_it(path: Path) -> None:
    load_config(path, data=Path("rows"), out=Path("run"))
    comments, _, _ = path.read_text(encoding="utf-8").partition("\n\n")
    lines = comments.splitlines()
    assert all(line.startswith("# ") for line in lines)
    assert any(line.startswith("# Source: ") for line in lines)
    assert any(line.startswith(f"# Run: electra-jax pretrain --config configs/{path.name} ") for line in lines)
