"""Escaping: whatever a name holds, it stays text."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.pages import data_of, parse

from factlife.report.html import Html, h, join, script_json

EVIL = ["<script>alert(1)</script>", "</script>", "<!--", '"onmouseover="alert(1)', "'><img src=x>"]


@pytest.mark.parametrize("text", EVIL)
def test_text_and_attributes_come_back_as_they_were(text: str) -> None:
    page = parse(h("p", text, title=text))
    assert page.children[0].children == [text]  # type: ignore[union-attr]
    assert page.one("p").attributes == {"title": text}


def test_html_inside_html_is_not_escaped_twice() -> None:
    inner = h("b", "a & b")
    assert h("p", inner, [" <", None, 3]) == "<p><b>a &amp; b</b> &lt;3</p>"


def test_an_f_string_of_html_is_text_again() -> None:
    assert join([f"{Html('<b>')}"]) == "&lt;b&gt;"


def test_attributes_are_spelled_written_or_left_out() -> None:
    made = h("input", class_="a", aria_label="b", hidden=True, title=None, checked=False)
    assert made == '<input class="a" aria-label="b" hidden>'


@given(st.recursive(st.text() | st.integers() | st.none(), st.lists, max_leaves=5))
def test_data_blocks_hold_any_value_and_cannot_be_closed(value: object) -> None:
    block = script_json("x", {"value": [value, *EVIL]})
    assert block.count("<") == 2  # its own tags
    assert data_of(parse(block), "x") == json.loads(json.dumps({"value": [value, *EVIL]}))


def test_data_blocks_refuse_nan() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        script_json("x", float("nan"))
