"""Rewrite the generated pages under docs/: `python -m tests.write_docs`. No torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tests import study_page
from typer.main import get_command
from typer.testing import CliRunner

from factlife.circuits.metrics import formulas as circuit_formulas
from factlife.cli import app
from factlife.dynamics import formulas as dynamics_formulas
from factlife.injection import formulas as injection_formulas
from factlife.recall import formulas as recall_formulas
from factlife.result import result_schema
from factlife.schema import columns_markdown
from factlife.scores import METRICS, Metric

ROOT = Path(__file__).parents[1]

TABLES_HEAD = """\
# Tables of a run folder

Written by `tox -e docs` from `factlife/schema.py`. Every part of a table stores its version in
the Parquet metadata. A change of columns raises it by one, and is listed here with what to do.

`dynamics_runs` is version 2 since it holds `precision`. Version 1 was always float32; the same
command trains its runs again.

`result.json` is version 2 since it holds `command`. A file of version 1 is read as one whose
command is not known; `factlife score RUN` writes it anew, as version 2.

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


METRICS_HEAD = """\
# Standard metrics

Written by `tox -e docs` from `factlife/scores.py`. Every number bears an interval at the profile's
level; the method that was used is in the table `scores`, in `interval_method`. Headlines are in
**bold**. A number marked † depends on the tokenizer: it is reported, and never a headline. Numbers
are per revision unless they are marked "series". p = probability, KL and ln in nats.
"""
LETTERS = {
    "recall": recall_formulas,
    "circuits": circuit_formulas,
    "injection": injection_formulas,
    "dynamics": dynamics_formulas,
}  # track -> module whose docstring explains its letters, after the first paragraph


def metrics_page() -> str:
    """The registry of standard metrics, by track."""
    parts = [METRICS_HEAD]
    for track in dict.fromkeys(m.track for m in METRICS):
        mine = [m for m in METRICS if m.track == track]
        heads = sum(m.headline for m in mine)
        parts.append(f"\n## {track.capitalize()}: {len(mine)} metrics, {heads} headlines\n\n")
        parts.append((LETTERS[track].__doc__ or "").partition("\n\n")[2].strip() + "\n\n")
        parts.append("| name | unit | better | formula | meaning | interval | source |\n")
        parts.append("|---|---|---|---|---|---|---|\n")
        parts += [_metric_row(m) for m in mine]
    return "".join(parts)


def _metric_row(m: Metric) -> str:
    name = f"**`{m.name}`**" if m.headline else f"`{m.name}`"
    name += ("" if m.tokenizer_free else " †") + ("" if m.per_revision else " (series)")
    cells = (name, m.unit, m.direction, m.formula, m.meaning, m.interval, m.source)
    return "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |\n"


PAGES: Mapping[str, Callable[[], str]] = {
    **({"docs/dynamics-study.md": study_page.page} if study_page.packed() else {}),
    "docs/tables.md": tables_page,
    "docs/metrics.md": metrics_page,
    "docs/cli.md": cli_page,
    "docs/result.schema.json": result_schema_page,
}


def main() -> None:
    """Write every page."""
    for name, page in PAGES.items():
        (ROOT / name).write_text(page(), "utf-8")


if __name__ == "__main__":
    main()
