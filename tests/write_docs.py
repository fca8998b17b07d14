"""Rewrite the generated pages under docs/: `python -m tests.write_docs`. No torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from typer.main import get_command
from typer.testing import CliRunner

from factlife.cli import app
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


CLI_HEAD = """\
# Command line

Written by `tox -e docs` from the commands themselves.

"""


def cli_page() -> str:
    """The help of every command."""
    return CLI_HEAD + "\n".join(_help([], get_command(app)))


def _help(path: list[str], command: Any) -> Iterator[str]:
    title = " ".join(["factlife", *path])
    done = CliRunner().invoke(app, [*path, "--help"], prog_name="factlife", terminal_width=100)
    text = "\n".join(line.rstrip() for line in done.output.strip().splitlines())
    yield f"## {title}\n\n```text\n{text}\n```\n"
    for name, sub in getattr(command, "commands", {}).items():
        yield from _help([*path, name], sub)


PAGES: Mapping[str, Callable[[], str]] = {
    "docs/tables.md": tables_page,
    "docs/cli.md": cli_page,
    "docs/result.schema.json": result_schema_page,
}


def main() -> None:
    """Write every page."""
    for name, page in PAGES.items():
        (ROOT / name).write_text(page(), "utf-8")


if __name__ == "__main__":
    main()
