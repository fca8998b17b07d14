"""From a subject to a passage: ten texts, its facts, and fifteen probes.

Text 0 is the passage, texts 1-9 its paraphrases. Each text follows another skeleton (an order
of moves in paragraphs) and words each move in another way. What the data set promises is
checked while it is made: a text that is too long, too short, too close to another or lacks a
fact is written again with the next draws; a passage that cannot be probed as promised is
begun again. `lint.py` checks the outcome once more, without knowing how it was made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from factlife.corpora.fictional import text as tx
from factlife.corpora.fictional.draws import Draws
from factlife.corpora.fictional.kinds import NOT_FIRST, Comp, Kind, load
from factlife.corpora.fictional.template import (
    Discourse,
    Entity,
    Node,
    Value,
    parse,
    realise,
    tidy,
)
from factlife.corpora.fictional.world import Subject, subjects
from factlife.errors import IntegrityError

N_PARAPHRASES, N_PROBES = 9, 5
MIN_WORDS, MAX_WORDS = 160, 340
LENGTH_RATIO = (0.87, 1.13)
MAX_SHARED_5GRAMS = 0.5
MIN_PREFIX_WORDS = 5
MIN_SEMANTIC_WORDS = 8
DEPTHS = ("memorization", "semantic", "compositional")
_ATTEMPTS, _TEXT_ATTEMPTS = 60, 12


@dataclass(frozen=True)
class Fact:
    """One stated fact: subject, relation, object, and the object's type."""

    fact_id: str
    subject: str
    relation: str
    object: str
    object_type: str


@dataclass(frozen=True)
class Probe:
    """A prefix and its target; `support` holds the ids of the facts it takes to answer."""

    probe_id: str
    passage_id: str
    depth: str
    prefix: str
    target: str
    support: tuple[str, ...]
    hops: int


@dataclass(frozen=True)
class Passage:
    """A passage with its paraphrases, facts, named entities and probes."""

    passage_id: str
    kind: str
    block: str
    subject: str
    text: str
    paraphrases: tuple[str, ...]
    facts: tuple[Fact, ...]
    entities: tuple[Entity, ...]
    probes: tuple[Probe, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """The passage and its paraphrases."""
        return (self.text, *self.paraphrases)


_Written = tuple[str, set[tx.Ngram]]


class _RetryError(Exception):
    """This attempt cannot hold to the promises; try the next draws."""


def passages(seed: str, split: str, size: int, prefix: str = "") -> Iterator[Passage]:
    """Generate a corpus, passage by passage, one group of the world in memory at a time.

    Args:
        seed: any text; the same seed, split and size give the same passages.
        split: public, private or background; splits share no names.
        size: number of passages; three in four injected, one in four a control.
        prefix: first part of the passage ids, `fk-<split>` by default.
    """
    for subject in subjects(seed, split, size):
        yield compose(subject, seed, f"{prefix or 'fk-' + split}-{subject.index:05d}")


def compose(subject: Subject, seed: str, passage_id: str) -> Passage:
    """Write one passage, its paraphrases and its probes.

    Raises:
        IntegrityError: the grammar cannot hold to the promises for this subject.
    """
    reason = ""
    for attempt in range(_ATTEMPTS):
        try:
            return _Composer(
                subject, Draws(seed, "text", subject.index, attempt), passage_id
            ).passage()
        except _RetryError as problem:
            reason = str(problem)
    raise IntegrityError(
        f"{passage_id} ({subject.kind}): no wording holds to the promises: {reason}"
    )


def article_text(subject: Subject, draws: Draws) -> str:
    """One text about a subject, without paraphrases or probes (background prose)."""
    return _Composer(subject, draws, "").text(0, draws.pick(load(subject.kind).skeletons))


class _Composer:
    """One attempt at one passage."""

    def __init__(self, subject: Subject, draws: Draws, passage_id: str) -> None:
        self.subject, self.draws, self.id = subject, draws, passage_id
        self.kind: Kind = load(subject.kind)
        self.values = subject.values
        self.skeletons = draws.shuffled(self.kind.skeletons)
        self.orders: dict[tuple[str, int], list[str]] = {}

    def entity(self, slot: str) -> Entity:
        """The entity in a slot."""
        value = self.values[slot]
        if not isinstance(value, Entity):
            raise IntegrityError(f"grammar of {self.kind.name}: slot {slot!r} holds no name")
        return value

    def words_of(self, slot: str) -> str:
        """A slot's value as it stands in a text."""
        value = self.values[slot]
        return value.name if isinstance(value, Entity) else value

    def passage(self) -> Passage:
        """The passage with its paraphrases, facts, entities and probes."""
        texts = self.texts()
        facts = {name: self.fact(name) for name in self.kind.facts}
        entities = {k: v for k, v in self.values.items() if isinstance(v, Entity)}
        probes = _Prober(self, texts, facts, tuple(entities.values())).probes()
        return Passage(
            passage_id=self.id,
            kind=self.kind.name,
            block=self.subject.block,
            subject=self.words_of("S"),
            text=texts[0],
            paraphrases=tuple(texts[1:]),
            facts=tuple(facts.values()),
            entities=tuple(entities.values()),
            probes=tuple(probes),
        )

    def fact(self, name: str) -> Fact:
        """A fact of the grammar with this subject's values."""
        subject, relation, obj = self.kind.facts[name]
        value = self.values[obj]
        number = self.kind.slots.get(obj, "").split()[:1]
        kind = (
            value.kind
            if isinstance(value, Entity)
            else {"year": "year", "num": "number"}.get(number[0] if number else "", "text")
        )
        return Fact(f"{self.id}.{name}", self.words_of(subject), relation, self.words_of(obj), kind)

    # --- texts ---------------------------------------------------------------

    def texts(self) -> list[str]:
        """The passage and nine paraphrases, each unlike the others and of like length."""
        out = [self._accepted(0, [])]
        for i in range(1, N_PARAPHRASES + 1):
            out.append(self._accepted(i, out))
        return [text for text, _ in out]

    def _accepted(self, number: int, before: Sequence[_Written]) -> _Written:
        for attempt in range(_TEXT_ATTEMPTS):
            skeleton = self.skeletons[(number + attempt) % len(self.skeletons)]
            text = self.text(number, skeleton)
            grams = tx.ngrams(text, 5)
            apart = all(tx.shared(grams, g) <= MAX_SHARED_5GRAMS for _, g in before)
            if apart and self._keeps_promises(text, before[0][0] if before else text):
                return text, grams
        raise _RetryError(f"text {number} is too long, too short, incomplete or too like another")

    def _keeps_promises(self, text: str, original: str) -> bool:
        n = tx.n_words(text)
        low, high = LENGTH_RATIO
        of_length = MIN_WORDS <= n <= MAX_WORDS and low <= n / tx.n_words(original) <= high
        objects = (o for _, _, o in self.kind.facts.values())
        return of_length and all(tx.holds(text, self.words_of(o)) for o in objects)

    def text(self, number: int, skeleton: Sequence[Sequence[str]]) -> str:
        """Realise one skeleton; `number` decides which wording each move gets."""
        discourse = Discourse(
            subject=self.entity("S"),
            article=self.kind.article,
            descriptions=tuple(realise(d, self._plain()) for d in self.kind.descriptions),
            values=self.values,
            draws=self.draws,
        )
        paragraphs: list[str] = []
        for moves in skeleton:
            parts: list[str] = []
            for move in moves:
                parts.append(
                    realise(
                        self._wording(move, number, first=not paragraphs and not parts), discourse
                    )
                )
                discourse.end_sentence()
            discourse.end_paragraph()
            paragraphs.append(tidy(" ".join(parts)))
        return "\n\n".join(paragraphs)

    def _plain(self) -> Discourse:
        return Discourse(self.entity("S"), self.kind.article, (), self.values, self.draws)

    def _wording(self, move: str, number: int, *, first: bool) -> str:
        """Text `number` takes the next wording of a move; each round through them is reshuffled."""
        wordings = self.kind.wordings(move, self.subject.profile)
        turn, place = divmod(number, len(wordings))
        if (move, turn) not in self.orders:
            order = self.draws.shuffled(wordings)
            if turn == 0:
                order.sort(key=lambda w: not memorable(self.kind.name, w))
            self.orders[move, turn] = order
        order = self.orders[move, turn]
        if first:
            order = [w for w in order if not w.startswith(NOT_FIRST)]
        return order[place % len(order)].removeprefix(NOT_FIRST)


class _Prober:
    """Probes for the texts of one attempt."""

    def __init__(
        self,
        composer: _Composer,
        texts: Sequence[str],
        facts: dict[str, Fact],
        entities: tuple[Entity, ...],
    ) -> None:
        self.c, self.texts, self.facts, self.entities = composer, texts, facts, entities
        self.draws = composer.draws
        self.sentences = [s for t in texts for s in tx.sentences(t)]
        self.flat = [" " + " ".join(tx.words(t)) + " " for t in texts]

    def probes(self) -> list[Probe]:
        """Five memorization, five semantic with the same targets, five compositional."""
        single: list[tuple[str, str, str]] = []
        for name in self.draws.shuffled(list(self.c.kind.semantic)):
            verbatim, rephrased = self._verbatim(name), self._rephrased(name)
            if verbatim and rephrased and len(single) < N_PROBES:
                single.append((name, verbatim, rephrased))
        joined = self._joined()
        if len(single) < N_PROBES or len(joined) < N_PROBES:
            raise _RetryError(
                f"{len(single)} single-fact and {len(joined)} compositional probes, need {N_PROBES}"
            )
        out = [self._probe(i, 0, v, n, (n,)) for i, (n, v, _) in enumerate(single)]
        out += [self._probe(i, 1, s, n, (n,)) for i, (n, _, s) in enumerate(single)]
        return out + [
            self._probe(i, 2, prefix, comp.support[-1], comp.support)
            for i, (comp, prefix) in enumerate(joined[:N_PROBES])
        ]

    def _probe(self, i: int, depth: int, prefix: str, fact: str, support: tuple[str, ...]) -> Probe:
        return Probe(
            probe_id=f"{self.c.id}.{DEPTHS[depth][:3]}{i}",
            passage_id=self.c.id,
            depth=DEPTHS[depth],
            prefix=prefix,
            target=self.facts[fact].object,
            support=tuple(self.facts[s].fact_id for s in support),
            hops=len(support),
        )

    def _named(self, slot: str) -> Entity:
        return self.c.entity(slot)

    def _verbatim(self, name: str) -> str | None:
        """The passage up to a fact's object, from the start of a sentence that names its subject.

        The sentence that holds the object, if it names the subject and is long enough; else the
        sentence before it in the same paragraph is taken in too.
        """
        subject, _, obj = self.c.kind.facts[name]
        target, text = self._named(obj), self.texts[0]
        for back in (0, 1):
            for paragraph in tx.spans(text):
                for i, (start, end) in enumerate(paragraph):
                    if not tx.holds(text[start:end], target.name):
                        continue
                    cut = text.index(target.name, start)
                    prefix = text[paragraph[max(i - back, 0)][0] : cut].rstrip()
                    if self._usable(prefix, self._named(subject), target):
                        return prefix
        return None

    @staticmethod
    def _usable(prefix: str, subject: Entity, target: Entity) -> bool:
        ends_well = prefix != "" and (prefix[-1].isalnum() or prefix[-1] == ",")
        long_enough = tx.n_words(prefix) >= MIN_PREFIX_WORDS
        named = tx.holds_any(prefix, subject.aliases)
        return ends_well and long_enough and named and not tx.holds_any(prefix, target.aliases)

    def _rephrased(self, name: str) -> str | None:
        """A semantic prefix that shares no 8-gram with any text of the passage."""
        for wording in self.draws.shuffled(self.c.kind.semantic[name]):
            prefix = self._prefix(wording)
            w = tx.words(prefix)
            grams = (" " + " ".join(w[i : i + 8]) + " " for i in range(len(w) - 7))
            if len(w) >= MIN_SEMANTIC_WORDS and not any(g in t for g in grams for t in self.flat):
                return prefix
        return None

    def _prefix(self, wording: str) -> str:
        values: dict[str, Value] = dict(self.c.values)
        subject = self.c.entity("S")
        values["S"] = Entity(subject.kind, self.c.kind.article + subject.name, subject.name, "")
        values["S_bare"] = subject.name
        discourse = Discourse(subject, self.c.kind.article, (), values, self.draws)
        return tidy(realise(wording, discourse)).rstrip()

    def _joined(self) -> list[tuple[Comp, str]]:
        """Compositional probes without a single-sentence shortcut, one a target."""
        out: dict[str, tuple[Comp, str]] = {}
        for comp in self.draws.shuffled(self.c.kind.comps):
            prefix = self._prefix(self.draws.pick(comp.prefixes))
            if comp.target not in out and not self._shortcut(prefix, self._named(comp.target)):
                out[comp.target] = (comp, prefix)
        return list(out.values())

    def _shortcut(self, prefix: str, target: Entity) -> bool:
        named = [a for e in self.entities if tx.holds_any(prefix, e.aliases) for a in e.aliases]
        return any(
            tx.holds_any(s, target.aliases) and tx.holds_any(s, named) for s in self.sentences
        ) or tx.holds_any(prefix, target.aliases)


@cache
def memorable(kind: str, wording: str) -> frozenset[str]:
    """Facts a wording states in a sentence that names the fact's subject before its object."""
    grammar = load(kind)
    ends = {o: (s, name) for name, (s, _, o) in grammar.facts.items() if name in grammar.semantic}
    found: set[str] = set()
    seen: set[str] = set()
    for node in _flat(parse(wording.removeprefix(NOT_FIRST))):
        if node.kind == "text" and ". " in node.text:
            seen = set()
        if node.kind == "slot" and node.text in ends and ends[node.text][0] in seen:
            found.add(ends[node.text][1])
        seen.add("S" if node.text.startswith("S") else node.text)
    return frozenset(found)


def _flat(nodes: Sequence[Node]) -> Iterator[Node]:
    for node in nodes:
        yield node
        for branch in node.parts:
            yield from _flat(branch)
