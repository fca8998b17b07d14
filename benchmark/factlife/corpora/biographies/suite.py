"""What each table must hold to, as Great Expectations suites; `rules.py` has the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from factlife.corpora.biographies.rules import ATTRIBUTES as NAMES
from factlife.corpora.biographies.rules import N_TEMPLATES
from factlife.corpora.biographies.tables import ATTRIBUTES, PEOPLE, TEMPLATES, UNSEEN
from factlife.corpora.expectations import Expectation
from factlife.schema import Table

_NAME = r"^[A-Z][a-z]+ [A-Z][a-z]+ [A-Z][a-z]+$"
_VALUE = r"^[A-Za-z0-9]+(?: [A-Za-z0-9]+)*$"
_DATE = (
    r"^(?:[1-9]|[12][0-9]|3[01]) (?:January|February|March|April|May|June|July|August|September|"
    r"October|November|December) (?:19|20)[0-9]{2}$"
)
_TEMPLATE_ID = rf"^(?:{'|'.join(NAMES)})\.(?:[01][0-9]|2[0-4])$"


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
    yield _unique(table.key[0], "names one row")
    for column in columns:
        yield _expect("column_values_to_not_be_null", "always known", column=column)


def _unique(column: str, why: str) -> Expectation:
    return _expect("column_values_to_be_unique", why, column=column)


def _matches(column: str, regex: str, why: str) -> Expectation:
    # `$` alone lets a last line break through.
    tight = f"{regex}(?!\\n)"
    return _expect("column_values_to_match_regex", why, column=column, regex=tight)


def _one_of(column: str, values: tuple[str, ...], why: str) -> Expectation:
    return _expect("column_values_to_be_in_set", why, column=column, value_set=list(values))


def _between(column: str, low: float, high: float, why: str) -> Expectation:
    return _expect("column_values_to_be_between", why, column=column, min_value=low, max_value=high)


def _person(table: Table, first: int, count: int) -> Iterator[Expectation]:
    yield from _table(table, count)
    yield _between("person_id", first, first + count - 1, "ids count through the group")
    yield _unique("full_name", "no two people share a full name")
    yield _matches("full_name", _NAME, "three words of letters")
    for name in NAMES:
        yield _matches(name, _DATE if name == "birth_date" else _VALUE, "words of letters, digits")


def suites(n_people: int, n_unseen: int) -> Mapping[str, tuple[Expectation, ...]]:
    """The suites of a data set of so many known people and so many held-out ones."""
    return {
        "people": (
            *_person(PEOPLE, 0, n_people),
            _unique("biography", "no text is there twice"),
            _matches("biography", r"^[A-Z][A-Za-z0-9 .]* \.$", "words, spaces and full stops"),
        ),
        "attributes": (
            *_table(ATTRIBUTES, len(NAMES)),
            _one_of("attribute", NAMES, "one of the six attributes"),
            _matches("label", r"^[a-z]+(?: [a-z]+)?$", "one or two words"),
            _between("n_values", 100, 200 * 12 * 31, "the published sizes"),
            _between("no_knowledge_nats", 4.6, 11.3, "ln K of the published sizes"),
        ),
        "templates": (
            *_table(TEMPLATES, N_TEMPLATES * len(NAMES)),
            _matches("template_id", _TEMPLATE_ID, "ids are plain"),
            _one_of("attribute", NAMES, "one of the six attributes"),
            _unique("text", "no sentence is there twice"),
            _matches("text", r"^[^{}]*\{name\}[^{}]*\{value\} \.$", "name first, value last"),
        ),
        "unseen": tuple(_person(UNSEEN, n_people, n_unseen)),
    }
