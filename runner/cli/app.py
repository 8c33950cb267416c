"""The command line: the list of commands, and the one place that catches errors."""

from __future__ import annotations

import errno
import io
import sys
import traceback
from typing import Annotated

import typer

from runner.cli import commands
from runner.cli.errors import print_error, print_note
from runner.cli.lazy import LazyGroup, make_group
from runner.errors import BadInput, EnvironmentUnavailable, ExitCode, RunnerError
from runner.host.machine import interrupt_on_signals
from runner.version import __version__

# Errors of the path itself, not of the disk.
_WRONG_PATH = (errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.ELOOP)


class _Commands(LazyGroup):
    places = {
        name: (f"{commands.__name__}.{place}", help)
        for name, (place, help) in commands.COMMANDS.items()
    }


app = make_group(
    "Convert PyTorch models to TensorFlow Lite with pinned tools, and prove each step.",
    _Commands,
    add_completion=True,
)

_traceback = False


@app.callback(invoke_without_command=True)
def _main(
    show_traceback: Annotated[
        bool, typer.Option("--traceback", help="Show where an error was raised.")
    ] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    global _traceback
    _traceback = show_traceback
    if version:
        print(__version__)
        raise typer.Exit


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit status; the one place that catches errors."""
    interrupt_on_signals()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may lack arrows and crosses
            stream.reconfigure(errors="replace")
    try:
        status = app(arguments, standalone_mode=False)
        return int(status or 0)
    except RunnerError as error:
        if _traceback:
            traceback.print_exc()
        print_error(error)
        return int(error.exit_code)
    except KeyboardInterrupt:
        print_note("Interrupted.")
        return int(ExitCode.INTERRUPTED)
    except BrokenPipeError:  # the reader is gone
        return 0
    except SystemExit as left:  # typer exits by itself after its help, and when the reader is gone
        if isinstance(left.__context__, BrokenPipeError):
            return 0
        return left.code if isinstance(left.code, int) else int(left.code is not None)
    except Exception as error:  # usage errors, the disk's, and bugs of ours
        return _report_error(error)


def _report_error(error: Exception) -> int:
    show = getattr(error, "show", None)  # one of typer's usage errors
    if callable(show):
        show()
        return int(getattr(error, "exit_code", ExitCode.BAD_INPUT))
    if isinstance(error, OSError):  # held locks and vanishing engines raise it, too
        what = f"{error.strerror}: {error.filename or ''}" if error.errno else str(error)
        if error.errno in _WRONG_PATH:
            print_error(BadInput(what, "Name another file or folder."))
            return int(ExitCode.BAD_INPUT)
        remedy = "Check the disk (runner doctor), then run the command again."
        print_error(EnvironmentUnavailable(what, remedy))
        return int(ExitCode.ENVIRONMENT)
    traceback.print_exc()
    print_note("This is a defect of the runner itself; please report it with the lines above.")
    return int(ExitCode.INTERNAL)


def entry_point() -> None:
    sys.exit(main())
