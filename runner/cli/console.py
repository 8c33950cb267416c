"""The console that commands print to: rich's, for readers who may leave early."""

from __future__ import annotations

import os

import rich.console


class Console(rich.console.Console):
    """One whose reader may go, as `head` does: what follows is not shown, and nothing ends."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        # Else Python itself complains at its end of what it could not write.
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, self.file.fileno())
        os.close(nothing)
