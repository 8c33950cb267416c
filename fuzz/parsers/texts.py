"""Texts that stages and other tools print: logs, progress, messages in the catalogue's terms."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from fuzz.harness import Harness
from runner.cli.progress import ConsoleView
from runner.cli.summary import describe_known_failure
from runner.conversion.stage_log import stream_output
from runner.engines.limits import DEFAULTS
from runner.host.text import make_printable, split_lines
from runner.known_failures.catalogue import load_catalogue
from runner.known_failures.match import (
    ANYWHERE,
    Symptoms,
    make_known_failure,
    pick_meaningful_lines,
    read_tail,
    recognise,
)
from runner.toolchains.load import load_toolchain


def _failure(data: bytes, folder: Path) -> bool:
    """Bounded in time whatever the text: the catalogue's patterns meet it all."""
    (folder / "log").write_bytes(data)
    text = read_tail(folder / "log")
    entry = recognise(Symptoms(text, stage=ANYWHERE, log=text))
    make_printable("\n".join(pick_meaningful_lines(text)))
    if entry is None:
        return False
    describe_known_failure(make_known_failure(entry))
    return True


def _words() -> list[bytes]:
    """Of the catalogue's own examples, so that long texts are nearly matches."""
    words = {word for entry in load_catalogue() for word in entry.example.split()}
    return [word.encode() for word in sorted(words)][:400]


def _output(data: bytes, folder: Path) -> bool:
    """A stage's lines, on their way to the log and the view."""
    stage = load_toolchain("pytorch-tflite-2020").stages[0]
    with open("/dev/null", "w") as nothing:
        console = Console(file=nothing, width=100, force_terminal=True)
        view = ConsoleView(console, verbose=True)
        view.stage_started(stage)
        with stream_output(stage, view, folder / "x.log", DEFAULTS.log) as on_line:
            # As both engines do. A line costs the same however short it is, and nobody waits for
            # the view of a hundred thousand.
            for line in split_lines([data[: 1 << 15], data[1 << 15 : 1 << 16]]):
                on_line(line)
        console.print(view._render())
    return (folder / "x.log").is_file()


HARNESSES = [
    Harness("failures", lambda: [e.example.encode() for e in load_catalogue()], _failure, _words()),
    Harness(
        "stage-output",
        lambda: [b'@progress {"phase": "export", "done": 1, "total": 3}\nplain line\n'],
        _output,
        (b"@progress ", b"{", b"}", b"null", b"1e400", b"\x1b[2J", b"[red]", b"[/]", b"\r"),
    ),
]
