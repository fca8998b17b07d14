"""The language of the grammar files, and what every grammar file must hold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from factlife.corpora.fictional import kinds
from factlife.corpora.fictional.draws import Draws
from factlife.corpora.fictional.kinds import NOT_FIRST, PER_GROUP, load
from factlife.corpora.fictional.passage import memorable
from factlife.corpora.fictional.template import Discourse, Entity, parse, realise, slots_of, tidy
from factlife.errors import IntegrityError

SHE = Entity("person", "Ada Torvek", "Torvek", "f")
FIRM = Entity("company", "Orvane Works", "Orvane Works")


def discourse(subject: Entity = FIRM, **values: Any) -> Discourse:
    return Discourse(subject, "the ", ("the firm",), values, Draws("t"))


# ---- the language ----------------------------------------------------------------------------


def test_a_person_is_named_in_full_once_and_by_surname_after() -> None:
    d = discourse(founder=SHE)
    text = realise("{founder} came. {founder} saw, and {founder.he} went with {founder.full}.", d)
    assert text == "Ada Torvek came. Torvek saw, and she went with Ada Torvek."


def test_a_choice_takes_one_branch_and_may_nest() -> None:
    seen = {realise("[a|b [c|d]|]", Discourse(FIRM, "", (), {}, Draws(i))) for i in range(50)}
    assert seen == {"a", "b c", "b d", ""}


def test_the_first_mention_is_a_name_and_s_is_never_one() -> None:
    assert realise("<S>", discourse()) == "the Orvane Works"
    d = discourse()
    realise("<S!> began. ", d)
    assert {realise("<s>", replace(d, draws=Draws(i))) for i in range(40)} == {"it", "the firm"}


def test_a_pronoun_stands_only_where_a_subject_stands() -> None:
    """After `of` a pronoun would be in the wrong case: `the house of she`."""
    for i in range(60):
        d = replace(discourse(SHE), article="", descriptions=("the poet",), draws=Draws(i))
        realise("<S!> came. ", d)
        assert realise("The house of <S>", d) in {"The house of the poet", "The house of Torvek"}


def test_no_pronoun_where_another_person_of_that_gender_was_named() -> None:
    for i in range(60):
        other = Entity("person", "Una Velk", "Velk", "f")
        d = replace(discourse(SHE, other=other), draws=Draws(i))
        realise("<S!> met {other}. ", d)
        assert realise("<S>", d) != "she"


def test_articles_capitals_and_spaces_are_settled() -> None:
    assert tidy("a(n) apple ,  a pear. it was a old one") == "An apple, a pear. It was an old one"


@pytest.mark.parametrize("broken", ["[a|b", "a]", "{no slot", "<S", "a|b"])
def test_a_template_that_cannot_be_read_is_refused(broken: str) -> None:
    with pytest.raises(IntegrityError, match="cannot read template"):
        parse(broken)


def test_a_slot_or_mention_that_does_not_exist_is_refused() -> None:
    with pytest.raises(IntegrityError, match="no slot 'x'"):
        realise("{x}", discourse())
    with pytest.raises(IntegrityError, match="unknown mention <X>"):
        realise("<X>", discourse())


def test_memorable_wordings_name_the_subject_before_the_object_in_one_sentence() -> None:
    assert memorable("company", "<S> was founded by {founder}.") == {"founder"}
    assert memorable("company", "{founder} founded <S>.") == frozenset()
    assert memorable("company", "<S> grew. It was founded by {founder}.") == frozenset()


# ---- the grammar files -----------------------------------------------------------------------


def test_there_are_twelve_kinds_in_multiples_of_four() -> None:
    assert len(PER_GROUP) == 12
    assert sum(PER_GROUP.values()) == 160
    assert all(n % 4 == 0 for n in PER_GROUP.values())


@pytest.mark.parametrize("name", PER_GROUP)
def test_every_kind_has_what_the_card_promises(name: str) -> None:
    kind = load(name)
    assert len(set(kind.skeletons)) >= 6
    assert 8 <= len(kind.facts) <= 14
    assert len(kind.semantic) >= 5
    assert len(kind.comps) >= 5
    assert len(kind.profiles) >= 6
    assert all(len(set(w)) >= 5 for w in kind.moves.values())
    assert all(len(set(w)) >= 3 for w in kind.semantic.values())


@pytest.mark.parametrize("name", PER_GROUP)
def test_every_skeleton_states_every_fact_and_can_open(name: str) -> None:
    kind = load(name)
    for skeleton in kind.skeletons:
        moves = [m for paragraph in skeleton for m in paragraph]
        assert len(set(moves)) == len(moves)
        assert set(moves) >= kind.moves.keys()
        assert all(len(paragraph) >= 2 for paragraph in skeleton)
        opening = kind.moves[moves[0]]
        assert sum(not w.startswith(NOT_FIRST) for w in opening) >= 4


@pytest.mark.parametrize("name", PER_GROUP)
def test_every_wording_of_a_move_says_the_same(name: str) -> None:
    """Only names that another move states in all its wordings may be left to a pronoun."""
    kind = load(name)
    objects = {o for _, _, o in kind.facts.values()} - {"S"}
    sure: set[str] = set()
    left_out: set[str] = set()
    for wordings in kind.moves.values():
        stated = [slots_of(parse(w.removeprefix(NOT_FIRST))) for w in wordings]
        sure |= set.intersection(*stated)
        left_out |= (set.union(*stated) - set.intersection(*stated)) & (objects | set(kind.notes))
    assert objects <= sure
    assert left_out <= objects


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"facts": {"x": ("S", "is", "nowhere")}}, "unknown slot 'nowhere'"),
        ({"semantic": {"nothing": ("a",)}}, "unknown fact 'nothing'"),
        ({"skeletons": ((("dance",),),)}, "unknown move 'dance'"),
        ({"moves": {"lead": ("{nobody} came.",)}}, "unknown"),
        ({"comps": ()}, "too few"),
        ({"profiles": ({"lead": "a clash"},)}, "'lead' is a slot and a move"),
    ],
)
def test_a_grammar_that_does_not_fit_together_is_refused(
    change: dict[str, Any], message: str
) -> None:
    with pytest.raises(IntegrityError, match=message):
        kinds._check(replace(load("film"), **change))


def test_a_compositional_probe_must_lead_to_its_target() -> None:
    kind = load("film")
    astray = replace(kind.comps[0], target="prize")
    with pytest.raises(IntegrityError, match="does not lead to 'prize'"):
        kinds._check(replace(kind, comps=(astray, *kind.comps[1:])))
