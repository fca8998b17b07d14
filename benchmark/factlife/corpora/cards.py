"""Data set cards: the YAML header that the Hub and `load_dataset` read, and column tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from factlife.schema import Table

_DTYPES = {
    pa.string(): "string",
    pa.bool_(): "bool",
    pa.int32(): "int32",
    pa.int64(): "int64",
    pa.float64(): "float64",
}


@dataclass(frozen=True)
class Config:
    """One published table: its columns, its one split, and its file as it is on disk."""

    table: Table
    split: str
    path: str
    data: bytes


def header(configs: Sequence[Config], settings: Mapping[str, Any]) -> str:
    """The card's YAML header, between its two marks; the first config is the default one.

    Args:
        settings: licence, languages, tags and the like, as the Hub names them.
    """
    from huggingface_hub import DatasetCardData

    data = DatasetCardData(
        **settings,
        configs=[_files(config, default=i == 0) for i, config in enumerate(configs)],
        dataset_info=[_info(config) for config in configs],
    )
    return f"---\n{data.to_yaml(line_break=chr(10)).strip()}\n---\n"


def _files(config: Config, *, default: bool) -> dict[str, Any]:
    value = {
        "config_name": config.table.name,
        "data_files": [{"split": config.split, "path": config.path}],
    }
    return {**value, "default": True} if default else value


def _info(config: Config) -> dict[str, Any]:
    """Sizes as the `datasets` library counts them: Arrow bytes in memory, bytes to download."""
    table = pq.read_table(BytesIO(config.data))
    split = {"name": config.split, "num_bytes": table.nbytes, "num_examples": table.num_rows}
    return {
        "config_name": config.table.name,
        "features": features(config.table.arrow),
        "splits": [split],
        "download_size": len(config.data),
        "dataset_size": table.nbytes,
    }


def features(fields: Iterable[pa.Field]) -> list[dict[str, Any]]:
    """Columns in the spelling of a card's `dataset_info`.

    Raises:
        ValueError: a type that no table of this project has used so far.
    """
    return [{"name": field.name, **_feature(field.type)} for field in fields]


def _feature(kind: pa.DataType) -> dict[str, Any]:
    if pa.types.is_struct(kind):
        return {"struct": features(kind)}
    if pa.types.is_list(kind):
        inner = _feature(kind.value_type)
        # The short form that the `datasets` library writes: the one value, not its wrapper.
        return {"list": next(iter(inner.values()))} if "list" not in inner else {"list": inner}
    if kind not in _DTYPES:
        raise ValueError(f"no card spelling for the type {kind}; add it to factlife.corpora.cards")
    return {"dtype": _DTYPES[kind]}


def columns_markdown(table: Table) -> str:
    """The columns of one config as a Markdown table, from the code that makes them."""
    lines = [
        f"One row: {table.grain}.",
        "",
        "| column | type | null | holds |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| `{c.name}` | {_type_words(c.type)} | {'yes' if c.nullable else 'no'} | {c.doc} |"
        for c in table.columns
    ]
    return "\n".join(lines)


def _type_words(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"list of {_type_words(kind.value_type)}"
    if pa.types.is_struct(kind):
        return "{" + ", ".join(field.name for field in kind) + "}"
    return str(kind)


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table of any cells; a bar inside a cell is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines
    )
