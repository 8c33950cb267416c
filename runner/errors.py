"""Every error that a user may see, each with its exit code and its remedy.

One place (`runner.cli.app.main`) catches them. Nothing else in the project calls `sys.exit`.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit statuses of the process, documented in README.md."""

    PASSED = 0
    INTERNAL = 1
    BAD_INPUT = 2
    STAGE_FAILED = 3
    OUT_OF_TOLERANCE = 4
    VACUOUS = 5
    ENVIRONMENT = 6
    EQUIVALENT = 7
    DIFFERENT = 8
    UNVERIFIED = 9
    WORSE = 10
    INCOMPLETE = 11
    INTERRUPTED = 130


class RunnerError(Exception):
    """An error with a message for a person: what is wrong, and what to do about it."""

    exit_code = ExitCode.INTERNAL

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def _render_traceback_(self) -> list[str]:
        """Return what a notebook shows of it: Jupyter asks for this in place of a traceback."""
        return [f"error: {self.message}", *([f"→ {self.remedy}"] if self.remedy else [])]


class BadInput(RunnerError):
    """The model, its inputs or an option cannot be used as given."""

    exit_code = ExitCode.BAD_INPUT


class UsageError(BadInput):
    """A command line that says nothing that could be done, whatever the model is."""


class EnvironmentUnavailable(RunnerError):
    """An engine, an image, an interpreter or a package is not available on this machine."""

    exit_code = ExitCode.ENVIRONMENT


class Unverified(RunnerError):
    """A record is not signed by the required key."""

    exit_code = ExitCode.UNVERIFIED


class DamagedArchive(BadInput):
    """An archive that is cut short or altered; the message names the part."""
