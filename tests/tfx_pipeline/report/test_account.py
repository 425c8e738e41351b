import io
import math
import re

import pytest
from rich.console import Console

from tfx_pipeline.report.account import print_account


@pytest.fixture
def account(summary, details):
    def printed() -> str:
        console = Console(width=100, record=True, file=io.StringIO())
        print_account(console, summary, details)
        return console.export_text()

    return printed


def test_it_says_what_happened(account):
    text = " ".join(account().split())
    for words in (
        "simulated day, preset demo, seed 0",
        "ctr 0.8111 0.6222 0.6333 1,234 ctr 0.8155 0.6266 0.6377 1,234",
        "gtr 0.9644 — — 1,234",
        "Span 1 blessed, served as version 1: reason of span 1",
        "GAUC against the served model: better in ctr",
        "Forecast MSE: model 30.00, mean 40.00, latest 50.00 (the model is 25.0% below the mean)",
        "next semantic id: model 61.0 % 91.0 % 61.0 % 91.0 %",
        "next semantic id: most frequent code of all 31.0 % 84.0 % 31.0 % 84.0 %",
        "next product: model 25.0 % 75.0 % 25.0 % 75.0 % next product: most frequent category 30.0 % 30.0 %",
        "Codebook 0123456789ab: 250 of 256 codes used, perplexity 181.3, MSE 0.04321, 10,301 segments",
        "Drift between the spans: stability index 0.1234 (by chance 0.04560), Jensen-Shannon 0.01230 bits",
        "1 101 0.5000 0.0100 103 ▲ 2 0.5000 0.0100",
        "Took 4 min 57 s, peak memory 2,934 MB; longest stages: span 1: Trainer 1 min 15 s, simulate 11.2 s",
    ):
        assert words in text


def test_nine_tasks_and_many_reasons_stay_short(account, summary):
    for span in summary["spans"]:
        span["tasks"] = {f"task{i}": span["tasks"]["ctr"] for i in range(9)}
        span["reasons"] = [
            f"task{i} auc changed by -0.0121 against the baseline, 95 % interval -0.0161 to -0.0081" for i in range(9)
        ]
    summary["stages"] = [{"name": f"span 2: component number {i}", "seconds": 100 - i} for i in range(20)]
    lines = account().splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100
    assert "and 7 more" in " ".join(" ".join(lines).split())


def test_a_model_without_a_forecaster_has_no_line_about_forecasts(account, summary):
    for span in summary["spans"]:
        span |= {"forecast_mse": None, "semantic_id_hits": None, "product_hits": None}
    summary |= {"codebook": None, "drift": None}
    text = account()
    assert not re.search("forecast|hit|codes|codebook", text, flags=re.IGNORECASE)


def test_what_is_not_known_is_a_dash(account, summary):
    summary["spans"][0]["forecast_mse"] = {"model": math.nan, "mean": 40.0, "latest": None}
    summary["peak_rss_mb"] = None
    summary["spans"][0]["semantic_id_hits"] = {"model": {"hit@1": math.nan, "hit@10": None}}
    summary["spans"][0]["product_hits"] = {"model": 0.5, "model_at_10": None, "most_frequent": None, "latest": 0.1}
    text = account()
    assert "model —, mean 40.00, latest —" in text and "peak memory —" in text
    words = " ".join(text.split())
    assert "next semantic id: model — — 61.0 % 91.0 % next semantic id: latest code — — 52.5 % 82.0 %" in words
    assert "next product: model 50.0 % — 25.0 % 75.0 % next product: most frequent category — 30.0 %" in words
    assert not re.search(r"\b(nan|None)\b", text)


def test_names_are_no_markup(account, summary, details):
    details["source"] = "[bold]source[/bold]"
    summary["spans"][0]["tasks"]["[red]"] = summary["spans"][0]["tasks"]["ctr"]
    summary["spans"][0]["reasons"] = ["[/red]"]
    text = account()
    assert "[bold]source[/bold]" in text and "[red]" in text and ": [/red]" in text


def test_one_answer_and_no_answer(account, summary):
    del summary["rank"][1]
    assert "Answer: version 1" in account() and "change" not in account()
    summary["rank"] = []
    assert "Rooms for user" not in account()


def test_an_answer_without_rooms(account, summary):
    summary["rank"][0] |= {"version": None, "rooms": []}
    text = " ".join(account().split())
    assert "Before: no room is live" in text and "1 103 new 0.5000" in text
