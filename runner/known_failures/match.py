"""Recognising a failure by what it left behind: the one place where patterns meet texts."""

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

# Stages beside those of a toolchain: what comes before the first, and any at all, for a text of
# which nothing else is known.
SETUP = "setup"
ANYWHERE = "anywhere"
# In place of a fix's name: all of them.
ALL = "all"
# What is looked at, at most: the end of a log, and of a line its two ends, where the sense is.
_MOST_CHARACTERS = 64_000
_LONGEST_LINE = 1_000
_MOST_LINES_SHOWN = 8
# The line of code in a traceback comes after such a line.
_FRAME = re.compile(r'\s+File ".*", line \d+')


@dataclass(frozen=True)
class Symptoms:
    """What a failure left behind. `text` is its message (and traceback), `log` the log's end."""

    text: str
    stage: str = SETUP
    log: str = ""
    exit_status: int | None = None
    verdict: str = ""


def recognise(symptoms: Symptoms) -> Entry | None:
    """The first entry of the catalogue that fits, by the message rather than by the log.

    A log tells of many things that did no harm, so it is asked only where the message is unknown.
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
    if entry.exit_status and symptoms.exit_status not in entry.exit_status and not anywhere:
        return False
    if entry.verdict != symptoms.verdict:
        return False
    if entry.patterns and not any(_compiled(p).search(text) for p in entry.patterns):
        return False
    return not entry.also or _compiled(entry.also).search(text) is not None


def explain_stage(record: StageRecord, folder: Path, fixes: str = "all") -> None:
    """Complete the record of a stage that failed, or whose check did, with what is known of it.

    `folder` is the run's, where the log lies; `fixes` is the option of that name. A remedy that the
    stage itself gave is kept, since it knows more. Of an unknown failure the log's last meaningful
    lines are kept instead.
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
            verdict="" if record.status == "failed" else verdict,
        )
    )
    if entry is not None:
        record.known = make_known_failure(entry, fixes)
        record.remedy = record.remedy or record.known.remedy
    elif record.status == "failed" and not record.remedy:
        record.last_lines = [
            line for line in last_meaningful_lines(log) if record.failure not in line
        ]


def make_known_failure(entry: Entry, fixes: str = "all") -> KnownFailure:
    """The entry as reports have it; its remedy says what to do about the fix, if there is one."""
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
    """Whether `--fixes` asks for this one; see `stages.fixes.select`."""
    words = [word.strip() for word in option.split(",") if word.strip()]
    if fix == ALL:
        return words == [ALL]
    on = all(word.startswith("-") for word in words)
    for word in words:
        if word in (ALL, "none", fix, f"-{fix}"):
            on = word in (ALL, fix)
    return on


def last_meaningful_lines(log: str) -> list[str]:
    """The last meaningful lines of a log: no warnings, no progress, nothing of TensorFlow's chat.

    At most 8 lines. Noise is what `data/noise/lines.toml` lists, and code in tracebacks.
    """
    noise = _noise()
    lines: list[str] = []
    quoted = False
    for line in _bounded(log).splitlines():
        code, quoted = quoted and line.startswith("    "), _FRAME.match(line) is not None
        if line.strip() and not code and not noise.search(line):
            lines.append(line.rstrip())
    return lines[-_MOST_LINES_SHOWN:]


def read_tail(path: Path) -> str:
    """The end of a log, as far as it is ever looked at; '' if there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _MOST_CHARACTERS))
            return file.read(_MOST_CHARACTERS).decode(errors="replace")
    except OSError:
        return ""


def read_stream_tail(stream: IO[bytes]) -> str:
    """The same of a stream, which has to be read to its end."""
    kept = b""
    while block := stream.read(1 << 16):
        kept = (kept + block)[-_MOST_CHARACTERS:]
    return kept.decode(errors="replace")


def _bounded(text: str) -> str:
    """The text's last characters, in lines that are bounded too."""
    return "\n".join(map(_shortened, _lines(text[-_MOST_CHARACTERS:])))


def _lines(text: str) -> Iterable[str]:
    # A carriage return overwrites a line: progress.
    return re.split(r"[\r\n]+", text)


def _shortened(line: str) -> str:
    half = _LONGEST_LINE // 2
    return line if len(line) <= _LONGEST_LINE else f"{line[:half]} ... {line[-half:]}"


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.MULTILINE)


@functools.cache
def _noise() -> re.Pattern[str]:
    data = tomllib.loads((DATA / "noise" / "lines.toml").read_text())
    return re.compile("|".join(f"(?:{pattern})" for pattern in data["lines"]))
