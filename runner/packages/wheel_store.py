"""Wheels and sdists that an archive brought: by content, in the runner's cache.

    RUNNER_CACHE_DIR/wheels/SHA256/NAME-VERSION-TAGS.whl

An environment whose lock is all there is installed from there alone, without a network.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runner.host.paths import wheels_folder
from runner.packages.lockfile import Pin, parse_lock
from runner.packages.pip_settings import read_registry
from runner.toolchains.model import Image


def find_wheel(sha256: str) -> Path | None:
    """The file of this content, if it is there."""
    folder = wheels_folder() / sha256
    try:
        return next(path for path in folder.iterdir() if not path.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError, StopIteration):
        return None


@contextmanager
def uv_variables(image: Image, folder: Path) -> Iterator[dict[str, str]]:
    """Variables that let uv install a lock from the store; no network, if the store has it all.

    `folder` is made for the time of the block: links to the files, which uv finds by their names
    and checks against the lock.
    """
    found = {pin: [path for sha in pin.hashes if (path := find_wheel(sha))] for pin in _pins(image)}
    files = [path for paths in found.values() for path in paths]
    if not files:
        yield {}
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        for path in files:
            (folder / path.name).symlink_to(path)
        if all(found.values()):
            yield {"UV_FIND_LINKS": str(folder), "UV_OFFLINE": "1"}
        else:
            links = [*read_registry().find_links, str(folder)]
            yield {"UV_FIND_LINKS": ",".join(links)}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def has_whole_lock(image: Image) -> bool:
    """Whether every pin of an image's lock is in the store."""
    return all(any(find_wheel(sha) for sha in pin.hashes) for pin in _pins(image))


def _pins(image: Image) -> list[Pin]:
    return parse_lock(image.requirements())
