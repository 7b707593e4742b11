"""Numbers, durations and sizes as text."""

from __future__ import annotations

import math


def format_number(value: float) -> str:
    """Return three significant digits, a number below a million without an exponent, or a dash for NaN.

    >>> format_number(0.97321), format_number(1735.4), format_number(float("nan"))
    ('0.973', '1735', '–')
    """
    if math.isnan(value):
        return "–"
    text = f"{value:#.3g}".rstrip(".")
    return f"{value:.0f}" if "e+" in text and abs(value) < 1e6 else text


def format_result(value: float) -> str:
    """Return four significant digits, and a number below a million without an exponent.

    >>> format_result(0.7), format_result(12345.6), format_result(1.5e-7)
    ('0.7', '12346', '1.5e-07')
    """
    text = f"{value:.4g}"
    return f"{value:.0f}" if "e+" in text and abs(value) < 1e6 else text


def format_change(value: float, signed: bool = False) -> str:
    """Return a difference with two significant digits, without an exponent where it has few digits.

    >>> format_change(-562.4), format_change(0.01234), format_change(0.01234, signed=True), format_change(1.2e-9)
    ('-560', '0.012', '+0.012', '1.2e-09')
    """
    text = f"{value:+.2g}" if signed else f"{value:.2g}"
    if "e+" in text and abs(value) < 1e6:
        text = f"{float(text):+.0f}" if signed else f"{float(text):.0f}"
    return text


def format_with_interval(value: float, low: float, high: float) -> str:
    """Return a value and its confidence interval, rounded to two significant digits of half the width.

    >>> format_with_interval(0.97321, 0.96701, 0.97941)
    '0.9732 ± 0.0062'
    >>> format_with_interval(0.97321, 0.9, 1.0)  # ends at the largest value of the metric
    '0.973 (0.900 to 1.000)'
    >>> format_with_interval(0.97321, float("nan"), float("nan"))
    '0.973'
    """
    if math.isnan(low):
        return format_number(value)
    half = max(value - low, high - value)
    decimals = min(max(1 - math.floor(math.log10(half)), 0), 6) if half > 0 else 4
    if math.isclose(value - low, high - value, rel_tol=1e-6, abs_tol=1e-12 * max(abs(value), 1.0)):
        return f"{value:.{decimals}f} ± {half:.{decimals}f}"
    return f"{value:.{decimals}f} ({low:.{decimals}f} to {high:.{decimals}f})"


def format_seconds(seconds: float) -> str:
    """Return a duration in s, ms or µs.

    >>> format_seconds(0.000321)
    '321 µs'
    """
    if math.isnan(seconds):
        return "–"
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def format_bytes(count: int) -> str:
    """Return a number of bytes in B, kB, MB or GB (1 kB = 1000 bytes).

    >>> format_bytes(123_456)
    '123 kB'
    """
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count} B"
