"""What each flag means, and the three flags that a rule derives from subject and answer."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

STEM_LETTERS = 4

FLAGS: Mapping[str, str] = {
    "answer_in_subject": "The answer's words stand inside the subject, so that copying scores.",
    "answer_shares_stem": (
        f"A word of the answer and a word of the subject begin with the same {STEM_LETTERS} "
        "letters, accents and case aside, with the vowels or without them. "
        "Rows with `answer_in_subject` are left out."
    ),
    "multiword_answer": "The answer has more than one word.",
    "time_bound": (
        "The right answer depends on the date: it is about an office or a career, or the same "
        "question had another answer at some time since 1950, or the organisation is gone. "
        "Set where sure, not everywhere it may apply. Every row with `valid_from` or `valid_to` "
        "carries this flag, and no other row does."
    ),
    "ambiguous_answer": "The answer also names another well-known place.",
    "ambiguous_subject": "The subject also names another thing for which the answer is wrong.",
    "contested_origin": "Other countries have a claim to the dish, or part in its history.",
    "contested_status": "What the statement says about a territory is politically disputed.",
    "de_facto": "No law of the country names the language as official; usage does.",
    "defunct_subject": "The organisation no longer exists.",
    "imprecise": "Often said, but not exactly true; `note` says what is.",
    "kind_mismatch": "The subject is not of the kind that the relation's name says.",
    "one_of_several": "The country has more than one official language.",
    "renamed_subject": "The organisation goes on under another name.",
}

DERIVED = ("answer_in_subject", "answer_shares_stem", "multiword_answer")


def derived_flags(subject: str, answer: str) -> tuple[str, ...]:
    """Flags that follow from the two strings alone, in alphabetical order."""
    flags = []
    if _contains(_words(subject), _words(answer)):
        flags.append("answer_in_subject")
    elif _share_stem(_words(subject), _words(answer)):
        flags.append("answer_shares_stem")
    if len(answer.split()) > 1:
        flags.append("multiword_answer")
    return tuple(flags)


def _words(text: str) -> list[str]:
    decomposed = unicodedata.normalize("NFKD", text)
    plain = "".join(c for c in decomposed if not unicodedata.combining(c))
    return re.findall(r"\w+", plain.casefold())


def _contains(whole: list[str], part: list[str]) -> bool:
    starts = range(len(whole) - len(part) + 1)
    return any(whole[i : i + len(part)] == part for i in starts)


def _share_stem(left: list[str], right: list[str]) -> bool:
    return any(stem in _stems(right) for stem in _stems(left))


def _stems(words: list[str]) -> set[str]:
    # Without vowels too: France and French part at the third letter, their consonants do not.
    forms = [form for word in words for form in (word, re.sub("[aeiou]", "", word))]
    return {form[:STEM_LETTERS] for form in forms if len(form) >= STEM_LETTERS}
