"""What the numbers rest on: checkpoints, warnings, versions, hashes."""

from __future__ import annotations

import json

from factlife.report.html import Child, Html, h, join
from factlife.report.identity import command, identity
from factlife.report.sections.base import Section
from factlife.report.tables import definitions, number_cell, table
from factlife.report.text import counted, prefix
from factlife.report.view import Row, View


def checkpoints(view: View) -> Section:
    """Every revision of the series with its hashes and what is unusual about it."""
    head = ["revision", "stage", "step", "tokens", "tokens from", "commit", "weights", "tensors",
            "flags", "measured"]  # fmt: skip
    rows = [_checkpoint(c) for c in view.checkpoints]
    left_out = sum(1 for c in view.checkpoints if c["reason"])
    counts = counted(len(rows), "checkpoint") + f", {left_out} of them not measured."
    body = join(
        [
            h("p", counts + " Hashes are cut to 12 characters; result.json has them whole."),
            table("Checkpoints of the series", head, rows, "hashes"),
        ]
    )
    return Section("checkpoints", "Checkpoints", "Checkpoints", body)


def _checkpoint(c: Row) -> list[Child]:
    flags = [h("span", f, class_="chip warn") for f in c["flags"]]
    if c["duplicate_of"]:
        flags.append(h("span", f"same weights as {c['duplicate_of']}", class_="chip warn"))
    return [
        c["revision"],
        c["stage"],
        number_cell(c["step"]),
        number_cell(c["tokens"]),
        c["tokens_source"],
        digest(c["commit_sha"]),
        h("td", [h("code", prefix(w), title=w) for w in c["weights_sha256"]] or "–"),
        digest(c["tensor_hash"]),
        h("td", flags or "–"),
        f"no: {c['reason']}" if c["reason"] else "yes",
    ]


def digest(value: str | None) -> Html:
    """A hash cut to its prefix, whole in its title."""
    return h("td", h("code", prefix(value), title=value) if value else "–")


def warnings(view: View) -> Section:
    """What a reader should know before believing a number."""
    integrity = view.result["integrity"]
    items = [h("li", w) for w in integrity["warnings"]]
    items += [h("li", f"same weights as an earlier revision: {d}") for d in integrity["duplicates"]]
    listed = h("ul", items, class_="warnings") if items else h("p", "No warnings.")
    rows: list[list[Child]] = [[k, number_cell(n)] for k, n in integrity["exclusions"].items()]
    excluded = (
        table("Rows that were dropped", ["table and reason", "rows"], rows)
        if rows
        else h("p", "No rows were dropped.")
    )
    return Section("warnings", "Warnings and exclusions", "Warnings", join([listed, excluded]))


def provenance(view: View) -> Section:
    """Everything needed to measure it again."""
    recorded = view.manifest.get("command")
    words = recorded if isinstance(recorded, str) else command(view.result)
    tables: list[list[Child]] = [
        [name, number_cell(t["rows"]), digest(t["sha256"])]
        for name, t in view.result["tables"].items()
    ]
    whole = json.dumps(view.manifest, indent=2, ensure_ascii=False)
    body = join(
        [
            h("p", "To measure it again:"),
            h("pre", h("code", words), tabindex=0, class_="command"),
            definitions(identity(view.result)),
            table("Tables of the run folder", ["table", "rows", "sha256"], tables, "hashes"),
            h("details", h("summary", "manifest.json"), h("pre", whole, tabindex=0)),
        ]
    )
    return Section("provenance", "Provenance", "Provenance", body)
