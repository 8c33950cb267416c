"""The docker images of an archive: an OCI layout, as `docker save` writes it."""

from __future__ import annotations

import io
import json
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, cast

import docker
import docker.errors
import requests.exceptions

from runner.archive.format import Environment, Part, compute_padding
from runner.archive.reader import Archive
from runner.archive.writer import ArchiveWriter
from runner.engines.docker.images import find_image
from runner.errors import DamagedArchive, EnvironmentUnavailable
from runner.toolchains.model import Image

_FOLDER = "images"
_META = ("oci-layout", "index.json", "manifest.json")
_MOST_META = 4 << 20
_BLOB = re.compile(r"blobs/sha256/([0-9a-f]{64})")
# An archive may name only our own images, and never replace the user's debian:latest.
_OURS = re.compile(r"(docker\.io/library/)?runner-[a-z0-9._-]+:[A-Za-z0-9._-]+")
_NAMED_BY = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
# How the keys that matter are spelled; Go accepts them in any case.
_KEYS = {"repotags": "RepoTags", "manifests": "manifests", "annotations": "annotations"}
_LOAD_SECONDS = 3600

OnBytes = Callable[[int], None]


@dataclass(frozen=True)
class DockerImage:
    """An image to save, with its names on this machine."""

    image: Image
    tag: str
    id: str
    base: str


@dataclass(frozen=True)
class Selected:
    """What to save: images, all names of them and of their bases, and their total size in bytes."""

    images: tuple[DockerImage, ...]
    references: tuple[str, ...]
    ids: tuple[str, ...]
    size: int


def select(client: docker.DockerClient, images: Sequence[Image]) -> Selected:
    """Find built images and their bases. Raises `EnvironmentUnavailable` if one is missing."""
    found, references, ids = [], [], []
    size = 0
    for image in images:
        record = find_image(client, image)
        if record is None:
            raise EnvironmentUnavailable(
                f"The image '{image.title}' is not here.",
                f"Build it: runner images build {image.name}.",
            )
        latest = f"{record.tag.partition(':')[0]}:latest"
        tags = client.images.get(record.id).tags
        references += [tag for tag in (record.tag, latest) if tag in tags]
        found.append(DockerImage(image, record.tag, record.id, record.base))
        ids.append(record.id)
        size += record.size
        for base in record.base.split("+")[:1]:
            try:
                entry = client.images.get(base)
            except docker.errors.ImageNotFound:
                continue  # the stage image has its layers anyway
            ours = [tag for tag in entry.tags if _OURS.fullmatch(tag)]
            references += ours or [base]
            ids.append(base)
    return Selected(tuple(found), tuple(dict.fromkeys(references)), tuple(dict.fromkeys(ids)), size)


def add_to(writer: ArchiveWriter, selected: Selected, on_bytes: OnBytes) -> None:
    """Append the images' layout, each blob once; do nothing if an interrupted save wrote it all."""
    if all(writer.find(f"{_FOLDER}/{name}") for name in _META):
        return
    meta: dict[str, bytes] = {}
    with _open_docker_save(selected.references) as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isreg() else None
            if content is None:
                continue
            name = PurePosixPath(member.name).as_posix()
            if match := _BLOB.fullmatch(name):
                if writer.find(f"{_FOLDER}/{name}"):
                    on_bytes(member.size)
                    continue
                writer.add(
                    f"{_FOLDER}/{name}",
                    "image",
                    content,
                    member.size,
                    sha256=match[1],
                    compress=True,
                    on_bytes=on_bytes,
                )
            elif name in _META:
                meta[name] = content.read(_MOST_META)
    if set(meta) != set(_META):
        raise EnvironmentUnavailable(
            "This Docker engine does not save images as an OCI layout.",
            "Update it to Docker Engine 25 or later, or save with --engine process.",
        )
    # Last: their presence says that all blobs are there.
    for name, data in meta.items():
        writer.add(f"{_FOLDER}/{name}", "image", io.BytesIO(data), len(data))


def check(archive: Archive) -> list[Part]:
    """Check that loading an archive's images changes only ours, and return their parts.

    Raises `DamagedArchive` if names, hashes or the layout's own files say otherwise.
    """
    parts = archive.index.list_parts("image")
    meta = {}
    for part in parts:
        match = _BLOB.fullmatch(part.path)
        if part.path in _META:
            if part.size > _MOST_META:
                raise _make_refusal(part.path, "it is too large")
            meta[part.path] = b"".join(archive.content(part))
        elif not match or match[1] != part.sha256:
            raise _make_refusal(part.path, "it is not a blob of that hash")
    if parts and set(meta) != set(_META):
        raise _make_refusal("the image layout", "it is not whole")
    try:
        names = list(_list_names(meta)) if parts else []
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise _make_refusal("the image layout", "it does not read as one") from None
    for name in names:
        if not isinstance(name, str) or not _OURS.fullmatch(name):
            raise _make_refusal("the image layout", f"it would name an image {str(name)[:200]!r}")
    return parts


def load(
    client: docker.DockerClient, archive: Archive, parts: Sequence[Part], on_bytes: OnBytes
) -> None:
    """Load checked images into an engine, which takes all of them or none.

    Raises `DamagedArchive` if a blob is damaged, `EnvironmentUnavailable` if the engine fails.
    """
    client.api.timeout = _LOAD_SECONDS
    try:
        client.images.load(cast(Any, _stream_tar(archive, parts, on_bytes)))
    except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
        raise EnvironmentUnavailable(
            f"The Docker engine did not load the images: {error}",
            "Check the engine (docker info) and its disk, then load again.",
        ) from None


def settle(client: docker.DockerClient, environment: Environment) -> bool:
    """Tell whether a loaded image has the id it was saved with; tag it for compose.yaml if so."""
    try:
        image = client.images.get(environment.tag)
    except docker.errors.ImageNotFound:
        return False
    if image.id != environment.id:
        return False
    repository = environment.tag.partition(":")[0]
    try:
        client.images.get(f"{repository}:latest")
    except docker.errors.ImageNotFound:
        image.tag(repository, "latest")
    return True


def _stream_tar(archive: Archive, parts: Sequence[Part], on_bytes: OnBytes) -> Iterator[bytes]:
    for folder in ("blobs", "blobs/sha256"):
        member = tarfile.TarInfo(folder)
        member.type, member.mode = tarfile.DIRTYPE, 0o755
        yield member.tobuf(tarfile.PAX_FORMAT)
    for part in parts:
        member = tarfile.TarInfo(part.path)
        member.size = part.size
        yield member.tobuf(tarfile.PAX_FORMAT)
        for chunk in archive.content(part):
            on_bytes(len(chunk))
            yield chunk
        yield bytes(compute_padding(part.size))
    yield bytes(1024)


def _list_names(meta: dict[str, bytes]) -> Iterator[Any]:
    """Yield every name that an engine would give an image, from either of the two indexes."""
    for entry in _read_as_go(meta["manifest.json"]):
        yield from entry["RepoTags"] or ()
    for entry in _read_as_go(meta["index.json"])["manifests"]:
        notes = entry.get("annotations") or {}
        # containerd uses the second annotation only without the first.
        yield from [notes[key] for key in _NAMED_BY if notes.get(key)][:1]


def _read_as_go(text: bytes) -> Any:
    """Parse JSON; raise `ValueError` for any that Docker, written in Go, could read differently.

    Go matches keys in any case, and uses the last of several.
    """

    def read(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        lower = [key.lower() for key, _ in pairs]
        if len(set(lower)) < len(pairs) or not all(key.isascii() for key in lower):
            raise ValueError("a key twice")
        if any(_KEYS.get(key.lower(), key) != key for key, _ in pairs):
            raise ValueError("a key in another case")
        return dict(pairs)

    return json.loads(text, object_pairs_hook=read)


@contextmanager
def _open_docker_save(references: Sequence[str]) -> Iterator[tarfile.TarFile]:
    """Open the output of `docker save` as a tar stream."""
    with tempfile.TemporaryFile() as said:
        try:
            process = subprocess.Popen(
                ["docker", "save", *references], stdout=subprocess.PIPE, stderr=said
            )
        except FileNotFoundError:
            raise EnvironmentUnavailable(
                "The program 'docker' is not on this machine.", "Install Docker's command line."
            ) from None
        whole = False
        try:
            assert process.stdout is not None
            with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
                yield tar
            process.stdout.read()
            whole = True
        except tarfile.TarError:
            pass  # docker's own message explains it better
        finally:
            with suppress(subprocess.TimeoutExpired):
                process.wait(1)
            process.kill()
            status = process.wait()
        if status or not whole:
            said.seek(0)
            words = said.read().decode(errors="replace").strip() or "its output is no tar"
            raise EnvironmentUnavailable(f"`docker save` failed: {words}", "See docker info.")


def _make_refusal(part: str, why: str) -> DamagedArchive:
    return DamagedArchive(
        f"The archive's images are refused: {part}: {why}.", "Nothing was loaded."
    )
