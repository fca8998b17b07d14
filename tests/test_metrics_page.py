"""The registry says of every metric what a reader needs, and the page shows it."""

from __future__ import annotations

import pytest
from tests.write_docs import metrics_page

from factlife.scores import BY_NAME, FORMULAS, METRICS, Metric


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.name)
def test_every_metric_is_complete(metric: Metric) -> None:
    assert metric.name.startswith((f"{metric.track}.", "hallucination."))
    assert metric.direction in {"higher", "lower", "neither"}
    assert metric.title and metric.unit and metric.meaning.endswith(".")
    assert metric.tokenizer_free or not metric.headline
    assert all(x.strip() for x in (metric.formula, metric.source, metric.interval))


def test_names_are_unique_and_no_formula_is_left_over() -> None:
    assert len(BY_NAME) == len(METRICS)
    assert set(FORMULAS) == set(BY_NAME)


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
    (row,) = (x for x in rows if x.startswith("| **`injection.decay_constant`**"))
    assert "R(t) = b - a log10 t" in row and "after injection-2024" in row


def test_the_page_explains_the_letters_of_every_track() -> None:
    page = metrics_page()
    for letters in ("T_i = step", "B = entropy", "H_role = the components", "D = training tokens"):
        assert letters in page, letters
