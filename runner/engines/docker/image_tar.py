"""Archives for `docker load`. (`docker import` would stamp the current date into the image.)"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path


def write_archive(
    archive: Path,
    layer: Path,
    *,
    tags: Sequence[str],
    created: str,
    labels: Mapping[str, str],
) -> None:
    """Write an image of one layer, a tar of a root file system, created at an RFC 3339 date.

    The image's id is the digest of its configuration, so it depends only on the arguments and the
    layer's bytes.
    """
    config = {
        "architecture": "amd64",
        "os": "linux",
        "created": created,
        "config": {
            "Env": ["PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8"],
            "Cmd": ["python3"],
            "Labels": dict(labels),
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{_hash_file(layer)}"]},
        "history": [{"created": created, "created_by": "runner"}],
    }
    manifest = [{"Config": "config.json", "RepoTags": list(tags), "Layers": ["layer.tar"]}]
    with tarfile.open(archive, "w") as tar:
        tar.add(layer, "layer.tar")
        for name, content in (("config.json", config), ("manifest.json", manifest)):
            data = json.dumps(content, sort_keys=True).encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def _hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
