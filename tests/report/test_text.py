"""Numbers as they are written."""

from __future__ import annotations

import pytest

from factlife.report import text
from factlife.scores import METRICS


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0, "0"), (999, "999"), (999.6, "1K"), (1234, "1.23K"), (999_999, "1M"),
        (1_500_000, "1.5M"), (300_000_000_000, "300B"), (2.1e12, "2.1T"), (-1500, "-1.5K"),
    ],
)  # fmt: skip
def test_three_significant_digits_with_a_suffix(value: float, written: str) -> None:
    assert text.si(value) == written


@pytest.mark.parametrize(
    ("value", "unit", "written"),
    [
        (0.5133, "share of facts", "51.3 %"),
        (-0.049, "share of facts above chance", "−4.9 %"),
        (-0.0001, "share of facts above chance", "0.0 %"),
        (0.12, "difference of shares", "12.0 pp"),
        (81_682, "tokens", "81.7K"),
        (0.0004, "nats", "0.0004"),
        (1.0, "nats", "1.00"),
        (-2.5, "nats per token", "−2.50"),
        (0.7512, "AUROC", "0.751"),
    ],
)
def test_each_unit_has_one_way_of_writing(value: float, unit: str, written: str) -> None:
    assert text.number(value, unit).replace("\u202f", " ") == written


def test_every_unit_of_the_registry_can_be_written() -> None:
    for metric in METRICS:
        assert text.number(0.25, metric.unit)
        assert " to " in text.interval(0.1, 0.4, metric.unit)
