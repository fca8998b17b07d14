"""A quick yes for JSON values that conform to a schema; no answer for all others.

A results folder of a thousand submissions is validated whenever a board is built. Nearly all of it
is valid, and walking a valid value needs none of the bookkeeping that a good error message needs.
So a value is looked at here first, and only what does not plainly conform goes to the validator.
Numbers that JSON has no sign for, or that need more than 64 bits, never conform; nor do texts that
cannot be written, or that would not show what they say.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

Check = Callable[[Any], bool]
_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,),
    "null": (type(None),), "object": (dict,), "array": (list,),
}  # fmt: skip
LONGEST = 20_000  # characters of one text
# Half a character, control characters but tab and newline, and signs that turn the text around.
_UNFIT = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
_NOTES = frozenset({"$schema", "title", "description"})


def quick_check(schema: Mapping[str, Any]) -> Check:
    """A function that is True only of values that are valid by this JSON Schema.

    False says nothing: the value may be valid too (a whole number written as 1.0, say). A keyword
    that is not known here makes the function always False.
    """
    parts = [_part(k, v, schema) for k, v in schema.items() if k not in _NOTES]
    if None in parts:
        return lambda _: False
    checks = [p for p in parts if p is not None]
    if schema.keys() & {"type", "const", "enum"} and not _open(schema):
        return _all(checks)
    return _all([*checks, usable])


def _open(schema: Mapping[str, Any]) -> bool:
    """Whether the schema leaves anything below a value without a schema of its own."""
    types = schema.get("type", ())
    names = {types} if isinstance(types, str) else set(types)
    free_object = "object" in names and "additionalProperties" not in schema
    return free_object or ("array" in names and "items" not in schema)


def _all(checks: list[Check]) -> Check:
    if len(checks) == 1:
        return checks[0]

    def check(value: Any) -> bool:
        for one in checks:  # noqa: SIM110 (a generator would take twice as long)
            if not one(value):
                return False
        return True

    return check


def fit_text(text: str) -> bool:
    """Whether a text can be written as UTF-8, shows what it says, and is not absurdly long."""
    if len(text) > LONGEST:
        return False
    return (text.isascii() and text.isprintable()) or _UNFIT.search(text) is None


def usable(value: Any) -> bool:
    """Whether all numbers in a parsed JSON value can be used, and all texts, keys included."""
    if isinstance(value, str):
        return fit_text(value)
    if isinstance(value, dict):
        return all(map(fit_text, value)) and all(map(usable, value.values()))
    if isinstance(value, list):
        return all(map(usable, value))
    return _usable_number(value) if isinstance(value, int | float) else True


def _usable_number(value: Any) -> bool:
    return math.isfinite(value) if type(value) is float else -(2**63) <= value < 2**63


def _part(keyword: str, rule: Any, schema: Mapping[str, Any]) -> Check | None:
    match keyword:
        case "type":
            return _typed([rule] if isinstance(rule, str) else rule)
        case "const":
            return lambda v: type(v) is type(rule) and v == rule
        case "enum":
            return lambda v: isinstance(v, str) and v in rule
        case "required":
            needed = frozenset(rule)
            return lambda v: v is None or needed <= v.keys()
        case "properties":
            return _properties(rule)
        case "additionalProperties":
            return _others(rule, frozenset(schema.get("properties", ())))
        case "items":
            item = quick_check(rule)
            return lambda v: v is None or all(map(item, v))
        case _:
            return _limit(keyword, rule)


def _typed(names: list[str]) -> Check:
    allowed = frozenset(t for name in names for t in _TYPES[name])
    if allowed & {int, float}:
        return lambda v: type(v) in allowed and (type(v) not in (int, float) or _usable_number(v))
    if str in allowed:
        return lambda v: type(v) in allowed and (type(v) is not str or fit_text(v))
    return lambda v: type(v) in allowed


def _properties(rules: Mapping[str, Any]) -> Check:
    checks = {name: quick_check(rule) for name, rule in rules.items()}

    def check(value: Any) -> bool:
        if value is None:
            return True
        for k, x in value.items():
            one = checks.get(k)
            if one is not None and not one(x):
                return False
        return True

    return check


def _others(rule: Any, named: frozenset[str]) -> Check | None:
    """What properties without a name in the schema may be."""
    if rule is False:
        return lambda v: v is None or v.keys() <= named
    if not isinstance(rule, Mapping):
        return None
    check = quick_check(rule)
    if not named:
        return lambda v: v is None or (all(map(fit_text, v)) and all(map(check, v.values())))
    return lambda v: (
        v is None or all(fit_text(k) and check(x) for k, x in v.items() if k not in named)
    )


def _limit(keyword: str, rule: Any) -> Check | None:
    """Limits; null passes, because its type was looked at before."""
    match keyword:
        case "minimum":
            return lambda v: v is None or v >= rule
        case "minLength" | "minProperties" | "minItems":
            return lambda v: v is None or len(v) >= rule
        case "maxLength" | "maxProperties" | "maxItems":
            return lambda v: v is None or len(v) <= rule
        case "pattern":
            found = re.compile(rule).search
            return lambda v: v is None or found(v) is not None
        case _:
            return None
