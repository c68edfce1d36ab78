"""The page, in a browser: that it draws what it should, answers to a person, and asks nobody for anything."""

import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path

import browser
import micro
import pytest
import tomli_w
from browser import Browser
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By

from electra_jax.config import PretrainConfig
from electra_jax.report.figures import groups_of
from electra_jax.report.write import render, write_report

EVIL = '</script><b>b</b><img src="x" onerror="window.broken = 1"><!--'
CURVES = "document.querySelectorAll('figure .curve')"
OF_CALIBRATION = 3


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser.started(tmp_path_factory.mktemp("profile")) as chromium:
        yield chromium


@pytest.fixture(scope="module")
def page(finished: PretrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the finished run and of one that differs in a setting."""
    folder = tmp_path_factory.mktemp("page")
    other = folder / "<b>other</b>".replace("/", "")
    shutil.copytree(finished.out, other)
    table = tomllib.loads((other / "config.toml").read_text())
    table["objective"]["temperature"] = 2.0
    (other / "config.toml").write_text(tomli_w.dumps(table))
    return write_report([finished.out, other], folder / "report.html", examples=2)


def figures(run: Path) -> int:
    """How many charts its metrics take."""
    names = {name for record in micro.records(run) for name in record} | {"tokens_per_second", "peak_share"}
    return sum(len(group.figures) for group in groups_of(names - {"step", "kind"})) + OF_CALIBRATION


def plain(**changes: object) -> dict:
    """A run as `read_run` returns it, with two figures and nothing else."""
    train = {"step": [10, 20], "mlm_loss": [3.0, 2.5], "energy": [1.0, None]}
    table = {"name": "run", "settings": {"seed": "0"}, "train": train, "eval": {"step": []}, "newest": {}}
    return {**table, "calibration": None, "examples": None, "no_examples": "None.", **changes}


def write(folder: Path, *runs: dict) -> Path:
    path = folder / "report.html"
    path.write_text(render(runs), encoding="utf-8")
    return path


def text(chromium: Browser, selector: str) -> str:
    return chromium.chromium.find_element(By.CSS_SELECTOR, selector).text


def test_the_page_opens_without_a_complaint_and_asks_for_nothing(chromium: Browser, page: Path) -> None:
    chromium.open(page)
    assert chromium.console() == []
    assert chromium.requests() == [page.as_uri()]
    assert chromium.run("performance.getEntriesByType('resource').length") == 0


def test_a_complaint_would_be_heard_and_a_request_seen(chromium: Browser, page: Path, tmp_path: Path) -> None:
    broken, asking = tmp_path / "broken.html", tmp_path / "asking.html"
    content = page.read_text(encoding="utf-8")
    broken.write_text(content.replace("drawLead();\n", "drawNothing();\n"), encoding="utf-8")
    without_policy = content.replace("Content-Security-Policy", "x")
    asking.write_text(without_policy.replace("<body>", '<body><img src="page.png">'), encoding="utf-8")

    chromium.open(broken)
    assert "Content Security Policy" in " ".join(chromium.console())  # a changed script isn't run at all
    broken.write_text(without_policy.replace("drawLead();\n", "drawNothing();\n"), encoding="utf-8")
    chromium.open(broken)
    assert "drawNothing" in " ".join(chromium.console())
    chromium.open(asking)
    assert len(chromium.requests()) == 2


def test_every_figure_is_drawn(chromium: Browser, page: Path, finished: PretrainConfig) -> None:
    chromium.open(page)
    of_each = "f => [...f.querySelectorAll('.curve')].map(curve => curve.getTotalLength())"
    lengths = chromium.run(f"[...document.querySelectorAll('figure')].map({of_each})")
    assert len(lengths) == figures(finished.out) == 21
    assert all(len(curves) >= 2 and min(curves) > 20 for curves in lengths)
    titles = chromium.run("[...document.querySelectorAll('figcaption')].map(node => node.firstChild.textContent)")
    assert {"Joint loss", "AUC", "Discriminator’s gradient", "Reliability", "Speed", "Correct samples"} <= set(titles)


def test_runs_and_kinds_can_be_hidden(chromium: Browser, page: Path) -> None:
    def press(label: str) -> None:
        (button,) = (b for b in chromium.chromium.find_elements(By.TAG_NAME, "button") if label in b.text)
        button.click()
        chromium.settle()

    def visible(selector: str) -> int:
        return sum(node.is_displayed() for node in chromium.chromium.find_elements(By.CSS_SELECTOR, selector))

    chromium.open(page)
    all_of_them, rows = chromium.run(f"{CURVES}.length"), visible("#examples .row")
    press("<b>other<b>")
    assert chromium.run(f"{CURVES}.length") < all_of_them
    assert (visible("#summary tbody tr"), visible("#examples .row")) == (1, rows / 2)
    press("held-out")
    assert chromium.run("document.querySelectorAll('figure .curve.eval').length") == 1  # reliability alone
    press("training")
    assert "Nothing to draw." in text(chromium, "#groups")
    for label in ("training", "held-out", "<b>other<b>"):
        press(label)
    assert chromium.run(f"{CURVES}.length") == all_of_them
    linear = chromium.run(f"{CURVES}[0].getAttribute('d')")
    press("logarithmic")
    assert chromium.run(f"{CURVES}[0].getAttribute('d')") != linear
    assert chromium.console() == []


def test_values_are_read_by_pointer_and_by_keys(chromium: Browser, page: Path, finished: PretrainConfig) -> None:
    last = [record for record in micro.records(finished.out) if record["kind"] == "eval"][-1]
    chromium.open(page)
    chart = chromium.chromium.find_element(By.CSS_SELECTOR, "figure svg")
    ActionChains(chromium.chromium).move_to_element(chart).perform()
    assert "step 8\nrun, training" in text(chromium, "#tooltip")
    assert "run, held-out at 10" in text(chromium, "#tooltip")  # the nearest
    chart.send_keys(Keys.END)
    assert "step 20" in text(chromium, "#tooltip")
    assert f"{last['loss']:.4g}" in text(chromium, "#tooltip")
    chart.send_keys(Keys.ESCAPE)
    assert not chromium.chromium.find_element(By.ID, "tooltip").is_displayed()


def test_numbers_are_there_as_tables(chromium: Browser, page: Path, finished: PretrainConfig) -> None:
    chromium.open(page)
    chromium.chromium.find_element(By.CSS_SELECTOR, "figure summary").click()
    chromium.settle()
    steps = chromium.run("[...document.querySelectorAll('figure details tbody th')].map(node => node.textContent)")
    assert steps == ["4", "8", "10", "12", "16", "20"]
    last = [record for record in micro.records(finished.out) if record["kind"] == "eval"][-1]
    assert f"{last['auc']:.4g}" in text(chromium, "#summary")


def test_settings_that_differ_are_shown_first(chromium: Browser, page: Path) -> None:
    chromium.open(page)
    assert text(chromium, "#settings tbody").split() == ["objective.temperature", "1.0", "2.0"]
    chromium.chromium.find_element(By.CSS_SELECTOR, "#settings button").click()
    assert "model.vocab_size" in text(chromium, "#settings tbody")


def test_the_page_fits_a_phone_and_the_dark(chromium: Browser, page: Path) -> None:
    backgrounds = set()
    for dark in (False, True):
        chromium.open(page, width=390, dark=dark)
        assert chromium.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        assert chromium.console() == []
        backgrounds.add(chromium.run("getComputedStyle(document.body).backgroundColor"))
    assert len(backgrounds) == 2


def test_everything_has_a_name_that_is_read_aloud(chromium: Browser, page: Path) -> None:
    chromium.open(page)
    labels = chromium.run(
        "[...document.querySelectorAll('svg[role=img]')].map(node => node.getAttribute('aria-label'))"
    )
    assert len(labels) == 21
    assert all(" in " in label and "ends at" in label for label in labels)
    assert chromium.run("document.querySelectorAll('h1').length") == 1
    assert chromium.run("[...document.querySelectorAll('th')].every(node => node.scope)")


def test_no_text_of_a_run_becomes_markup(chromium: Browser, tmp_path: Path) -> None:
    rows = [[[EVIL, 0.9, None, False], [EVIL, 0.2, EVIL + "2", True], ["字", 0.7, "字", False]]]
    train = {"step": [10], EVIL: [1.0]}
    run = plain(name=EVIL, settings={EVIL: EVIL}, train=train, examples={"step": 10, "rows": rows})
    chromium.open(write(tmp_path, run, plain(name="$title $data", no_examples=EVIL)))

    assert chromium.console() == []
    assert chromium.run("[window.broken ?? 0, document.querySelectorAll('main b, main img, header b').length]") == [
        0,
        0,
    ]
    assert EVIL in chromium.run("document.title")
    assert "$title $data" in text(chromium, "#summary")
    for part in ("#summary", "#groups", "#examples .row", "#examples .rows .note", "#settings"):
        assert EVIL in chromium.run(f"[...document.querySelectorAll('{part}')].map(n => n.textContent).join()")


def test_what_became_of_a_token_is_shown(chromium: Browser, tmp_path: Path) -> None:
    rows = [[["[CLS]", 0.0, None, False], ["mill", 0.9, "bread", True], ["##s", 0.1, "##ed", True]]]
    rows[0] += [["好", 0.2, "好", False], ["不", 0.8, None, False], ["的", 0.1, None, False]]
    chromium.open(write(tmp_path, plain(examples={"step": 10, "rows": rows})))
    classes = chromium.run("[...document.querySelectorAll('#examples .row .token')].map(node => node.className)")
    assert [set(names.split()) - {"token", "word"} for names in classes] == [
        {"special"},
        {"picked", "found"},
        {"picked", "missed"},
        {"picked", "hit"},
        {"alarm"},
        set(),
    ]
    assert chromium.run("[...document.querySelectorAll('#examples .row rt')].map(node => node.textContent)") == [
        "bread",
        "ed",
        "✓",
    ]
    chromium.chromium.find_elements(By.CSS_SELECTOR, "#examples .row .token")[1].send_keys(Keys.NULL)
    chromium.run("document.querySelectorAll('#examples .row .token')[1].focus()")
    for part in ("90.0%", "bread", "[MASK]", "replaced, and found"):
        assert part in text(chromium, "#tooltip")


def test_figures_that_a_run_has_not_are_left_out(chromium: Browser, tmp_path: Path) -> None:
    full = plain(name="full", eval={"step": [20], "mlm_loss": [2.4], "auc": [0.6], "calibration_error": [0.1]})
    for runs in ([plain()], [plain(), full], [full, plain(train={"step": []}, eval={"step": [5], "loss": [1.0]})]):
        chromium.open(write(tmp_path, *runs))
        assert chromium.console() == []
        assert "Energy" in text(chromium, "#groups") or "energy" in text(chromium, "#groups")


def test_a_chart_without_its_runs_says_nothing(chromium: Browser, page: Path) -> None:
    chromium.open(page)
    chromium.run("document.querySelectorAll('#controls button').forEach((button, i) => { if (i < 2) button.click(); })")
    chromium.settle()
    chromium.run("document.querySelector('#calibration svg').dispatchEvent(new PointerEvent('pointermove'))")
    assert chromium.console() == []


def test_without_a_browser_the_tests_are_skipped_unless_one_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv(browser.REQUIRED, raising=False)
    with pytest.raises(pytest.skip.Exception, match="chromium-driver"):
        browser.programs()
    monkeypatch.setenv(browser.REQUIRED, "1")
    with pytest.raises(pytest.fail.Exception, match="chromium-driver"):
        browser.programs()
