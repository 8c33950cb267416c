"""What a harness is: valid files to start from, and what a parser makes of one of them.

The property is the same everywhere: a parser gives a result or raises a `RunnerError`. `check`
returns whether the input was taken, and lets everything else out: that is a finding.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fuzz.guard import bounded

CORPUS = Path(__file__).with_name("corpus")


@dataclass(frozen=True)
class Harness:
    """`check(data, folder)` may write into the folder, which is empty; `tokens` are words of the
    format, which the fuzzer inserts."""

    name: str
    seeds: Callable[[], Sequence[bytes]]
    check: Callable[[bytes, Path], bool]
    tokens: Sequence[bytes] = ()

    def run(self, data: bytes) -> bool:
        """One example in bounds and in a folder of its own; whether the parser took it."""
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder, bounded():
            return self.check(data, Path(folder))

    def corpus(self) -> dict[str, bytes]:
        """Inputs that once were findings, by what is wrong with them."""
        from fuzz.regressions import REGRESSIONS  # it builds on the parsers' own valid files

        folder = CORPUS / self.name
        found = sorted(folder.iterdir()) if folder.is_dir() else []
        return {
            **REGRESSIONS.get(self.name, {}),
            **{path.name: path.read_bytes() for path in found},
        }
