"""The shell of every page: one file, nothing loaded from anywhere.

A content security policy holds the hash of each script that the page may run and forbids
every request, so that even a name that slipped through escaping could neither run nor load.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from string import Template
from typing import Any

import vl_convert

from factlife import __version__
from factlife.report.html import Html, h, join, script_json


@cache
def asset(package: str, name: str) -> str:
    """A file shipped in a room's `assets` folder."""
    return resources.files(package).joinpath("assets", name).read_text("utf-8")


@cache
def vega_bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script (0.9 MB), from vl-convert."""
    return str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))


def whole_page(
    *,
    title: str,
    header: Html,
    navigation: Sequence[tuple[str, str]],
    main: Html,
    data: Mapping[str, Any],
    sidebar: bool = True,
    styles: Sequence[str] = (),
    scripts: Sequence[str] = (),
    footing: str = "This page is one file and loads nothing.",
    own_files: bool = False,
) -> str:
    """A whole page.

    Args:
        title: of the document.
        header: what stands above everything, with the page's `h1`.
        navigation: (section id, short title) of the sections to jump to.
        data: element id -> value, embedded as JSON.
        sidebar: the navigation stands beside the content where the page is wide, else above it.
        styles, scripts: sources of the page's own, after those that all pages share.
        footing: last sentence of the page.
        own_files: the page may load scripts that lie beside it (the board's plots and curves).
    """
    code = [asset("factlife.report", "page.js"), *scripts]
    links = [h("li", h("a", short, href=f"#{to}")) for to, short in navigation]
    nav = h("nav", h("ul", links), aria_label="Sections") if len(links) > 1 else None
    return Template(asset("factlife.report", "page.html")).substitute(
        title=join([title]),
        policy=join([_policy(code, own_files)]),
        styles="\n".join([asset("factlife.report", "page.css"), *styles]),
        header=header,
        navigation=nav or "",
        layout="with-nav" if nav and sidebar else "plain",
        main=main,
        version=join([__version__]),
        footing=join([footing]),
        data=join(script_json(name, value) for name, value in data.items()),
        scripts="\n".join(f"<script>{_checked(c)}</script>" for c in code),
    )


def _checked(code: str) -> str:
    """A script that does not end its own element."""
    if "</script" in code.lower() or "<!--" in code:
        raise ValueError("a script may not hold </script or <!--")
    return code


def _policy(scripts: Sequence[str], own_files: bool) -> str:
    digests = (base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts)
    hashes = " ".join(f"'sha256-{d}'" for d in digests)
    if own_files:
        hashes += " 'self'"
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )
