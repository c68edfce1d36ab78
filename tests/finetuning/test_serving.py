"""What is done with a fine-tuned folder: by transformers, by predict, evaluate and detect."""

import csv
import html
import json
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import micro
import numpy as np
import pytest
import transformers
from datasets import Dataset, DatasetDict
from scipy.special import expit
from sklearn import metrics
from toy import write_csv

from electra_jax import cli
from electra_jax.config import FinetuneConfig
from electra_jax.data.records import read_file
from electra_jax.data.tokenizer import load_tokenizer
from electra_jax.errors import UserError
from electra_jax.finetuning.detect import coloured, detect, write_html
from electra_jax.finetuning.evaluate import _curves as curves_of
from electra_jax.finetuning.evaluate import evaluate
from electra_jax.finetuning.model import Classifier, FineTuned
from electra_jax.finetuning.predict import predict, predict_labelled
from electra_jax.hub.pretrained import Discriminator

PNG = b"\x89PNG\r\n\x1a\n"
TEXTS = ["the quick fox", "two lazy dogs under grey skies", "a fox and small towns"]


def test_a_pipeline_of_transformers_gives_our_answers(learnt: FinetuneConfig) -> None:
    pipeline = transformers.pipeline("text-classification", model=str(learnt.out), top_k=None)
    ours = Classifier.from_pretrained(learnt.out)(TEXTS)
    for theirs, answer in zip(pipeline(TEXTS), ours, strict=True):
        assert answer["predicted"] == theirs[0]["label"]
        for label in theirs:
            assert answer[f"probability_{label['label']}"] == pytest.approx(label["score"], abs=1e-5)


def test_the_classifier_has_learnt_it(learnt: FinetuneConfig) -> None:
    answers = Classifier.from_pretrained(learnt.out)(["quiet rivers and a fox", "dogs running near towns"])
    assert [answer["predicted"] for answer in answers] == ["good", "bad"]


def test_a_classifier_of_texts_takes_no_pairs(learnt: FinetuneConfig) -> None:
    with pytest.raises(UserError, match="this model is a classification of the columns text"):
        Classifier.from_pretrained(learnt.out)(["a"], ["b"])


def made_by_transformers(architecture: str, words: Path, folder: Path) -> tuple[Any, Any]:
    """A model of random weights, and its tokenizer, saved by transformers.

    The weights are always the same, and not so large that float32's rounding comes to the 1e-5 that is compared.
    """
    transformers.set_seed(0)
    tokenizer = load_tokenizer(words)
    sizes = {"vocab_size": len(tokenizer), "embedding_size": 8, "hidden_size": 16, "num_hidden_layers": 1}
    config = transformers.ElectraConfig(**sizes, num_attention_heads=2, intermediate_size=16, initializer_range=0.5)
    model = getattr(transformers, architecture)(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


def test_a_model_of_transformers_reads_as_far_as_it_can(tmp_path: Path, words: Path) -> None:
    made_by_transformers("ElectraForSequenceClassification", words, tmp_path)
    text = "the lazy fox " * 80
    pipeline = transformers.pipeline("text-classification", model=str(tmp_path), top_k=1)
    (answer,) = Classifier.from_pretrained(tmp_path)([text])
    assert answer["probability"] == pytest.approx(pipeline(text)[0][0]["score"], abs=1e-5)


def test_transformers_cuts_long_texts_for_the_folder(learnt: FinetuneConfig, tmp_path: Path) -> None:
    positions = FineTuned.from_pretrained(learnt.out).config.max_position_embeddings
    text = "the quick fox " * positions
    pipeline = transformers.pipeline("text-classification", model=str(learnt.out), top_k=1, truncation=True)
    assert pipeline.tokenizer.model_max_length == positions
    (answer,) = pipeline(text)
    (same,) = pipeline(" ".join(text.split()[: positions - 2]))
    assert answer[0]["label"] == same[0]["label"]
    assert answer[0]["score"] == pytest.approx(same[0]["score"])


def test_a_tagger_of_transformers_reads_as_far_as_it_can(tmp_path: Path, words: Path) -> None:
    model, tokenizer = made_by_transformers("ElectraForTokenClassification", words, tmp_path)
    text = ["the", "lazy", "fox"] * 60
    encoded = tokenizer(text, is_split_into_words=True, return_tensors="pt")
    (theirs,) = model(**encoded).logits.argmax(-1).tolist()
    places = encoded.encodings[0].word_ids
    (answer,) = FineTuned.from_pretrained(tmp_path).predict([{"tokens": text}])
    assert answer["predicted"] == [f"LABEL_{theirs[places.index(word)]}" for word in range(len(text))]


def test_a_pair_model_of_transformers_is_told_its_columns(tmp_path: Path, words: Path) -> None:
    made_by_transformers("ElectraForSequenceClassification", words, tmp_path / "model")
    rows = [{"a": text, "b": other, "gold": "LABEL_0"} for text, other in zip(TEXTS, TEXTS[::-1], strict=True)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ["--model", tmp_path / "model", "--text", "a", "b"]
    cli.main([*map(str, ["predict", *given, "--in", tmp_path / "in.jsonl", "--out", tmp_path / "out.jsonl"])])
    pipeline = transformers.pipeline("text-classification", model=str(tmp_path / "model"), top_k=1)
    for row, record in zip(rows, read_file(tmp_path / "out.jsonl"), strict=True):
        ((theirs,),) = pipeline([{"text": row["a"], "text_pair": row["b"]}])
        assert record.values["predicted"] == theirs["label"]
        assert record.values["probability"] == pytest.approx(theirs["score"], abs=1e-5)
    found = evaluate(tmp_path / "model", tmp_path / "in.jsonl", tmp_path / "scores", text=("a", "b"), label=("gold",))
    assert found.examples == 3


def test_columns_may_have_other_names_than_in_training(learnt: FinetuneConfig, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"comment": text}) + "\n" for text in TEXTS))
    predict(learnt.out, tmp_path / "in.jsonl", tmp_path / "out.jsonl", text=("comment",))
    ours = Classifier.from_pretrained(learnt.out)(TEXTS)
    assert [record.values["predicted"] for record in read_file(tmp_path / "out.jsonl")] == [
        a["predicted"] for a in ours
    ]
    with pytest.raises(UserError, match=r"^text: 2 columns are named, and the model has text$"):
        predict(learnt.out, tmp_path / "in.jsonl", tmp_path / "out.jsonl", text=("comment", "other"))
    with pytest.raises(UserError, match=r"^max_answer_length: classification gives no answers; leave it out$"):
        predict(learnt.out, tmp_path / "in.jsonl", tmp_path / "out.jsonl", max_answer_length=50)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet", "jsonl.gz"])
def test_rows_are_written_with_what_is_predicted(learnt: FinetuneConfig, tmp_path: Path, suffix: str) -> None:
    (tmp_path / "in.jsonl").write_text(
        "".join(json.dumps({"n": str(n), "text": t}) + "\n" for n, t in enumerate(TEXTS))
    )
    result = predict(learnt.out, tmp_path / "in.jsonl", tmp_path / f"out.{suffix}")

    expected = FineTuned.from_pretrained(learnt.out).predict([{"text": text} for text in TEXTS])
    assert result.rows == 3
    for number, (record, answer) in enumerate(zip(read_file(tmp_path / f"out.{suffix}"), expected, strict=True)):
        assert list(record.values) == ["n", "text", *answer]
        assert (record.values["n"], record.values["text"]) == (str(number), TEXTS[number])
        assert record.values["predicted"] == answer["predicted"]
        assert float(record.values["probability_good"]) == pytest.approx(answer["probability_good"])


@pytest.mark.parametrize(
    ("source", "out", "marked"), [("csv", "csv", True), ("tsv", "csv", True), ("csv", "jsonl", False)]
)
def test_a_table_that_excel_knows_for_utf_8_is_written_as_one(
    learnt: FinetuneConfig, tmp_path: Path, source: str, out: str, marked: bool
) -> None:
    for mark in ("", "\ufeff"):
        (tmp_path / f"in.{source}").write_text(f"{mark}text\n一只狐狸\n")
        predict(learnt.out, tmp_path / f"in.{source}", tmp_path / f"out.{out}")
        assert (tmp_path / f"out.{out}").read_text().startswith("\ufeff") == (marked and bool(mark))
        (record,) = read_file(tmp_path / f"out.{out}")
        assert record.values["text"] == "一只狐狸"


def test_a_split_is_read_by_its_name(learnt: FinetuneConfig, examples: Path, tmp_path: Path) -> None:
    rows = Dataset.from_csv(str(examples))
    splits = {"train": rows.select(range(5)), "validation": rows.select(range(10)), "test": rows.select(range(20))}
    DatasetDict(splits).save_to_disk(tmp_path / "saved")
    out = ["--model", learnt.out, "--out", tmp_path / "out.csv"]
    for options, count in (([], 5), (["--split", "test"], 20)):
        cli.main([*map(str, ["predict", *out, "--in", tmp_path / "saved", *options])])
        assert len(list(read_file(tmp_path / "out.csv"))) == count
    for split, count in (("validation", 10), ("test", 20)):
        assert evaluate(learnt.out, tmp_path / "saved", tmp_path / "scores", split=split).examples == count


def test_rows_that_are_empty_are_left_out_and_named(learnt: FinetuneConfig, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text('text\na fox\n""\ntwo dogs\n')
    result = predict(learnt.out, tmp_path / "in.csv", tmp_path / "out.csv", empty="skip")
    assert result.rows == len(list(read_file(tmp_path / "out.csv"))) == 2
    assert result.skipped == (f"{tmp_path}/in.csv: row 2, column 'text' is empty",)


def test_a_mistake_in_the_last_row_leaves_nothing(learnt: FinetuneConfig, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("text\n" + "a fox\n" * 3000 + '""\n')
    (tmp_path / "out.csv").write_text("kept")
    with pytest.raises(UserError, match="row 3001, column 'text' is empty"):
        predict(learnt.out, tmp_path / "in.csv", tmp_path / "out.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "out.csv"]
    assert (tmp_path / "out.csv").read_text() == "kept"


PEAK = """
import resource, sys
from pathlib import Path
from electra_jax import predict
predict(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(learnt: FinetuneConfig, tmp_path: Path) -> None:
    peaks = []
    for rows in (4_000, 200_000):
        (tmp_path / f"{rows}.csv").write_text("text\n" + "the quick fox jumps over lazy dogs\n" * rows)
        paths = [str(path) for path in (learnt.out, tmp_path / f"{rows}.csv", tmp_path / f"{rows}.out.csv")]
        process = micro.python("-c", PEAK, *paths)
        assert process.returncode == 0, process.stderr
        peaks.append(int(process.stdout))
    assert peaks[1] - peaks[0] < 60  # MB; the rows alone are 40 MB as Python objects, thrice over


# --- evaluate -----------------------------------------------------------------------------------------------------


def test_an_evaluation_is_that_of_the_predictions(learnt: FinetuneConfig, examples: Path, tmp_path: Path) -> None:
    found = evaluate(learnt.out, examples, tmp_path / "evaluation")
    predict(learnt.out, examples, tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    true, predicted = ([row[name] for row in rows] for name in ("label", "predicted"))

    assert found.scores["accuracy"] == metrics.accuracy_score(true, predicted) > 0.9
    positive = [label == "good" for label in true]
    assert found.scores["auc"] == pytest.approx(
        metrics.roc_auc_score(positive, [float(row["probability_good"]) for row in rows])
    )
    assert np.array(found.confusion).tolist() == metrics.confusion_matrix(true, predicted).tolist()
    content = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    assert content == {
        "examples": 160,
        "left_out": 0,
        "scores": found.scores,
        "labels": ["bad", "good"],
        "confusion": [list(row) for row in found.confusion],
    }
    for name in ("confusion.png", "roc.png"):
        assert (tmp_path / "evaluation" / name).read_bytes().startswith(PNG)


def test_ids_outside_the_vocabulary_are_refused(learnt: FinetuneConfig) -> None:
    with pytest.raises(ValueError, match="input_ids from 1 to 99999"):
        FineTuned.from_pretrained(learnt.out).logits(np.array([[1, 99999]]))


def test_labels_that_are_renamed_in_the_config_are_the_models(learnt: FinetuneConfig, tmp_path: Path) -> None:
    model = transformers.ElectraForSequenceClassification.from_pretrained(
        learnt.out, id2label={0: "no", 1: "yes"}, label2id={"no": 0, "yes": 1}
    )
    shutil.copytree(learnt.out, tmp_path / "renamed")
    model.save_pretrained(tmp_path / "renamed")
    text = "the fox jumps"
    found = Classifier.from_pretrained(tmp_path / "renamed")([text])[0]
    pipeline = transformers.pipeline("text-classification", model=str(tmp_path / "renamed"))
    assert found["predicted"] == pipeline(text)[0]["label"] == "yes"


def test_mistakes_stand_where_their_true_label_does(learnt: FinetuneConfig, examples: Path, tmp_path: Path) -> None:
    """In the row of the true label; and the curve is that of the second label."""
    model = FineTuned.from_pretrained(learnt.out)
    with examples.open(newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file)][:40]
    predicted = [answer["predicted"] for answer in Classifier.from_pretrained(learnt.out)(texts)]
    true = list(predicted)
    for number in [i for i, label in enumerate(predicted) if label == "good"][:7]:
        true[number] = "bad"
    write_csv(tmp_path / "some.csv", ("text", "label"), zip(texts, true, strict=True))

    found = evaluate(learnt.out, tmp_path / "some.csv", tmp_path / "evaluation")
    good = predicted.count("good")
    assert found.confusion == ((40 - good, 7), (0, good - 7))
    labelled, predictions = predict_labelled(model, str(tmp_path / "some.csv"), "error", [])
    ((label, (_, _, area)),) = curves_of(model, labelled, predictions).items()
    assert (label, area) == ("good", pytest.approx(found.scores["auc"]))


def test_an_evaluation_leaves_no_picture_of_the_one_before(
    learnt: FinetuneConfig, examples: Path, tmp_path: Path
) -> None:
    out = tmp_path / "evaluation"
    evaluate(learnt.out, examples, out)
    (tmp_path / "one.csv").write_text("text,label\na fox,good\n")
    evaluate(learnt.out, tmp_path / "one.csv", out)
    assert sorted(path.name for path in out.iterdir()) == ["confusion.png", "metrics.json"]


def test_an_evaluation_stands_in_the_models_folder(learnt: FinetuneConfig, examples: Path) -> None:
    assert evaluate(learnt.out, examples).folder == learnt.out / "evaluation" / examples.name


@pytest.mark.parametrize(("split", "name"), [("validation", "saved"), ("test", "saved-test")])
def test_evaluations_of_two_splits_stand_beside_each_other(
    learnt: FinetuneConfig, examples: Path, tmp_path: Path, split: str, name: str
) -> None:
    DatasetDict({split: Dataset.from_csv(str(examples)).select(range(5))}).save_to_disk(tmp_path / "saved")
    assert evaluate(learnt.out, tmp_path / "saved", split=split).folder == learnt.out / "evaluation" / name


# --- detect -------------------------------------------------------------------------------------------------------


def test_probabilities_are_those_of_the_discriminator(pretrained: Path) -> None:
    (found,) = detect(pretrained, ["The quick  fox & dogs"])
    ids = load_tokenizer(pretrained)("The quick  fox & dogs")["input_ids"]
    expected = expit(np.asarray(Discriminator.from_pretrained(pretrained)([ids]))[0])[1:-1]

    assert found.tokens == ("the", "quick", "fox", "&", "dogs")
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-6)
    assert [found.text[start:stop] for start, stop in found.spans] == ["The", "quick", "fox", "&", "dogs"]


def test_many_texts_are_read_as_each_alone_by_few_programs(pretrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = set()
    call = Discriminator.__call__

    def noting(self: Discriminator, ids: jax.Array, mask: jax.Array) -> jax.Array:
        shapes.add(ids.shape)
        return call(self, ids, mask)

    monkeypatch.setattr(Discriminator, "__call__", noting)
    texts = [" ".join(["the fox", "& two dogs"][i % 2] for i in range(words)) for words in (*range(1, 13),) * 3]
    together = detect(pretrained, texts)
    assert shapes == {(32, 48), (4, 48)}  # of 36 texts that have 4 to 44 tokens
    for text, found in list(zip(texts, together, strict=True))[:12]:
        (alone,) = detect(pretrained, [text])
        assert (found.text, found.tokens, found.spans) == (text, alone.tokens, alone.spans)
        np.testing.assert_allclose(found.probabilities, alone.probabilities, atol=1e-6)


def test_of_many_texts_the_bad_one_is_named(pretrained: Path) -> None:
    with pytest.raises(UserError, match=r"^text 2: is empty"):
        detect(pretrained, ["a fox", "", "two dogs"])


def test_one_text_is_not_taken_for_its_characters(pretrained: Path, learnt: FinetuneConfig) -> None:
    with pytest.raises(TypeError, match=r"^texts: 'a fox' is one text; give a list of texts"):
        detect(pretrained, "a fox")
    with pytest.raises(TypeError, match=r"^texts: None is no text"):
        detect(pretrained, ["a fox", None])  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"^texts: 'a fox' is one text"):
        Classifier.from_pretrained(learnt.out)("a fox")


def test_the_coloured_text_is_the_text(pretrained: Path) -> None:
    (found,) = detect(pretrained, ["The quick  fox & dogs"])
    assert re.sub(r"\(\d+%\)", "", coloured(found).plain) == "The quick  fox & dogs"


def test_a_page_holds_every_token_escaped(pretrained: Path, tmp_path: Path) -> None:
    found = detect(pretrained, ["<b> fox & dogs", "two dogs"])
    write_html(found, "my <model>", tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text(encoding="utf-8")

    assert "my &lt;model&gt;" in page
    assert page.count("<span") == sum(len(one.tokens) for one in found)
    spans = re.findall(r"<p>(<span.*?)</p>", page)
    assert [html.unescape(re.sub(r"<.*?>", "", span)) for span in spans] == ["<b> fox & dogs", "two dogs"]
    assert f'title="fox {found[0].probabilities[3]:.1%}"' in page
