"""What is said on standard error: errors with their remedies, and notes.

Without rich, which takes longer to import than most wrong command lines take to be refused.
"""

from __future__ import annotations

import os
from contextlib import suppress

import typer

from runner.errors import ExitCode, RunnerError, UsageError
from runner.host.text import make_printable


def print_note(text: str) -> None:
    """Print a line to standard error, whose reader may be gone."""
    with suppress(BrokenPipeError):
        typer.echo(text, err=True, color=False if os.environ.get("NO_COLOR") else None)


def print_error(error: RunnerError) -> None:
    """Print what is wrong, and below it what to do about it."""
    # A message may quote an untrusted file.
    text = typer.style("error: ", fg="red", bold=True) + make_printable(error.message)
    if error.remedy:
        text += f"\n→ {make_printable(error.remedy)}"
    print_note(text)
    of_a_tool = error.exit_code in (ExitCode.ENVIRONMENT, ExitCode.BAD_INPUT)
    if of_a_tool and not isinstance(error, UsageError):
        _print_known_failure(error.message)


def _print_known_failure(message: str) -> None:
    # Imported late: the catalogue is needed by few commands.
    from runner.known_failures.match import Symptoms, recognise

    entry = recognise(Symptoms(message))
    if entry is not None:
        from runner.cli.console import Console
        from runner.cli.summary import describe_known_failure
        from runner.known_failures.match import make_known_failure

        told = describe_known_failure(make_known_failure(entry))
        Console(stderr=True).print(told[1:], soft_wrap=True)
