"""The docs page of the dynamics studies, from the tables that lie in docs/studies/. No torch.

    python -m tests.study_page RUN...

packs each finished study's run folder into docs/studies/<profile>/ (one part a table; a run
folder still, which `factlife score`, `report` and `validate` take) and writes the page.
`tox run -e docs` writes it anew from there.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import vl_convert

from factlife.dynamics.claims import STATEMENTS
from factlife.report import text
from factlife.report.dynamics import Study, dynamics_datasets, study
from factlife.report.figures import Figure
from factlife.report.sections import dynamics, dynamics_changes
from factlife.report.view import View, load_view
from factlife.runner.score import score_run
from factlife.store import RunStore, write_json

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "dynamics-study.md"
STUDIES = ROOT / "docs" / "studies"
RAW = ("dynamics_runs", "biography_eval", "attention_signatures")
WIDTH = 620  # pixels of a chart
SECTIONS = (
    dynamics.learning, dynamics.unseen_people, dynamics.attention, dynamics.patching,
    dynamics.size, dynamics.distribution, dynamics_changes.fine_tuning,
)  # fmt: skip
HEAD = """\
# Dynamics studies

How models learn facts about people from nothing, and lose them: what was trained here, and what
became of the claims C1 to C11 of dynamics-2025 (Zucchet et al., arXiv 2503.21676). Written by
`tox run -e docs` from the tables in [docs/studies](studies); what the numbers mean is in
[metrics.md](metrics.md), how long the studies took in [log.md](log.md).

A claim is *supported* if the whole interval of each of its numbers (t over seeds) lies where the
claim wants it, *not supported* if one lies elsewhere, *undecided* if one reaches across or has no
interval, and *not tested* if nothing was measured. A time that was not reached is no number; where
the length of the run stands in for one, the row says so. Times are those of evaluations, which are
log-spaced: an interval of no width says that all seeds fell between the same two.
"""
Row = dict[str, Any]


def pack(run: Path, studies: Path = STUDIES) -> Path:
    """Copy a study's tables into a small run folder, one part each, and score that anew."""
    source = RunStore.existing(run)
    manifest = source.manifest()
    folder = studies / str(manifest["protocol"]["name"])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    manifest["command"] = re.sub(r" --out[ =]\S+", "", str(manifest["command"]))  # of its machine
    write_json(folder / "manifest.json", manifest)
    store = RunStore.existing(folder)
    for table in RAW:
        store.write_part(table, source.read(table), {"dynamics_run": "all"})
    score_run(folder)
    (folder / ".lock").unlink(missing_ok=True)
    return folder


def packed(studies: Path = STUDIES) -> list[Path]:
    """The studies that there are: the one with most runs first."""
    found = [p.parent for p in studies.glob("*/manifest.json")]
    return sorted(found, key=lambda p: -len(load_view(RunStore(p)).dynamics["dynamics_runs"]))


def page(studies: Path = STUDIES) -> str:
    """The whole page."""
    return "\n".join([HEAD, *(_study(folder) for folder in packed(studies))]).rstrip("\n") + "\n"


def pictures(folder: Path) -> Iterator[tuple[str, str]]:
    """(file name, SVG) of each chart of a study."""
    view = load_view(RunStore(folder))
    rows = {name: _rows(d) for name, d in dynamics_datasets(view).items()}
    for figure in _figures(view):
        if figure.missing is None:
            yield f"{figure.id}.svg", _svg(figure, rows[figure.dataset])


def write(studies: Path = STUDIES, to: Path = PAGE) -> None:
    """The page and its pictures."""
    for folder in packed(studies):
        for name, picture in pictures(folder):
            (folder / name).write_text(picture, "utf-8")
    to.write_text(page(studies), "utf-8")


# ---- text ------------------------------------------------------------------------------------


def _study(folder: Path) -> str:
    view = load_view(RunStore(folder))
    s = study(view)
    assert s is not None  # a packed study has runs
    return "\n".join([
        f"## {view.manifest['protocol']['name']}\n",
        _about(view, s),
        "### Claims\n",
        _claims(s),
        *(_section(view, make, folder.name) for make in SECTIONS),
    ])  # fmt: skip


def _about(view: View, s: Study) -> str:
    runs = list(s.runs.values())
    scratch = [r for r in runs if r["kind"] == "scratch" and r["distribution"] == "uniform"]
    first = max(scratch or runs, key=lambda r: r["n_people"])
    sizes = sorted({(r["n_people"], r["steps"]) for r in scratch})
    many = ", ".join(f"{n:,} ({steps:,} steps)" for n, steps in sizes)
    seeds = len({r["seed"] for r in runs})
    tokens = sum(r["tokens"] for r in runs)
    env = view.manifest["env"]
    return (
        f"{len(runs)} training runs, {seeds} {'seed' if seeds == 1 else 'seeds'} a condition; "
        f"{tokens:,} token positions in all. Model: {first['arch']}, {first['layers']} layers of "
        f"width {first['width']}, {first['heads']} heads, {first['n_parameters']:,} parameters; "
        f"batches of {first['batch_rows']} biographies of {first['n_attributes']} attributes, "
        f"peak learning rate {first['peak_lr']:g}, trained in {first['precision']}, measured in "
        f"float32. Populations: {many}. Baseline {first['baseline_nats']:.3f} nats at "
        f"{first['n_people']:,} people. Trained on: {env['device']}.\n\n"
        f"[Tables and result.json](studies/{view.run.root.name}); same again: "
        f"`{view.manifest['command']}`.\n"
    )


def _claims(s: Study) -> str:
    lines = ["| claim | verdict | number | wanted | value | interval | seeds | remark |",
             "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    shown = ""
    for c in s.claims:
        first = c["claim"] != shown
        shown = c["claim"]
        head = (f"**{shown}** {STATEMENTS[shown]}", f"**{c['verdict']}**") if first else ("", "")
        span = "" if c["ci_low"] is None else text.interval(c["ci_low"], c["ci_high"], c["unit"])
        value = "" if c["value"] is None else text.number(c["value"], c["unit"])
        cells = (*head, c["number"], c["wanted"], value, span, str(c["n"]), c["reason"] or "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _section(view: View, make: Any, folder: str) -> str:
    section = make(view)
    if section is None:
        return ""
    parts = [f"### {section.title}\n"]
    parts += [_figure(f, folder) for f in section.figures]
    parts += [_table(view, make)]
    return "\n".join(p for p in parts if p)


def _figure(figure: Figure, folder: str) -> str:
    if figure.missing is not None:
        return f"**{figure.title}.** No chart: {figure.missing}.\n"
    shown = f" Here: {figure.choices[0][1]}." if figure.choices else ""
    shown += "".join(f" Dashed: {k.label}." for k in figure.legend if k.kind == "level")
    notes = "".join(f" {n}" for n in figure.notes)
    path = f"studies/{folder}/{figure.id}.svg"
    return f"**{figure.title}.** {figure.explanation}{shown}{notes}\n\n![{figure.title}]({path})\n"


_TABLES: Mapping[Any, tuple[Sequence[str], Mapping[str, str]]] = {
    dynamics.learning: (("scratch", "patched"), dynamics.RUN_COLUMNS),
    dynamics_changes.fine_tuning: (("fine_tuned",), dynamics_changes.COLUMNS),
}


def _table(view: View, make: Any) -> str:
    s = study(view)
    if make not in _TABLES or s is None:
        return ""
    kinds, columns = _TABLES[make]
    lines = ["| runs | " + " | ".join(columns.values()) + " |", "|---" * (len(columns) + 1) + "|"]
    for condition in s.of_kind(*kinds):
        cells = [_cell(view.score(m, condition, "")) for m in columns]
        lines.append(f"| {s.labels[condition]} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(row: Row | None) -> str:
    if row is None or row["value"] is None:
        reason = str(row["reason"] or "-") if row else "-"
        seeds = re.search(r"\d+ of \d+ seeds$", reason)
        # Of which kind stands among the claims; a table has room for how often.
        return f"not reached in {seeds[0]}" if seeds and "not reached" in reason else reason
    value = text.number(row["value"], row["unit"])
    if row["n"] < 2 or row["ci_low"] is None:
        return value
    return f"{value} ({text.interval(row['ci_low'], row['ci_high'], row['unit'])})"


# ---- pictures --------------------------------------------------------------------------------


def _figures(view: View) -> Iterator[Figure]:
    for make in SECTIONS:
        if (section := make(view)) is not None:
            yield from section.figures


def _rows(data: Mapping[str, Any]) -> list[Row]:
    """Columns, some coded, as rows: what the report's script does."""
    columns = {
        name: c
        if isinstance(c, list)
        else [None if i is None else c["names"][i] for i in c["codes"]]
        for name, c in data.items()
    }
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


def _svg(figure: Figure, rows: list[Row]) -> str:
    panels: list[tuple[str, Mapping[str, Any]]] = [(p.title, p.where) for p in figure.panels]
    drawn = [_drawn(figure, rows, {**figure.where, **where}, title)
             for title, where in panels or [("", {})]]  # fmt: skip
    spec = drawn[0] if len(drawn) == 1 else {"vconcat": drawn, "spacing": 22}
    whole = {**_painted(spec), "config": _CONFIG, "background": _PALETTE["bg"], "padding": 10}
    # Seven digits of a place would be most of the file.
    svg = str(vl_convert.vegalite_to_svg(whole))
    return re.sub(r"(\d+\.\d{2})\d+", r"\1", svg) + "\n"


def _drawn(figure: Figure, rows: list[Row], where: Mapping[str, Any], title: str) -> Row:
    kept = [r for r in rows if all(r[k] in allowed for k, allowed in where.items())]
    spec = {k: v for k, v in dict(figure.spec).items() if k not in ("autosize", "$schema")}
    named = {"title": {"text": title, "anchor": "start", "fontSize": 12}} if title else {}
    keys = not title  # panels name their rows at the side
    return {**_keyed(spec, keys), "width": WIDTH, "data": {"values": kept}, **named}


def _keyed(spec: Any, keys: bool) -> Any:
    """Legends inside the picture, which on a page stand above it."""
    if isinstance(spec, list):
        return [_keyed(v, keys) for v in spec]
    if not isinstance(spec, dict):
        return spec
    out = {k: _keyed(v, keys) for k, v in spec.items()}
    for channel in ("color", "fill"):
        found = out.get(channel)
        if keys and isinstance(found, dict) and found.get("field") == "series":
            opacity = 0.3 if channel == "fill" else 1.0
            found["legend"] = {"orient": "top", "title": None, "labelLimit": 300,
                               "symbolOpacity": opacity}  # fmt: skip
    return out


def _palette() -> dict[str, str]:
    css = resources.files("factlife.report").joinpath("assets", "page.css").read_text("utf-8")
    light = css.partition("@media")[0]
    return dict(re.findall(r"--([a-z0-9-]+): *(#[0-9a-f]{6})", light))


_PALETTE = _palette()
_FONT = "DejaVu Sans, sans-serif"
_CONFIG = {
    "aria": False, "font": _FONT, "view": {"stroke": None}, "text": {"font": _FONT},
    "axis": {
        "labelColor": _PALETTE["muted"], "titleColor": _PALETTE["muted"], "titleFontWeight": 500,
        "gridColor": _PALETTE["grid"], "domainColor": _PALETTE["line"],
        "tickColor": _PALETTE["line"], "labelFontSize": 11, "titleFontSize": 11.5,
        "titlePadding": 8,
    },
}  # fmt: skip


def _painted(value: Any) -> Any:
    if isinstance(value, str):
        name = re.fullmatch(r"var\(--([a-z0-9-]+)\)", value)
        return _PALETTE[name[1]] if name else value
    if isinstance(value, list):
        return [_painted(v) for v in value]
    return {k: _painted(v) for k, v in value.items()} if isinstance(value, dict) else value


def main(runs: Sequence[str]) -> None:
    """Pack the runs, if any are given, and write the page."""
    for run in runs:
        print(pack(Path(run)))
    write()


if __name__ == "__main__":
    main(sys.argv[1:])
