"""How figures are written on a page: few digits, the unit beside them, and no surprises."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, Context

from runner.host.files import format_bytes
from runner.host.text import make_printable as _printable

# No-break spaces, so that a figure and its unit stay on one line.
SPACE = "\N{NO-BREAK SPACE}"
NONE = "\N{EN DASH}"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

_METRICS = {
    "mean": "mean",
    "max": "largest",
    "p99": "99th percentile of the",
    "rms": "root mean square",
}
_UPWARDS = Context(prec=2, rounding=ROUND_CEILING)
_KINDS = {"abs": "absolute error", "rel": "relative error"}


def scientific(value: float | None, digits: int = 3) -> str:
    """Format an error, of whatever order of magnitude: `1.26×10⁻⁷`, or `0.0251`."""
    if value is None:
        return NONE
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    if 0.01 <= abs(value) < 999.5:
        return f"{value:#.{digits}g}".rstrip(".").replace("-", "−")
    mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
    return f"{mantissa}×{power_of_ten(int(exponent))}".replace("-", "−")


def tolerance(value: float) -> str:
    """Format a tolerance as it was asked for: 10⁻⁶ and not 1.00×10⁻⁶."""
    if not (math.isfinite(value) and value > 0):
        return scientific(value)
    if 0.01 <= value < 1000:
        return f"{value:g}"
    mantissa, _, exponent = f"{value:e}".partition("e")
    mantissa = mantissa.rstrip("0").rstrip(".")
    power = power_of_ten(int(exponent))
    return power if mantissa == "1" else f"{mantissa}×{power}"


def round_up(value: float) -> str:
    """Format a tolerance that the value fits into: two digits, never below the value."""
    if not (math.isfinite(value) and value > 0):
        return scientific(value)
    return tolerance(float(_UPWARDS.create_decimal_from_float(value)))


def power_of_ten(exponent: int) -> str:
    if exponent in (0, 1):
        return str(10**exponent)
    return "10" + str(exponent).translate(_SUPERSCRIPTS)


def number(value: float | None) -> str:
    """Format three digits, plain where that is short: `0.0914`, `1.13`, `3.1×10⁶`."""
    if value is None or not math.isfinite(value) or value == 0:
        return scientific(value)
    if 1e-3 <= abs(value) < 1e5:
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}".replace("-", "−")
    return scientific(value)


def count(value: int) -> str:
    """Format a count: `7,549`."""
    return f"{value:,}"


def percent(part: float, whole: float) -> str:
    """Format a share; only nothing at all is 0 %, and only all of it is 100 %."""
    if not whole or not math.isfinite(part / whole):
        return NONE
    share = 100 * part / whole
    if share == 0 or share == 100:
        return f"{share:.0f}{SPACE}%"
    if share < 0.1:
        return f"<{SPACE}0.1{SPACE}%"
    if share > 99.9:
        return f">{SPACE}99.9{SPACE}%"
    return f"{share:.0f}{SPACE}%" if 10 <= share < 99.5 else f"{share:.1f}{SPACE}%"


def duration(seconds: float) -> str:
    """Format a duration: `0.45 s`, `9.4 s`, `2 min 5 s`, `1 h 12 min`."""
    if not math.isfinite(seconds) or seconds < 0:
        return NONE
    if seconds < 1:
        return f"{seconds:.2f}{SPACE}s"
    if seconds < 59.95:
        return f"{seconds:.1f}{SPACE}s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}{SPACE}min {whole % 60}{SPACE}s"
    return f"{whole // 3600}{SPACE}h {whole % 3600 // 60}{SPACE}min"


def latency(seconds: float) -> str:
    """Format the seconds of one run of a model: `0.213 ms`, `45.1 ms`, `1.23 s`."""
    if not math.isfinite(seconds) or seconds < 0:
        return NONE
    if seconds >= 1:
        return duration(seconds)
    milliseconds = 1000 * seconds
    return f"{milliseconds:.3f}{SPACE}ms" if milliseconds < 1 else f"{milliseconds:.3g}{SPACE}ms"


def size(value: int) -> str:
    return format_bytes(value).replace(" ", SPACE)


def times(value: float | None) -> str:
    """Format a factor without meaningless digits: `1.4 times`."""
    if value is None or not math.isfinite(value):
        return NONE
    if 0 < value < 0.05:
        return f"<{SPACE}0.1{SPACE}times"
    shown = f"{value:.1f}" if value < 10 else f"{value:,.0f}" if value < 1e6 else number(value)
    return f"{shown}{SPACE}times"


def multiple(value: float | None) -> str:
    """Format a factor for a column of its own: `1.4×`."""
    return times(value).replace(f"{SPACE}times", "×")


def ratio(part: float, whole: float) -> str:
    """Format a ratio with three digits: `0.646`, `1.04`, `46.1`."""
    return number(part / whole) if whole else NONE


def shape(dimensions: list[int] | None) -> str:
    """Format a shape: `1×3×224×224`, or `scalar` if there are no dimensions."""
    if dimensions is None:
        return NONE
    shown = "×".join(map(str, dimensions[:8])) or "scalar"
    return shown + ("×…" if len(dimensions) > 8 else "")


def metric(name: str) -> str:
    """Spell out a metric such as `mean_abs` in words."""
    what, _, kind = name.partition("_")
    if what in _METRICS and kind in _KINDS:
        return f"{_METRICS[what]} {_KINDS[kind]}"
    return clip(name, 40)


def clip(text: str, length: int = 120) -> str:
    """Cut text from a stage or a file to one bounded line without control characters."""
    text = printable(" ".join(text[: 4 * length].split()))
    return text if len(text) <= length else text[: length - 1] + "…"


def printable(text: str) -> str:
    """Remove control characters from text, but keep no-break spaces."""
    return SPACE.join(_printable(part) for part in text.split(SPACE))


def excerpt(text: str, length: int = 6000) -> str:
    """Return the end of a longer text, with its lines and a mark where it was cut."""
    text = printable(text.strip("\n"))
    return text if len(text) <= length else "…\n" + text[-length:].partition("\n")[2]
