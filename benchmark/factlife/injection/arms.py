"""Which passage goes into which arm and half.

Rotated (`standard`): three blocks of passages over three arms, turned by one with each seed: a
3 x 3 Latin square over three seeds, so that no arm owes its numbers to its passages. Injected and
control passages alike are split into disjoint halves A and B, at random within arm and kind: the
peak is picked on one half and read on the other. Published (injection-2024, section 3): 0-39
paraphrase, 40-79 duplication, 80-119 once, the others controls.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from factlife.config import Injection
from factlife.errors import UsageError
from factlife.injection.corpus import CONTROL, Corpus, Passage

ARMS = ("paraphrase", "duplication", "once")
BLOCKS = ("A", "B", "C")
PUBLISHED_ARM = 40
_SELECTION_SEED = 20_240_617  # of what all seeds share: the blocks of a corpus that has none


@dataclass(frozen=True)
class Assignment:
    """A passage's place in a run."""

    passage: Passage
    block: str
    arm: str
    half: str

    @property
    def control(self) -> bool:
        """Whether it is never injected."""
        return self.arm == CONTROL


def assign(corpus: Corpus, settings: Injection, seed: int) -> tuple[Assignment, ...]:
    """Arms and halves of a main, batch or lr run.

    Raises:
        UsageError: too few passages, or too few paraphrases for the paraphrase arm.
    """
    if settings.arms == "published":
        chosen = _published(corpus, settings)
    else:
        blocks = choose_blocks(corpus, settings)
        chosen = [
            (p, block, CONTROL if block == CONTROL else ARMS[(BLOCKS.index(block) + seed) % 3])
            for block, passages in blocks.items()
            for p in passages
        ]
    _refuse_few_paraphrases(chosen, settings)
    return halved(chosen, seed)


def grouped(
    corpus: Corpus, settings: Injection, names: Sequence[str], seed: int
) -> tuple[Assignment, ...]:
    """Groups of a spacing or frequency study, disjoint, turned by one with each seed.

    The passages of all three blocks are dealt, kind by kind, to as many groups as there are names.

    Raises:
        UsageError: fewer than two passages a group.
    """
    blocks = choose_blocks(corpus, settings)
    injected = [p for b in BLOCKS for p in blocks[b]]
    if len(injected) < 2 * len(names):
        raise UsageError(
            f"{len(injected)} passages are too few for {len(names)} groups of two: raise per_arm "
            "or test fewer values"
        )
    rng = np.random.default_rng(_SELECTION_SEED)
    block_of = {p.passage_id: b for b in BLOCKS for p in blocks[b]}
    dealt = [p for kind in _by_kind(injected).values() for p in _shuffled(kind, rng)]
    chosen = [
        (p, block_of[p.passage_id], names[(k + seed) % len(names)]) for k, p in enumerate(dealt)
    ]
    return halved([*chosen, *((p, CONTROL, CONTROL) for p in blocks[CONTROL])], seed)


def balanced(settings: Injection) -> bool:
    """Whether the seeds of a run folder turn every block through every arm equally often."""
    if settings.arms == "published":
        return False
    groups = {"spacing": len(settings.spacings), "frequency": len(settings.frequencies)}
    return settings.seeds % groups.get(settings.study, len(ARMS)) == 0


def choose_blocks(corpus: Corpus, settings: Injection) -> Mapping[str, Sequence[Passage]]:
    """Three blocks of `per_arm` passages and `controls` controls, equal for all seeds.

    The corpus's own blocks, whose passages refer to one another, are kept; where it has none they
    are drawn at random within kind. Of larger blocks a random part is taken, kind by kind in turn.

    Raises:
        UsageError: the corpus has too few passages.
    """
    sizes = {**dict.fromkeys(BLOCKS, settings.per_arm), CONTROL: settings.controls}
    rng = np.random.default_rng(_SELECTION_SEED)
    pools: dict[str, list[Passage]] = {b: [] for b in sizes}
    if all(p.block in sizes for p in corpus.passages):
        for p in corpus.passages:
            pools[p.block].append(p)
        pools = {b: _in_turn(pool, rng) for b, pool in pools.items()}
    else:
        deck = [b for n in range(max(sizes.values())) for b, size in sizes.items() if n < size]
        taken = _by_kind(_in_turn(corpus.passages, rng)[: len(deck)])
        order = [p for kind in taken.values() for p in _shuffled(kind, rng)]
        for p, block in zip(order, deck, strict=False):
            pools[block].append(p)
    for block, size in sizes.items():
        if len(pools[block]) < size:
            raise UsageError(
                f"{corpus.name}: {len(pools[block])} passages for block {block}, {size} wanted: "
                "lower per_arm and controls, or give a larger corpus"
            )
    return {b: pools[b][:size] for b, size in sizes.items()}


def _by_kind(passages: Iterable[Passage]) -> dict[str, list[Passage]]:
    kinds: dict[str, list[Passage]] = defaultdict(list)
    for p in passages:
        kinds[p.kind].append(p)
    return {k: kinds[k] for k in sorted(kinds)}


def _shuffled(passages: Sequence[Passage], rng: np.random.Generator) -> list[Passage]:
    return [passages[i] for i in rng.permutation(len(passages))]


def _in_turn(passages: Iterable[Passage], rng: np.random.Generator) -> list[Passage]:
    """One of each kind, then another of each: any beginning holds the kinds about equally."""
    queues = [_shuffled(p, rng) for p in _by_kind(passages).values()]
    longest = max((len(q) for q in queues), default=0)
    return [q[n] for n in range(longest) for q in queues if n < len(q)]


_Chosen = Sequence[tuple[Passage, str, str]]


def halved(chosen: _Chosen, seed: int) -> tuple[Assignment, ...]:
    """Split every arm into halves that differ by at most one passage.

    Alternating after a shuffle within kind, so that each kind is in both halves where it can be.
    """
    rng = np.random.default_rng((_SELECTION_SEED, seed))
    half: dict[str, str] = {}
    for arm in sorted({arm for _, _, arm in chosen}):
        kinds = _by_kind(p for p, _, a in chosen if a == arm)
        order = [p for kind in kinds.values() for p in _shuffled(kind, rng)]
        first = int(rng.integers(2))
        half |= {p.passage_id: "AB"[(k + first) % 2] for k, p in enumerate(order)}
    return tuple(Assignment(p, block, arm, half[p.passage_id]) for p, block, arm in chosen)


def _published(corpus: Corpus, settings: Injection) -> list[tuple[Passage, str, str]]:
    wanted = 3 * settings.per_arm + settings.controls
    if len(corpus.passages) < wanted:
        raise UsageError(
            f"{corpus.name}: {len(corpus.passages)} passages, the published arms want {wanted}"
        )
    arms = [arm for arm in ARMS for _ in range(settings.per_arm)] + [CONTROL] * settings.controls
    blocks = [b for b in BLOCKS for _ in range(settings.per_arm)] + [CONTROL] * settings.controls
    return list(zip(corpus.passages, blocks, arms, strict=False))


def _refuse_few_paraphrases(chosen: _Chosen, settings: Injection) -> None:
    for p, _, arm in chosen:
        if arm == "paraphrase" and len(p.texts) < settings.injections:
            raise UsageError(
                f"{p.passage_id} has {len(p.texts) - 1} paraphrases, the paraphrase arm wants "
                f"{settings.injections - 1}: lower injections, give a corpus with paraphrases, or "
                "set arms = published"
            )
