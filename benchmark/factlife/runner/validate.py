"""Is a result, or a whole run folder, what it claims to be? No model and no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from factlife.errors import SubmissionError, UsageError
from factlife.result import load_result
from factlife.schema import TABLES
from factlife.store import MANIFEST, RunStore


def validate(path: Path) -> dict[str, Any]:
    """Check a result.json, or a run folder with its tables against its result.json.

    Returns:
        The validated result.

    Raises:
        UsageError: no such path.
        SubmissionError: not to the format, or the tables are not those the result names.
        IntegrityError: a part whose checksum is wrong.
    """
    if path.is_file():
        return load_result(path)
    if not path.is_dir():
        raise UsageError(f"no such file or folder: {path}; give a result.json or a run folder")
    if not (path / "result.json").is_file():
        hint = "run `factlife score` on it" if (path / MANIFEST).is_file() else "give a run folder"
        raise SubmissionError(f"{path}: it has no result.json; {hint}")
    result = load_result(path / "result.json")
    _check_tables(RunStore(path), result, path)
    return result


def _check_tables(store: RunStore, result: dict[str, Any], path: Path) -> None:
    for name, claimed in result["tables"].items():
        where = f"{path / 'result.json'}: /tables/{name}"
        if name not in TABLES:
            raise SubmissionError(f"{where}: no such table; known: {', '.join(TABLES)}")
        store.read(name)  # every checksum and every schema
        found = store.digest(name)
        for key in ("path", "rows", "sha256"):
            if found[key] != claimed[key]:
                raise SubmissionError(
                    f"{where}/{key}: says {claimed[key]}, the folder has {found[key]}; "
                    "run `factlife score` on the folder and hand in its result.json unchanged"
                )
