"""Runs the runner again and again in one process, each time on a disk that fills up a write later.

`python every_write.py DISK KEEP COMMAND...`: COMMAND writes below DISK, and what it leaves there is
moved to KEEP/N. A write is a file that is opened for it; just before that, the disk is filled.
Prints a line of JSON for each run, until one was over before its write came.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

BALLAST = "ballast"


@dataclass
class Disk:
    """Fills itself at the write of this number; 0 for never."""

    folder: Path
    full_at: int = 0
    writes: int = 0

    def watch(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open" or not self.full_at:
            return
        path, _, flags = arguments
        below = isinstance(path, str) and path.startswith(f"{self.folder}/")
        if not below or not flags & (os.O_WRONLY | os.O_RDWR):
            return
        if flags & os.O_TRUNC or not has_content(path):
            self.writes += 1
            if self.writes == self.full_at:
                self.fill()

    def fill(self) -> None:
        at, self.full_at = self.full_at, 0
        descriptor = os.open(self.folder / BALLAST, os.O_WRONLY | os.O_CREAT)
        for size in (1 << 20, 1 << 12, 1):
            with suppress(OSError):
                while True:
                    os.write(descriptor, bytes(size))
        os.close(descriptor)
        self.full_at = at


def has_content(path: str) -> bool:
    """Tell whether a file is there and written already: it is only opened to be synced."""
    return Path(path).is_file() and Path(path).stat().st_size > 0


def main(disk: Disk, keep: Path, command: Sequence[str]) -> None:
    from runner.cli.app import entry_point

    sys.addaudithook(disk.watch)
    sys.argv = ["runner", *command]
    for number in range(1, 1000):
        disk.full_at, disk.writes = number, 0
        code: Any = 0
        with redirect_stdout(StringIO()) as said, redirect_stderr(StringIO()) as errors:
            try:
                entry_point()
            except SystemExit as end:
                code = end.code
        disk.full_at = 0
        (disk.folder / BALLAST).unlink(missing_ok=True)
        kept = keep / str(number)
        kept.mkdir()
        for path in disk.folder.iterdir():
            shutil.move(path, kept)
        run = {"code": code, "said": said.getvalue() + errors.getvalue(), "kept": str(kept)}
        print(json.dumps(run), flush=True)
        if disk.writes < number:
            return


if __name__ == "__main__":
    main(Disk(Path(sys.argv[1])), Path(sys.argv[2]), sys.argv[3:])
