"""HTML that is escaped by construction.

Every text that reaches a page goes through `h`, which escapes whatever is not `Html`. Names come
from submissions and generations from models, so nothing is trusted because of where it came from.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable
from typing import Any


class Html(str):
    """A string that is HTML already; anything else is text and gets escaped."""

    __slots__ = ()


Child = str | int | None | Iterable["Child"]
Attribute = str | int | float | bool | None

_VOID = frozenset({"br", "hr", "input", "link", "meta", "wbr"})


def h(tag: str, *children: Child, **attributes: Attribute) -> Html:
    """One element, e.g. `h("a", "text", href="#x", class_="y", aria_label="z")`.

    Attribute names lose a trailing underscore and spell the others as hyphens; None and False
    leave an attribute out, True writes it without a value.
    """
    opening = tag + "".join(_attribute(k, v) for k, v in attributes.items())
    if tag in _VOID:
        return Html(f"<{opening}>")
    return Html(f"<{opening}>{join(children)}</{tag}>")


def join(children: Iterable[Child]) -> Html:
    """Elements and texts one after the other; None is left out."""
    return Html("".join(_child(c) for c in children))


def _child(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Html):
        return str(child)
    if isinstance(child, str | int):
        return html.escape(str(child), quote=True)
    return join(child)


def _attribute(name: str, value: Attribute) -> str:
    if value is None or value is False:
        return ""
    spelled = name.rstrip("_").replace("_", "-")
    return f" {spelled}" if value is True else f' {spelled}="{html.escape(str(value), quote=True)}"'


_UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}


def script_json(element_id: str, value: Any) -> Html:
    """A data block that no content can close: `<`, `>` and `&` are written as JSON escapes.

    Raises:
        ValueError: NaN or infinity in the value.
    """
    name = html.escape(element_id)
    return Html(f'<script type="application/json" id="{name}">{json_text(value)}</script>')


def json_text(value: Any) -> str:
    """JSON that is harmless inside HTML and inside a script, whatever it holds.

    Raises:
        ValueError: NaN or infinity in the value.
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)  # ASCII: no U+2028 either
    for sign, escape in _UNSAFE.items():
        text = text.replace(sign, escape)
    return text
