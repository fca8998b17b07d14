"""What is handed in for one result, and where it lies in a results repo.

    results/<model>/<series id>/<protocol hash>/result.json
                                                scores.parquet        every revision's metrics
                                                transitions.parquet   where circuits were measured

The tables are the run's own parts, byte for byte, so that the digests in result.json hold for them.
No other table and no manifest goes along: prompts, generations and paths stay with the run.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from factlife.errors import IntegrityError, SubmissionError, UsageError
from factlife.hub.protocol import profile_problems, protocol_problems
from factlife.result import Problem, metric_key, parse_result, problems, result_text
from factlife.schema import TABLES, VERSION_KEY
from factlife.scores import BY_NAME
from factlife.store import RunStore, sha256_json

RESULT = "result.json"
ROOT = "results"
TABLE_FILES = {"scores": "scores.parquet", "transitions": "transitions.parquet"}
LARGEST = {RESULT: 4 << 20, "scores.parquet": 16 << 20, "transitions.parquet": 4 << 20}  # bytes
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_LONGEST = 80
_AGAIN = "run `factlife score` on the run and hand in what it wrote"


@dataclass(frozen=True)
class Submission:
    """One result as it is handed in.

    Attributes:
        folder: inside the results repo.
        files: name -> bytes.
    """

    result: Mapping[str, Any]
    folder: str
    files: Mapping[str, bytes]

    @property
    def paths(self) -> dict[str, bytes]:
        """Path inside the results repo -> bytes."""
        return {f"{self.folder}/{name}": data for name, data in self.files.items()}


def prepare(run: Path, submitter: str | None) -> Submission:
    """Read a run folder as a submission and check it. Asks nothing of the network.

    Args:
        run: a run folder.
        submitter: Hub name of who hands it in; None leaves it open (a dry run).

    Raises:
        UsageError: no run folder.
        SubmissionError: what was found wrong first.
        IntegrityError: a part whose checksum is wrong.
    """
    store = RunStore.existing(run)
    if not (run / RESULT).is_file():
        raise SubmissionError(f"{run}: it has no {RESULT}; run `factlife score` on it")
    result, found = read_result((run / RESULT).read_bytes(), str(run / RESULT))
    if not found:
        result = {**result, "submitter": submitter}
        files = {RESULT: result_text(result).encode()}
        for table, name in TABLE_FILES.items():
            if table in result["tables"]:
                store.read(table)  # its checksum and schema
                files[name] = store.part_path(table).read_bytes()
        found = contents_problems(result, files, str(run))
        found += profile_problems(result, str(run / RESULT))
    if found:
        raise SubmissionError(counted(found))
    return Submission(result, folder_of(result), files)


def counted(found: list[Problem]) -> str:
    """The first problem, and how many more there are."""
    return f"{found[0]}" + (f" (and {len(found) - 1} more)" if len(found) > 1 else "")


def read_result(data: bytes, file: str) -> tuple[dict[str, Any], list[Problem]]:
    """Parse a result and list what is wrong with it, its protocol included."""
    try:
        result = parse_result(data)
    except (ValueError, RecursionError) as error:
        return {}, [Problem(file, "", f"not readable as JSON ({error})", "write it anew")]
    found = problems(result, file) or list(protocol_problems(result, file))
    return result, found


# ---- where it lies ---------------------------------------------------------------------------


def folder_of(result: Mapping[str, Any]) -> str:
    """The folder of a result inside a results repo. `result` is to the format."""
    return f"{ROOT}/{model_name(result)}/{series_id(result)}/{result['protocol']['hash']}"


def model_name(result: Mapping[str, Any]) -> str:
    """`org__model`; a model that is on no Hub gets `local__name`."""
    organisation, _, name = str(result["model"]["repo"]).rpartition("/")
    return f"{safe_name(organisation or 'local')}__{safe_name(name)}"


def safe_name(text: str) -> str:
    """A name as one path segment; one that had to be changed bears a hash of what it was."""
    if HUB_NAME.fullmatch(text) and len(text) <= _LONGEST and ".." not in text:
        return text
    kept = re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")[:_LONGEST]
    return f"{kept or 'name'}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def series_id(result: Mapping[str, Any]) -> str:
    """16 hex digits over the weights that were measured, in order, whatever they are called."""
    weights = [
        r["weights_sha256"] or [r["tensor_hash"] or r["commit_sha"] or r["revision"]]
        for r in result["series"]
        if not r["reason"]
    ]
    return sha256_json(weights)[:16]


# ---- what is wrong with it -------------------------------------------------------------------


def contents_problems(
    result: Mapping[str, Any], files: Mapping[str, bytes], where: str
) -> list[Problem]:
    """Check the files of one submission against one another. `result` is to the format.

    Args:
        files: name -> bytes, result.json among them.
        where: the folder, for messages.
    """
    return [
        *_sizes(files, where), *_submitter(result, where), *_metrics(result, where),
        *_tables(result, files, where),
    ]  # fmt: skip


def _sizes(files: Mapping[str, bytes], where: str) -> Iterator[Problem]:
    for name, data in files.items():
        if len(data) > LARGEST[name]:
            what = f"{len(data):,} bytes are more than {LARGEST[name]:,}"
            yield Problem(f"{where}/{name}", "", what, "measure fewer checkpoints")


def _submitter(result: Mapping[str, Any], where: str) -> Iterator[Problem]:
    name = result["submitter"]
    if name is not None and not HUB_NAME.fullmatch(name):
        what = "is no name of a Hub account"
        yield Problem(f"{where}/{RESULT}", "/submitter", what, "write your account's name")


def _metrics(result: Mapping[str, Any], where: str) -> Iterator[Problem]:
    """Metrics are those of the registry, in its units and directions; one problem a metric."""
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for m in result["metrics"].values():
        by_name.setdefault(m["metric"], []).append(m)
    for name, mine in by_name.items():
        at, known = f"/metrics/{name}", BY_NAME.get(name)
        if known is None:
            what = "is no metric of factlife"
            yield Problem(f"{where}/{RESULT}", at, what, "leave it out, or use a newer factlife")
            continue
        for key in ("unit", "direction"):
            other = next((m[key] for m in mine if m[key] != getattr(known, key)), None)
            if other is not None:
                what = f"{key} {other!r} is not the registry's, {getattr(known, key)!r}"
                yield Problem(f"{where}/{RESULT}", at, what, _AGAIN)


def _tables(result: Mapping[str, Any], files: Mapping[str, bytes], where: str) -> Iterator[Problem]:
    for table, name in TABLE_FILES.items():
        file, claimed = f"{where}/{name}", result["tables"].get(table)
        if claimed is None and name in files:
            yield Problem(file, "", f"{RESULT} names no table {table}", "remove it")
        elif claimed is not None and name not in files:
            what = f"has no {name}, though it names the table {table}"
            yield Problem(f"{where}/{RESULT}", f"/tables/{table}", what, "add the file")
        elif claimed is not None:
            yield from _table(result, table, files[name], file)
    if "scores" not in result["tables"]:
        yield Problem(f"{where}/{RESULT}", "/tables", "names no table scores", _AGAIN)


def _table(result: Mapping[str, Any], table: str, data: bytes, file: str) -> Iterator[Problem]:
    claimed = result["tables"][table]
    if claimed["sha256"] != part_digest(table, data):
        yield Problem(file, "", f"is not the table whose sha256 {RESULT} states", _AGAIN)
        return
    try:
        rows = read_table(table, data)
    except IntegrityError as error:
        yield Problem(file, "", str(error), _AGAIN)
        return
    if rows.num_rows != claimed["rows"]:
        yield Problem(
            file, "", f"has {rows.num_rows} rows, {RESULT} says {claimed['rows']}", _AGAIN
        )
    elif table == "scores":
        yield from _same_metrics(result, rows, file)


def part_digest(table: str, data: bytes) -> str:
    """What `RunStore.digest` gives for a table of one part with these bytes."""
    line = f"{hashlib.sha256(data).hexdigest()}  tables/{table}/part.parquet\n"
    return hashlib.sha256(line.encode()).hexdigest()


def read_table(table: str, data: bytes) -> pa.Table:
    """Read a table of a submission. Raises IntegrityError where it breaks its contract."""
    spec = TABLES[table]
    try:
        found = pq.read_table(BytesIO(data))
    except (pa.ArrowException, OSError) as error:
        raise IntegrityError(f"not readable as parquet ({str(error).splitlines()[0]})") from error
    version = (found.schema.metadata or {}).get(VERSION_KEY, b"0")
    if version != str(spec.version).encode():
        said = version.decode("ascii", "replace")
        raise IntegrityError(
            f"table {table} has version {said}, this factlife reads {spec.version}"
        )
    return spec.check(found)


def _same_metrics(result: Mapping[str, Any], rows: pa.Table, file: str) -> Iterator[Problem]:
    """The metrics of result.json are the rows of the last measured revision and the series."""
    measured = [r["revision"] for r in result["series"] if not r["reason"]]
    last = measured[-1] if measured else ""
    found = {
        metric_key(r["metric"], r["scope"]): r
        for r in rows.to_pylist()
        if r["revision"] in ("", last)
    }
    if found != result["metrics"]:
        differ = sorted(
            k for k in {*found, *result["metrics"]} if found.get(k) != result["metrics"].get(k)
        )
        what = f"metric {differ[0]!r} is another one in {RESULT}"
        yield Problem(file, "", what + f", and {len(differ) - 1} more" * (len(differ) > 1), _AGAIN)


def is_result_folder(path: str) -> bool:
    """Whether a path has the depth of a submission's folder: results/model/series/hash."""
    parts = PurePosixPath(path).parts
    return len(parts) == 4 and parts[0] == ROOT


def check_repo_id(name: str, option: str) -> str:
    """A repo id as the Hub takes it. Raises UsageError."""
    owner, slash, repo = name.partition("/")
    if not slash or not HUB_NAME.fullmatch(owner) or not HUB_NAME.fullmatch(repo):
        raise UsageError(f"{option} {name!r} is no repo on the Hub: give ORG/NAME")
    return name
