"""A quick yes for JSON values that conform to a schema; no answer for all others.

A results folder of a thousand submissions is validated whenever a board is built. Nearly all of it
is valid, and walking a valid value needs none of the bookkeeping that a good error message needs.
So a value is looked at here first, and only what does not plainly conform goes to the validator.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

Check = Callable[[Any], bool]
_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,),
    "null": (type(None),), "object": (dict,), "array": (list,),
}  # fmt: skip
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
    return lambda value: all(check(value) for check in checks)


def _part(keyword: str, rule: Any, schema: Mapping[str, Any]) -> Check | None:
    match keyword:
        case "type":
            allowed = frozenset(
                t for name in ([rule] if isinstance(rule, str) else rule) for t in _TYPES[name]
            )
            return lambda v: type(v) in allowed
        case "const":
            return lambda v: type(v) is type(rule) and v == rule
        case "enum":
            return lambda v: isinstance(v, str) and v in rule
        case "required":
            return lambda v: v is None or all(name in v for name in rule)
        case "properties":
            return _properties(rule)
        case "additionalProperties":
            return _others(rule, frozenset(schema.get("properties", ())))
        case "items":
            item = quick_check(rule)
            return lambda v: v is None or all(map(item, v))
        case _:
            return _limit(keyword, rule)


def _properties(rules: Mapping[str, Any]) -> Check:
    checks = {name: quick_check(rule) for name, rule in rules.items()}
    return lambda v: v is None or all(checks[k](x) for k, x in v.items() if k in checks)


def _others(rule: Any, named: frozenset[str]) -> Check | None:
    """What properties without a name in the schema may be."""
    if rule is False:
        return lambda v: v is None or v.keys() <= named
    if not isinstance(rule, Mapping):
        return None
    check = quick_check(rule)
    return lambda v: v is None or all(check(x) for k, x in v.items() if k not in named)


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
