"""The private split: made from a seed that stays secret, and proved afterwards.

1. Whoever runs the board makes a seed file (128 bits of chance or more) and builds the split
   with it, outside any repository.
2. The commitment is published before anyone is measured: a hash over the seed, the size, the
   generator and the content. It gives nothing away, for the seed cannot be guessed.
3. Later the seed is published too. Anyone can then build the split again and see that the
   commitment was to it.

Results on the public and the private split of one size differ by chance alone for a model that
has seen neither: a gap shows contamination. The splits share no names, whatever the seeds.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from factlife.corpora.fictional import lint
from factlife.corpora.fictional.passage import passages
from factlife.corpora.fictional.tables import PASSAGES, PROBES, Row, rows
from factlife.corpora.fictional.world import GROUP
from factlife.errors import IntegrityError, UsageError
from factlife.schema import Table
from factlife.store import canonical_json, parquet_bytes, sha256_json, write_bytes, write_json

COMMITMENT = "commitment.json"
FORMAT = 1
SPLIT = "private"
_SEED = re.compile(r"^[0-9a-f]{32,}$")
_GENERATOR = ("draws", "names", "template", "text", "kinds", "world", "passage", "tables")


@dataclass(frozen=True)
class Commitment:
    """What is published beforehand; nothing in it tells the seed.

    Attributes:
        commitment: hex sha256 over the other fields and the seed.
        content_sha256: hex sha256 over the rows, independent of the file format.
        generator_sha256: hex sha256 over grammar and generator code.
        size: number of passages.
    """

    commitment: str
    content_sha256: str
    generator_sha256: str
    size: int
    format: int = FORMAT


def new_seed_file(path: Path) -> None:
    """Write a seed of 256 bits of chance, readable by its owner alone.

    Raises:
        UsageError: the file is there already, or would lie inside a repository.
    """
    _refuse_repository(path.parent, "the seed file")
    if path.exists():
        raise UsageError(f"{path} is there already; a seed is never written over")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(secrets.token_hex(32) + "\n", encoding="ascii")


def read_seed(path: Path) -> str:
    """The seed of a seed file: one line of at least 32 hexadecimal digits.

    Raises:
        UsageError: no such file, or anything else in it. The message does not quote it.
    """
    if not path.is_file():
        raise UsageError(f"no seed file {path}")
    seed = path.read_text(encoding="utf-8", errors="replace").strip().lower()
    if _SEED.match(seed) is None:
        raise UsageError(
            f"{path} holds no seed: one line of at least 32 hexadecimal digits (128 bits), "
            "such as `openssl rand -hex 32` prints"
        )
    return seed


def build_private(out: Path, seed_file: Path, size: int = GROUP) -> Commitment:
    """Write the private split and its commitment to a folder outside any repository.

    Args:
        out: folder for `passages.parquet`, `probes.parquet` and `commitment.json`; only the
            last may be published.
        seed_file: the secret; see `new_seed_file`.
        size: number of passages, three in four of them injected.

    Raises:
        UsageError: `out` or the seed file lies in a repository or a folder of published data
            sets, the seed file lies in `out`, `out` holds another split, or no seed is in it.
        IntegrityError: the lint finds a defect; nothing is written.
        PartialError: the disk refuses a file.
    """
    _refuse_repository(out, "the private split")
    _refuse_repository(seed_file.parent, "the seed file")
    if out.resolve() in seed_file.resolve().parents:
        raise UsageError(f"the seed file {seed_file} must not lie in {out}, beside the data")
    seed = read_seed(seed_file)
    split = rows(passages(seed, SPLIT, size))
    found = {name: n for name, n in lint.defects(split).items() if n}
    if found:
        raise IntegrityError(f"the private split has defects: {found}; use another seed file")
    commitment = _commitment(seed, size, split)
    _refuse_other_split(out, commitment)
    for table in (PASSAGES, PROBES):
        write_bytes(out / f"{table.name}.parquet", parquet_bytes(_arrow(table, split)))
    write_json(out / COMMITMENT, asdict(commitment))
    return commitment


def reveal(seed_file: Path, commitment_file: Path, data: Path | None = None) -> Commitment:
    """Prove that a commitment was to the split of a seed, by building the split again.

    Args:
        seed_file: the seed, published by now.
        commitment_file: the `commitment.json` published beforehand.
        data: folder of the split as it was used; its rows are compared too.

    Returns:
        The commitment, which holds.

    Raises:
        UsageError: a file is missing or holds something else.
        IntegrityError: the commitment is not to this seed, was made with another generator,
            or the data are not what was committed to.
    """
    seed, published = read_seed(seed_file), read_commitment(commitment_file)
    if published.generator_sha256 != generator_sha256():
        raise IntegrityError(
            f"{commitment_file} was made with another version of the generator; install the "
            "factlife version that was current when it was published"
        )
    found = _commitment(seed, published.size, rows(passages(seed, SPLIT, published.size)))
    if found != published:
        raise IntegrityError(f"{commitment_file} is not a commitment to the seed in {seed_file}")
    if data is not None and _content_sha256(_read(data)) != published.content_sha256:
        raise IntegrityError(f"the rows in {data} are not those that were committed to")
    return published


def read_commitment(path: Path) -> Commitment:
    """Read a published commitment.

    Raises:
        UsageError: no such file.
        IntegrityError: not a commitment, or of another format.
    """
    if not path.is_file():
        raise UsageError(f"no commitment file {path}")
    try:
        commitment = Commitment(**json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise IntegrityError(f"{path} is not a commitment: {error}") from error
    if commitment.format != FORMAT:
        raise IntegrityError(f"{path} has format {commitment.format}, this version reads {FORMAT}")
    return commitment


def generator_sha256() -> str:
    """Hash of all that decides a split besides its seed: grammar files and generator code."""
    package = resources.files(__package__)
    files = [package.joinpath(f"{name}.py") for name in _GENERATOR]
    files += [f for f in package.iterdir() if f.name.endswith("names.toml")]
    files += [f for f in package.joinpath("grammar").iterdir() if f.name.endswith(".toml")]
    digests = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
    return sha256_json(digests)


def content_sha256(split: Mapping[str, Iterable[Row]]) -> str:
    """Hash of the rows of `passages` and `probes`, the same whatever file they lie in."""
    return _content_sha256({name: list(split[name]) for name in ("passages", "probes")})


def _content_sha256(split: Mapping[str, list[Row]]) -> str:
    digest = hashlib.sha256()
    for table in (PASSAGES, PROBES):
        for row in split[table.name]:
            digest.update(canonical_json(row).encode() + b"\n")
    return digest.hexdigest()


def _commitment(seed: str, size: int, split: Mapping[str, list[Row]]) -> Commitment:
    public: dict[str, Any] = {
        "content_sha256": content_sha256(split),
        "generator_sha256": generator_sha256(),
        "size": size,
        "format": FORMAT,
    }
    return Commitment(commitment=sha256_json({**public, "seed": seed}), **public)


def _arrow(table: Table, split: Mapping[str, list[Row]]) -> Any:
    return table.from_rows(split[table.name])


def _read(folder: Path) -> dict[str, list[Row]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return {
            t.name: pq.read_table(folder / f"{t.name}.parquet").to_pylist()
            for t in (PASSAGES, PROBES)
        }
    except (OSError, pa.ArrowException) as error:
        raise UsageError(f"no readable split in {folder}: {str(error).splitlines()[0]}") from error


def _refuse_repository(folder: Path, what: str) -> None:
    """A secret in a working tree is one `git add` away from the world."""
    for place in (folder.resolve(), *folder.resolve().parents):
        if (place / ".git").exists() or (place / ".hg").exists():
            raise UsageError(
                f"{what} must not lie in a repository ({place}); choose another folder"
            )
        if place.name == "datasets" and any(place.glob("*/README.md")):
            raise UsageError(f"{what} must not lie among published data sets ({place})")


def _refuse_other_split(out: Path, commitment: Commitment) -> None:
    path = out / COMMITMENT
    if path.exists() and read_commitment(path) != commitment:
        raise UsageError(f"{out} holds the split of another seed; choose an empty folder")
