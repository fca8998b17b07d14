"""Files of the static board: the page, one file a series, what draws, and the table to download.

A browser that opens a page from a disk may not read other files as data, but it may run scripts
that lie beside the page. So everything that is read on demand is a script that hands one JSON
value to the page: `factlife.receive(name, value)`.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from factlife.errors import PartialError
from factlife.hub.board import HEADLINES, page
from factlife.hub.collect import Entry
from factlife.hub.ranks import ranks
from factlife.hub.series_page import series_data
from factlife.report.html import json_text
from factlife.report.page import vega_bundle
from factlife.scores import METRICS
from factlife.store import write_bytes, write_json, write_text

PAGE = "index.html"
_SLUG = re.compile(r"[a-z0-9-]+-[0-9a-f]{10}\.js")


def write_site(entries: Sequence[Entry], out: Path, drawn: Path | None = None) -> Path:
    """Write the board of these entries into a folder and return the path of its page.

    Args:
        drawn: folder with what `put_series` wrote of each, to be moved from there; None: to be
            written here.

    Files of series that the board no longer has are removed; nothing else in the folder is.

    Raises:
        PartialError: the disk refuses a file.
    """
    html, more = page(entries)
    for e in entries:
        if drawn is None:
            put_series(e, out / "series")
        else:
            _move(drawn / f"{e.slug}.js", out / "series")
    _sweep(out / "series", {f"{e.slug}.js" for e in entries})
    write_text(out / "rows.js", received("rows", more))
    write_text(out / "vega.js", vega_bundle() + '\nfactlife.receive("vega", null);\n')
    _downloads(entries, out)
    write_text(out / PAGE, html)
    return out / PAGE


def received(name: str, value: Any) -> str:
    """A script that hands a value to the page; no content can be anything but a JSON value."""
    return f"factlife.receive({json_text(name)}, {json_text(value)});\n"


def put_series(entry: Entry, folder: Path) -> None:
    """Write what is read on demand about one series."""
    _put(folder / f"{entry.slug}.js", received(entry.slug, series_data(entry)))


def _move(path: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path.replace(folder / path.name)


def _put(path: Path, text: str) -> None:
    """Write one of many files that can be made again: without waiting for the disk."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    except OSError as error:
        raise PartialError(
            f"cannot write {path}: {error.strerror}; make room and build the board again"
        ) from error


def _sweep(folder: Path, kept: set[str]) -> None:
    for path in folder.iterdir():
        if path.name not in kept and _SLUG.fullmatch(path.name):
            path.unlink()


# ---- the table -------------------------------------------------------------------------------


def _downloads(entries: Sequence[Entry], out: Path) -> None:
    places = {m.name: ranks(m, entries) for m in HEADLINES}
    records = [_record(e) for e in entries]
    lines = [{**r, "metrics": _metrics(e, places)} for r, e in zip(records, entries, strict=True)]
    write_json(out / "leaderboard.json", lines)
    write_text(out / "leaderboard.csv", _csv([_flat(line) for line in lines]))
    rows = [{**r, **m} for r, e in zip(records, entries, strict=True) for m in _tidy(e, places)]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=TIDY), sink, compression="zstd")
    write_bytes(out / "leaderboard.parquet", sink.getvalue().to_pybytes())


def _record(entry: Entry) -> dict[str, Any]:
    """Who, what and how of a row."""
    r, p, env = entry.result, entry.protocol, entry.result["env"]
    return {
        "id": entry.slug,
        "series": entry.series,
        **{k: r["model"][k] for k in ("repo", "architecture", "parameters", "dtype", "attention")},
        "checkpoints": len(entry.measured),
        "first_tokens": entry.tokens[0],
        "last_tokens": entry.tokens[1],
        "section": entry.section,
        "profile": p["name"],
        "profile_version": p["version"],
        "badge": entry.badge,
        "ranked": entry.ranked,
        "protocol_hash": p["hash"],
        "data": "; ".join(f"{d['name']} {d['revision']} {d['fingerprint']}" for d in r["data"]),
        "benchmark_version": r["benchmark_version"],
        "git_sha": env["git_sha"],
        "dirty": env["dirty"],
        "device": env["device"],
        "submitter": r["submitter"],
        "command": entry.command,
        "flags": "; ".join(entry.flags),
    }


_TYPES = {
    "parameters": pa.int64(), "checkpoints": pa.int64(), "first_tokens": pa.int64(),
    "last_tokens": pa.int64(), "profile_version": pa.int64(), "ranked": pa.bool_(),
    "dirty": pa.bool_(), "value": pa.float64(), "ci_low": pa.float64(), "ci_high": pa.float64(),
    "n": pa.int64(),
}  # fmt: skip
_ESTIMATE = ("value", "ci_low", "ci_high", "n", "unit", "direction", "reason")
_NAMES = (
    "id", "series", "repo", "architecture", "parameters", "dtype", "attention", "checkpoints",
    "first_tokens", "last_tokens", "section", "profile", "profile_version", "badge", "ranked",
    "protocol_hash", "data", "benchmark_version", "git_sha", "dirty", "device", "submitter",
    "command", "flags", "metric", *_ESTIMATE, "rank",
)  # fmt: skip
TIDY = pa.schema([(name, _TYPES.get(name, pa.string())) for name in _NAMES])

Places = Mapping[str, Mapping[int, Any]]


def _metrics(entry: Entry, places: Places) -> dict[str, Any]:
    """Headline metric -> its estimate and rank."""
    return {m.pop("metric"): m for m in _tidy(entry, places, headlines=True)}


def _tidy(entry: Entry, places: Places, headlines: bool = False) -> Iterator[dict[str, Any]]:
    """Every metric over all facts, one row each."""
    for m in HEADLINES if headlines else METRICS:
        if (row := entry.metric(m.name)) is not None:
            place = places.get(m.name, {}).get(id(entry))
            estimate = {k: row.get(k) for k in _ESTIMATE}
            yield {"metric": m.name, **estimate, "rank": str(place) if place else None}


def _flat(line: Mapping[str, Any]) -> dict[str, Any]:
    flat = {k: v for k, v in line.items() if k != "metrics"}
    for name, m in line["metrics"].items():
        flat[name] = m["value"]
        flat |= {f"{name}.{k}": v for k, v in m.items() if k not in ("value", "direction")}
    return flat


def _csv(lines: Sequence[Mapping[str, Any]]) -> str:
    """Rows with a head; a text that a spreadsheet would take for a formula gets an apostrophe."""
    columns = list(dict.fromkeys(k for line in lines for k in line))
    made = io.StringIO()
    writer = csv.writer(made)
    writer.writerow(columns)
    writer.writerows([_cell(line.get(c)) for c in columns] for line in lines)
    return made.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return json.dumps(value)
    formula = isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r")
    return f"'{value}" if formula else value
