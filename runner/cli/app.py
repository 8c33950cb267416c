"""The command line: the list of commands, and the one place that catches errors."""

from __future__ import annotations

import errno
import io
import signal
import sys
import traceback
from typing import Annotated, Any

import typer

from runner.cli.commands import (
    archive,
    benchmark,
    bisect,
    clean,
    compare,
    convert,
    diagnose,
    images,
    inspect,
    lock,
    machine,
    report,
    reproduce,
    suite,
    toolchain,
)
from runner.cli.options import errors, print_error
from runner.errors import BadInput, EnvironmentUnavailable, ExitCode, RunnerError
from runner.version import __version__

# Errors of the path itself, not of the disk.
_WRONG_PATH = (errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.ELOOP)

app = typer.Typer(
    name="runner",
    help="Convert PyTorch models to TensorFlow Lite with pinned tools, and prove each step.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(convert.convert)
app.command()(compare.compare)
app.command()(benchmark.benchmark)
app.command()(inspect.inspect)
app.command()(reproduce.reproduce)
app.command()(diagnose.diagnose)
app.command()(bisect.bisect)
app.command()(clean.cache)
app.command()(clean.clean)
app.command()(lock.lock)
app.command()(machine.stages)
app.command()(machine.doctor)
app.command()(machine.schemas)

images_app = typer.Typer(help="The environments: list them, build them.", no_args_is_help=True)
images_app.command("list")(images.list_images)
images_app.command()(images.build)
images_app.command()(images.base)
images_app.command()(images.sbom)
app.add_typer(images_app, name="images")

app.add_typer(report.report_app, name="report")
app.add_typer(toolchain.toolchain_app, name="toolchain")
app.add_typer(suite.suite_app, name="suite")

archive_app = typer.Typer(help="A toolchain in one file, for offline use.", no_args_is_help=True)
archive_app.command()(archive.save)
archive_app.command()(archive.verify)
archive_app.command()(archive.load)
app.add_typer(archive_app, name="archive")

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
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
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
        errors.print("Interrupted.")
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
    errors.print("This is a defect of the runner itself; please report it with the lines above.")
    return int(ExitCode.INTERNAL)


def _interrupt(number: int, frame: Any) -> None:
    # Makes SIGTERM and a closed terminal clean up as Ctrl-C does.
    raise KeyboardInterrupt


def entry_point() -> None:
    sys.exit(main())
