"""From files to the two sides of a run: what is read, how it is divided, what is left out."""

import csv
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from datasets import List as ListOf
from transformers import PreTrainedTokenizerFast

from electra_jax.config import ElectraConfig, FinetuneConfig
from electra_jax.data.tokenizer import load_tokenizer
from electra_jax.errors import UserError
from electra_jax.finetuning.data import FinetuneData, Split, load_data, read_records
from electra_jax.finetuning.tasks import make_task

Load = Callable[..., FinetuneData]
ROWS = [(f"the fox number {n}", "good" if n % 5 == 0 else "bad") for n in range(100)]
"""A fifth of them good."""


@pytest.fixture(scope="module")
def pieces(tokenizer: Path) -> PreTrainedTokenizerFast:
    return load_tokenizer(tokenizer)


@pytest.fixture
def load(pieces: PreTrainedTokenizerFast) -> Load:
    """`load_data` of these settings, for a model of 48 positions."""

    def run(train: Path | None, **settings: Any) -> FinetuneData:
        config = FinetuneConfig("model", Path("out"), train=None if train is None else str(train), **settings)
        return load_data(config, make_task(config, pieces, ElectraConfig(max_position_embeddings=48)))

    return run


def write(path: Path, rows: Iterable[tuple[Any, ...]], header: tuple[str, ...] = ("text", "label")) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def numbers(split: Split) -> list[int]:
    """Of the rows, as the file has them."""
    return [example.record.number for example in split.examples]


# --- the two sides ------------------------------------------------------------------------------------------------


def test_every_row_is_on_one_side(load: Load, tmp_path: Path) -> None:
    data = load(write(tmp_path / "a.csv", ROWS), eval_fraction=0.2)
    assert sorted(numbers(data.train) + numbers(data.eval)) == list(range(1, 101))
    assert len(data.eval.examples) == 20
    assert data.task.settings.labels == ("bad", "good")
    assert data.skipped == ()


def test_features_are_what_the_tokenizer_makes_of_the_texts(
    load: Load, pieces: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    data = load(write(tmp_path / "a.csv", ROWS))
    for side in (data.train, data.eval):
        for example, (feature,) in zip(side.examples, side.features, strict=True):
            text, label = ROWS[example.record.number - 1]
            assert feature.ids[0].tolist() == pieces(text)["input_ids"]
            assert feature.target == ["bad", "good"].index(label)
        assert side.lengths.tolist() == [len(feature.ids[0]) for feature in side.flat]


def test_examples_to_evaluate_on_may_have_a_file_of_their_own(load: Load, tmp_path: Path) -> None:
    train, other = write(tmp_path / "a.csv", ROWS), tmp_path / "b.jsonl"
    other.write_text('{"text": "dogs", "label": "good"}\n')
    data = load(train, eval=str(other), eval_fraction=0.5)
    assert numbers(data.train) == list(range(1, 101))
    assert [(example.inputs, example.target) for example in data.eval.examples] == [(("dogs",), "good")]


def test_without_a_share_there_is_nothing_to_evaluate_on(load: Load, tmp_path: Path) -> None:
    data = load(write(tmp_path / "a.csv", ROWS), eval_fraction=0.0)
    assert (len(data.train.examples), data.eval.examples, data.eval.flat) == (100, [], [])


def test_the_labels_are_those_of_training_alone(load: Load, tmp_path: Path) -> None:
    train, other = write(tmp_path / "a.csv", ROWS), write(tmp_path / "b.csv", [("a", "bad"), ("dogs", "ugly")])
    with pytest.raises(UserError, match=r"b\.csv: row 2, column 'label': label 'ugly' is none of training: bad, good"):
        load(train, eval=str(other))


def test_labels_to_evaluate_on_may_be_spelt_as_floats(load: Load, tmp_path: Path) -> None:
    train = write(tmp_path / "a.csv", [("cats", 0), ("dogs", 1)])
    other = write(tmp_path / "b.csv", [("a cat", "1.0"), ("a dog", "0.0")])
    data = load(train, eval=str(other))
    assert [example.target for example in data.eval.examples] == ["1", "0"]


def test_a_rare_label_may_fall_among_the_held_out(load: Load, tmp_path: Path) -> None:
    train = write(tmp_path / "a.csv", [*ROWS, ("the only one", "rare")])
    labels = {load(train, eval_fraction=0.5, seed=seed).task.settings.labels for seed in range(8)}
    assert labels == {("bad", "good", "rare")}


def test_a_label_that_is_no_number_is_empty(load: Load, tmp_path: Path) -> None:
    rows = [{"text": text, "label": float(label == "good")} for text, label in ROWS]
    Dataset.from_list([*rows, {"text": "a", "label": float("nan")}]).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"row 101, column 'label' is empty; fill it in"):
        load(tmp_path / "a.parquet")


@pytest.mark.parametrize("stratify", [False, True])
def test_repetitions_of_a_text_are_on_one_side(load: Load, tmp_path: Path, stratify: bool) -> None:
    rows = [(f"fox {n % 25}", "good" if n % 2 else "bad") for n in range(100)]
    for seed in range(5):
        data = load(write(tmp_path / "a.csv", rows), eval_fraction=0.2, seed=seed, stratify=stratify)
        sides = [{example.inputs for example in split.examples} for split in (data.train, data.eval)]
        assert not sides[0] & sides[1]
        assert [len(side) for side in sides] == [20, 5]
        assert (len(data.train.examples), len(data.eval.examples)) == (80, 20)


def test_white_space_at_the_ends_makes_no_other_text(load: Load, tmp_path: Path) -> None:
    rows = [(f" fox {n}" if spaced else f"fox {n} ", n % 2) for n in range(20) for spaced in (True, False)]
    data = load(write(tmp_path / "a.csv", rows), eval_fraction=0.5)
    sides = [{example.inputs[0].strip() for example in side.examples} for side in (data.train, data.eval)]
    assert len(sides[0]) == len(sides[1]) == 10
    assert not sides[0] & sides[1]


def test_a_pair_is_repeated_where_both_its_texts_are(load: Load, tmp_path: Path) -> None:
    rows = [("a", f"b{n % 10}", n % 2) for n in range(40)]
    train = write(tmp_path / "a.csv", rows, ("first", "second", "label"))
    data = load(train, text=("first", "second"), eval_fraction=0.3)
    assert len({example.inputs for example in data.eval.examples}) == 3
    assert not {e.inputs for e in data.train.examples} & {e.inputs for e in data.eval.examples}


def test_stratified_sides_have_each_label_alike(load: Load, tmp_path: Path) -> None:
    train = write(tmp_path / "a.csv", ROWS)
    for seed in range(5):
        data = load(train, eval_fraction=0.2, stratify=True, seed=seed)
        assert Counter(example.target for example in data.eval.examples) == {"good": 4, "bad": 16}
        assert Counter(example.target for example in data.train.examples) == {"good": 16, "bad": 64}


def test_the_sides_are_a_function_of_the_seed(load: Load, tmp_path: Path) -> None:
    train = write(tmp_path / "a.csv", ROWS)

    def sides(seed: int) -> tuple[list[int], list[int], str, str]:
        data = load(train, seed=seed)
        return numbers(data.train), numbers(data.eval), data.train.fingerprint, data.eval.fingerprint

    assert sides(3) == sides(3)
    assert len({sides(seed)[2] for seed in range(4)}) == len({tuple(sides(seed)[1]) for seed in range(4)}) == 4


def test_every_text_is_as_likely_to_be_held_out(load: Load, tmp_path: Path) -> None:
    train, seeds = write(tmp_path / "a.csv", ROWS[:40]), 100
    held_out = np.zeros(40)
    for seed in range(seeds):
        held_out[np.array(numbers(load(train, eval_fraction=0.25, seed=seed).eval)) - 1] += 1
    assert held_out.sum() == 10 * seeds
    assert np.abs(held_out - seeds / 4).max() < 5 * np.sqrt(seeds * 0.25 * 0.75)


@pytest.mark.parametrize(
    ("count", "settings", "says"),
    [
        (100, {"eval_fraction": 1.0}, "eval_fraction: 1.0 is not from 0 to below 1"),
        (100, {"eval_fraction": -0.1}, "eval_fraction: -0.1 is not from 0 to below 1"),
        (2, {"eval_fraction": 0.9}, "eval_fraction: 0.9 of 2 examples leaves one side none; give another"),
        (6, {"eval_fraction": 0.2, "stratify": True}, "stratify: only one text is 'good', and each side wants one"),
    ],
)
def test_shares_that_leave_a_side_without_examples(
    load: Load, tmp_path: Path, count: int, settings: dict[str, Any], says: str
) -> None:
    rows = [(text, "good" if n == 0 else "bad") for n, (text, _) in enumerate(ROWS[:count])]
    with pytest.raises(UserError) as error:
        load(write(tmp_path / "a.csv", rows), **settings)
    assert str(error.value).startswith(says)
    assert "\n" not in str(error.value)


def test_a_change_of_a_token_or_a_target_changes_the_fingerprint(load: Load, tmp_path: Path) -> None:
    def fingerprint(*changed: tuple[str, str]) -> str:
        return load(write(tmp_path / "a.csv", [*changed, *ROWS[1:]]), eval_fraction=0.0).train.fingerprint

    assert len({fingerprint(ROWS[0]), fingerprint(("a fox", "good")), fingerprint((ROWS[0][0], "bad"))}) == 3
    assert fingerprint(ROWS[0]) == fingerprint(ROWS[0])
    assert fingerprint(ROWS[0]) == fingerprint((f" {ROWS[0][0]} ", "good"))  # no token differs


# --- rows that are empty ------------------------------------------------------------------------------------------


def test_empty_rows_of_both_files_are_left_out_and_named(load: Load, tmp_path: Path) -> None:
    train = write(tmp_path / "a.csv", [("", "good"), *ROWS, ("a", " ")])
    other = write(tmp_path / "b.csv", [("a", "good"), ("", "bad")])
    data = load(train, eval=str(other), empty="skip")
    assert numbers(data.train) == list(range(2, 102))
    assert numbers(data.eval) == [1]
    assert data.skipped == (
        f"{train}: row 1, column 'text' is empty",
        f"{train}: row 102, column 'label' is empty",
        f"{other}: row 2, column 'text' is empty",
    )


def test_an_empty_row_ends_it_unless_it_may_be_left_out(load: Load, tmp_path: Path) -> None:
    train = write(tmp_path / "a.csv", [*ROWS, ("a", "")])
    with pytest.raises(UserError) as error:
        load(train, empty="error")
    says = "row 101, column 'label' is empty; fill it in, or leave such rows out with --empty skip"
    assert str(error.value) == f"{train}: {says}"


@pytest.mark.parametrize("side", ["train", "eval"])
def test_a_file_of_empty_rows_alone_is_told(load: Load, tmp_path: Path, side: str) -> None:
    empty, full = write(tmp_path / "a.csv", [("", "good"), ("", "bad")]), write(tmp_path / "b.csv", [*ROWS, ("", "x")])
    with pytest.raises(UserError, match=r"a\.csv: all of its 2 rows have empty fields$"):
        load(empty if side == "train" else full, eval=None if side == "train" else str(empty), empty="skip")


def test_a_broken_row_of_the_other_file_is_told(load: Load, tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_bytes(b"text,label\na,good\ncaf\xe9,bad\n")
    with pytest.raises(UserError, match=r"b\.csv: row 2, column 'text': byte 0xE9 is not UTF-8"):
        load(write(tmp_path / "a.csv", ROWS), eval=str(tmp_path / "b.csv"))


def test_nothing_to_train_on_is_told(load: Load, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="train: none is given; name a file of examples, since task 'classification'"):
        load(None)
    with pytest.raises(UserError, match=r"none\.csv: no such file or folder"):
        load(tmp_path / "none.csv")


# --- folders saved by `datasets` ----------------------------------------------------------------------------------

NAMED = Features(
    {
        "text": Value("string"),
        "label": ClassLabel(names=["neg", "pos"]),
        "tokens": ListOf(Value("string")),
        "tags": ListOf(ClassLabel(names=["O", "B-X"])),
        "n": Value("int64"),
    }
)


def named(label: int, number: int = 0) -> dict[str, Any]:
    return {"text": f"fox {number}", "label": label, "tokens": ["a", "fox"], "tags": [0, 1], "n": number}


@pytest.mark.parametrize("form", [None, "numpy", "torch"])
def test_classes_are_read_by_their_names(tmp_path: Path, form: str | None) -> None:
    saved = Dataset.from_list([named(1, 3), named(0, 4)], features=NAMED).with_format(form)
    saved.save_to_disk(tmp_path / "saved")
    first, second = read_records(str(tmp_path / "saved"))
    assert first.values == {
        "text": "fox 3",
        "label": "pos",
        "tokens": ["a", "fox"],
        "tags": ["O", "B-X"],
        "n": 3,
    }
    assert (second.values["label"], second.number, second.source) == ("neg", 2, str(tmp_path / "saved"))


def test_columns_that_a_format_hides_are_read(tmp_path: Path) -> None:
    saved = Dataset.from_list([named(1)], features=NAMED)
    saved.set_format("numpy", columns=["label"])
    saved.save_to_disk(tmp_path / "saved")
    (record,) = read_records(str(tmp_path / "saved"))
    assert set(record.values) == set(NAMED)


def test_a_class_that_is_missing_is_empty(load: Load, tmp_path: Path) -> None:
    rows = [named(n % 2, n) for n in range(10)] + [named(-1, 10)]
    Dataset.from_list([*rows, named(0) | {"label": None}], features=NAMED).save_to_disk(tmp_path / "saved")
    data = load(tmp_path / "saved", empty="skip")
    assert data.task.settings.labels == ("neg", "pos")
    assert data.skipped == tuple(f"{tmp_path}/saved: row {n}, column 'label' is empty" for n in (11, 12))


def test_labels_are_in_the_order_of_their_classes(load: Load, tmp_path: Path) -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["not_same", "unused", "equal"])})
    rows = [{"text": f"fox {n}", "label": n % 2 * 2} for n in range(10)]
    Dataset.from_list(rows, features=features).save_to_disk(tmp_path / "saved")
    data = load(tmp_path / "saved", eval_fraction=0.0)
    assert data.task.settings.labels == ("not_same", "equal")  # so the f1 of two is that of the second class
    assert [feature.target for feature in data.train.flat[:2]] == [0, 1]


def test_tags_are_read_by_their_names(load: Load, tmp_path: Path) -> None:
    Dataset.from_list([named(0, n) for n in range(4)], features=NAMED).save_to_disk(tmp_path / "saved")
    data = load(tmp_path / "saved", task="tagging", eval_fraction=0.0)
    assert data.task.settings.labels == ("O", "B-X")
    assert data.train.examples[0].target == ["O", "B-X"]


def test_tags_are_in_the_order_of_their_classes(load: Load, tmp_path: Path) -> None:
    tags = ListOf(ClassLabel(names=["X-B", "unused", "O", "A"]))
    features = Features({"tokens": ListOf(Value("string")), "tags": tags})
    Dataset.from_list([{"tokens": list("abc"), "tags": [3, 2, 0]}] * 4, features=features).save_to_disk(tmp_path / "s")
    assert load(tmp_path / "s", task="tagging", eval_fraction=0.0).task.settings.labels == ("X-B", "O", "A")


def test_a_folder_of_splits_trains_on_the_one_and_evaluates_on_the_other(load: Load, tmp_path: Path) -> None:
    sides = {"train": [named(n % 2, n) for n in range(8)], "validation": [named(1, 100)]}
    splits = DatasetDict({name: Dataset.from_list(rows, features=NAMED) for name, rows in sides.items()})
    splits.save_to_disk(tmp_path / "saved")
    data = load(tmp_path / "saved", eval=str(tmp_path / "saved"))
    assert len(data.train.examples) == 8
    assert [example.inputs for example in data.eval.examples] == [("fox 100",)]
    assert len(load(tmp_path / "saved", eval_fraction=0.25).eval.examples) == 2  # of training, as it is not named


def test_rows_are_the_same_whatever_they_are_stored_in(load: Load, tmp_path: Path) -> None:
    rows = [{"text": text, "label": label} for text, label in ROWS]
    write(tmp_path / "a.csv", ROWS)
    (tmp_path / "a.json").write_text(json.dumps({"data": rows}))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = Dataset.from_list(rows)
    table.to_parquet(tmp_path / "a.parquet")
    table.save_to_disk(tmp_path / "saved")
    found = defaultdict(set)
    for name in ("a.csv", "a.json", "a.jsonl", "a.parquet", "saved"):
        data = load(tmp_path / name)
        found[data.train.fingerprint, data.eval.fingerprint].add(name)
    assert len(found) == 1


# --- GLUE ---------------------------------------------------------------------------------------------------------

GLUE = Features(
    {
        "sentence1": Value("string"),
        "sentence2": Value("string"),
        "label": ClassLabel(names=["not_equivalent", "equivalent"]),
        "idx": Value("int32"),
    }
)


def glue(*labels: int, start: int = 0) -> Dataset:
    rows = [
        {"sentence1": f"fox {idx}", "sentence2": f"dogs {idx}", "label": label, "idx": idx}
        for idx, label in enumerate(labels, start=start)
    ]
    return Dataset.from_list(rows, features=GLUE)


@pytest.mark.parametrize("task", ["mrpc", "rte"])
def test_a_glue_task_has_its_columns_and_its_validation(
    load: Load, pieces: PreTrainedTokenizerFast, tmp_path: Path, task: str
) -> None:
    splits = {"train": glue(0, 1, 1, 0), "validation": glue(1, 0, start=50), "test": glue(-1, -1, start=90)}
    DatasetDict(splits).save_to_disk(tmp_path / "glue")
    data = load(tmp_path / "glue", task=task)
    assert data.task.settings.labels == ("not_equivalent", "equivalent")
    assert [example.inputs for example in data.train.examples] == [(f"fox {n}", f"dogs {n}") for n in range(4)]
    assert [e.inputs[0] for e in data.eval.examples] == ["fox 50", "fox 51"]
    assert [e.target for e in data.eval.examples] == ["equivalent", "not_equivalent"]
    (feature,) = data.eval.features[0]
    assert feature.ids[0].tolist() == pieces("fox 50", "dogs 50")["input_ids"]
    assert feature.first_lengths == (len(pieces("fox 50")["input_ids"]),)


def test_mnli_is_evaluated_on_its_matched_validation(load: Load, tmp_path: Path) -> None:
    names = {"sentence1": "premise", "sentence2": "hypothesis"}
    splits = {
        "train": glue(0, 1, 1),
        "validation_matched": glue(1, start=50),
        "validation_mismatched": glue(0, start=60),
    }
    DatasetDict({name: rows.rename_columns(names) for name, rows in splits.items()}).save_to_disk(tmp_path / "glue")
    data = load(tmp_path / "glue", task="mnli")
    assert [example.inputs for example in data.eval.examples] == [("fox 50", "dogs 50")]


def test_the_hidden_labels_of_a_test_split_are_empty(load: Load, tmp_path: Path) -> None:
    DatasetDict(train=glue(0, 1, 1), validation=glue(1, -1, start=50)).save_to_disk(tmp_path / "glue")
    with pytest.raises(UserError, match=r"glue: row 2, column 'label' is empty; fill it in"):
        load(tmp_path / "glue", task="mrpc")
    data = load(tmp_path / "glue", task="mrpc", empty="skip")
    assert [example.inputs[0] for example in data.eval.examples] == ["fox 50"]
    assert data.skipped == (f"{tmp_path}/glue: row 2, column 'label' is empty",)
    glue(-1, -1, start=90).save_to_disk(tmp_path / "test")
    with pytest.raises(UserError, match=r"test: all of its 2 rows have empty fields"):
        load(tmp_path / "glue", task="mrpc", eval=str(tmp_path / "test"), empty="skip")


def test_splits_are_those_named(load: Load, tmp_path: Path) -> None:
    splits = {"train": glue(0, 1), "dev": glue(1, 0, start=50), "test": glue(0, 1, start=90)}
    DatasetDict(splits).save_to_disk(tmp_path / "saved")
    table = {"text": ("sentence1",), "train_split": "dev"}
    data = load(tmp_path / "saved", eval_split="test", **table)
    assert [example.inputs for example in data.train.examples] == [("fox 50",), ("fox 51",)]
    assert [example.inputs for example in data.eval.examples] == [("fox 90",), ("fox 91",)]
    assert not load(tmp_path / "saved", eval_fraction=0.0, **table).eval.examples
    data = load(tmp_path / "saved", task="mrpc", eval_split="dev")
    assert [example.inputs[0] for example in data.eval.examples] == ["fox 50", "fox 51"]
    with pytest.raises(UserError, match=r"train.csv has no splits; name other examples by eval"):
        load(write(tmp_path / "train.csv", [("fox", 1)]), eval_split="dev")


def test_a_folder_without_the_validation_is_told(load: Load, tmp_path: Path) -> None:
    DatasetDict(train=glue(0, 1), test=glue(-1)).save_to_disk(tmp_path / "glue")
    with pytest.raises(UserError, match=r"glue: has no split 'validation'; there are: train, test"):
        load(tmp_path / "glue", task="mrpc")


@pytest.mark.parametrize("stored", ["folder", "file"])
def test_a_glue_task_of_one_table_is_never_evaluated_on_what_it_trains_on(
    load: Load, tmp_path: Path, stored: str
) -> None:
    table = glue(*[0, 1] * 10)
    if stored == "folder":
        table.save_to_disk(tmp_path / "glue")
    else:
        table.to_csv(tmp_path / "glue")
        (tmp_path / "glue").rename(tmp_path / "glue.csv")
    data = load(tmp_path / ("glue" if stored == "folder" else "glue.csv"), task="mrpc", eval_fraction=0.2)
    assert sorted(numbers(data.train) + numbers(data.eval)) == list(range(1, 21))
    assert len(data.eval.examples) == 4


def test_stsb_is_a_regression_and_may_have_other_columns(load: Load, tmp_path: Path) -> None:
    rows = [(f"fox {n}", f"dogs {n}", n / 4) for n in range(20)]
    data = load(write(tmp_path / "a.csv", rows, ("a", "b", "score")), task="stsb", text=("a", "b"), label=("score",))
    assert {example.record.number: example.target for example in data.train.examples + data.eval.examples} == {
        n + 1: n / 4 for n in range(20)
    }
    assert [float(feature.target) for feature in data.train.flat] == [e.target for e in data.train.examples]
