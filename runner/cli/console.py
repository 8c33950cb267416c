"""The rich console that commands print to; its reader may leave early."""

from __future__ import annotations

import os

import rich.console


class Console(rich.console.Console):
    """A console whose reader may close the pipe, as `head` does: the command goes on, silently."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        # Otherwise Python complains at exit about output that it could not write.
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, self.file.fileno())
        os.close(nothing)
