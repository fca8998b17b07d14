"""Folders that appear whole or not at all, and the lock of a folder being written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from factlife.errors import PartialError, UsageError

LOCK = ".lock"


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `folder`, on disk to the last byte, at the end.

    `folder` must not exist. Whatever kills the process before leaves only a name that `sweep`
    removes.

    Raises:
        PartialError: the disk refuses the write; what was finished before is kept.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for path in (*temporary.rglob("*"), temporary):
            sync(path)
        temporary.rename(folder)
        sync(folder.parent)
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or error
        raise PartialError(
            f"cannot write {folder}: {why}; finished checkpoints are kept: free space or mend the "
            "rights, then make the same call again"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Remove what killed writers left under `folder`."""
    for leftover in folder.glob(".*.tmp"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold `folder`'s lock; the kernel drops it with the process, however that ends.

    Raises:
        UsageError: another process is writing there, or the folder cannot be made.
    """
    import fcntl

    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / LOCK).open("a")
    except OSError as error:
        raise UsageError(
            f"cannot write to {folder}: {error.strerror or error}; choose another folder"
        ) from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(
                f"{folder} is being written by another process; wait for it or choose another"
            ) from error
        yield
