"""The run folder: atomic partitioned parquet, manifest, resume, checksums, one writer.

The shards of a run are the exception: they write into one folder together, disjoint parts each.

    RUN/manifest.json                                   written once, before the first part
    RUN/tables/<table>/stage=…/step=…/part.parquet      exists whole or not at all
    RUN/tables/<table>/stage=…/step=…/part.parquet.sha256
    RUN/result.json  RUN/report.html

Every file is written to a temporary name in its own folder, flushed to disk and renamed.
The checksum is written before the part it belongs to, so that whatever a kill leaves behind
is either a part with its own checksum or something that `find_part` does not accept.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from factlife import schema
from factlife.errors import IntegrityError, PartialError, UsageError

log = logging.getLogger(__name__)

MANIFEST, LOCK = "manifest.json", ".lock"
SHARDS = ".shards"  # what the shards of a run share while they work
IDENTITY_KEY = b"factlife.identity"
MANIFEST_FORMAT = 1


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def canonical_json(value: Any) -> str:
    """One spelling per value: sorted keys, no blanks, no NaN; what hashes are taken over."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def sha256_json(value: Any) -> str:
    """Hex sha256 of the canonical JSON of a value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


@contextmanager
def atomic_open(path: Path) -> Iterator[IO[bytes]]:
    """Open `path` for writing so that it appears whole or not at all.

    Raises:
        PartialError: the disk is full or the file cannot be written; nothing is lost, and
            the file that stood there before stands there still.
    """
    node = os.uname().nodename  # shards on two nodes may have one process number
    temporary = path.with_name(f".{path.name}.{node}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as f:
            yield f
            _flush(f)
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise PartialError(
            f"cannot write {path}: {error.strerror or error}; finished parts are kept: free "
            "space or mend the rights, then run the same command again"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _flush(f: IO[bytes]) -> None:
    """Push a file's bytes to the disk: a full one complains here at the latest."""
    f.flush()
    os.fsync(f.fileno())


def _sync_folder(folder: Path) -> None:
    """Make a rename itself durable, where the file system can (some network ones cannot)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically. Raises PartialError when the disk refuses it."""
    with atomic_open(path) as f:
        f.write(data)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file atomically. Raises PartialError when the disk refuses it."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON atomically; NaN is refused (ValueError)."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """Readable JSON as files hold it; NaN is refused (ValueError)."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def parquet_bytes(table: pa.Table) -> bytes:
    """Serialise a table; equal tables give equal bytes under one pyarrow version."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_statistics=True)
    return bytes(sink.getvalue().to_pybytes())


class RunStore:
    """One run folder. Readers need no lock; a writer is made by `RunStore.writer`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    # ---- opening -------------------------------------------------------------------------

    @classmethod
    def existing(cls, root: Path) -> RunStore:
        """Open a folder that already holds a run.

        Raises:
            UsageError: no such folder, or a folder without a manifest.
        """
        if not root.is_dir():
            raise UsageError(f"no such run folder: {root}")
        if not (root / MANIFEST).is_file():
            raise UsageError(
                f"{root} is no run folder: it has no {MANIFEST}; give the folder that "
                "`factlife run` printed"
            )
        return cls(root)

    @classmethod
    @contextmanager
    def writer(cls, root: Path, manifest: Mapping[str, Any]) -> Iterator[RunStore]:
        """Create or continue a run as its only writer.

        `manifest["identity"]` says what is measured and how; a folder that holds another
        identity is refused, whatever else the manifest says.

        Raises:
            UsageError: the folder is in use, cannot be written, belongs to another identity, was
                written by a newer factlife, or holds tables without a manifest.
            IntegrityError: its manifest is damaged.
        """
        store = cls(root)
        _make_folder(root)
        with _lock(root):
            store._adopt(manifest)
            store._sweep()
            yield store

    @classmethod
    @contextmanager
    def sharer(cls, root: Path, manifest: Mapping[str, Any]) -> Iterator[RunStore]:
        """Create or continue a run beside other sharers, each with parts of its own.

        While there is a sharer, `writer` is refused, and the other way round. Raises as `writer`.
        """
        store = cls(root)
        _make_folder(root)
        with _lock(root, shared=True):
            with waiting_lock(root / SHARDS / "manifest.lock"):
                store._adopt(manifest)
            yield store

    @contextmanager
    def alone(self, *words: str) -> Iterator[bool]:
        """Whether this sharer is the only one that works on what the words name; does not wait."""
        import fcntl

        with _lock_file(self._lock_path(words)) as f:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    @contextmanager
    def turn(self, *words: str) -> Iterator[None]:
        """Wait until no other sharer works on what the words name."""
        with waiting_lock(self._lock_path(words)):
            yield

    def forget_shards(self) -> None:
        """Remove what the shards shared; only a writer may, when there are none left."""
        shutil.rmtree(self.root / SHARDS, ignore_errors=True)

    def _lock_path(self, words: Sequence[str]) -> Path:
        return self.root / SHARDS / "locks" / quote("-".join(words), safe="")

    def _adopt(self, manifest: Mapping[str, Any]) -> None:
        if (self.root / MANIFEST).is_file():
            self._refuse_foreign(manifest)
        elif (self.root / "tables").exists():
            raise UsageError(
                f"{self.root} holds tables but no {MANIFEST}, so that nobody knows how they were "
                "measured; choose another --out or move them away"
            )
        else:
            write_json(self.root / MANIFEST, {"format": MANIFEST_FORMAT, **manifest})

    def manifest(self) -> dict[str, Any]:
        """Read the manifest.

        Raises:
            IntegrityError: it is not JSON.
            UsageError: it was written by a newer factlife.
        """
        path = self.root / MANIFEST
        try:
            manifest: dict[str, Any] = json.loads(path.read_text("utf-8"))
            found = int(manifest["format"])
            if not isinstance(manifest.get("identity", {}), dict):
                raise ValueError("identity is not a table")
        except (ValueError, KeyError, TypeError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else error
            raise IntegrityError(
                f"{path} is damaged ({reason}); move the folder away and run again"
            ) from error
        if found > MANIFEST_FORMAT:
            raise UsageError(
                f"{path} has format {found}, this factlife reads up to {MANIFEST_FORMAT}: "
                "install a newer factlife or choose another --out"
            )
        return manifest

    def update_manifest(self, values: Mapping[str, Any]) -> None:
        """Replace what is only said about the run, never its identity.

        Raises:
            PartialError: the disk refuses the write; the old manifest stands.
        """
        old = self.manifest()
        if new := {k: v for k, v in values.items() if old.get(k) != v}:
            write_json(self.root / MANIFEST, {**old, **new})

    def _refuse_foreign(self, manifest: Mapping[str, Any]) -> None:
        old, new = self.manifest().get("identity", {}), manifest["identity"]
        if old != new:
            names = sorted(k for k in {*old, *new} if old.get(k) != new.get(k))
            detail = "; ".join(f"{k}: {old.get(k)} there, {new.get(k)} now" for k in names)
            raise UsageError(
                f"run folder {self.root} belongs to another measurement ({detail}); "
                "choose another --out or the settings it was made with"
            )

    def _sweep(self) -> None:
        """Remove temporary files that a killed writer left."""
        for leftover in self.root.rglob(".*.tmp"):
            with suppress(OSError):
                leftover.unlink()

    # ---- parts ---------------------------------------------------------------------------

    def part_path(self, table: str, partition: Mapping[str, Any] | None = None) -> Path:
        """Where the part of a table for these partition values lies."""
        spec = schema.TABLES[table]
        values = partition or {}
        folders = [f"{p}={quote(str(values[p]), safe='')}" for p in spec.partitions]
        return self.root.joinpath("tables", table, *folders, "part.parquet")

    def write_part(
        self,
        table: str,
        rows: Sequence[Mapping[str, Any]] | pa.Table,
        partition: Mapping[str, Any] | None = None,
        identity: str = "",
    ) -> Path:
        """Check rows against the table's contract and write them as one part.

        Args:
            identity: what the part was measured from (weight hashes); `find_part` compares it.

        Raises:
            IntegrityError: the rows break the contract.
            PartialError: the disk refuses the write.
        """
        spec = schema.TABLES[table]
        checked = spec.check(rows) if isinstance(rows, pa.Table) else spec.from_rows(rows)
        metadata = {**spec.arrow.metadata, IDENTITY_KEY: identity.encode()}
        data = parquet_bytes(checked.cast(spec.arrow).replace_schema_metadata(metadata))
        path = self.part_path(table, partition)
        with atomic_open(path) as f:
            f.write(data)
            _flush(f)  # a full disk shows here, while the part that stood there keeps its checksum
            write_text(checksum_path(path), f"{hashlib.sha256(data).hexdigest()}  {path.name}\n")
        return path

    def find_part(
        self, table: str, partition: Mapping[str, Any] | None = None, identity: str = ""
    ) -> bool:
        """Whether a finished part is there that need not be measured again.

        A part with a wrong checksum, or measured from something else, is reported and
        counts as absent.

        Raises:
            UsageError: the part was written by a newer factlife.
        """
        path = self.part_path(table, partition)
        if not path.is_file():
            return False
        if not checksum_holds(path):
            log.warning("%s: checksum is wrong; this part is computed again", path)
            return False
        metadata = pq.read_schema(path).metadata or {}
        _refuse_newer(path, schema.TABLES[table], metadata)
        if metadata.get(IDENTITY_KEY, b"").decode() != identity:
            log.warning("%s: made from other weights; this part is computed again", path)
            return False
        return int(metadata.get(schema.VERSION_KEY, b"0")) == schema.TABLES[table].version

    def read(self, table: str) -> pa.Table:
        """All rows of a table, parts in path order; an absent table is an empty one.

        Raises:
            IntegrityError: a part is damaged or of an older version, or two parts hold one key.
            UsageError: a part was written by a newer factlife.
        """
        spec = schema.TABLES[table]
        tables = [_read_part(path, spec) for path in self.parts(table)]
        return spec.check(pa.concat_tables(tables)) if tables else spec.arrow.empty_table()

    def parts(self, table: str) -> list[Path]:
        """The parts of a table, in path order."""
        return sorted((self.root / "tables" / table).rglob("part.parquet"))

    def read_part(self, table: str, partition: Mapping[str, Any]) -> pa.Table:
        """The rows of one part. Raises as `read` does."""
        return _read_part(self.part_path(table, partition), schema.TABLES[table])

    def digest(self, table: str) -> dict[str, Any]:
        """Path, rows and sha256 of a table for `result.json`.

        The sha256 is taken over the sorted `sha256  path` lines of its parts. It does not depend on
        the order of writing and can be checked inside the run folder with

            find tables/TABLE -name part.parquet | xargs sha256sum | LC_ALL=C sort | sha256sum
        """
        parts = self.parts(table)
        lines = sorted(f"{sha256_file(p)}  {p.relative_to(self.root).as_posix()}\n" for p in parts)
        rows = sum(pq.read_metadata(p).num_rows for p in parts)
        digest = hashlib.sha256("".join(lines).encode()).hexdigest()
        return {"path": f"tables/{table}", "sha256": digest, "rows": rows}

    def remove_part(self, table: str, partition: Mapping[str, Any]) -> None:
        """Remove a part whose revision is no longer measured."""
        path = self.part_path(table, partition)
        for file in (path, checksum_path(path)):
            file.unlink(missing_ok=True)

    def remove_table(self, table: str) -> None:
        """Remove a table that is derived from others and about to be written anew."""
        shutil.rmtree(self.root / "tables" / table, ignore_errors=True)


def checksum_path(part: Path) -> Path:
    """The file that holds a part's checksum, in the format of `sha256sum`."""
    return part.with_name(part.name + ".sha256")


def checksum_holds(part: Path) -> bool:
    """Whether a part's bytes are the ones its checksum was taken over."""
    try:
        return checksum_path(part).read_text("utf-8").split()[0] == sha256_file(part)
    except (OSError, IndexError, UnicodeDecodeError):
        return False


def _refuse_newer(path: Path, spec: schema.Table, metadata: Mapping[bytes, bytes]) -> None:
    found = int(metadata.get(schema.VERSION_KEY, b"0"))
    if found > spec.version:
        raise UsageError(
            f"{path}: table {spec.name} has version {found}, this factlife reads up to "
            f"{spec.version}: install a newer factlife"
        )


def _read_part(path: Path, spec: schema.Table) -> pa.Table:
    if not checksum_holds(path):
        raise IntegrityError(
            f"{path}: checksum is wrong; run the same `factlife run` command to measure it again"
        )
    table = pq.read_table(path, partitioning=None)
    metadata = table.schema.metadata or {}
    _refuse_newer(path, spec, metadata)
    if (found := int(metadata.get(schema.VERSION_KEY, b"0"))) != spec.version:
        raise IntegrityError(
            f"{path}: table {spec.name} has version {found}, this factlife reads {spec.version}; "
            "run the same `factlife run` command to measure it again"
        )
    return spec.check(table).cast(spec.arrow)


def _make_folder(root: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"cannot make run folder {root}: {error.strerror or error}; choose another --out"
        ) from error


@contextmanager
def _lock_file(path: Path) -> Iterator[IO[str]]:
    """A file to lock; it stays, for whoever comes next to lock the same one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        f = path.open("a+")
    except OSError as error:
        raise UsageError(
            f"cannot write in {path.parent}: {error.strerror or error}; mend the rights or choose "
            "another --out"
        ) from error
    with f:
        yield f


@contextmanager
def waiting_lock(path: Path) -> Iterator[None]:
    """Hold a lock on a file, waiting for it; the kernel drops it with the process."""
    import fcntl

    with _lock_file(path) as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield


@contextmanager
def _lock(root: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold the folder's lock; the kernel drops it with the process, however that ends."""
    import fcntl

    try:
        f = (root / LOCK).open("a+")
    except OSError as error:
        raise UsageError(
            f"cannot write in run folder {root}: {error.strerror}; mend the rights or choose "
            "another --out"
        ) from error
    with f:
        try:
            fcntl.flock(f, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            f.seek(0)
            holder = f.read().strip() or "another process, or by shards"
            raise UsageError(
                f"run folder {root} is in use by {holder}; wait for it or choose another --out"
            ) from error
        except OSError as error:
            raise UsageError(
                f"cannot lock run folder {root}: {error.strerror}; choose an --out on a file "
                "system with locks"
            ) from error
        if shared:
            yield
            return
        _name_holder(f, f"process {os.getpid()} on {os.uname().nodename}\n")
        yield
        _name_holder(f, "")


def _name_holder(f: IO[str], text: str) -> None:
    """Say who holds the lock. On a full disk it holds all the same, namelessly."""
    with suppress(OSError):
        f.truncate(0)
        f.write(text)
        f.flush()
