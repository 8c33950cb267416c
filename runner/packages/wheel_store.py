"""The store of wheels and sdists that archives brought, by content, in the runner's cache.

    RUNNER_CACHE_DIR/wheels/SHA256/NAME-VERSION-TAGS.whl

An environment whose whole lock is there is installed from there alone, without a network.
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
    """Return the file with this content, or None if it is not there."""
    folder = wheels_folder() / sha256
    try:
        return next(path for path in folder.iterdir() if not path.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError, StopIteration):
        return None


@contextmanager
def provide_uv_variables(image: Image, folder: Path) -> Iterator[dict[str, str]]:
    """Yield variables that let uv install a lock from the store, offline if all of it is there.

    `folder` exists only during the block: it holds links to the files, which uv finds by their
    names and checks against the lock.
    """
    found = {
        pin: [path for sha in pin.hashes if (path := find_wheel(sha))] for pin in _read_pins(image)
    }
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
    """Tell whether every pin of an image's lock is in the store."""
    return all(any(find_wheel(sha) for sha in pin.hashes) for pin in _read_pins(image))


def _read_pins(image: Image) -> list[Pin]:
    return parse_lock(image.render_requirements())
