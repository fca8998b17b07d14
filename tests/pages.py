"""Reading our HTML pages in tests: parsed, and drawn in headless Chromium."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

VOID = {"br", "hr", "input", "link", "meta", "wbr"}
LOADING = {
    "src", "srcset", "data", "poster", "action", "formaction", "background", "ping", "xlink:href",
}  # fmt: skip
HOLES = r".{20}\b(?:NaN|undefined|None|Infinity|nan|inf)\b"
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, _BROWSERS)), None)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on PATH"
)


@dataclass
class Element:
    """One element: its tag, attributes, and children in order."""

    tag: str
    attributes: dict[str, str]
    children: list[Element | str] = field(default_factory=list)

    def all(self, tag: str | None = None, **wanted: str) -> list[Element]:
        """Every element below with this tag and these attributes (`data_x` means `data-x`)."""
        pairs = {k.rstrip("_").replace("_", "-"): v for k, v in wanted.items()}
        return [e for e in self._walk() if tag in (None, e.tag) and e._has(pairs)]

    def one(self, tag: str | None = None, **wanted: str) -> Element:
        """The only such element."""
        (found,) = self.all(tag, **wanted)
        return found

    @property
    def text(self) -> str:
        """What a reader sees: no scripts, no styles, no source text (`pre`); blanks as one."""
        return " ".join("".join(self._texts()).split())

    def _walk(self) -> Iterator[Element]:
        for child in self.children:
            if isinstance(child, Element):
                yield child
                yield from child._walk()

    def _has(self, pairs: dict[str, str]) -> bool:
        return all(
            v in self.attributes.get(k, "").split() if k == "class" else self.attributes.get(k) == v
            for k, v in pairs.items()
        )

    def _texts(self) -> Iterator[str]:
        for child in self.children:
            if isinstance(child, str):
                yield child
            elif child.tag not in ("script", "style", "pre"):
                yield " "
                yield from child._texts()
                yield " "


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.stack = [Element("document", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {k: v or "" for k, v in attrs})
        self.stack[-1].children.append(element)
        if tag not in VOID:
            self.stack.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack[-1].tag == tag, f"</{tag}> closes <{self.stack[-1].tag}>"
        self.stack.pop()

    def handle_data(self, data: str) -> None:
        self.stack[-1].children.append(data)


def parse(html: str) -> Element:
    """The page as a tree; every element must be closed where it was opened."""
    parser = _Parser()
    parser.feed(html)
    parser.close()
    assert len(parser.stack) == 1, f"<{parser.stack[-1].tag}> is never closed"
    return parser.stack[0]


def data_of(page: Element, element_id: str) -> Any:
    """An embedded data block; NaN and Infinity are no JSON."""
    block = page.one("script", id=element_id)
    assert block.attributes["type"] == "application/json"

    def refuse(name: str) -> float:
        raise AssertionError(f"{name} in embedded data")

    return json.loads(str(block.children[0]), parse_constant=refuse)


def check_page(html: str) -> Element:
    """What holds for every page: it loads nothing, runs only our scripts, and shows no holes."""
    page = parse(html)
    for element in page.all():
        assert not {a for a in element.attributes if a.startswith("on")}, element
        assert not LOADING & set(element.attributes), element
        assert element.tag not in ("iframe", "object", "embed", "img", "form", "base"), element
        if element.tag == "link":
            assert element.attributes["href"] == "data:,"
        if element.tag == "meta":
            assert element.attributes.get("http-equiv", "") != "refresh"
    styles = "".join(str(c) for s in page.all("style") for c in s.children)
    assert "url(" not in styles
    assert "@import" not in styles
    policy = page.one("meta", http_equiv="Content-Security-Policy").attributes["content"]
    scripts = [s for s in page.all("script") if s.attributes.get("type") != "application/json"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert policy.count("'sha256-") == len(scripts)
    assert "unsafe-eval" not in policy
    assert not (holes := re.findall(HOLES, page.text)), holes
    assert not [e for e in page.all() if e.children == ["null"]]  # elsewhere: a null model
    ids = [e.attributes["id"] for e in page.all() if "id" in e.attributes]
    assert len(ids) == len(set(ids)), "an id is used twice"
    for anchor in page.all("a"):
        target = anchor.attributes["href"]
        route = "/" in target  # an address inside the board, that its script reads
        assert not target.startswith("#") or route or target[1:] in ids, target
    assert [h.tag for h in page.all("h1")] == ["h1"]
    assert page.all("main")
    return page


# ---- chromium --------------------------------------------------------------------------------

_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--allow-file-access-from-files", "--enable-logging=stderr", "--v=0",
    "--virtual-time-budget=60000", "--dump-dom",
)  # fmt: skip
_WRAPPER = """<!doctype html><meta charset="utf-8">
<iframe id="page" src="{url}" style="border:0;width:{width}px;height:900px"></iframe>
<pre id="answer"></pre>
<script>
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
(async () => {{
  const frame = document.getElementById("page");
  while (!frame.contentDocument?.documentElement?.dataset.drawn) await wait(100);
  const window_ = frame.contentWindow, page = frame.contentDocument;
  let answer;
  try {{ answer = await (async (window, document) => {{ {script} }})(window_, page); }}
  catch (error) {{ answer = {{ error: String(error) }}; }}
  document.getElementById("answer").textContent = JSON.stringify(answer);
}})();
</script>"""


def in_chromium(path: Path, script: str, width: int = 1280, dark: bool = False) -> Any:
    """Draw a page in a frame of this width, run a script that returns a value, return the value.

    Fails on any console error or warning of the page.
    """
    with tempfile.TemporaryDirectory() as folder:
        wrapper = Path(folder) / "wrapper.html"
        wrapper.write_text(_WRAPPER.format(url=path.as_uri(), width=width, script=script), "utf-8")
        scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
        command = [str(CHROMIUM), *_FLAGS, scheme, f"--user-data-dir={folder}/profile"]
        done = subprocess.run(
            [*command, wrapper.as_uri()], capture_output=True, text=True, timeout=120
        )
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    assert not console, "\n".join(console)
    found = parse_answer(done.stdout)
    assert not (isinstance(found, dict) and "error" in found), found
    return found


def parse_answer(dom: str) -> Any:
    """The value that the wrapper wrote."""
    match = re.search(r'<pre id="answer">(.*?)</pre>', dom, re.DOTALL)
    assert match, "the wrapper was not loaded"
    assert match[1], "the page was never drawn"
    return json.loads(unescape(match[1]))
