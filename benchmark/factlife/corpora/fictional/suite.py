"""What each table must hold to, as Great Expectations suites; `lint.py` has the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from factlife.corpora.expectations import Expectation
from factlife.corpora.fictional.kinds import PER_GROUP
from factlife.corpora.fictional.lint import DEPTHS, FACTS, WORDS
from factlife.corpora.fictional.tables import BACKGROUND, PASSAGES, PROBES
from factlife.corpora.fictional.world import BLOCKS
from factlife.schema import Table

_UNTIDY = r"^$|^\s|\s$"
_PASSAGE_ID = r"^fk-[a-z]+-[0-9]{5,}$"


def _expect(kind: str, why: str, **kwargs: object) -> Expectation:
    return Expectation(f"expect_{kind}", kwargs, why)


def _table(table: Table, rows: int) -> Iterator[Expectation]:
    columns = [c.name for c in table.columns]
    yield _expect(
        "table_columns_to_match_ordered_list",
        "the columns are the published ones, in the published order",
        column_list=columns,
    )
    yield _expect("table_row_count_to_equal", "no row is lost or added", value=rows)
    yield _expect("column_values_to_be_unique", "names one row", column=table.key[0])
    for column in columns:
        yield _expect("column_values_to_not_be_null", "always known", column=column)


def _matches(column: str, regex: str, why: str) -> Expectation:
    return _expect("column_values_to_match_regex", why, column=column, regex=regex)


def _tidy(column: str) -> Expectation:
    why = "not empty, no space at either end"
    return _expect("column_values_to_not_match_regex", why, column=column, regex=_UNTIDY)


def _one_of(column: str, values: list[str], why: str) -> Expectation:
    return _expect("column_values_to_be_in_set", why, column=column, value_set=values)


def _between(column: str, low: int, high: int, why: str) -> Expectation:
    return _expect("column_values_to_be_between", why, column=column, min_value=low, max_value=high)


def suites(n_passages: int, n_articles: int) -> Mapping[str, tuple[Expectation, ...]]:
    """The suites of a split of so many passages, with so many background articles beside it."""
    return {
        "passages": (
            *_table(PASSAGES, n_passages),
            _matches("passage_id", _PASSAGE_ID, "ids are plain"),
            _one_of("kind", list(PER_GROUP), "one of the twelve kinds"),
            _one_of("block", list(BLOCKS), "one of the four blocks"),
            _expect("column_values_to_be_unique", "one passage a subject", column="subject"),
            _tidy("subject"),
            _tidy("text"),
            _expect("column_values_to_be_unique", "no passage is there twice", column="text"),
            _between("n_words", *WORDS, "150 to 350 words"),
        ),
        "probes": (
            *_table(PROBES, 15 * n_passages),
            _matches("probe_id", _PASSAGE_ID[:-1] + r"\.(?:mem|sem|com)[0-4]$", "ids are plain"),
            _matches("passage_id", _PASSAGE_ID, "ids are plain"),
            _one_of("depth", list(DEPTHS), "one of the three depths"),
            _tidy("prefix"),
            _tidy("target"),
            _matches("target", r"[A-Za-z0-9]$", "no punctuation at the end of a target"),
            _between("hops", 1, FACTS[1], "at least one fact, at most all"),
        ),
        "background": (
            *_table(BACKGROUND, n_articles),
            _matches("doc_id", r"^fk-background-[0-9]{6,}$", "ids are plain"),
            _tidy("text"),
            _expect("column_values_to_be_unique", "no article is there twice", column="text"),
        ),
    }
