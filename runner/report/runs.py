"""Finished runs on disk: their folders, and their reports."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runner.errors import BadInput
from runner.host.files import read_bytes
from runner.schemas.base import Invalid, validate_json
from runner.schemas.report import Report

REPORT = "report.json"
# A report is some tens of kilobytes; one of a very large model with a diagnosis, a few megabytes.
_MOST_BYTES = 64_000_000
_REMEDY = (
    "Name a folder that `runner convert` has left, such as runs/model-...; it has a report as soon "
    "as the run has ended."
)


@dataclass(frozen=True)
class Runs:
    """Reports with their run folders, and why others could not be read."""

    reports: Sequence[tuple[Path, Report]]
    unreadable: Sequence[BadInput] = field(default_factory=tuple)


def find_run_folder(path: Path) -> Path:
    """Return the folder itself, or that of a report.json which was named instead."""
    return path.parent if path.name == REPORT and path.is_file() else path


def read_report(folder: Path) -> Report:
    """Read the report of a run folder. Raises `BadInput` if there is none, or none of ours."""
    path = folder / REPORT
    if not folder.is_dir():
        there = "is no folder" if folder.exists() else "does not exist"
        raise BadInput(f"{folder} {there}, and so holds no {REPORT}.", _REMEDY)
    try:
        content = read_bytes(path, _MOST_BYTES)
        if content is None:
            raise BadInput(f"{path} is too large for a report.", "Is it one of the runner's?")
        return validate_json(Report, content)
    except FileNotFoundError:
        raise BadInput(
            f"{folder} is not the folder of a run: it holds no {REPORT}.", _REMEDY
        ) from None
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}.") from None
    except Invalid as error:
        raise BadInput(
            f"{path} is not a report of this version: {error.message} "
            f"(at {error.place[:100] or 'the beginning'}).",
            "Damaged, or not the runner's; a newer runner's needs that runner.",
        ) from None


def find_runs(paths: Iterable[Path]) -> Runs:
    """Read the runs in these folders, each of which is a run's or holds some, one level down.

    Raises `BadInput` for a folder that holds none, and if no run at all can be read. One unreadable
    run among many is listed in the result, and hides none of the others.
    """
    folders: dict[Path, None] = {}
    for path in map(find_run_folder, paths):
        if (path / REPORT).exists() or not path.is_dir():
            folders[path] = None
            continue
        below = sorted(found.parent for found in path.glob(f"*/{REPORT}"))
        if not below:
            raise BadInput(
                f"{path} is no run folder and holds none.", f"A run folder has a {REPORT}."
            )
        folders |= dict.fromkeys(below)
    reports, unreadable = [], []
    for folder in folders:
        try:
            reports.append((folder, read_report(folder)))
        except BadInput as error:
            unreadable.append(error)
    if not reports:
        raise unreadable[0]
    return Runs(reports, unreadable)
