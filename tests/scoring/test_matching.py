"""Which generations begin with the answer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factlife.scoring.matching import begins_with_answer, normalise

EXACT = settings(derandomize=True, database=None, deadline=None, max_examples=200)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("  The United  Kingdom.\n", ["united", "kingdom"]),
        ("A tale of an end", ["tale", "of", "end"]),
        ("Washington, D.C.", ["washington", "dc"]),
        ("Port-au-Prince", ["port", "au", "prince"]),
        ("Port‑au–Prince", ["port", "au", "prince"]),  # non-breaking hyphen, en dash
        ("and/or_not", ["and", "or", "not"]),
        ("O’Brien's “book”", ["obriens", "book"]),
        ("ＴＯＫＹＯ\u00a0ﬁnds ①", ["tokyo", "finds", "1"]),  # full width, ligature, circled
        ("STRASSE Straße", ["strasse", "strasse"]),
        ("Sa\u0303o", ["são"]),  # a letter and its accent apart
        ("...!?", []),
        ("", []),
    ],
)
def test_words_by_hand(text: str, words: list[str]) -> None:
    assert normalise(text) == words


@pytest.mark.parametrize(
    ("generation", "answer"),
    [
        (" France", "France"),
        (" france, and its capital is Paris", "France"),
        ("\nFRANCE.", "France"),
        (" the United Kingdom of", "United Kingdom"),
        (" United Kingdom", "The United Kingdom"),
        (" Hague in", "The Hague"),
        (" Washington DC", "Washington, D.C."),
        (" Washington, D.C., the capital", "Washington DC"),
        (" Port au Prince", "Port-au-Prince"),
        (" Port-au-Prince", "Port au Prince"),
        (" Port—au—Prince", "Port-au-Prince"),
        (" São Paulo", "Sa\u0303o Paulo"),
        (" “Paris”", "Paris"),
        (" **Paris**", "Paris"),
        (" (Paris)", "Paris"),
        (" Paris.The city", "Paris"),
        (" Paris,France", "Paris"),
        (" Japan's capital", "Japan"),
        (" OBrien", "O'Brien"),
        (" ＦＲＡＮＣＥ", "France"),
    ],
)
def test_the_answer_is_found_however_it_is_written(generation: str, answer: str) -> None:
    assert begins_with_answer(generation, [answer])


@pytest.mark.parametrize(
    ("generation", "answer"),
    [
        (" Frances", "France"),
        (" Franc", "France"),
        (" in France", "France"),
        (" not France", "France"),
        (" New", "New York"),
        (" New Yorkers", "New York"),
        (" York New", "New York"),
        (" Sao Paulo", "São Paulo"),  # right only as an alias
        (" Côte", "Cote d'Ivoire"),
        ("", "France"),
        (" \n", "France"),
        (" the", "France"),
        ("...", "France"),
        (" 1999", "199"),
    ],
)
def test_what_is_not_the_answer_is_not_found(generation: str, answer: str) -> None:
    assert not begins_with_answer(generation, [answer])


def test_any_alias_counts_and_nothing_matches_no_answer() -> None:
    assert begins_with_answer(" Sao Paulo", ["São Paulo", "Sao Paulo"])
    assert begins_with_answer(" Holland", ["The Netherlands", "Holland"])
    assert not begins_with_answer(" Holland", [])


@pytest.mark.parametrize("empty", ["", " ", "the", "A", "...", "-"])
def test_an_answer_without_words_matches_nothing(empty: str) -> None:
    assert not begins_with_answer("", [empty])
    assert not begins_with_answer(" the end", [empty])


WORDS = st.lists(st.text(st.characters(categories=["Ll", "Lu", "Nd"]), min_size=1), min_size=1)


@EXACT
@given(WORDS, st.lists(st.sampled_from(["and", "then", "the"]), max_size=3), st.sampled_from(".,!"))
def test_an_answer_is_found_with_anything_after_its_last_word(
    words: list[str], more: list[str], mark: str
) -> None:
    answer = " ".join(words)
    found = begins_with_answer(f"\n {answer}{mark} {' '.join(more)}", [answer])
    assert found == bool(normalise(answer))


@EXACT
@given(st.lists(st.text("bcXY12éß", min_size=1), min_size=1))
def test_a_longer_last_word_is_another_word(words: list[str]) -> None:
    answer = " ".join(words)  # without an "a", so that no word is an article
    assert begins_with_answer(answer, [answer])
    assert not begins_with_answer(answer + "x", [answer])


@EXACT
@given(st.text(st.characters(exclude_categories=["Cs", "Mn", "Mc", "Me"]), max_size=30))
def test_normalising_twice_changes_nothing_more(text: str) -> None:
    once = normalise(text)
    assert normalise(" ".join(once)) == [w for w in once if w not in ("a", "an", "the")]
