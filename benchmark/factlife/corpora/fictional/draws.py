"""Seeded draws that give the same values on every machine and Python version.

Only `random.Random.getrandbits` of the Mersenne Twister is used: its stream is fixed by
the language's documentation, while `choice`, `shuffle` and hash order are not. No floats.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Draws:
    """One stream of draws, named by a path such as `("seed", "passage", 12)`."""

    def __init__(self, *path: int | str) -> None:
        digest = hashlib.sha256("\x1f".join(str(p) for p in path).encode()).digest()
        self._random = random.Random(int.from_bytes(digest, "big"))

    def below(self, n: int) -> int:
        """A whole number in [0, n), each equally likely."""
        bits = n.bit_length()
        value = self._random.getrandbits(bits)
        while value >= n:
            value = self._random.getrandbits(bits)
        return value

    def between(self, low: int, high: int) -> int:
        """A whole number in [low, high], both ends included."""
        return low + self.below(high - low + 1)

    def pick(self, items: Sequence[T]) -> T:
        """One of `items`, each equally likely."""
        return items[self.below(len(items))]

    def percent(self, chance: int) -> bool:
        """True in `chance` of 100 draws."""
        return self.below(100) < chance

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """A new list with the items in random order (Fisher-Yates)."""
        out = list(items)
        for i in range(len(out) - 1, 0, -1):
            j = self.below(i + 1)
            out[i], out[j] = out[j], out[i]
        return out
