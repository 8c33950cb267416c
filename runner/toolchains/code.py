"""The hashes of the code that runs in images, and of the runner itself."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from runner.host.files import hash_file


@functools.cache
def hash_tree(folder: Path) -> dict[str, str]:
    """Return the sha256 of each file of code below a folder, by its path there."""
    paths = [p for p in folder.rglob("*") if p.suffix in (".py", ".toml", ".json") and p.is_file()]
    hashes = {path.relative_to(folder).as_posix(): hash_file(path) for path in paths}
    return dict(sorted(hashes.items()))


def compute_tree_digest(hashes: dict[str, str]) -> str:
    """Compute what `find . -type f | sort | xargs sha256sum | sha256sum` gives in such a folder."""
    lines = "".join(f"{sha256}  {path}\n" for path, sha256 in sorted(hashes.items()))
    return hashlib.sha256(lines.encode()).hexdigest()
