"""Does the model know a corpus already? To be asked of real facts before they are injected.

Each target competes, after its own prefix, with the targets of other passages (foils, of the same
depth, and of the same kind where there are enough). A model that does not know the passage puts
its target first in 1 of (foils + 1) probes by chance, in summed log-probability; in more where
foils do not fit the prefix, so that they should be of one kind. A passage counts as known if greedy
decoding gives one of its targets, or if more targets come first than chance gives with
probability `level` (binomial, one-sided). Several probes with one target stand and fall together:
they count as one, which comes first if it does so in all of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binom

from factlife.errors import UsageError
from factlife.injection.corpus import Corpus, Probe
from factlife.injection.measure import plain_encoder, tokens_before
from factlife.injection.probe import encode_probes
from factlife.scoring.targets import score

FOILS = 9
LEVEL = 0.01


@dataclass(frozen=True)
class Audited:
    """One passage.

    Attributes:
        probes: that could be scored.
        exact: targets that greedy decoding gives.
        targets: distinct ones.
        first: of these, those that beat every foil after each of their prefixes.
        expected: `first` by chance.
        p: probability of as many by chance.
        known: whether the passage must not be injected as new.
    """

    passage_id: str
    probes: int
    exact: int
    targets: int
    first: int
    expected: float
    p: float
    known: bool


def audit(
    model: Any,
    tokenizer: Any,
    corpus: Corpus,
    *,
    max_length: int | None,
    bos: str = "auto",
    batch_tokens: int = 8192,
    foils: int = FOILS,
    level: float = LEVEL,
    seed: int = 0,
) -> list[Audited]:
    """Audit every passage of a corpus that has a probe.

    Raises:
        UsageError: fewer passages than foils and one.
    """
    rivals = _rivals(corpus, foils, seed)
    asked = [q for p in corpus.probes for q in (p, *rivals[p.probe_id])]
    encode, before = plain_encoder(tokenizer), tokens_before(tokenizer, bos)
    encoded = encode_probes(asked, encode, before, max_length)
    usable = [i for i, e in enumerate(encoded) if e.target is not None]
    targets = [t for e in encoded if (t := e.target) is not None]
    model.eval()
    logprob, exact = np.full(len(asked), -np.inf), np.zeros(len(asked), np.bool_)
    for i, scored in zip(usable, score(model, targets, batch_tokens), strict=True):
        if scored is not None:
            logprob[i], exact[i] = scored.logprob_sum, scored.whole
    width = foils + 1
    by_passage: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for k, p in enumerate(corpus.probes):
        if np.isfinite(logprob[k * width]):
            by_passage[p.passage_id].append((k * width, p.target))
    return [
        _audited(name, logprob, exact, places, width, level) for name, places in by_passage.items()
    ]


def _audited(
    name: str,
    logprob: np.ndarray[Any, Any],
    exact: np.ndarray[Any, Any],
    places: Sequence[tuple[int, str]],
    width: int,
    level: float,
) -> Audited:
    wins: dict[str, bool] = {}
    for i, target in places:
        wins[target] = wins.get(target, True) and bool(
            logprob[i] > logprob[i + 1 : i + width].max()
        )
    hits = sum(bool(exact[i]) for i, _ in places)
    n, first, chance = len(wins), sum(wins.values()), 1 / width
    p = float(binom.sf(first - 1, n, chance))
    return Audited(name, len(places), hits, n, first, n * chance, p, hits > 0 or p < level)


def _rivals(corpus: Corpus, foils: int, seed: int) -> Mapping[str, list[Probe]]:
    """For each probe its prefix with targets of other passages, distinct and unlike its own."""
    kind = {p.passage_id: p.kind for p in corpus.passages}
    by_depth: dict[str, list[Probe]] = defaultdict(list)
    for p in corpus.probes:
        by_depth[p.depth].append(p)
    rng = np.random.default_rng(seed)
    made = {}
    for p in corpus.probes:
        others = [q for q in by_depth[p.depth] if q.passage_id != p.passage_id]
        order = [others[i] for i in rng.permutation(len(others))]
        order.sort(
            key=lambda q: kind[q.passage_id] != kind[p.passage_id]
        )  # stable: same kind first
        names = [t for t in dict.fromkeys(q.target for q in order) if t != p.target][:foils]
        if len(names) < foils:
            raise UsageError(
                f"{corpus.name}: {len(names)} other targets of depth {p.depth}, an audit wants "
                f"{foils}: give a larger corpus or fewer --foils"
            )
        made[p.probe_id] = [
            Probe(f"{p.probe_id}/{k}", p.passage_id, p.depth, p.prefix, t)
            for k, t in enumerate(names)
        ]
    return made
