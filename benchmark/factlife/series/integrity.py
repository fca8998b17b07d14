"""What a checkpoint's files are, before a model is built from them. No torch.

Published series serve wrong weights, and copies get cut off: every file is read, hashed and
checked against its own header before it counts.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from factlife.errors import IntegrityError, UsageError
from factlife.store import sha256_file

_ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1,
    "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
_MAX_HEADER = 100_000_000
INDEX = "model.safetensors.index.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")
PICKLED = (".bin", ".pt", ".pth")


@dataclass(frozen=True)
class Weights:
    """The weight files of one checkpoint.

    Attributes:
        files: in the order of their names.
        sha256: of each file.
        tensor_hash: over names, dtypes, shapes and bytes of all tensors, whatever the sharding;
            None for weights that are not safetensors.
        flags: `all_zero` when a whole matrix is zero.
        bytes: size of the files.
    """

    files: tuple[Path, ...]
    sha256: tuple[str, ...]
    tensor_hash: str | None
    flags: tuple[str, ...] = ()
    bytes: int = 0

    @property
    def identity(self) -> str:
        """One string that changes whenever a weight file does."""
        return ",".join(self.sha256)


def read_config(folder: Path) -> dict[str, Any]:
    """Read config.json. Raises UsageError (none there) or IntegrityError (not JSON)."""
    path = folder / "config.json"
    if not path.is_file():
        raise UsageError(f"{folder} has weights but no config.json: copy it from the model's repo")
    try:
        config = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise IntegrityError(f"{path} is not JSON ({error}): copy it again") from error
    if not isinstance(config, dict):
        raise IntegrityError(f"{path} holds no JSON object: copy it again")
    return config


def weight_files(folder: Path, *, allow_pickle: bool = False) -> tuple[Path, ...]:
    """The files that hold a checkpoint's weights, by name.

    Raises:
        UsageError: no weights, or only pickled ones and `allow_pickle` is off.
        IntegrityError: the shard index names a file that is missing.
    """
    index = folder / INDEX
    if index.is_file():
        return _sharded(folder, index)
    if (folder / "model.safetensors").is_file():
        return (folder / "model.safetensors",)
    if shards := sorted(folder.glob("model-*-of-*.safetensors")):
        raise IntegrityError(
            f"{folder} has {len(shards)} shards but no {index.name}: copy the index as well"
        )
    pickled = _pickled(folder)
    if pickled and allow_pickle:
        return tuple(pickled)
    if pickled:
        raise UsageError(
            f"{folder} holds only pickled weights ({pickled[0].name}), which can run code when "
            "read: convert them to safetensors, or pass --allow-pickle-weights if you trust them"
        )
    raise UsageError(f"{folder} holds no weights: expected model.safetensors")


# What a trainer keeps beside the weights; pickled too, but no weights.
_TRAINER_STATE = ("optimizer", "scheduler", "scaler", "rng_state", "training_args")


def is_trainer_state(name: str) -> bool:
    """Whether a pickled file holds a trainer's state instead of weights."""
    return name.startswith(_TRAINER_STATE)


def _pickled(folder: Path) -> list[Path]:
    found = [p for suffix in PICKLED for p in folder.glob(f"*{suffix}")]
    return sorted(p for p in found if not is_trainer_state(p.name))


def _sharded(folder: Path, index: Path) -> tuple[Path, ...]:
    try:
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise IntegrityError(f"{index} is damaged ({error!r}): copy it again") from error
    if absent := [n for n in names if not (folder / n).is_file()]:
        raise IntegrityError(
            f"{folder}: {len(absent)} of {len(names)} shards are missing, first {absent[0]}: "
            "copy them again"
        )
    return tuple(folder / n for n in names)


def check_weights(folder: Path, *, allow_pickle: bool = False) -> Weights:
    """Hash a checkpoint's weights and check every tensor.

    Reads each file twice (file hash, tensors); nothing larger than one tensor is held.

    Raises:
        UsageError: no usable weights.
        IntegrityError: truncated or corrupt safetensors, or NaN or infinity in a tensor.
    """
    files = weight_files(folder, allow_pickle=allow_pickle)
    hashes = tuple(sha256_file(f) for f in files)
    size = sum(f.stat().st_size for f in files)
    if any(f.suffix != ".safetensors" for f in files):
        return Weights(files, hashes, None, bytes=size)
    digests: dict[str, str] = {}
    zero: list[str] = []
    for file in files:
        for name, info, start in tensor_entries(file):
            raw = _read_tensor(file, info, start)
            _refuse_non_finite(raw, info["dtype"], name, file)
            if len(info["shape"]) > 1 and not np.frombuffer(raw, dtype=np.uint8).any():
                zero.append(name)
            digests[name] = _tensor_digest(name, info, raw)
    total = hashlib.sha256("".join(digests[n] for n in sorted(digests)).encode()).hexdigest()
    flags = (f"all_zero:{sorted(zero)[0]}",) if zero else ()
    return Weights(files, hashes, total, flags, size)


def _tensor_digest(name: str, info: dict[str, Any], raw: bytes) -> str:
    header = json.dumps([name, info["dtype"], info["shape"]])
    return hashlib.sha256(header.encode() + raw).hexdigest()


def tensor_entries(file: Path) -> list[tuple[str, dict[str, Any], int]]:
    """(name, header entry, first byte of the data section) of each tensor in a safetensors file.

    Raises:
        IntegrityError: the header is unreadable or does not agree with the size of the file.
    """
    size = file.stat().st_size
    with file.open("rb") as f:
        prefix = f.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 0 < length <= min(_MAX_HEADER, size - 8):
            raise _damaged(file, "its header is cut off")
        try:
            header = json.loads(f.read(length))
            header.pop("__metadata__", None)
            entries = [(n, e, 8 + length) for n, e in sorted(header.items())]
            end = max((e["data_offsets"][1] for _, e, _ in entries), default=0)
            wrong = next((n for n, e, _ in entries if not _size_agrees(e)), None)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _damaged(file, f"its header is unreadable ({error!r})") from error
    if wrong is not None:
        raise _damaged(file, f"tensor {wrong} has another size than its shape says")
    if size != 8 + length + end:
        raise _damaged(file, f"it has {size} bytes where its header says {8 + length + end}")
    return entries


def _size_agrees(entry: dict[str, Any]) -> bool:
    start, end = entry["data_offsets"]
    item = _ITEM_BYTES.get(entry["dtype"])
    return item is None or bool(end - start == item * int(np.prod(entry["shape"], dtype=np.int64)))


def _damaged(file: Path, why: str) -> IntegrityError:
    return IntegrityError(f"{file} is truncated or corrupt: {why}; copy it again")


def _read_tensor(file: Path, info: dict[str, Any], base: int) -> bytes:
    start, end = info["data_offsets"]
    with file.open("rb") as f:
        f.seek(base + start)
        return f.read(end - start)


def _refuse_non_finite(raw: bytes, dtype: str, name: str, file: Path) -> None:
    """An IEEE number is NaN or infinite exactly when all of its exponent bits are set."""
    exponent = {
        "F64": (np.uint64, 0x7FF0000000000000),
        "F32": (np.uint32, 0x7F800000),
        "F16": (np.uint16, 0x7C00),
        "BF16": (np.uint16, 0x7F80),
    }.get(dtype)
    if exponent is None:
        return
    kind, mask = exponent
    bad = int(np.count_nonzero((np.frombuffer(raw, dtype=kind) & kind(mask)) == mask))
    if bad:
        raise IntegrityError(
            f"{file}: tensor {name} holds {bad} NaN or infinite values: this checkpoint is broken; "
            "copy it again, or leave the revision out with --exclude"
        )
