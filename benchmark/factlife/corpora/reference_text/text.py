"""The text that the reference series is trained on: stated facts among neutral sentences.

A model that is to be measured for *knowing* a fact must not have memorised the probe. So a
fact is stated in wordings that are no probe template, the templates are shown with made-up
companions only, and a quarter of the facts is never stated at all.

**What one pass holds** (documents in random order; the text is as many passes as asked for):

- *stated*: each stated fact exactly once, in one of its relation's wordings, uniform.
- *companion*: `companions_a_pass` made-up subjects of each relation, taken in shuffled rounds;
  with probability `template_share` in one of the relation's probe templates, else in one of its
  wordings, each uniform.
- *mention*: `mentions_a_pass` probe subjects of all, taken in shuffled rounds, in sentences that
  say nothing about them.
- *neutral*: `neutral_a_pass` scenes that name nothing.

After n passes every stated fact of every relation has been stated n times, and every probe
subject, stated or not, has been mentioned equally often within one: a difference between
relations or groups is not a difference of exposure. With probability `context_share` a
statement has a neutral sentence before it or behind it (even odds) in the same document.

**Which facts are unstated.** In a relation of n facts, floor(n/4 + 1/2) are drawn without
replacement from those that may be withheld. Not withheld are facts that the text would give
away: the subject's name contains the answer (Mexico City), or another fact has the same two
names (Buenos Aires is in Argentina; Argentina's capital is Buenos Aires).
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, TypeVar

import numpy as np

from factlife.corpora.fact_probes import Fact, FactProbes
from factlife.corpora.reference_text.names import Companion, made_up_companions

T = TypeVar("T")

WITHHELD_SHARE = 0.25


@dataclass(frozen=True)
class TextConfig:
    """How much of what a pass holds.

    Attributes:
        companions: made-up subjects per relation.
        companions_a_pass: companion documents per relation and pass.
        template_share: share of companion documents that are in a probe template, 0 to 1.
        mentions_a_pass: documents per pass that name a probe subject and say nothing of it.
        neutral_a_pass: neutral documents per pass.
        context_share: share of statements with a neutral sentence beside them, 0 to 1.
    """

    companions: int = 40
    companions_a_pass: int = 6
    template_share: float = 0.7
    mentions_a_pass: int = 8
    neutral_a_pass: int = 25
    context_share: float = 0.25


@dataclass(frozen=True, slots=True)
class Document:
    """One document.

    Attributes:
        kind: stated, companion, mention or neutral.
        text: one to three sentences.
        relation: of the fact or companion; empty for mention and neutral.
        fact_id: of a stated fact; else empty.
        form: `wording:<number>` or the template's id; empty for mention and neutral.
    """

    kind: str
    text: str
    relation: str = ""
    fact_id: str = ""
    form: str = ""


@dataclass(frozen=True)
class TextPlan:
    """What is stated, what is withheld, and who the companions are."""

    stated: tuple[Fact, ...]
    unstated: tuple[Fact, ...]
    companions: Mapping[str, tuple[Companion, ...]]


def plan_text(probes: FactProbes, config: TextConfig, rng: np.random.Generator) -> TextPlan:
    """Draw the unstated quarter and the companions.

    Raises:
        IntegrityError: the name grammar cannot give enough companions that are new.
    """
    unstated = {f.fact_id for f in _withhold(probes, rng)}
    return TextPlan(
        stated=tuple(f for f in probes.facts if f.fact_id not in unstated),
        unstated=tuple(f for f in probes.facts if f.fact_id in unstated),
        companions=made_up_companions(probes, config.companions, rng),
    )


def _withhold(probes: FactProbes, rng: np.random.Generator) -> Iterator[Fact]:
    for relation in probes.relations:
        facts = [f for f in probes.facts if f.relation == relation.relation]
        free = [f for f in facts if not _given_away(f, probes.facts)]
        quota = int(len(facts) * WITHHELD_SHARE + 0.5)
        yield from (free[i] for i in rng.permutation(len(free))[:quota])


def _given_away(fact: Fact, facts: Sequence[Fact]) -> bool:
    """Whether the text would tell this fact though it were withheld."""
    names = {fact.subject, fact.answer}
    twins = [f for f in facts if {f.subject, f.answer} == names]
    return fact.answer.casefold() in fact.subject.casefold() or len(twins) > 1


def passes(
    plan: TextPlan, probes: FactProbes, config: TextConfig, rng: np.random.Generator
) -> Iterator[list[Document]]:
    """Yield pass after pass without end; the same generator state gives the same text."""
    writer = _Writer(plan, probes, config, rng)
    while True:
        yield writer.one_pass()


class _Writer:
    """Draws documents; holds the shuffled rounds that companions and mentions walk through."""

    def __init__(
        self, plan: TextPlan, probes: FactProbes, config: TextConfig, rng: np.random.Generator
    ) -> None:
        self._plan, self._config, self._rng = plan, config, rng
        self._draw = _Draw(rng)
        self._grammar = grammar()
        self._templates = {
            r.relation: [(t.template_id, t.text) for t in r.templates] for r in probes.relations
        }
        subjects = sorted({f.subject for f in probes.facts})
        self._mentions = _rounds(subjects, rng)
        self._companions = {r: _rounds(c, rng) for r, c in plan.companions.items()}

    def one_pass(self) -> list[Document]:
        documents = [self._stated(fact) for fact in self._plan.stated]
        for relation in self._companions:
            documents += [self._companion(relation) for _ in range(self._config.companions_a_pass)]
        documents += [self._mention() for _ in range(self._config.mentions_a_pass)]
        documents += [self._neutral() for _ in range(self._config.neutral_a_pass)]
        return [documents[i] for i in self._rng.permutation(len(documents))]

    def _stated(self, fact: Fact) -> Document:
        number, wording = self._wording(fact.relation)
        text = self._in_context(render(wording, fact.subject, fact.answer))
        return Document("stated", text, fact.relation, fact.fact_id, f"wording:{number}")

    def _companion(self, relation: str) -> Document:
        companion = next(self._companions[relation])
        if not self._draw.below(self._config.template_share):
            number, wording = self._wording(relation)
            form = f"wording:{number}"
        else:
            form, template = self._draw.choice(self._templates[relation])
            wording = template.replace("{}", "{s}") + " {a}."
        text = self._in_context(render(wording, companion.subject, companion.answer))
        return Document("companion", text, relation, form=form)

    def _mention(self) -> Document:
        sentence = self._fill(self._draw.choice(self._grammar["mention"]["sentences"]))
        return Document("mention", render(sentence, next(self._mentions), ""))

    def _neutral(self) -> Document:
        scene = self._draw.choice(list(self._grammar["scenes"].values()))
        count = 1 + self._draw.index(3)
        return Document(
            "neutral", " ".join(self._fill(self._draw.choice(scene)) for _ in range(count))
        )

    def _wording(self, relation: str) -> tuple[int, str]:
        wordings = wordings_of(relation)
        number = self._draw.index(len(wordings))
        return number, wordings[number]

    def _in_context(self, statement: str) -> str:
        if not self._draw.below(self._config.context_share):
            return statement
        beside = self._fill(self._draw.choice(self._grammar["context"]["sentences"]))
        return f"{beside} {statement}" if self._draw.below(0.5) else f"{statement} {beside}"

    def _fill(self, sentence: str) -> str:
        """Put a word into every slot but {s}."""
        words = self._grammar["words"]
        head, *rest = sentence.split("{")
        pieces = [head]
        for part in rest:
            slot, tail = part.split("}", 1)
            pieces += ["{s}" if slot == "s" else self._draw.choice(words[slot]), tail]
        text = "".join(pieces)
        return text if text.startswith("{") else text[0].upper() + text[1:]


class _Draw:
    """Uniform draws from blocks of numbers: a scalar call to numpy costs ten times as much."""

    def __init__(self, rng: np.random.Generator, block: int = 4096) -> None:
        self._next: Callable[[], float] = _uniform(rng, block).__next__

    def index(self, n: int) -> int:
        """A whole number in [0, n)."""
        return int(self._next() * n)

    def below(self, share: float) -> bool:
        """True with this probability."""
        return self._next() < share

    def choice(self, items: Sequence[T]) -> T:
        """One item, all equally likely."""
        return items[self.index(len(items))]


def _uniform(rng: np.random.Generator, block: int) -> Iterator[float]:
    while True:
        yield from rng.random(block).tolist()


def _rounds(items: Sequence[T], rng: np.random.Generator) -> Iterator[T]:
    """Every item once in random order, then all again: counts never differ by more than one."""
    while True:
        yield from (items[i] for i in rng.permutation(len(items)))


def render(sentence: str, subject: str, answer: str) -> str:
    """Put subject and answer in; a name that ends in a point swallows the sentence's own."""
    text = sentence.replace("{s}", subject).replace("{a}", answer).replace("..", ".")
    return text[0].upper() + text[1:]


def wordings_of(relation: str) -> tuple[str, ...]:
    """The wordings of a relation, each with one `{s}` and one `{a}`."""
    return _wordings()[relation]


@cache
def _wordings() -> dict[str, tuple[str, ...]]:
    return {name: tuple(values) for name, values in _toml("wordings.toml").items()}


@cache
def grammar() -> dict[str, Any]:
    """Scenes, context, mentions and words of `neutral.toml`."""
    return _toml("neutral.toml")


def _toml(name: str) -> dict[str, Any]:
    return tomllib.loads(resources.files(__package__).joinpath(name).read_text("utf-8"))
