"""Roles of all components at all checkpoints, as arrays.

S scopes (all facts, then relations), C measured checkpoints, L layers, N components of a layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Codes = npt.NDArray[np.int8]

OVERALL = "overall"  # the scope of all facts
ROLES = ("general", "entity", "relation", "fact", "inactive")
ACTIVE = ROLES[:4]
LETTERS = "gerf."  # one a role, so that no map rests on colour alone
KINDS = {"head": "heads", "ffn": "FFNs", "expert": "experts"}
COLOURS = {**{r: f"var(--role-{r})" for r in ACTIVE}, "inactive": "var(--off)"}
ABSENT = -1


@dataclass(frozen=True)
class RoleMap:
    """Components of one kind.

    Attributes:
        scopes: S names.
        codes: [S, C, L, N] place in ROLES, ABSENT where the table has no row.
    """

    scopes: tuple[str, ...]
    codes: Codes

    @property
    def checkpoints(self) -> list[int]:
        """Places of the checkpoints at which roles were found."""
        return [int(c) for c in np.flatnonzero((self.codes != ABSENT).any(axis=(0, 2, 3)))]

    def counts(self, scope: str) -> npt.NDArray[np.int64]:
        """[C, 5] components of each role."""
        codes = self.codes[self.scopes.index(scope)]
        return np.stack([(codes == i).sum(axis=(1, 2)) for i in range(len(ROLES))], axis=1)

    def switches(self, scope: str, pairs: Sequence[int]) -> npt.NDArray[np.float64]:
        """[L] changes between active roles per component.

        Args:
            pairs: places of the checkpoints that are held against the one before.
        """
        codes = self.codes[self.scopes.index(scope)]
        before, after = codes[[i - 1 for i in pairs]], codes[list(pairs)]
        active = (before >= 0) & (before < 4) & (after >= 0) & (after < 4)
        changed = ((before != after) & active).sum(axis=(0, 2))
        per_component: npt.NDArray[np.float64] = changed / codes.shape[2]
        return per_component

    def letters(self, scope: str) -> list[str]:
        """A string of L x N letters a checkpoint, layer after layer; empty where not measured."""
        codes = self.codes[self.scopes.index(scope)].reshape(self.codes.shape[1], -1)
        alphabet = np.frombuffer(f"{LETTERS} ".encode(), dtype=np.uint8)  # the last for ABSENT
        return ["" if (row == ABSENT).all() else alphabet[row].tobytes().decode() for row in codes]


def role_maps(roles: pa.Table, revisions: Sequence[str]) -> Mapping[str, RoleMap]:
    """Kind -> its map, for the kinds that have rows at any of the revisions."""
    return {kind: m for kind in KINDS for m in _map(roles, kind, revisions)}


def _map(roles: pa.Table, kind: str, revisions: Sequence[str]) -> Iterator[RoleMap]:
    known = pc.is_in(roles["revision"], pa.array(revisions, type=pa.string()))
    rows = roles.filter(pc.and_(pc.equal(roles["kind"], kind), known))
    if not rows.num_rows:
        return
    found = pc.unique(rows["scope"]).to_pylist()
    scopes = tuple(sorted(found, key=lambda s: (s != "overall", s)))
    layer, index = rows["layer"].to_numpy(), rows["index"].to_numpy()
    shape = (len(scopes), len(revisions), int(layer.max()) + 1, int(index.max()) + 1)
    codes = np.full(shape, ABSENT, dtype=np.int8)
    place = (_places(rows["scope"], scopes), _places(rows["revision"], revisions), layer, index)
    codes[place] = _places(rows["role"], ROLES)
    yield RoleMap(scopes, codes)


def _places(column: pa.ChunkedArray, names: Sequence[str]) -> npt.NDArray[np.int64]:
    """Where each value stands among the names."""
    places: npt.NDArray[np.int64] = pc.index_in(
        column, pa.array(names, type=pa.string())
    ).to_numpy()
    return places
