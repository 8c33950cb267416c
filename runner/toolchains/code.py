"""The hashes of the code that runs in images, and of the runner itself."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from runner.host.files import hash_file

if TYPE_CHECKING:
    pass


@functools.cache
def tree_hashes(folder: Path) -> dict[str, str]:
    """sha256 of each file of code below a folder, by its path there."""
    paths = [p for p in folder.rglob("*") if p.suffix in (".py", ".toml", ".json") and p.is_file()]
    hashes = {path.relative_to(folder).as_posix(): hash_file(path) for path in paths}
    return dict(sorted(hashes.items()))


def tree_digest(hashes: dict[str, str]) -> str:
    """What `find . -type f | sort | xargs sha256sum | sha256sum` gives in such a folder."""
    lines = "".join(f"{sha256}  {path}\n" for path, sha256 in sorted(hashes.items()))
    return hashlib.sha256(lines.encode()).hexdigest()
