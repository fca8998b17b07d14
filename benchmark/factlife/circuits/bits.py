"""Sets of components as packed bits, without torch.

N = rows, K = components (layers x heads; layers; layers x experts). Component k is bit k % 8, least
significant first, of byte k // 8; a set takes ceil(K / 8) bytes and the bits past K are 0.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from factlife.errors import IntegrityError

Bools = npt.NDArray[np.bool_]


def pack(active: Bools) -> pa.BinaryArray:
    """Pack booleans [N, K] into a binary column of N sets."""
    packed = np.packbits(active, axis=1, bitorder="little")
    n, width = packed.shape
    offsets = np.arange(n + 1, dtype=np.int32) * np.int32(width)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(packed))]
    return pa.BinaryArray.from_buffers(pa.binary(), n, buffers)


def unpack(column: pa.Array | pa.ChunkedArray, size: int) -> Bools:
    """Unpack a binary column into booleans [N, size]; a null is an empty set.

    Raises:
        IntegrityError: a set is not ceil(size / 8) bytes wide.
    """
    width = -(-size // 8)
    sets = column.fill_null(b"\0" * width).to_pylist()
    if odd := sorted({len(s) for s in sets} - {width}):
        raise IntegrityError(
            f"a set of {size} components takes {width} bytes, found one of {odd[0]}: "
            "layers, heads or experts differ inside the table"
        )
    packed = np.frombuffer(b"".join(sets), dtype=np.uint8).reshape(len(sets), width)
    return np.unpackbits(packed, axis=1, count=size, bitorder="little").astype(np.bool_)
