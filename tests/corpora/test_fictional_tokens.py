"""Prefix and target do not melt together under tokenizers of three makes, trained offline."""

from __future__ import annotations

import pytest

from factlife.corpora.fictional import tokens
from factlife.corpora.fictional.product import measured, public_rows
from factlife.errors import UsageError


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [d["text"] for d in public_rows()["background"]]


def test_a_boundary_that_melts_is_found() -> None:
    def encode(text: str) -> list[int]:
        """A tokenizer that has one token for `by Bo`, and else one for each letter."""
        left, _, right = text.partition("by Bo")
        middle = [0] if "by Bo" in text else []
        return [*map(ord, left), *middle, *map(ord, right)]

    probes = [{"prefix": "built by", "target": "Bo"}, {"prefix": "built at", "target": "Bo"}]
    assert tokens.boundary_breaks(encode, probes) == probes[:1]


@pytest.mark.parametrize("family", tokens.FAMILIES)
def test_no_boundary_breaks_and_the_card_gives_the_figures_of_these_rows(
    family: str, texts: list[str]
) -> None:
    pytest.importorskip("tokenizers")
    found = tokens.figures(family, texts, public_rows()["probes"])
    assert found["breaks"] == 0
    assert measured()["tokens"][family] == found


def test_an_unknown_family_is_refused() -> None:
    pytest.importorskip("tokenizers")
    with pytest.raises(UsageError, match="unknown tokenizer family 'abc'"):
        tokens.train("abc", [])
