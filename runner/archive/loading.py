"""`runner archive load`: check a whole archive, then install what it holds, all or nothing."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from runner.archive import docker_images, interpreter
from runner.archive.format import Index, Part
from runner.archive.reader import Archive
from runner.archive.showing import show_bytes
from runner.engines.base import Progress
from runner.engines.docker.images import make_image_tag
from runner.errors import BadInput, EnvironmentUnavailable, RunnerError
from runner.host.files import format_bytes, hash_file
from runner.host.locks import make_lock
from runner.host.paths import cache_folder, interpreters_folder, wheels_folder
from runner.host.process_identity import get_process_id, is_process_id, is_running
from runner.packages import wheel_store
from runner.packages.user_wheel import accept_wheel
from runner.toolchains.load import load_all_images
from runner.toolchains.model import Image, add_wheels

_STAGING = ".loading-"
ENGINES = ("all", "docker", "process")


@dataclass
class Loaded:
    """The result of a load; `serves` lists, for each engine, the images that it now has."""

    index: Index
    serves: dict[str, list[str]] = field(default_factory=dict)
    own_wheels: list[Path] = field(default_factory=list)
    runs: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def verify(file: Path, progress: Progress) -> Index:
    """Check every byte of an archive. Raises `BadInput`, or `DamagedArchive` naming the part."""
    with Archive(file) as archive:
        _verify(archive, progress)
        docker_images.check(archive)
        return archive.index


def load(
    file: Path, progress: Progress, *, engine: str = "all", runs: Path | None = None
) -> Loaded:
    """Make an archive's environments ready for the engines, and restore its runs into a folder.

    Nothing takes effect until the whole archive has been checked; then each wheel, interpreter and
    run appears whole, and the images appear all together or not at all. With 'all', an engine that
    is not on this machine is skipped, and a note says so.
    """
    if engine not in ENGINES:
        raise BadInput(f"There is no engine '{engine}'.", f"Engines: {', '.join(ENGINES)}.")
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    with Archive(file) as archive, make_lock(cache / "archive.lock"):
        for folder in filter(None, (cache, runs)):
            for stale in folder.glob(f"{_STAGING}*"):  # left by a load that was killed
                process = "-".join(stale.name.removeprefix(_STAGING).split("-")[:3])
                if folder == cache or (is_process_id(process) and not is_running(process)):
                    shutil.rmtree(stale, ignore_errors=True)
        loaded = Loaded(archive.index)
        _require_content(archive.index, engine)
        _check_space(archive, engine, cache, runs)
        _verify(archive, progress)
        images = docker_images.check(archive)
        with _make_staging_folder(cache) as staging, _make_staging_folder(runs) as staged_runs:
            moves: list[tuple[Path, Path]] = []
            if engine in ("all", "process"):
                moves += _stage_packages(archive, staging, progress)
                moves += _stage_interpreters(archive, staging)
            if runs is not None:
                moves += _stage_runs(archive, staged_runs, runs)
                loaded.runs = [runs / name for name in archive.index.runs]
            if engine in ("all", "docker") and images:
                _load_images(archive, images, loaded, engine, progress)
            for source, target in moves:
                target.parent.mkdir(parents=True, exist_ok=True)
                source.rename(target)
        _record_served(loaded)
        return loaded


def _require_content(index: Index, engine: str) -> None:
    """Raise `BadInput` if an archive has nothing for the only engine that was asked for."""
    has = {
        "docker": bool(index.list_parts("image")),
        "process": any(environment.wheels for environment in index.environments),
    }
    if not has.get(engine, True):
        raise BadInput(
            f"The archive has nothing for the {engine} engine.",
            f"It was saved for the other one: load without --engine {engine}.",
        )


def _check_space(archive: Archive, engine: str, cache: Path, runs: Path | None) -> None:
    """Raise `EnvironmentUnavailable` if the disk cannot hold what the index lists."""
    wanted: dict[Path, tuple[str, ...]] = {}
    if engine != "docker":
        wanted[cache] = ("wheel", "own-wheel", "interpreter")
    if runs is not None:
        runs.mkdir(parents=True, exist_ok=True)
        wanted[runs] = ("run",)
    for folder, kinds in wanted.items():
        needed = sum(part.size for part in archive.index.parts if part.kind in kinds)
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise EnvironmentUnavailable(
                f"{folder} has {format_bytes(free)} free; the archive takes {format_bytes(needed)} "
                "there.",
                "Take a larger disk: RUNNER_CACHE_DIR says where the runner keeps packages.",
            )


def _verify(archive: Archive, progress: Progress) -> None:
    total = sum(part.stored_size for part in archive.index.parts)
    with show_bytes(progress, "checking the archive", total) as on_bytes:
        archive.verify(on_bytes)


@contextmanager
def _make_staging_folder(beside: Path | None) -> Iterator[Path]:
    """Make a scratch folder on the file system of the final place, so that a rename suffices."""
    if beside is None:
        yield Path()
        return
    beside.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{_STAGING}{get_process_id()}-", dir=beside) as name:
        yield Path(name)


def _stage_packages(archive: Archive, staging: Path, progress: Progress) -> list[tuple[Path, Path]]:
    parts = [
        part for part in archive.index.list_parts("wheel", "own-wheel") if not _is_stored(part)
    ]
    moves = []
    with show_bytes(progress, "packages", sum(part.size for part in parts)) as on_bytes:
        for part in parts:
            folder = staging / "wheels" / part.sha256
            if folder.exists():
                continue
            archive.extract(part, folder / part.path)
            on_bytes(part.size)
            moves.append((folder, wheels_folder() / part.sha256))
    return moves


def _is_stored(part: Part) -> bool:
    """Tell whether a file is in the store, undamaged; remove it if it is damaged."""
    path = wheel_store.find_wheel(part.sha256)
    if path is not None and path.stat().st_size == part.size and hash_file(path) == part.sha256:
        return True
    shutil.rmtree(wheels_folder() / part.sha256, ignore_errors=True)
    return False


def _stage_interpreters(archive: Archive, staging: Path) -> list[tuple[Path, Path]]:
    moves = []
    parts = {part.sha256: part for part in archive.index.list_parts("interpreter")}
    for entry in archive.index.interpreters:
        if entry.sha256 not in parts:
            raise BadInput(f"The archive lacks CPython {entry.version}, which its index names.")
        name = f"cpython-{entry.version}-{entry.sha256[:12]}"
        if (interpreters_folder() / name).exists():
            continue
        # The hash is known only after the last byte: check a copy before unpacking any of it.
        tar = staging / f"{name}.tar"
        archive.extract(parts[entry.sha256], tar)
        with open(tar, "rb") as source:
            interpreter.unpack(source, staging / name)
        moves.append((staging / name, interpreters_folder() / name))
    return moves


def _stage_runs(archive: Archive, staging: Path, target: Path) -> list[tuple[Path, Path]]:
    names = archive.index.runs
    if not names:
        raise BadInput("The archive holds no runs.", "Load it without --run.")
    for name in names:
        if (target / name).exists():
            raise BadInput(f"{target / name} exists already.", "Restore the runs elsewhere.")
    for part in archive.index.list_parts("run"):
        if part.path.partition("/")[0] in names:
            archive.extract(part, staging / part.path)
    missing = [name for name in names if not (staging / name).is_dir()]
    if missing:
        raise BadInput(f"The archive lacks the run {missing[0]}, which its index names.")
    return [(staging / name, target / name) for name in names]


def _load_images(
    archive: Archive, images: Sequence[Part], loaded: Loaded, engine: str, progress: Progress
) -> None:
    from runner.engines.docker.client import connect

    try:
        client = connect()
    except EnvironmentUnavailable as error:
        if engine == "docker":
            raise
        loaded.notes.append(f"{error.message} The archive's images were not loaded.")
        return
    with show_bytes(progress, "docker images", sum(part.size for part in images)) as on_bytes:
        docker_images.load(client, archive, images, on_bytes)
    for environment in archive.index.environments:
        if not environment.id:
            continue
        if not docker_images.settle(client, environment):
            raise EnvironmentUnavailable(
                f"The engine gave the image '{environment.image}' another id than it was saved "
                "with.",
                "Its image store is of another kind; use --engine process, or build the images.",
            )
        loaded.serves.setdefault("docker", []).append(environment.image)


def _record_served(loaded: Loaded) -> None:
    """Record which of this runner's own environments the archive now serves."""
    loaded.own_wheels = [
        path
        for part in loaded.index.list_parts("own-wheel")
        if (path := wheel_store.find_wheel(part.sha256)) is not None
    ]
    images = {image.title: image for image in load_all_images()}
    served = loaded.serves.pop("docker", [])
    for environment in loaded.index.environments:
        image = _add_own_wheels(images.get(environment.image), loaded.own_wheels)
        if image is None or image.environment_key != environment.key:
            loaded.notes.append(
                f"{environment.image}: the archive's lock is not this runner's, which will not use "
                "it. The runner that will is in the archive: tar -xf it, see README.txt."
            )
            continue
        if environment.wheels and wheel_store.has_whole_lock(image):
            loaded.serves.setdefault("process", []).append(environment.image)
        if (
            environment.image in served
            and make_image_tag(image, environment.base) == environment.tag
        ):
            loaded.serves.setdefault("docker", []).append(environment.image)
        elif environment.image in served:
            loaded.notes.append(
                f"{environment.image}: the docker image holds other stage code than this runner's, "
                "which will build its own. The runner that uses it is in the archive: README.txt."
            )


def _add_own_wheels(image: Image | None, wheels: Sequence[Path]) -> Image | None:
    """Return an image with those of the loaded wheels that it accepts."""
    if image is None or not image.stand_ins:
        return image
    accepted = []
    for wheel in wheels:
        try:
            accepted.append(accept_wheel(str(wheel), [image]))
        except RunnerError:
            continue
    return add_wheels(image, tuple(accepted))
