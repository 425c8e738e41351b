"""How figures, times and sizes are written for people. What isn't known is an em dash."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

UNKNOWN = "—"


def known(value: float | None) -> bool:
    """Whether `value` is a finite number."""
    return value is not None and math.isfinite(value)


def figure(value: float | None) -> str:
    """A figure between 0 and 1, such as an AUC or a score."""
    return f"{value:.4f}" if value is not None and known(value) else UNKNOWN


def signed(value: float | None) -> str:
    """A difference of figures, always with its sign."""
    return f"{value:+.4f}".replace("-", "−") if value is not None and known(value) else UNKNOWN


def squared_error(value: float | None) -> str:
    """A mean squared error: four digits, thousands separated."""
    if value is None or not known(value):
        return UNKNOWN
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.4g}".rstrip(".")


def share(value: float | None) -> str:
    """A part of one as per cent, three digits."""
    return f"{100 * value:#.3g}".rstrip(".") + " %" if value is not None and known(value) else UNKNOWN


def count(value: int | None) -> str:
    return UNKNOWN if value is None else f"{value:,}"


def counted(number: int, noun: str) -> str:
    """Such as "1 span", "2 spans"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def duration(seconds: float | None) -> str:
    if seconds is None or not known(seconds):
        return UNKNOWN
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def memory(megabytes: float | None) -> str:
    return f"{megabytes:,.0f} MB" if megabytes is not None and known(megabytes) else UNKNOWN


def period(begin_ms: int, end_ms: int) -> str:
    """From when to when, UTC; the date of the end only where it differs."""
    begin, end = (datetime.fromtimestamp(ms / 1000, UTC) for ms in (begin_ms, end_ms))
    same_day = begin.date() == end.date()
    return f"{begin:%Y-%m-%d %H:%M} – {end:{'%H:%M' if same_day else '%Y-%m-%d %H:%M'}} UTC"


def verdict(difference: Mapping[str, Any] | None) -> str:
    """What an interval {"value", "low", "high"} of a difference proves: "better", "worse", "open", or an em dash."""
    if not difference or not (known(difference["low"]) and known(difference["high"])):
        return UNKNOWN
    if difference["low"] > 0:
        return "better"
    return "worse" if difference["high"] < 0 else "open"
