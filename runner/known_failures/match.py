"""Recognition of failures by what they left behind: the only place that searches for patterns."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from runner.host.compat import tomllib
from runner.known_failures.catalogue import DATA, Entry, load_catalogue
from runner.schemas.report import KnownFailure, StageRecord

# Stages besides a toolchain's own: what precedes the first one, and any stage at all, for a text
# of unknown origin.
SETUP = "setup"
ANYWHERE = "anywhere"
# Stands for all fixes where one fix is named.
ALL = "all"
# No more than this is searched: the end of a log, and both ends of a line, which say most.
_MOST_CHARACTERS = 64_000
_LONGEST_LINE = 1_000
_MOST_LINES_SHOWN = 8
# In a traceback, the quoted line of code follows such a line.
_FRAME = re.compile(r'\s+File ".*", line \d+')


@dataclass(frozen=True)
class Symptoms:
    """What a failure left behind: `text` is its message (and traceback), `log` the log's end.

    `image` is the environment that it happened in, if it is known.
    """

    text: str
    stage: str = SETUP
    log: str = ""
    exit_status: int | None = None
    verdict: str = ""
    image: str = ""


def recognise(symptoms: Symptoms) -> Entry | None:
    """Return the first entry of the catalogue that fits the message, or else the log, or None.

    A log mentions many things that did no harm, so it counts only if the message is unknown.
    """
    for text in (_bounded(symptoms.text), _bounded(symptoms.log)):
        for entry in load_catalogue():
            if _fits(entry, symptoms, text):
                return entry
    return None


def _fits(entry: Entry, symptoms: Symptoms, text: str) -> bool:
    anywhere = symptoms.stage == ANYWHERE
    if entry.stages and symptoms.stage not in entry.stages and not anywhere:
        return False
    if entry.images and symptoms.image and symptoms.image not in entry.images:
        return False
    if entry.exit_status and symptoms.exit_status not in entry.exit_status and not anywhere:
        return False
    if entry.verdict != symptoms.verdict:
        return False
    if entry.patterns and not any(_compile(p).search(text) for p in entry.patterns):
        return False
    return not entry.also or _compile(entry.also).search(text) is not None


def explain_stage(record: StageRecord, folder: Path, fixes: str = "all") -> None:
    """Add what is known of the failure to the record of a stage that failed, or whose check did.

    `folder` is the run folder, which holds the log; `fixes` is the option of that name. A remedy
    from the stage itself is kept, since the stage knows more. For an unknown failure, the log's
    last meaningful lines are kept instead.
    """
    check = record.report.check if record.report else None
    verdict = check.verdict if check and check.verdict in ("shape", "nonfinite") else ""
    if record.status != "failed" and not verdict:
        return
    log = read_tail(folder / record.log) if record.log else ""
    error = record.report.error if record.report else None
    entry = recognise(
        Symptoms(
            text="\n".join([record.failure, *(error.traceback if error else ())]),
            stage=record.name,
            log=log,
            exit_status=record.exit_status,
            image=record.environment.image if record.environment else "",
            verdict="" if record.status == "failed" else verdict,
        )
    )
    if entry is not None:
        record.known = make_known_failure(entry, fixes)
        record.remedy = record.remedy or record.known.remedy
    elif record.status == "failed" and not record.remedy:
        record.last_lines = [
            line for line in pick_meaningful_lines(log) if record.failure not in line
        ]


def make_known_failure(entry: Entry, fixes: str = "all") -> KnownFailure:
    """Convert an entry to its form in reports, whose remedy says what to do about a fix."""
    remedy = entry.remedy
    wanted = "all fixes" if entry.fix == ALL else f"the fix '{entry.fix}'"
    if entry.fix and not _is_on(entry.fix, fixes):
        remedy = f"Convert with {wanted} (--fixes all, the default). Else: {remedy}"
    elif entry.fix:
        remedy += f" Here {wanted} did not help."
    return KnownFailure(
        id=entry.id, cause=entry.cause, remedy=remedy, source=entry.source, fix=entry.fix
    )


def _is_on(fix: str, option: str) -> bool:
    """Tell whether `--fixes` selects this fix; see `stages.fixes.select`."""
    words = [word.strip() for word in option.split(",") if word.strip()]
    if fix == ALL:
        return words == [ALL]
    on = all(word.startswith("-") for word in words)
    for word in words:
        if word in (ALL, "none", fix, f"-{fix}"):
            on = word in (ALL, fix)
    return on


def pick_meaningful_lines(log: str) -> list[str]:
    """Return a log's last meaningful lines: no warnings, no progress, no TensorFlow chatter.

    At most 8 lines. Noise is what `data/noise/lines.toml` lists, and code in tracebacks.
    """
    noise = _load_noise()
    lines: list[str] = []
    quoted = False
    for line in _bounded(log).splitlines():
        code, quoted = quoted and line.startswith("    "), _FRAME.match(line) is not None
        if line.strip() and not code and not noise.search(line):
            lines.append(line.rstrip())
    return lines[-_MOST_LINES_SHOWN:]


def read_tail(path: Path) -> str:
    """Read as much of a log's end as is ever searched; return '' if there is no log."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _MOST_CHARACTERS))
            return file.read(_MOST_CHARACTERS).decode(errors="replace")
    except OSError:
        return ""


def read_stream_tail(stream: IO[bytes]) -> str:
    """Read a stream to its end, and return as much of that end as is ever searched."""
    kept = b""
    while block := stream.read(1 << 16):
        kept = (kept + block)[-_MOST_CHARACTERS:]
    return kept.decode(errors="replace")


def _bounded(text: str) -> str:
    """Return the text's last characters, in lines that are bounded too."""
    return "\n".join(map(_shorten, _split_lines(text[-_MOST_CHARACTERS:])))


def _split_lines(text: str) -> Iterable[str]:
    # Progress output overwrites its line with a carriage return.
    return re.split(r"[\r\n]+", text)


def _shorten(line: str) -> str:
    half = _LONGEST_LINE // 2
    return line if len(line) <= _LONGEST_LINE else f"{line[:half]} ... {line[-half:]}"


@functools.cache
def _compile(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.MULTILINE)


@functools.cache
def _load_noise() -> re.Pattern[str]:
    data = tomllib.loads((DATA / "noise" / "lines.toml").read_text())
    return re.compile("|".join(f"(?:{pattern})" for pattern in data["lines"]))
