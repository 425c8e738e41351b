import html.parser
import re
from collections import Counter
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from tfx_pipeline.evaluation import evaluate
from tfx_pipeline.predictions import Predictions
from tfx_pipeline.report.html_report import write_report

VOID = {"meta", "br"}


class Page(html.parser.HTMLParser):
    """What a browser would see: tags with attributes, the visible text, table rows; fails on tags that don't match."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.rows: list[list[str]] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            return
        text = " ".join(data.split())
        self.texts.append(text)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] = f"{self.rows[-1][-1]} {text}".strip()

    @property
    def text(self) -> str:
        return " ".join(text for text in self.texts if text)

    @property
    def headings(self) -> list[str]:
        return re.findall(r"<h[123]>(.*?)</h[123]>", self.source)

    def row(self, *first_cells: str) -> list[str]:
        (found,) = [row for row in self.rows if row[: len(first_cells)] == list(first_cells)]
        return found


@pytest.fixture
def page(summary, details, tmp_path):
    def write() -> Page:
        write_report(summary, details, tmp_path / "build" / "report.html")
        return Page(tmp_path / "build" / "report.html")

    return write


def test_the_page_needs_nothing_from_elsewhere(page):
    written = page()
    assert {tag for tag, _ in written.tags} & {"script", "link", "img", "iframe", "object", "base"} == set()
    assert "http" not in written.source and "@import" not in written.source
    for _, attributes in written.tags:
        assert attributes.get("src") is None
        assert (attributes.get("href") or "#").startswith("#")
    assert all(target.startswith("#") for target in re.findall(r"url\(['\"]?(.)", written.source))
    assert not any(name.startswith("on") for _, attributes in written.tags for name in attributes)


def test_ids_occur_once_and_references_lead_somewhere(page, details):
    details["spans"][0]["forecasts"] *= 2
    tags = page().tags
    ids = Counter(attributes["id"] for _, attributes in tags if "id" in attributes)
    assert ids and set(ids.values()) == {1}
    references = {attributes["href"] for tag, attributes in tags if tag == "use"}
    references |= set(re.findall(r"url\((#[^)]*)\)", " ".join(a["clip-path"] for _, a in tags if "clip-path" in a)))
    assert references and {reference[1:] for reference in references} <= set(ids)


def test_each_colour_of_the_plots_is_set_in_light_dark_and_print(page):
    source = page().source
    used = set(re.findall(r"var\((--[a-z0-9-]+)\)", source))
    assert {"--ink", "--past", "--forecast", "--actual", "--series-0", "--series-1"} <= used
    palettes = re.findall(r":root \{(.*?)\}", source, flags=re.DOTALL)
    assert len(palettes) == 3
    for palette in palettes:
        assert used <= set(re.findall(r"(--[a-z0-9-]+):", palette))
    assert not re.search(r"#0[0-9]0a01", source)


def test_figures_intervals_and_users_left_out_stand_in_the_table(page):
    written = page()
    assert written.row("ctr", "span 1") == [
        "ctr",
        "span 1",
        "0.8111 0.8011 to 0.8211",
        "0.6222 0.6122 to 0.6322",
        "0.6333 0.6233 to 0.6433",
        "1,234",
    ]


def test_figures_that_are_not_known_are_dashes(page):
    written = page()
    assert written.row("gtr", "span 1")[3:5] == ["—", "—"]
    assert not re.search(r"\b(nan|None|inf)\b", written.text)


def test_the_headline_says_what_was_served(page, summary):
    first = page()
    assert first.headings[0] == "2 spans trained and judged, 2 blessed: version 2 answers now"
    assert "span 2 , 2025-05-01 06:00 – 12:00 UTC: blessed, served as version 2." in first.text
    summary["spans"][1] |= {"decision": "rejected", "version": None, "reasons": ["ctr auc fell"]}
    summary["rank"][1]["version"] = 1
    second = page()
    assert second.headings[0] == "2 spans trained and judged, 1 blessed: version 1 answers now"
    assert "rejected, not served" in second.text and "ctr auc fell" in second.text


def test_gate_reasons_and_notes_are_shown(page):
    text = page().text
    for words in ("reason of span 1", "reason of span 2", "note of span 1", "note of span 2"):
        assert words in text


def test_differences_are_marked_by_what_their_interval_shows(page, details):
    by_metric = details["spans"][1]["difference"]["ctr"]
    by_metric["gauc"] = {"value": -0.004, "low": -0.007, "high": -0.001}
    by_metric["uauc"] = {"value": -0.001, "low": -0.004, "high": 0.002}
    assert ["ctr", "▲ better +0.0040 +0.0010 to +0.0070", "▼ worse −0.0040 −0.0070 to −0.0010"] in [
        row[:3] for row in page().rows
    ]
    assert ["ctr", "−0.0010 −0.0040 to +0.0020"] in [row[:1] + row[3:] for row in page().rows]


def test_without_a_served_model_there_is_no_difference(page, details):
    assert "Candidate of span 2 minus the served model" in page().headings
    details["spans"][1]["difference"] = {}
    assert not [heading for heading in page().headings if "minus" in heading]


def test_forecasts_are_left_out_where_the_model_has_none(page, summary, details):
    first = page()
    assert "Forecasts of the rooms' statistics" in first.headings
    assert first.row("span 1", "30.00") == ["span 1", "30.00", "40.00", "50.00", "25.0% below the mean"]
    assert "room 101: like" in first.text
    for span in summary["spans"]:
        del span["forecast_mse"], span["semantic_id_hits"], span["product_hits"]
    for span in details["spans"]:
        span["forecasts"] = []
    assert not re.search("forecast", page().text, flags=re.IGNORECASE)


def test_hits_stand_beside_those_of_the_rules(page, summary):
    summary["spans"][1]["semantic_id_hits"]["model"] = {"hit@1": 0.5, "hit@10": None}
    written = page()
    first, second = (row for row in written.rows if row[1:2] == ["model"] and row[0] != "span")
    assert first == ["span 1", "model", "61.0 %", "91.0 %", "8.5 points above the latest code"]
    assert second == ["span 2", "model", "50.0 %", "—", "2.5 points below the latest code"]
    assert written.rows.count(["most frequent code lately", "41.0 %", "83.0 %"]) == 2
    assert written.row("span 1", "25.0 %")[2:] == [
        "75.0 %",
        "30.0 %",
        "12.5 %",
        "5.0 points below the most frequent category",
    ]


def test_the_codebook_and_its_drift_are_shown(page, summary):
    text = page().text
    for words in (
        "version 0123456789ab codes used 250 of 256 perplexity 181.3 mean squared error 0.04321",
        "segments it was trained on 10,301 segments of the spans 10,301, 12,302",
        "population stability index 0.1234 the index by chance alone 0.04560 Jensen-Shannon divergence 0.01230 bits",
    ):
        assert words in text
    summary["drift"] = None
    assert "perplexity 181.3" in page().text and "Jensen-Shannon" not in page().text


def test_without_semantic_ids_and_products_there_is_nothing_about_them(page, summary):
    heading = "What the rooms show next"
    assert heading in page().headings
    for span in summary["spans"]:
        span["semantic_id_hits"] = None
    del summary["codebook"], summary["drift"]
    assert {heading, "The next product's category"} < set(page().headings)
    assert not {"The next semantic id", "The codebook"} & set(page().headings)
    for span in summary["spans"]:
        del span["product_hits"]
    assert heading not in page().headings


def test_ranked_answers_mark_what_moved(page):
    written = page()
    assert [row[:3] for row in written.rows if len(row) == 5 and row[1][:1] in ("▲", "▼", "=", "n")] == [
        ["1", "▲ 2", "103"],
        ["2", "▼ 1", "101"],
        ["3", "▼ 1", "102"],
        ["4", "new", "105"],
    ]
    assert "No longer in the answer: 104" in written.text


def test_stages_rates_memory_and_machine_are_shown(page):
    written = page()
    for words in ("simulate, 11.2 s", "span 1: Trainer, 1 min 15 s", "4 min 57 s", "2,934 MB", "2 cores"):
        assert words in written.text
    assert ["ctr", "the user entered the room", "21.3 %", "21.3 %"] in written.rows


def test_what_comes_from_data_is_shown_as_it_is(page, summary, details):
    evil = "<script>alert(1)</script> --> $x_$ & \"' ]]>"
    summary["stages"][0]["name"] = evil
    summary["spans"][0]["reasons"] = summary["spans"][1]["reasons"] = [evil]
    details["source"] = evil
    details["machine"] = {evil: evil}
    for span in summary["spans"]:
        span["tasks"][evil] = span["tasks"]["ctr"]
    for span in details["spans"]:
        span["notes"] = [evil]
        span["tasks_described"][evil] = evil
        span["forecasts"][0]["metric"] = evil
    for rank in summary["rank"]:
        rank["rooms"][0]["scores"][evil] = 0.5
    written = page()
    tags = {tag for tag, _ in written.tags}
    assert "script" not in tags and {"svg", "table"} <= tags
    assert written.text.count("<script>alert(1)</script> --> $x_$ & \"' ]]>") > 15


def test_a_page_can_be_made_of_the_least_that_a_run_gives(page, summary, details):
    summary["spans"], details["spans"] = summary["spans"][:1], details["spans"][:1]
    summary["spans"][0] |= {"decision": "rejected", "version": None, "forecast_mse": None}
    summary["spans"][0] |= {"semantic_id_hits": None, "product_hits": None}
    summary |= {"codebook": None, "drift": None}
    summary["spans"][0]["tasks"]["ctr"] = {"auc": None, "gauc": None, "uauc": None, "users_left_out": None}
    details["spans"][0] |= {"intervals": {}, "rates": {}, "tasks_described": {}, "forecasts": [], "notes": []}
    details["machine"] = {}
    summary |= {"stages": [], "rank": [], "peak_rss_mb": None}
    written = page()
    assert written.headings[0] == "1 span trained and judged, 0 blessed: no version is served"
    assert written.row("ctr", "span 1") == ["ctr", "span 1", "—", "—", "—", "—"]


def test_it_takes_what_the_evaluation_gives(page, summary, details):
    rng = np.random.default_rng(0)
    rows = 400
    labels = {"ctr": rng.integers(0, 2, rows), "gtr": rng.integers(0, 2, rows), "one_class": np.zeros(rows, np.int64)}
    candidate = {task: label + rng.normal(0, 0.5, rows) for task, label in labels.items()}
    candidate["gtr"] = np.full(rows, np.nan)
    predictions = Predictions(
        user_id=rng.integers(0, 20, rows),
        live_id=np.zeros(rows, np.int64),
        timestamp_ms=np.arange(rows),
        labels=labels,
        masks={task: np.ones(rows, bool) for task in labels},
        scores={"candidate": candidate, "baseline": {task: rng.random(rows) for task in labels}},
    )
    figures = evaluate(predictions, resamples=20, seed=0)
    summary["spans"][1]["tasks"] = {
        task: {name: of[name] for name in ("auc", "gauc", "uauc", "users_left_out")} for task, of in figures.items()
    }
    details["spans"][1] |= {
        "intervals": {task: of.get("interval", {}) for task, of in figures.items()},
        "difference": {task: of.get("difference", {}) for task, of in figures.items()},
    }
    written = page()
    low, high = figures["ctr"]["interval"]["gauc"]
    assert f"{figures['ctr']['gauc']:.4f} {low:.4f} to {high:.4f}" in [cell for row in written.rows for cell in row]
    assert ["one_class", "span 2", "—", "—", "—", "20"] in written.rows
    assert ["span 2", "—", "—", "—", "—"] in written.rows, "gtr, whose scores are no numbers"
    value = figures["ctr"]["difference"]["auc"]["value"]
    assert any(row[0] == "ctr" and row[1].startswith(f"▲ better {value:+.4f}") for row in written.rows)


def test_drawing_leaves_matplotlib_as_it_was(page):
    before = dict(matplotlib.rcParams)
    page()
    assert dict(matplotlib.rcParams) == before


def test_the_same_run_gives_the_same_page(page):
    assert page().source == page().source


def test_a_span_without_details_is_an_error(page, details):
    details["spans"].pop()
    with pytest.raises(ValueError, match=r"spans \[2\] are missing"):
        page()
