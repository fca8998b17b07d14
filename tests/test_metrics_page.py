"""The registry says of every metric what a reader needs, and the page shows it."""

from __future__ import annotations

import pytest
from tests.write_docs import metrics_page

from factlife.scores import BY_NAME, FORMULAS, METRICS, Metric

TRACKS_WITH_FORMULAS = {"recall", "circuits"}


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.name)
def test_every_metric_is_complete(metric: Metric) -> None:
    assert metric.name.startswith((f"{metric.track}.", "hallucination."))
    assert metric.direction in {"higher", "lower", "neither"}
    assert metric.title and metric.unit and metric.meaning.endswith(".")
    assert metric.tokenizer_free or not metric.headline
    if metric.track in TRACKS_WITH_FORMULAS:
        assert metric.formula and metric.source and metric.interval


def test_names_are_unique_and_no_formula_is_left_over() -> None:
    assert len(BY_NAME) == len(METRICS)
    assert set(FORMULAS) <= set(BY_NAME)


def test_every_track_has_a_headline() -> None:
    assert {m.track for m in METRICS if m.headline} == {m.track for m in METRICS}


def test_the_page_has_a_row_a_metric_and_marks_headlines() -> None:
    rows = [x for x in metrics_page().splitlines() if x.startswith(("| `", "| **`"))]
    assert len(rows) == len(METRICS)
    assert sum(x.startswith("| **") for x in rows) == sum(m.headline for m in METRICS)
    for row in rows:  # a bar inside a cell is escaped: seven cells, eight bars
        assert row.replace("\\|", "").count("|") == 8
    (row,) = (x for x in rows if x.startswith("| `recall.top1_accuracy` †"))
    assert "mean_f [rank_1 = 0]" in row


def test_the_page_copes_with_a_track_that_states_no_formula() -> None:
    bare = Metric("new.metric", "New", "nats", "lower", "Something new.")
    assert (bare.track, bare.formula, bare.source, bare.interval) == ("new", "", "", "")
