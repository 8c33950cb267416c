"""The words for toolchains and interpreters side by side, which terminal and page share."""

from __future__ import annotations

from collections.abc import Mapping

from runner.report.wording import Mark
from runner.schemas.benchmark import FileResult
from runner.schemas.latency import Latency

# What a toolchain costs against the recommended one; the words are joined by commas.
COSTS: Mapping[str, str] = {
    "same-numbers": "same numbers",
    "larger-error": "an error {times} times as large",
    "smaller-error": "an error {times} times smaller",
    "as-fast": "as fast",
    "slower": "{times} times as slow",
    "faster": "{times} times as fast",
    "not-timed": "not timed",
    "operators": "{count} operators in place of {best}",
    "flex": "{count} operators need Flex",
    "larger": "{times} times the size",
    "smaller": "{times} times smaller",
    "wrong-elsewhere": "computed wrongly by {runtimes}",
    "not-loaded-elsewhere": "not loaded by {runtimes}",
}
# What came of a toolchain; `why` is the reason in its own words.
OUTCOMES: Mapping[str, Mark] = {
    "passed": Mark("pass", "✓", "converted"),
    "out-of-tolerance": Mark("warn", "!", "out of tolerance"),
    "vacuous": Mark("warn", "?", "proves nothing"),
    "failed": Mark("fail", "✕", "failed"),
    "refused": Mark("idle", "–", "refused"),
    "interrupted": Mark("fail", "‖", "interrupted"),
    "not-run": Mark("idle", "–", "not run"),
}
# What an interpreter makes of a file.
CELLS: Mapping[str, Mark] = {
    "right": Mark("pass", "✓", "right"),
    "wrong": Mark("fail", "✕", "wrong"),
    "fails": Mark("warn", "!", "does not run"),
    "unknown": Mark("idle", "–", "not tried"),
}
VERDICTS: Mapping[str, str] = {
    "take": "Take {toolchain}: {why}.",
    "only": "{toolchain} is the only one that converts it within tolerance.",
    "none": "None converts it within tolerance.",
    "closest": "None converts it within tolerance; {toolchain} comes closest, with {error}.",
}
WARNINGS: Mapping[str, str] = {
    "wrong": (
        "{runtime} runs the file of {toolchain} without complaint and computes it wrongly: its "
        "error is {error} there, and {own} in {home}. Do not run it there."
    ),
    "useless": (
        "{runtime} runs the file of {toolchain} without complaint and computes it wrongly: {why} "
        "Do not run it there."
    ),
    "fails": "{runtime} does not run the file of {toolchain}: {why}",
}


def format_seconds(seconds: float) -> str:
    """Format a latency: `0.43 ms`, `12.1 ms`, `1.70 s`."""
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-4 else f"{seconds * 1e6:.3g} µs"


def format_spread(latency: Latency) -> str:
    """Format the quartiles of a latency: `0.41 to 0.46 ms`."""
    low, high = format_seconds(latency.low), format_seconds(latency.high)
    unit = f" {high.partition(' ')[2]}"
    return f"{low.removesuffix(unit)} to {high}"


def name_failure(result: FileResult) -> str:
    """Say why a file does not run, as a sentence."""
    said = result.failure.rstrip(".")
    return f"{said[:300]}."


def format_threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"
