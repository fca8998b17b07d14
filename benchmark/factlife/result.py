"""`result.json`, version 2: what a run found, and everything needed to trust it.

The JSON Schema is generated from the dataclasses below and lies in `docs/result.schema.json`; one
validator serves the command line, CI and the leaderboard.

Version 2 has `command`. A file of version 1 is read as one of version 2 whose command is not known.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema

from factlife.conform import Check, fit_text, quick_check
from factlife.errors import SubmissionError

SCHEMA_VERSION = 2
# Python's `$` also matches before a last line break, which has no place in a hash.
SHA256 = r"^[0-9a-f]{64}$(?!\n)"
ONE_LINE = r"^[^\x00-\x1f\x7f]*$(?!\n)"


def described(doc: str, **rules: Any) -> Any:
    """A field with its description and further JSON Schema rules."""
    return field(metadata={"description": doc, **rules})


@dataclass(frozen=True)
class Protocol:
    """How it was measured; two results with one hash may be compared."""

    name: str = described("profile name")
    version: int = described("profile version", minimum=0)
    hash: str = described("sha256 over the parameters and data fingerprints", pattern=SHA256)
    ranked: bool = described("whether the board may rank it")
    badge: str = described("mark shown beside an unranked result, e.g. demo")
    params: dict[str, Any] = described("the resolved profile without its execution settings")


@dataclass(frozen=True)
class Model:
    """What was measured."""

    repo: str = described("Hub repo id or name of the local folder", minLength=1)
    architecture: str = described("Hugging Face architecture class")
    parameters: int = described("parameters, tied ones once", minimum=1)
    dtype: str = described("dtype of the weights while measuring")
    attention: str = described("attention implementation")


@dataclass(frozen=True)
class Revision:
    """One checkpoint of the series."""

    revision: str = described("revision name", minLength=1)
    commit_sha: str | None = described("Hub commit; null for local folders")
    weights_sha256: list[str] = described("sha256 of each weight file", items_pattern=SHA256)
    tensor_hash: str | None = described("sha256 over the named tensors")
    stage: str = described("training stage")
    step: int | None = described("optimiser step", minimum=0)
    tokens: int | None = described("cumulative training tokens", minimum=0)
    tokens_source: str = described(
        "where tokens come from", enum=["name", "registry", "user", "unknown"]
    )
    flags: list[str] = described("what is unusual about it")
    reason: str | None = described("why it was not measured")


@dataclass(frozen=True)
class Data:
    """A data set that was used."""

    name: str = described("data set name", minLength=1)
    revision: str = described("data set version")
    fingerprint: str = described("sha256 over the content", pattern=SHA256)


@dataclass(frozen=True)
class Env:
    """Where it was measured."""

    image_digest: str | None = described("digest of the container image, if any")
    git_sha: str | None = described("commit of the factlife source, if known")
    dirty: bool | None = described("whether that source had local changes")
    packages: dict[str, str] = described("versions of the packages that matter")
    device: str = described("device type and name")
    seeds: dict[str, int] = described("every seed by purpose")
    deterministic: bool = described("whether deterministic algorithms were enforced")


@dataclass(frozen=True)
class Metric:
    """One number with its interval."""

    metric: str = described("name in the registry of standard metrics", minLength=1)
    scope: str = described("overall, a group, a relation, or a named subset", minLength=1)
    revision: str = described("revision measured; empty for the whole series")
    value: float | None = described("the number; null when not measured")
    ci_low: float | None = described("lower end of the interval")
    ci_high: float | None = described("upper end of the interval")
    n: int = described("independent units", minimum=0)
    unit: str = described("unit of value and interval", minLength=1)
    direction: str = described("which way is better", enum=["higher", "lower", "neither"])
    interval_method: str | None = described("how the interval was made")
    reason: str | None = described("why the value is null")


@dataclass(frozen=True)
class TableDigest:
    """A table of the run folder."""

    path: str = described("path inside the run folder", minLength=1)
    sha256: str = described("over the sorted checksum lines of its parts", pattern=SHA256)
    rows: int = described("number of rows", minimum=0)


@dataclass(frozen=True)
class Integrity:
    """What was found wrong, and what was left out because of it."""

    duplicates: list[str] = described("revisions with the weights of another one")
    warnings: list[str] = described("everything a reader should know")
    exclusions: dict[str, int] = described("rows dropped, by table and reason")


@dataclass(frozen=True)
class Result:
    """result.json."""

    schema_version: int = described("version of this format", const=SCHEMA_VERSION)
    benchmark_version: str = described("factlife version", minLength=1)
    series_name: str = described("name of the series", minLength=1)
    protocol: Protocol = described("how it was measured")
    model: Model = described("what was measured")
    series: list[Revision] = described("revisions in order", minItems=1)
    data: list[Data] = described("data sets used", minItems=1)
    env: Env = described("where it was measured")
    metrics: dict[str, Metric] = described("by `metric` or `metric@scope`", minProperties=1)
    tables: dict[str, TableDigest] = described("tables of the run folder by name")
    integrity: Integrity = described("what was found wrong")
    command: str | None = described(
        "the command that measured it, if known", pattern=ONE_LINE, maxLength=4000
    )
    submitter: str | None = described("who hands it in")


def result_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of result.json, generated from the dataclasses."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "factlife result",
        **_object_schema(Result),
    }


def _object_schema(cls: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    properties = {}
    for f in dataclasses.fields(cls):
        rules = dict(f.metadata)
        spec = _type_schema(hints[f.name])
        if items := rules.pop("items_pattern", None):
            spec["items"]["pattern"] = items
        properties[f.name] = {**spec, **rules}
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_SCALARS = {str: "string", int: "integer", float: "number", bool: "boolean"}


def _type_schema(hint: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(hint):
        return _object_schema(hint)
    if hint in _SCALARS:
        return {"type": _SCALARS[hint]}
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        inner = next(a for a in args if a is not type(None))
        return {"type": [_SCALARS[inner], "null"]}
    if origin is list:
        return {"type": "array", "items": _type_schema(args[0])}
    if origin is dict:
        values = {} if args[1] is Any else _type_schema(args[1])
        return {"type": "object", "additionalProperties": values}
    raise TypeError(f"no JSON Schema for {hint}")


# ---- validation ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """What is wrong with a result, where, and how to mend it."""

    file: str
    pointer: str
    what: str
    mend: str

    def __str__(self) -> str:
        return f"{self.file}: {self.pointer or '/'}: {self.what}; {self.mend}"


_MEND = {
    "required": "add it, or write the file with `factlife score RUN`",
    "additionalProperties": "remove it",
    "type": "write a value of that type",
    "const": "write the file with this factlife version",
    "enum": "write one of these values",
}
_PATTERNS = {
    SHA256: "write 64 lower-case hex digits",
    ONE_LINE: "write it in one line without control characters",
}


def _mend(error: Any) -> str:
    if error.validator == "pattern":
        return _PATTERNS[error.validator_value]
    return _MEND.get(str(error.validator), "mend it")


LONGEST_NAME = 200  # characters


def upgraded(value: Any) -> Any:
    """A parsed result.json of an older format as one of the newest; anything else as it is."""
    version = value.get("schema_version") if isinstance(value, dict) else None
    if type(version) is not int or version != 1 or "command" in value:
        return value
    return {**value, "schema_version": SCHEMA_VERSION, "command": None}


def problems(value: Any, file: str) -> list[Problem]:
    """Everything that is wrong with a parsed result.json, sorted by place."""
    value = upgraded(value)
    if found := _newer(value, file):
        return [found]
    if _conforms()(value):
        return list(_inconsistencies(value, file))
    validator = jsonschema.Draft202012Validator(result_schema())
    broken = [
        Problem(file, _pointer(e.absolute_path), e.message, _mend(e))
        for e in sorted(validator.iter_errors(value), key=lambda e: list(map(str, e.absolute_path)))
    ]
    return [*_unusable(value, file), *broken] or list(_inconsistencies(value, file))


@functools.cache
def _conforms() -> Check:
    return quick_check(result_schema())


def _newer(value: Any, file: str) -> Problem | None:
    """A newer format is no heap of small faults."""
    version = value.get("schema_version") if isinstance(value, dict) else None
    if not isinstance(version, int) or version <= SCHEMA_VERSION:
        return None
    what = f"format {version} is newer than {SCHEMA_VERSION}, the newest this factlife reads"
    return Problem(file, "/schema_version", what, "install a newer factlife")


_UNFIT = "holds control characters, turns text around, or is too long"


def _shown(text: str) -> str:
    """A text that may hold anything, harmless and short."""
    return ascii(text[:40])


def _unusable(value: Any, file: str) -> Iterator[Problem]:
    """Numbers and texts that JSON, or Python's reading of it, lets through.

    NaN and infinity are no JSON; integers may be absurd; a text may hold half a character, which
    cannot be written, or signs that make it show something else than it says.
    """
    open_: list[tuple[tuple[str | int, ...], Any]] = [((), value)]
    while open_:
        place, v = open_.pop()
        if isinstance(v, dict):
            bad = [k for k in v if not fit_text(k)]
            for k in bad:
                yield Problem(file, _pointer(place), f"key {_shown(k)} {_UNFIT}", "rename it")
            open_ += [((*place, k), v[k]) for k in reversed(v) if k not in bad]
        elif isinstance(v, list):
            open_ += [((*place, i), v[i]) for i in reversed(range(len(v)))]
        elif isinstance(v, str) and not fit_text(v):
            yield Problem(file, _pointer(place), f"{_shown(v)} {_UNFIT}", "write plain text")
        elif isinstance(v, float) and not math.isfinite(v):
            yield Problem(file, _pointer(place), f"{v} is not JSON", "write null and a reason")
        elif isinstance(v, int) and not -(2**63) <= v < 2**63:
            yield Problem(file, _pointer(place), "an integer beyond 64 bits", "write the true one")


def _pointer(path: typing.Iterable[str | int]) -> str:
    return "".join("/" + str(p).replace("~", "~0").replace("/", "~1") for p in path)


def _inconsistencies(result: dict[str, Any], file: str) -> Iterator[Problem]:
    """Rules that JSON Schema cannot say."""
    revisions = {r["revision"] for r in result["series"]}
    for name, text in (
        ("series_name", result["series_name"]),
        ("model/repo", result["model"]["repo"]),
    ):
        if len(text) > LONGEST_NAME or "\n" in text or "\t" in text:
            what = f"{_shown(text)} is no name: of one line and at most {LONGEST_NAME} characters"
            yield Problem(file, f"/{name}", what, "give the series a short name")
    for name, m in result["metrics"].items():
        at = _pointer(["metrics", name])
        value, low, high = m["value"], m["ci_low"], m["ci_high"]
        if value is None and not m["reason"]:
            yield Problem(file, at, "value is null without a reason", "say why in `reason`")
        elif value is not None and None in (low, high):
            yield Problem(file, at, "a value without an interval", "give ci_low and ci_high")
        elif value is not None and low > high:
            yield Problem(file, at, "ci_low is above ci_high", "swap or mend them")
        elif value is not None and not low <= value <= high:
            yield Problem(file, at, "value lies outside its interval", "mend the one or the other")
        if m["revision"] and m["revision"] not in revisions:
            yield Problem(
                file, at, f"revision {m['revision']!r} is not in series", "name one that is"
            )
        expected = metric_key(m["metric"], m["scope"])
        if name != expected:
            yield Problem(file, at, "key is not its metric and scope", f"name it {expected!r}")


def metric_key(metric: str, scope: str) -> str:
    """Key of a metric inside result.json: the scope is left out when it is `overall`."""
    return metric if scope == "overall" else f"{metric}@{scope}"


def one_line(command: str | None) -> str | None:
    """A command as `result.json` takes it; None where it is not known, or not one line."""
    return command if command and re.search(ONE_LINE, command) and len(command) <= 4000 else None


def parse_result(data: bytes) -> Any:
    """Parse result.json, an older format as the newest. Raises ValueError or RecursionError."""
    return upgraded(json.loads(data.decode("utf-8"), object_pairs_hook=_once))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, whose keys readers must not be able to take in two ways."""
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [k for k, _ in pairs]
        twice = next(k for k in keys if keys.count(k) > 1)
        raise ValueError(f"key {twice[:80]!r} stands twice in one object")
    return made


def result_text(result: dict[str, Any]) -> str:
    """result.json as files hold it: one line for each metric, revision, table and setting.

    NaN is refused (ValueError).
    """
    parts = [f"  {_line(name)}: {_rows_of(value)}" for name, value in result.items()]
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _rows_of(value: Any) -> str:
    """A mapping or a list with one member a line; anything else in its line."""
    if not value or not isinstance(value, dict | list):
        return _line(value)
    if isinstance(value, list):
        return "[\n" + ",\n".join(f"    {_line(v)}" for v in value) + "\n  ]"
    members = (f"    {_line(k)}: {_line(v)}" for k, v in value.items())
    return "{\n" + ",\n".join(members) + "\n  }"


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def load_result(path: Path) -> dict[str, Any]:
    """Read and validate a result.json; an older format is read as the newest.

    Raises:
        SubmissionError: not readable, not JSON, or not to the format; the message names the
            first problem and counts the rest.
    """
    try:
        value = parse_result(path.read_bytes())
        found = problems(value, str(path))
    except (OSError, ValueError, RecursionError) as error:
        raise SubmissionError(
            f"{path}: /: not readable as JSON ({error}); write it anew"
        ) from error
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise SubmissionError(f"{found[0]}{more}")
    return typing.cast(dict[str, Any], value)
