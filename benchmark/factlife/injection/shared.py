"""Reading divided over processes: each reads its share, and all of them get every number.

With a sharded model (FSDP2) nobody can run a forward alone: a process whose share needs fewer of
them than another's takes part in the rest with a row of one token.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from factlife.injection.probe import ProbePass, Scores
from factlife.scoring.targets import Target
from factlife.training import parallel


def divide(weights: Sequence[int], groups: Sequence[Hashable], n: int) -> list[list[int]]:
    """Cut items into n shares of about equal weight; items of one group stay together.

    The heaviest group goes to the lightest share, and so on (longest processing time first): the
    heaviest share is at most 4/3 of what could be reached. Each share is in the order of the items;
    some are empty where there are fewer groups than shares.
    """
    members: dict[Hashable, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    heavy = sorted(members.values(), key=lambda m: (-sum(weights[i] for i in m), m[0]))
    lightest = [(0, k) for k in range(n)]
    shares: list[list[int]] = [[] for _ in range(n)]
    for chosen in heavy:
        weight, k = heapq.heappop(lightest)
        shares[k] += chosen
        heapq.heappush(lightest, (weight + sum(weights[i] for i in chosen), k))
    return [sorted(s) for s in shares]


class SharedPass:
    """A `ProbePass` of which each process carries out its share."""

    def __init__(
        self,
        targets: Sequence[Target],
        groups: Sequence[Hashable],
        batch_tokens: int,
        device: torch.device,
        precision: str = "float32",
    ) -> None:
        """Args: groups: of each target; those of one group are scored by one process."""
        shares = divide([len(t.ids) for t in targets], groups, parallel.size())
        self._own, self._count, self._device = shares[parallel.rank()], len(targets), device
        self._pass = ProbePass([targets[i] for i in self._own], batch_tokens, device, precision)
        self._idle = parallel.most(self._pass.forwards) - self._pass.forwards

    def __call__(self, model: Any) -> Scores:
        """Scores of every target in every process; all of them call this together."""
        found = self._pass(model)
        if parallel.size() == 1:
            return found
        with torch.no_grad():
            parallel.idle(model, self._idle, self._device)
        return Scores(
            self._all(torch.from_numpy(found.logprob_sum)).numpy(),
            self._all(torch.from_numpy(found.first_rank)).numpy(),
            self._all(torch.from_numpy(found.exact)).bool().numpy(),
        )

    def _all(self, own: Tensor) -> Tensor:
        """Every process's numbers, each in its place: all but one are 0 there."""
        kind = own.dtype if own.is_floating_point() else torch.int64
        every = torch.zeros(self._count, dtype=kind)
        every[self._own] = own.to(kind)
        return parallel.summed(every.to(self._device)).cpu()
