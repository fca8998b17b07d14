"""What the docs say is what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.write_docs import PAGES, ROOT

PROSE = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("name", sorted(PAGES))
def test_a_generated_page_is_what_the_code_generates(name: str) -> None:
    assert (ROOT / name).read_text("utf-8") == PAGES[name](), "run `tox run -e docs`"


@pytest.mark.parametrize("page", PROSE, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text("utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_readme_has_its_two_commands_on_the_first_screen() -> None:
    first = (ROOT / "README.md").read_text("utf-8").splitlines()[:20]
    assert any(line.startswith("tox run -e demo") for line in first)
    assert any(line.startswith("tox run -e tests") for line in first)
