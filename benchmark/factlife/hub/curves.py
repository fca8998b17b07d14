"""What lies beside a result.json: `scores` and `transitions`, as a submission holds them.

`scores.parquet` and `transitions.parquet` are the run's own parts, byte for byte, so that the
digest in result.json speaks of them. A run folder is read too. Whoever sent them, a row of the
board never depends on them: a table that cannot be trusted is left out, and the row says why.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from factlife import schema
from factlife.errors import FactlifeError
from factlife.hub.collect import Entry
from factlife.scores import BY_NAME, METRICS

LARGEST = 32 * 1024 * 1024  # bytes of one table beside a result
_ESTIMATE = ("value", "ci_low", "ci_high", "n")
_ORDER = {m.name: i for i, m in enumerate(METRICS)}


@dataclass(frozen=True)
class Tables:
    """Tables beside a result.

    Attributes:
        scores: metric by scope by revision, narrowed to what the board may show.
        transitions: changes of role; no rows where the result has none.
        problems: why a table that is there was left out.
        own: whether the scores come from a table; else they are the numbers of result.json.
    """

    scores: pa.Table
    transitions: pa.Table
    problems: tuple[str, ...]
    own: bool


def read_tables(entry: Entry) -> Tables:
    """Read what lies beside a result; never raises for what it finds there."""
    problems, found = [], {}
    for name in ("scores", "transitions"):
        try:
            found[name] = _read(entry, name)
        except (FactlifeError, OSError, pa.ArrowException, ValueError) as error:
            # Names of columns are the sender's; where this machine keeps the file is nobody's.
            said = str(error).splitlines()[0].replace(str(entry.folder), "…")
            problems.append(f"{name}.parquet was left out: {said}")
    scores = found.get("scores")
    if own := scores is not None:
        scores = _shown(scores, entry)
        if differs := _differs(scores, entry):
            problems.append(f"scores.parquet was left out: {differs}")
            own = False
    transitions = found.get("transitions")
    return Tables(
        scores if own else _of_result(entry),
        schema.TRANSITIONS.arrow.empty_table() if transitions is None else transitions,
        tuple(problems),
        own,
    )


def _read(entry: Entry, name: str) -> pa.Table | None:
    if entry.folder is None:
        return None
    part = f"tables/{name}/part.parquet"
    places = (entry.folder / f"{name}.parquet", entry.folder / part)
    path = next((p for p in places if p.is_file()), None)
    if path is None:
        return None
    if path.stat().st_size > LARGEST:
        raise ValueError(f"it has more than {LARGEST // 2**20} MB")
    data = path.read_bytes()
    _hold(data, part, entry.result["tables"].get(name))
    spec = schema.TABLES[name]
    found = pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
    return spec.check(found.cast(spec.arrow))


def _hold(data: bytes, part: str, digest: Mapping[str, Any] | None) -> None:
    """The table is the one that result.json speaks of (`RunStore.digest` of a single part)."""
    line = f"{hashlib.sha256(data).hexdigest()}  {part}\n"
    if digest is None or hashlib.sha256(line.encode()).hexdigest() != digest["sha256"]:
        raise ValueError("it is not the table whose sha256 result.json names")


def _shown(scores: pa.Table, entry: Entry) -> pa.Table:
    """Rows of the registry's metrics in its units, at measured revisions, with whole intervals."""
    rows = scores.filter(pc.is_valid(scores["value"]))
    known = pa.array([m.name + "\n" + m.unit for m in METRICS])
    pairs = pc.binary_join_element_wise(rows["metric"], rows["unit"], "\n")
    revisions = pa.array([r["revision"] for r in entry.measured] + [""], pa.string())
    kept = pc.and_(pc.is_in(pairs, known), pc.is_in(rows["revision"], revisions))
    inside = pc.and_(
        pc.less_equal(rows["ci_low"], rows["value"]), pc.less_equal(rows["value"], rows["ci_high"])
    )
    return rows.filter(pc.and_(kept, pc.fill_null(inside, False)))


def _differs(scores: pa.Table, entry: Entry) -> str:
    """Where the table says something else than result.json; empty where it does not."""
    overall = scores.filter(pc.equal(scores["scope"], "overall"))
    keys = zip(overall["metric"].to_pylist(), overall["revision"].to_pylist(), strict=True)
    values = dict(zip(keys, overall["value"].to_pylist(), strict=True))
    for name, m in entry.result["metrics"].items():
        if m["scope"] == "overall" and m["value"] is not None and entry.metric(m["metric"]):
            found = values.get((m["metric"], m["revision"]))
            if found != m["value"]:
                return f"it has {found} where result.json has {m['value']} for {name}"
    return ""


def _of_result(entry: Entry) -> pa.Table:
    """The numbers of result.json as rows of `scores`."""
    names = schema.SCORES.arrow.names
    rows = [
        {k: m[k] for k in names}
        for m in entry.result["metrics"].values()
        if m["value"] is not None
        and m["metric"] in BY_NAME
        and m["unit"] == BY_NAME[m["metric"]].unit
    ]
    return pa.Table.from_pylist(rows, schema=schema.SCORES.arrow)


# ---- for the pages ---------------------------------------------------------------------------


def pack(scores: pa.Table, revisions: list[str]) -> dict[str, Any]:
    """Metric -> scope -> [values, lows, highs, n] over revisions; a metric of the series has one.

    Numbers keep five significant digits; null is not measured. n is one number where it is the same
    everywhere.
    """
    place = {r: i for i, r in enumerate(revisions)}
    scores, starts = _runs(scores)
    at = [place.get(r, 0) for r in scores["revision"].to_pylist()]
    columns = [_short(scores[c].to_numpy()) for c in _ESTIMATE[:3]]
    columns.append(scores["n"].to_pylist())
    metrics, scopes = (scores[c].take(starts).to_pylist() for c in ("metric", "scope"))
    spans = itertools.pairwise([*starts, scores.num_rows])
    found: list[tuple[str, str, list[Any]]] = []
    for metric, scope, span in zip(metrics, scopes, spans, strict=True):
        if BY_NAME[metric].per_revision:
            *estimates, n = _spread(columns, slice(*span), at, len(revisions))
        else:
            *estimates, n = ([column[span[1] - 1]] for column in columns)
        alike = set(n) - {None}
        found.append((metric, scope, [*estimates, alike.pop() if len(alike) == 1 else n]))
    made: dict[str, Any] = {}
    for metric, scope, packed in sorted(found, key=lambda f: _ORDER[f[0]]):
        made.setdefault(metric, {})[scope] = packed
    return made


def _runs(scores: pa.Table) -> tuple[pa.Table, list[int]]:
    """Rows with those of one metric and scope together, and where each of these runs begins.

    Rows and runs keep the order in which they first stand in the table.
    """
    if not scores.num_rows:
        return scores, []
    keys = pc.binary_join_element_wise(scores["metric"], scores["scope"], "\n")
    coded = pc.dictionary_encode(keys.combine_chunks())
    codes = coded.indices.to_numpy(zero_copy_only=False)
    if (np.diff(codes) < 0).any():
        order = np.argsort(codes, kind="stable")
        scores, codes = scores.take(order), codes[order]
    return scores, [0, *(np.flatnonzero(np.diff(codes)) + 1).tolist()]


def _spread(columns: list[list[Any]], rows: slice, at: list[int], size: int) -> list[list[Any]]:
    """Values of each column at their places, null between."""
    places = at[rows]
    if places == list(range(size)):  # nothing is missing: the common case
        return [column[rows] for column in columns]
    spread: list[list[Any]] = [[None] * size for _ in columns]
    for one, column in zip(spread, columns, strict=True):
        for i, value in zip(places, column[rows], strict=True):
            one[i] = value
    return spread


def _short(values: npt.NDArray[np.float64]) -> list[Any]:
    """Five significant digits; whole numbers as integers, which are shorter in JSON."""
    values = np.where(np.abs(values) < 1e-300, 0.0, values)  # its digits could not be shifted up
    size = np.floor(np.log10(np.abs(values), where=values != 0, out=np.zeros(len(values))))
    up, down = 10.0 ** np.maximum(4 - size, 0), 10.0 ** np.maximum(size - 4, 0)
    rounded = np.round(values / down * up) / up * down
    whole = (rounded == np.round(rounded)) & (np.abs(rounded) < 2**53)
    return [int(v) if w else v for v, w in zip(rounded.tolist(), whole.tolist(), strict=True)]
