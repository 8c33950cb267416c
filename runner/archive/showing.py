"""Progress that counts bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from runner.engines.base import Progress
from runner.host.files import human_bytes


@contextmanager
def show_bytes(progress: Progress, title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress task; the block gets a function that takes how many bytes more are done."""
    show = progress.task(title)
    done = 0

    def on_bytes(count: int) -> None:
        nonlocal done
        done += count
        share = min(done / total, 0.99) if total else None
        show(f"{human_bytes(done)} of {human_bytes(total)}", share)

    yield on_bytes
    show(human_bytes(done), 1.0)
