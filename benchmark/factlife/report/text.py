"""How numbers are written on pages: one rule per unit, the same in reports and on the board."""

from __future__ import annotations

_SUFFIXES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"))
_THIN = "\u202f"  # narrow no-break space, between number and unit
_ARROWS = {
    "higher": "↑ higher is better",
    "lower": "↓ lower is better",
    "neither": "neither direction is better",
}


def si(value: float) -> str:
    """Three significant digits with K, M, B, T: 1234567 -> 1.23M."""
    rounded = float(f"{value:.3g}")
    for scale, suffix in _SUFFIXES:
        if abs(rounded) >= scale:
            return f"{rounded / scale:.3g}{suffix}"
    return f"{rounded:.3g}"


def compact(value: float) -> str:
    """Two significant digits, for axis labels that have little room: 38896 -> 39K."""
    return si(float(f"{value:.2g}"))


def _is_share(unit: str) -> bool:
    return unit.startswith(("share ", "mean share ", "probability"))


def _bare(value: float, unit: str) -> str:
    """A number in its unit's scale, without the sign of the unit."""
    if unit == "tokens":
        return si(value)
    if unit in ("steps", "people"):
        return f"{value:,.0f}"
    if _is_share(unit) or unit == "difference of shares":
        return f"{100 * value:.1f}"
    tiny = 0 < abs(value) < 0.01
    return f"{value:.2g}" if tiny else f"{value:.{3 if unit == 'AUROC' else 2}f}"


def _sign(unit: str) -> str:
    if _is_share(unit):
        return f"{_THIN}%"
    return f"{_THIN}pp" if unit == "difference of shares" else ""


def number(value: float, unit: str) -> str:
    """A value as shown: shares as per cent, differences of shares as percentage points."""
    return _minus(_bare(value, unit)) + _sign(unit)


def interval(low: float, high: float, unit: str, word: str = "to") -> str:
    """An interval as shown, `44.1 to 58.9 %`; words, because a dash reads as a minus."""
    return f"{_minus(_bare(low, unit))} {word} {_minus(_bare(high, unit))}{_sign(unit)}"


def _minus(text: str) -> str:
    if text.startswith("-") and not text.strip("-0."):
        return text[1:]  # -0.0
    return text.replace("-", "\u2212") if text.startswith("-") else text


def unit_word(unit: str) -> str:
    """The unit as written behind a large number; empty where the sign says it."""
    return unit if unit in ("tokens", "steps", "nats", "AUROC") else ""


def direction(name: str) -> str:
    """`higher` -> `↑ higher is better`."""
    return _ARROWS.get(name, name)


def tight(title: str) -> str:
    """A title whose number and per cent sign stay on one line."""
    return title.replace(" %", "\u00a0%")


def counted(n: int, noun: str, plural: str = "") -> str:
    """`1 checkpoint`, `13 checkpoints`."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def spaced(name: str) -> str:
    """A relation or template name for readers: underscores as blanks."""
    return name.replace("_", " ")


def prefix(digest: str | None) -> str:
    """The first 12 characters of a hash, or a dash."""
    return digest[:12] if digest else "–"
