"""Build and validate the published data sets under `datasets/`.

`build` writes the same bytes every time. Parquet names the version of the library that wrote
it (`created_by`), so this holds under one version of pyarrow: the one that constraints.txt pins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from factlife.corpora.biographies import product as biographies
from factlife.corpora.biographies import rules as biographies_rules
from factlife.corpora.biographies import tables as biographies_tables
from factlife.corpora.expectations import (
    FACT_PROBES,
    Expectation,
    Failure,
    Rule,
    check_rules,
    check_table,
)
from factlife.corpora.fact_probes import product, rules, tables
from factlife.corpora.fictional import lint as fictional_lint
from factlife.corpora.fictional import product as fictional
from factlife.corpora.fictional import tables as fictional_tables
from factlife.errors import IntegrityError, UsageError
from factlife.schema import Table
from factlife.store import write_bytes


@dataclass(frozen=True)
class DataSet:
    """What building and checking one data set takes.

    Attributes:
        files: every file of its folder, by path, as bytes.
        tables: its configs by name; each is `<name>.parquet` in its folder.
        suites: the expectations of each config.
        rules: the checks that span rows or tables.
    """

    files: Callable[[], Mapping[str, bytes]]
    tables: Mapping[str, Table]
    suites: Mapping[str, Sequence[Expectation]]
    rules: Sequence[Rule]


DATA_SETS: Mapping[str, DataSet] = {
    "fact-probes": DataSet(
        files=product.published_files,
        tables=tables.TABLES,
        suites=FACT_PROBES,
        rules=rules.RULES,
    ),
    "fictional-knowledge": DataSet(
        files=fictional.published_files,
        tables=fictional_tables.TABLES,
        suites=fictional.SUITES,
        rules=fictional_lint.RULES,
    ),
    "synthetic-biographies": DataSet(
        files=biographies.published_files,
        tables=biographies_tables.TABLES,
        suites=biographies.SUITES,
        rules=biographies_rules.RULES,
    ),
}


def build(root: Path, names: Sequence[str] | None = None) -> list[Path]:
    """Write data sets to `root/<name>/`, each file whole or not at all.

    Args:
        root: the folder of the data sets, `datasets` in a checkout; made if it is not there.
        names: which to build; None builds all.

    Returns:
        The files written, in order.

    Raises:
        UsageError: no data set of that name.
        PartialError: the disk refuses a file.
    """
    written = []
    for name, data_set in _chosen(names).items():
        for path, data in data_set.files().items():
            written.append(root / name / path)
            write_bytes(written[-1], data)
    return written


def validate(root: Path, names: Sequence[str] | None = None) -> dict[str, int]:
    """Check the data sets in `root` against their suites and rules.

    Args:
        root: the folder of the data sets, `datasets` in a checkout.
        names: which to check; None checks all.

    Returns:
        How many checks each data set passed.

    Raises:
        UsageError: no data set of that name; a folder or file is missing.
        IntegrityError: a file cannot be read, or a check does not hold; the message has a
            line a failure, with the config, the check, how many rows break it, and the first
            five of them.
    """
    return {name: _validate(root / name, name, d) for name, d in _chosen(names).items()}


def _chosen(names: Sequence[str] | None) -> dict[str, DataSet]:
    wanted = list(DATA_SETS) if names is None else list(dict.fromkeys(names))
    for name in wanted:
        if name not in DATA_SETS:
            known = ", ".join(DATA_SETS)
            raise UsageError(f"no data set {name!r}; the data sets are {known}")
    return {name: DATA_SETS[name] for name in wanted}


def _validate(folder: Path, name: str, data_set: DataSet) -> int:
    found = {config: _read(folder, name, config) for config in data_set.tables}
    failures = [
        failure
        for config, table in found.items()
        for failure in check_table(
            config, table, data_set.suites[config], data_set.tables[config].key
        )
    ]
    wrong_columns = [
        f for config in found for f in _columns(data_set.tables[config], found[config])
    ]
    failures += wrong_columns
    # A rule reads columns by name: with a column gone or of another type it would only stumble.
    if not wrong_columns:
        rows = {config: table.to_pylist() for config, table in found.items()}
        failures += check_rules(rows, data_set.rules)
    if failures:
        raise IntegrityError(_report(folder, name, failures))
    return sum(map(len, data_set.suites.values())) + len(data_set.tables) + len(data_set.rules)


def _read(folder: Path, name: str, config: str) -> pa.Table:
    path = folder / f"{config}.parquet"
    if not path.is_file():
        raise UsageError(f"no file {path}; make it with `factlife datasets build {name}`")
    try:
        return pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise IntegrityError(
            f"{path} cannot be read as parquet ({reason}); make it again with "
            f"`factlife datasets build {name}`"
        ) from error


def _columns(expected: Table, table: pa.Table) -> list[Failure]:
    """Names and types only: nulls are the suites' business, whatever a file declares."""
    # Compared as types, not as text: Parquet has its own name for the items of a list.
    seen = {field.name: field.type for field in table.schema}
    wanted = {column.name: column.type for column in expected.columns}
    if list(seen.items()) == list(wanted.items()):
        return []
    text = ", ".join(f"{name}: {kind}" for name, kind in seen.items())
    return [Failure(expected.name, "columns_have_their_types", None, f"found {text}")]


def _report(folder: Path, name: str, failures: Sequence[Failure]) -> str:
    lines = [f"  {name} / {failure}" for failure in failures]
    head = f"{len(failures)} check(s) failed in {folder}; `factlife datasets build {name}` mends it"
    return "\n".join([head, *lines])
