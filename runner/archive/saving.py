"""`runner archive save`: gather everything that a toolchain needs, and write it to one file."""

from __future__ import annotations

import io
import json
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from runner.archive import docker_images, interpreter, packages
from runner.archive.format import Environment, Index, Interpreter, Kind, check_name
from runner.archive.showing import show_bytes
from runner.archive.writer import ArchiveWriter
from runner.engines.base import Progress
from runner.errors import BadInput
from runner.host.files import format_bytes, hash_file
from runner.host.paths import PACKAGE, ROOT
from runner.packages.cpython import find_cpython
from runner.packages.index import PackageIndexes
from runner.packages.lockfile import (
    applies_here,
    host_python,
    list_host_tags,
    list_stage_tags,
    parse_lock,
)
from runner.packages.user_wheel import accept_wheel
from runner.toolchains.load import load_image, load_toolchain
from runner.toolchains.model import Image, add_wheels
from runner.version import __version__

ENGINES = ("all", "docker", "process")
HOST = "runner"
# The parts of a checkout that make up a toolchain, and the runner that runs it.
_SOURCE = (
    *("bootstrap.py", "pyproject.toml", "requirements.lock", "compose.yaml", "README.md"),
    *("images", "stages", "runner", "docs"),
)
_NOT_SOURCE = re.compile(r"(^|/)(__pycache__|\.[^/]*|[^/]*\.part)(/|$)")

README = """\
This is an archive of the runner: PyTorch models to TensorFlow Lite with pinned tools.

    runner archive verify FILE     checks every byte of it
    runner archive load FILE       makes this machine ready, without a network

Without the runner, any tar program extracts it; files that end in .zst are Zstandard's.

    source/         the runner, its stages, images and locks
    wheels/         every package that the locks name, and what the runner itself needs
    own-wheels/     packages that were handed over, since no index has them
    interpreter/    the CPython that runs the packages
    images/         the docker images, as an OCI image layout
    runs/           conversions, with their records
    index.json      every file's size and SHA-256, and which environments they serve

The runner itself installs from it offline: extract source and wheels, and in source run

    PIP_NO_INDEX=1 PIP_FIND_LINKS=$PWD/../wheels python3 bootstrap.py runner --version
"""


@dataclass(frozen=True)
class _Local:
    """A local file that becomes a part."""

    name: str
    kind: Kind
    path: Path
    sha256: str = ""


@dataclass
class _Content:
    """What goes into an archive, gathered before anything is written."""

    images: list[Image]
    locals: list[_Local] = field(default_factory=list)
    packages: list[packages.Found] = field(default_factory=list)
    docker: docker_images.Selected | None = None
    interpreters: dict[str, Path] = field(default_factory=dict)

    def plan(self) -> str:
        """Return a text that changes whenever the resulting archive would."""
        return json.dumps(
            [
                __version__,
                [image.environment_key for image in self.images],
                [[item.name, item.sha256 or hash_file(item.path)] for item in self.locals],
                sorted({found.file.sha256 for found in self.packages}),
                [self.docker.references, self.docker.ids] if self.docker else [],
                [[version, str(path)] for version, path in self.interpreters.items()],
            ]
        )


def save(
    file: Path,
    progress: Progress,
    *,
    engine: str = "all",
    toolchain: str = "",
    wheels: Sequence[str] = (),
    runs: Sequence[Path] = (),
) -> Index:
    """Write an archive of what a toolchain needs on one engine, or on both ('all').

    Missing docker images are built first. An interrupted save resumes where it stopped. Raises
    `BadInput` or `EnvironmentUnavailable`, naming any pin that cannot be had.
    """
    if engine not in ENGINES:
        raise BadInput(f"There is no engine '{engine}'.", f"Engines: {', '.join(ENGINES)}.")
    if file.is_dir():
        raise BadInput(f"{file} is a folder.", "Name a file, such as toolchain.tar.")
    toolchain = load_toolchain(toolchain).name
    created = _format_creation_time()
    indexes = PackageIndexes()
    content = _gather(indexes, engine, toolchain, wheels, runs, progress)
    with ArchiveWriter(file, content.plan()) as writer:
        if writer.resumed:
            show = progress.task("unfinished archive")
            show(f"goes on after {format_bytes(writer.resumed)}", 1.0)
        if writer.find("README.txt") is None:
            readme = README.encode()
            writer.add("README.txt", "about", io.BytesIO(readme), len(readme))
        for item in content.locals:
            _add_local(writer, item)
        interpreters = [
            _add_interpreter(writer, version, path)
            for version, path in content.interpreters.items()
        ]
        files = {found.file.sha256: found.file for found in content.packages}
        if files:
            total = sum(map(indexes.size, files.values()))
            with show_bytes(progress, "packages", total) as on_bytes:
                packages.add_to(writer, indexes, files.values(), on_bytes)
        if content.docker:
            with show_bytes(progress, "docker images", content.docker.size) as on_bytes:
                docker_images.add_to(writer, content.docker, on_bytes)
        return writer.finish(
            created=created,
            runner=__version__,
            platform=content.images[0].platform,
            toolchains=[toolchain],
            environments=[_describe_environment(image, content) for image in content.images],
            host_python=host_python() if any(f.owner == HOST for f in content.packages) else "",
            interpreters=interpreters,
            runs=[run.resolve().name for run in runs],
        )


def _gather(
    indexes: PackageIndexes,
    engine: str,
    toolchain: str,
    wheels: Sequence[str],
    runs: Sequence[Path],
    progress: Progress,
) -> _Content:
    images = [load_image(name) for name in load_toolchain(toolchain).images]
    accepted = tuple(accept_wheel(wheel, images) for wheel in wheels)
    images = [add_wheels(image, accepted) for image in images]
    content = _Content(images)
    own = {wheel.sha256: wheel.path for image in images for wheel in image.wheels}
    content.locals = [
        *_list_source_files(),
        *(_Local(f"own-wheels/{path.name}", "own-wheel", path, sha) for sha, path in own.items()),
        *_list_run_files(runs),
    ]
    if engine in ("all", "process"):
        pythons = sorted({image.python for image in images})
        content.interpreters = {python: find_cpython(python).path for python in pythons}
    if engine in ("all", "docker"):
        content.docker = _select_docker_images(images, progress)
    show = progress.task("package index")
    content.packages = packages.find(indexes, _list_wanted(images, engine))
    show(f"has all {len(content.packages)} pins", 1.0)
    return content


def _list_wanted(images: Sequence[Image], engine: str) -> list[packages.Wanted]:
    wanted = []
    if engine in ("all", "process"):
        for image in images:
            tags = list_stage_tags(image.python, image.platform)
            pins = parse_lock(image.render_requirements())
            wanted += [packages.Wanted(pin, image.title, tags) for pin in pins]
    # An installed runner has no lock of its own.
    lock = ROOT / "requirements.lock"
    if lock.exists():
        tags = list_host_tags()
        pins = parse_lock(lock.read_text())
        wanted += [packages.Wanted(pin, HOST, tags) for pin in pins if applies_here(pin)]
    return wanted


def _select_docker_images(images: Sequence[Image], progress: Progress) -> docker_images.Selected:
    from runner.engines.docker.client import connect
    from runner.engines.docker.engine import DockerEngine

    client = connect()
    DockerEngine(client).prepare(images, progress)
    return docker_images.select(client, images)


def _list_source_files() -> Iterator[_Local]:
    package = PACKAGE
    for entry in _SOURCE:
        top = package if entry == "runner" else ROOT / entry
        files = sorted(p for p in top.rglob("*") if p.is_file()) if top.is_dir() else [top]
        for path in files:
            relative = path.relative_to(top).as_posix()
            name = entry if top == path else f"{entry}/{relative}"
            inside = relative.startswith("_toolchain/")  # images and stages of an installed runner
            if path.is_file() and not _NOT_SOURCE.search(name) and not inside:
                yield _Local(f"source/{name}", "source", path)


def _list_run_files(runs: Sequence[Path]) -> Iterator[_Local]:
    names: set[str] = set()
    for run in runs:
        folder = run.resolve()
        if not (folder / "report.json").is_file():
            raise BadInput(f"{run} is not a run folder.", "It has no report.json.")
        if folder.name in names:
            raise BadInput(f"Two runs are named {folder.name}.", "Rename one of them.")
        names.add(folder.name)
        for path in sorted(folder.rglob("*")):
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise BadInput(f"{path} is no regular file, so it is not archived.", "Remove it.")
            if path.is_file():
                name = f"runs/{folder.name}/{path.relative_to(folder).as_posix()}"
                try:
                    check_name(name)
                except ValueError:
                    raise BadInput(f"{path} has a name that no archive can hold.") from None
                yield _Local(name, "run", path)


def _add_local(writer: ArchiveWriter, item: _Local) -> None:
    if writer.find(item.name) is not None:
        return
    # Sources stay uncompressed, so that any tar program is enough to set up the runner.
    compress = item.kind == "run"
    size = item.path.stat().st_size
    with open(item.path, "rb") as source:
        writer.add(item.name, item.kind, source, size, sha256=item.sha256, compress=compress)


def _add_interpreter(writer: ArchiveWriter, version: str, executable: Path) -> Interpreter:
    with tempfile.TemporaryDirectory(prefix="runner-python-") as folder:
        packed = interpreter.pack(executable, version, Path(folder))
        name = f"interpreter/cpython-{packed.version}.tar"
        part = writer.find(name)
        if part is None:
            with open(packed.path, "rb") as source:
                size = packed.path.stat().st_size
                part = writer.add(name, "interpreter", source, size, compress=True)
    return Interpreter(version=packed.version, sha256=part.sha256, needs=packed.needs)


def _describe_environment(image: Image, content: _Content) -> Environment:
    built = content.docker.images if content.docker else ()
    docker = next((entry for entry in built if entry.image == image), None)
    return Environment(
        image=image.title,
        python=image.python,
        lock_sha256=image.lock_sha256,
        key=image.environment_key,
        wheels=tuple(f.file.sha256 for f in content.packages if f.owner == image.title),
        own_wheels=tuple(wheel.sha256 for wheel in image.wheels),
        stand_ins=tuple(f"{s}: {s.reason}" for s in image.stand_ins_used),
        tag=docker.tag if docker else "",
        id=docker.id if docker else "",
        base=docker.base if docker else "",
    )


def _format_creation_time() -> str:
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        moment = (
            datetime.fromtimestamp(int(epoch), timezone.utc)
            if epoch
            else datetime.now(timezone.utc)
        )
    except (ValueError, OverflowError, OSError):
        raise BadInput(f"SOURCE_DATE_EPOCH={epoch} is no date in seconds.") from None
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
