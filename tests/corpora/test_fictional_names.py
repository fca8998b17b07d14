"""Generated names: one parse each, no repeats, no overlap between splits, nothing real."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factlife.corpora.fictional import names
from factlife.corpora.fictional.names import CLASSES, Names, cultures
from factlife.errors import UsageError

CASES = [(c, k) for c in cultures() for k in CLASSES]


def test_no_ending_is_the_tail_of_another_so_a_name_has_one_parse() -> None:
    endings = [e for c in cultures() for k in CLASSES for e in c.endings[k]]
    endings += [noun for c in cultures() for noun, _ in c.countries]
    assert len(set(endings)) == len(endings)
    # Sorted by their reversed letters, a tail stands right before what it is the tail of.
    assert not [(a, b) for a, b in pairwise(sorted(e[::-1] for e in endings)) if b.startswith(a)]


def test_medials_are_consonants_and_endings_start_with_a_vowel() -> None:
    for culture in cultures():
        vowels = set("".join(culture.vowels))  # y is one in some grammars and not in others
        assert all(e[0] in vowels for k in CLASSES for e in culture.endings[k])
        assert not any(letter in vowels for m in culture.medials for letter in m)
        for part in (culture.onsets, culture.vowels, culture.medials):
            assert len(set(part)) == len(part)


@given(st.integers(0, len(CASES) - 1), st.booleans(), st.data())
def test_different_numbers_give_different_names(case: int, long: bool, data: st.DataObject) -> None:
    culture, kind = CASES[case]
    top = culture.capacity(kind, long=long) - 1
    i, j = data.draw(st.integers(0, top)), data.draw(st.integers(0, top))
    assert (culture.root(kind, i, long=long) == culture.root(kind, j, long=long)) == (i == j)


def test_a_stream_never_repeats_and_splits_share_nothing_even_under_one_seed() -> None:
    streams = {split: Names("s", split) for split in names.PARTS}
    found = {
        split: [stream.root(c, k) for c, k in CASES for _ in range(60)]
        for split, stream in streams.items()
    }
    assert sum(map(len, found.values())) == 3 * 40 * 60
    assert len(set().union(*found.values())) == 3 * 40 * 60


def test_the_same_seed_gives_the_same_names_and_another_seed_others() -> None:
    def ten(seed: str) -> list[str]:
        stream = Names(seed, "public")
        return [stream.root(*CASES[1]) for _ in range(10)]

    assert ten("a") == ten("a")
    assert ten("a") != ten("b")


@pytest.mark.parametrize("name", ["London", "Londen", "Lodon", "Vladimir", "Dostoevski", "garden"])
def test_a_real_name_or_one_letter_beside_it_is_refused(name: str) -> None:
    assert names.is_real(name)
    assert not names.acceptable(name.lower())


def test_made_up_awkward_and_outsized_names_are_told_apart() -> None:
    assert names.acceptable("tarveskar")
    assert not names.is_real("tarveskar")
    assert not names.acceptable("lululemskar")  # a syllable said twice
    assert not names.acceptable("tar")
    assert not names.acceptable("tarveskartarveskar")


def test_the_list_of_real_names_is_of_reasonable_size() -> None:
    assert len(names.real_names()) > 3000


def test_an_unknown_split_and_an_empty_space_are_clear_errors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(UsageError, match="unknown split 'secret'"):
        Names("s", "secret")
    monkeypatch.setattr(names, "acceptable", lambda root: False)
    monkeypatch.setattr(names.Culture, "capacity", lambda self, kind, *, long: 50)
    with pytest.raises(UsageError, match="no harn surname names left"):
        Names("s", "public").root(*CASES[0])
