"""The small language the grammar files are written in, and how a text is realised from it.

{slot}            value of a slot; a person's full name first, the surname afterwards
{slot.full}       a person's full name; also .last, .he, .him, .his
<S> <S's>         the passage's subject: name, description or pronoun, as the discourse allows
<S!> <S!'s>       the subject by name
<s> <s's>         the subject, never by name
<it> <its> <him>  always a pronoun of the subject
[a|b|c]           one of these, by the text's own draws; may nest; [x|] is optional
a(n)              `a` or `an`, by the word that follows
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from factlife.corpora.fictional.draws import Draws
from factlife.errors import IntegrityError

PRONOUNS = {
    "": {"he": "it", "him": "it", "his": "its"},
    "f": {"he": "she", "him": "her", "his": "her"},
    "m": {"he": "he", "him": "him", "his": "his"},
}


@dataclass(frozen=True)
class Entity:
    """Something with a name.

    Attributes:
        kind: its type, such as `person` or `settlement`.
        name: the name in full, as it stands in a text.
        short: the form used after the first mention; equal to `name` where there is none.
        gender: `f`, `m`, or empty for things.
    """

    kind: str
    name: str
    short: str
    gender: str = ""

    @property
    def aliases(self) -> tuple[str, ...]:
        """Every form of the name, the full one first."""
        return (self.name,) if self.short == self.name else (self.name, self.short)

    def form(self, which: str) -> str:
        """A grammatical form: full, last, he, him or his."""
        if which in PRONOUNS[self.gender]:
            return PRONOUNS[self.gender][which]
        return self.name if which == "full" else self.short


Value = Entity | str

# Where a free mention stands as a grammatical subject, so that `he`, `she` or `it` is right.
_SUBJECT_POSITION = re.compile(
    r"(^|[.,;:]|[0-9]{4}|\b(when|where|which|that|until|before|after|as|since|and|once|because))\s*$"
)


@dataclass(frozen=True)
class Node:
    """One piece of a parsed template; `parts` are the branches of a choice."""

    kind: str
    text: str = ""
    form: str = ""
    parts: tuple[tuple[Node, ...], ...] = ()


_TOKEN = re.compile(r"\{([a-zA-Z_]\w*)(?:\.(\w+))?\}|<([^<>]+)>|([\[\]|])|([^\[\]|{}<>]+)")


@cache
def parse(template: str) -> tuple[Node, ...]:
    """Parse a template.

    Raises:
        IntegrityError: brackets that do not match, or a character the language has no use for.
    """
    stack: list[list[list[Node]]] = [[[]]]
    at = 0
    for token in _TOKEN.finditer(template):
        if token.start() != at:
            break
        slot, form, mention, mark, text = token.groups()
        if mark == "[":
            stack.append([[]])
        elif mark == "|" and len(stack) > 1:
            stack[-1].append([])
        elif mark == "]" and len(stack) > 1:
            branches = tuple(tuple(b) for b in stack.pop())
            stack[-1][-1].append(Node("choice", parts=branches))
        elif slot:
            stack[-1][-1].append(Node("slot", slot, form or ""))
        elif mention:
            stack[-1][-1].append(Node("mention", mention))
        elif text:
            stack[-1][-1].append(Node("text", text))
        else:
            break
        at = token.end()
    if at != len(template) or len(stack) != 1:
        raise IntegrityError(
            f"grammar: cannot read template at {template[at : at + 30]!r}: {template[:60]!r}"
        )
    return tuple(stack[0][0])


def slots_of(nodes: tuple[Node, ...]) -> set[str]:
    """Names of all slots in a parsed template, in whatever branch."""
    own = {n.text for n in nodes if n.kind == "slot"}
    return own.union(*(slots_of(b) for n in nodes for b in n.parts))


@dataclass
class Discourse:
    """What the text so far allows the next mention to be.

    Attributes:
        article: article before the subject's name, `"the "` or empty.
        descriptions: noun phrases that can stand for the subject, such as `the company`.
        name_first: chance in 100 that a free mention is a name, where a pronoun would do too.
    """

    subject: Entity
    article: str
    descriptions: tuple[str, ...]
    values: Mapping[str, Value]
    draws: Draws
    name_first: int = 40
    introduced: set[str] = field(default_factory=set)
    opened: bool = False
    paragraph_start: bool = True
    topic_before: bool = False
    topic_now: bool = False
    genders_before: set[str] = field(default_factory=set)
    genders_now: set[str] = field(default_factory=set)
    pronouns_run: int = 0
    tail: str = ""

    def end_sentence(self) -> None:
        """Note that a sentence ended: pronouns may refer back to it."""
        self.topic_before, self.topic_now = self.topic_now, False
        self.genders_before, self.genders_now = self.genders_now, set()
        self.paragraph_start = False

    def start_wording(self) -> None:
        """Note that the next words open a sentence."""
        self.tail = ""

    def end_paragraph(self) -> None:
        """Note that a paragraph ended: the next mention names the subject again."""
        self.paragraph_start, self.topic_before, self.pronouns_run = True, False, 0

    def _pronoun_is_clear(self) -> bool:
        rivals = self.genders_before | self.genders_now
        clear = not self.subject.gender or self.subject.gender not in rivals
        if _SUBJECT_POSITION.search(self.tail) is None:
            return False
        return self.topic_before and clear and self.pronouns_run < 2 and not self.paragraph_start

    def mention(self, tag: str) -> str:
        """Realise one mention tag and update the discourse."""
        if tag == "S_bare":
            self.topic_now = self.opened = True
            return self.subject.name
        if tag in ("it", "its", "him"):
            self.topic_now = True
            return PRONOUNS[self.subject.gender][{"it": "he", "its": "his", "him": "him"}[tag]]
        possessive = tag.endswith("'s")
        base = tag.removesuffix("'s")
        choice = self._choose(base)
        self.pronouns_run = self.pronouns_run + 1 if choice == "pronoun" else 0
        self.topic_now = True
        if choice == "pronoun":
            return PRONOUNS[self.subject.gender]["his" if possessive else "he"]
        text = self._noun(choice)
        self.opened = self.opened or choice == "name"
        return _possessive(text) if possessive else text

    def _choose(self, base: str) -> str:
        if base == "S!" or (base == "S" and not self.opened):
            return "name"
        if base not in ("S", "s"):
            raise IntegrityError(f"grammar: unknown mention <{base}>")
        if self._pronoun_is_clear():
            if base == "S" and self.draws.percent(self.name_first):
                return "name"
            return "pronoun" if self.draws.percent(60) else "description"
        if base == "s":
            return "description"
        return "name" if self.draws.percent(max(self.name_first, 55)) else "description"

    def _noun(self, choice: str) -> str:
        if choice == "description" and self.descriptions:
            return self.draws.pick(self.descriptions)
        name = self.subject.short if self.opened else self.subject.name
        return self.article + name

    def slot(self, name: str, form: str) -> str:
        """Realise a slot and note whom it named."""
        if name not in self.values:
            raise IntegrityError(f"grammar: no slot {name!r} for a {self.subject.kind}")
        value = self.values[name]
        if isinstance(value, str):
            return realise(value, self)
        if value.gender:
            self.genders_now.add(value.gender)
        if not form:
            form = "last" if name in self.introduced else "full"
        if form == "full":
            self.introduced.add(name)
        return value.form(form)


def _possessive(noun: str) -> str:
    return noun + ("'" if noun.endswith("s") else "'s")


def realise(template: str, discourse: Discourse) -> str:
    """Turn a template into words, left to right, updating the discourse."""
    return _realise(parse(template), discourse)


def _realise(nodes: tuple[Node, ...], discourse: Discourse) -> str:
    out: list[str] = []
    for node in nodes:
        if node.kind == "text":
            for _ in range(node.text.count(". ")):
                discourse.end_sentence()
            piece = node.text
        elif node.kind == "slot":
            piece = discourse.slot(node.text, node.form)
        elif node.kind == "mention":
            piece = discourse.mention(node.text)
        else:
            piece = _realise(discourse.draws.pick(node.parts), discourse)
        out.append(piece)
        discourse.tail = (discourse.tail + piece)[-24:]
    return "".join(out)


_ARTICLE = re.compile(r"\b([aA])(?:\(n\))? (?!one\b|once\b)(\w)")
_SPACES = re.compile(r" {2,}")
_BEFORE_MARK = re.compile(r" +([,.;:])")
_SENTENCE_START = re.compile(r"(^|[.!?] )([a-z])")


def tidy(text: str) -> str:
    """Settle articles, spaces and capitals of realised text."""
    text = _BEFORE_MARK.sub(r"\1", _SPACES.sub(" ", text)).strip()
    text = _ARTICLE.sub(lambda m: m[1] + ("n " if m[2].lower() in "aeio" else " ") + m[2], text)
    return _SENTENCE_START.sub(lambda m: m[1] + m[2].upper(), text)
