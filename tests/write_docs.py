"""Rewrite the generated pages under docs/: `python -m tests.write_docs`. No torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from factlife.result import result_schema
from factlife.schema import columns_markdown

ROOT = Path(__file__).parents[1]

TABLES_HEAD = """\
# Tables of a run folder

Written by `tox -e docs` from `factlife/schema.py`. Every part of a table stores its version in
the Parquet metadata. A change of columns raises it by one, and is listed here with what to do:
no version has changed yet, so that there is nothing to migrate.

"""


def tables_page() -> str:
    """Every table's columns."""
    return TABLES_HEAD + columns_markdown().rstrip("\n") + "\n"


def result_schema_page() -> str:
    """The JSON Schema of result.json."""
    return json.dumps(result_schema(), indent=2, ensure_ascii=False) + "\n"


PAGES: Mapping[str, Callable[[], str]] = {
    "docs/tables.md": tables_page,
    "docs/result.schema.json": result_schema_page,
}


def main() -> None:
    """Write every page."""
    for name, page in PAGES.items():
        (ROOT / name).write_text(page(), "utf-8")


if __name__ == "__main__":
    main()
