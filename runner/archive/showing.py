"""Progress in bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from runner.engines.base import Progress
from runner.host.files import format_bytes


@contextmanager
def show_bytes(progress: Progress, title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress task; yield a function to call with how many more bytes are done."""
    show = progress.task(title)
    done = 0

    def on_bytes(count: int) -> None:
        nonlocal done
        done += count
        share = min(done / total, 0.99) if total else None
        show(f"{format_bytes(done)} of {format_bytes(total)}", share)

    yield on_bytes
    show(format_bytes(done), 1.0)
