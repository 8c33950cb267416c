"""The docker engine: each stage in its own container, with nothing but the run's volume."""

from __future__ import annotations

import io
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

import docker
import docker.errors
import docker.types
import requests.exceptions

from runner.engines.ahead import make_word, may_start_ahead
from runner.engines.base import MOST_READ, OnLine, Progress, StageExit, make_out_of_memory_exit
from runner.engines.docker.client import translate_errors
from runner.engines.docker.images import (
    CUDA_VARIANT,
    LABELS,
    ImageRecord,
    build_image,
    check_python,
    choose_base,
    find_image,
)
from runner.engines.docker.interpreter import find_interpreter
from runner.engines.docker.volume_usage import VolumeWatcher
from runner.engines.limits import DEFAULTS, Limits
from runner.engines.watchdog import Watch
from runner.errors import EnvironmentUnavailable
from runner.host.files import atomic_write
from runner.host.machine import list_own_cores
from runner.host.process_identity import get_owner
from runner.host.text import split_lines
from runner.schemas.report import EnvironmentRecord, InterpreterRecord
from runner.toolchains.model import Image, Stage

LABEL = "org.runner.run"
OWNER = "org.runner.owner"
_VOLUME = "/artifacts"
# The user that the images create, who owns the volume.
_USER = 1000
_TMPFS = "rw,nosuid,nodev,mode=1777,size={}"
# A stage's output is read as it arrives; the daemon itself keeps no more of it than this.
_LOGS = docker.types.LogConfig(
    type="local", config={"max-size": "32m", "max-file": "2", "compress": "false"}
)


class DockerEngine:
    """Runs stages as containers."""

    name = "docker"

    def __init__(self, client: docker.DockerClient, limits: Limits = DEFAULTS) -> None:
        self.client = client
        self.limits = limits
        info = client.info()
        self.details: dict[str, str] = {
            "version": str(info.get("ServerVersion", "")),
            "kernel": str(info.get("KernelVersion", "")),
        }
        self.cores = _list_own_cores(info)
        self.core_count = len(self.cores.split(",")) if self.cores else int(info.get("NCPU") or 1)
        self.memory = limits.compute_stage_memory(int(info.get("MemTotal") or 4 << 30))
        # The images that `prepare` has built, since they were not here.
        self.built: list[str] = []
        self._records: dict[str, ImageRecord] = {}
        self._images: dict[str, Image] = {}
        self._locks: dict[str, str] = {}
        self._interpreters: dict[str, InterpreterRecord] = {}

    def find_missing(self, images: Sequence[Image]) -> list[Image]:
        return [image for image in images if find_image(self.client, image) is None]

    def is_ready(self, image: Image) -> bool:
        return not self.find_missing([image])

    def prepare(self, images: Sequence[Image], progress: Progress) -> None:
        self._images = {image.name: image for image in images}
        found = {image.name: find_image(self.client, image) for image in images}
        missing = [image for image in images if found[image.name] is None]
        if missing:
            show = progress.task("base image")
            bases = {
                python: choose_base(self.client, python, lambda line: show(line, None))
                for python in sorted({image.python for image in missing})
            }
            show("ready", 1.0)
            for image in missing:
                self._build(image, bases[image.python], progress.task(f"image {image.title}"))
                found[image.name] = find_image(self.client, image)
        self.built = [image.title for image in missing]
        for image in images:
            record = found[image.name]
            if record is None:
                raise EnvironmentUnavailable(f"The image '{image.title}' vanished after its build.")
            self._records[image.name] = record
        self._find_interpreters()
        for image in images:
            check_python(image, self._interpreters[image.name].version, "what was built")

    def _find_interpreters(self) -> None:
        with translate_errors():
            self._interpreters = {
                name: find_interpreter(self.client, record.id)
                for name, record in self._records.items()
            }

    def adopt(self, images: Sequence[Image], ids: Mapping[str, str]) -> bool:
        """Use the images with these ids (`sha256:...`, by name), whatever they were built from.

        Return False, and use none, unless all of them exist here and are stage images.
        """
        records = {}
        for image in images:
            try:
                found = self.client.images.get(ids[image.name])
            except (docker.errors.ImageNotFound, docker.errors.NullResource, KeyError):
                return False
            if found.labels.get(f"{LABELS}.image") != image.name:
                return False
            base = found.labels.get(f"{LABELS}.base", "")
            tag = found.tags[0] if found.tags else ""
            records[image.name] = ImageRecord(tag, str(found.id), base, found.attrs["Size"])
            self._locks[image.name] = found.labels.get(f"{LABELS}.lock", image.lock_sha256)
        self._images, self._records = {image.name: image for image in images}, records
        self._find_interpreters()
        return True

    def _build(self, image: Image, base: str, show: Callable[[str, float | None], None]) -> None:
        with translate_errors():
            build_image(self.client, image, base, lambda line: show(line, None))
        show("built", 1.0)

    def environment(self, image: Image) -> EnvironmentRecord:
        record = self._records[image.name]
        return EnvironmentRecord(
            image=image.title,
            identity=record.id,
            lock_sha256=self._locks.get(image.name, image.lock_sha256),
            interpreter=self._interpreters[image.name],
            stand_ins=[str(stand_in) for stand_in in image.stand_ins_used],
            wheels=[f"{wheel.path.name} sha256:{wheel.sha256}" for wheel in image.wheels],
            details={"tag": record.tag, "base": record.base},
        )

    @contextmanager
    def volume(self, run: str, folder: Path) -> Iterator[DockerVolume]:
        labels = {LABEL: run, OWNER: get_owner()}
        name = f"runner-{run}"
        try:
            with translate_errors():
                self.client.volumes.create(name, labels=labels)
                # Never started: it gives access to the volume for copying, whatever stage runs.
                keeper = self.client.containers.create(
                    next(iter(self._records.values())).id,
                    volumes={name: {"bind": _VOLUME, "mode": "rw"}},
                    network_mode="none",
                    labels=labels,
                )
            watcher = VolumeWatcher(self.client, keeper.attrs["Image"], name, labels)
            try:
                yield DockerVolume(self, name, keeper, labels, watcher)
            finally:
                watcher.close()
        finally:
            remove_run(self.client, run)

    def start(self, stage: Stage, volume: str, labels: dict[str, str], word: str = "") -> Any:
        """Start a stage's container, as locked down as possible.

        With a `word` it is started ahead of its turn: see `runner.engines.ahead`.
        """
        image = self._images[stage.image]
        command = ["python", "-m", stage.module, "--volume", _VOLUME]
        devices = []
        if image.variant == CUDA_VARIANT:
            wanted = [["gpu", "compute", "utility"]]
            devices = [docker.types.DeviceRequest(count=1, capabilities=wanted)]
        container = self.client.containers.create(
            self._records[stage.image].id,
            entrypoint=[*command, "--wait-for", word] if word else command,
            volumes={volume: {"bind": _VOLUME, "mode": "rw"}},
            environment={"PYTHONHASHSEED": "0", "PYTHONUNBUFFERED": "1", "RUNNER_PROGRESS": "1"},
            labels={**labels, "org.runner.stage": stage.name},
            network_mode="none",
            read_only=True,
            tmpfs={"/tmp": _TMPFS.format(self.limits.temporary)},
            cap_drop=["ALL"],
            security_opt=["no-new-privileges:true"],
            user=f"{_USER}:{_USER}",
            pids_limit=self.limits.processes,
            mem_limit=self.memory,
            # Memory and swap together, so there is no swap on top.
            memswap_limit=self.memory,
            cpuset_cpus=self.cores,
            ulimits=[
                docker.types.Ulimit(name="fsize", soft=self.limits.disk, hard=self.limits.disk),
                docker.types.Ulimit(name="core", soft=0, hard=0),
            ],
            log_config=_LOGS,
            # Without an init, a stop takes the full grace period: PID 1 ignores signals.
            init=True,
            device_requests=devices,
        )
        try:
            container.start()
        except BaseException:
            _remove(container)
            raise
        return container


class DockerVolume:
    """A named volume, and a container, never started, for copying in and out."""

    def __init__(
        self,
        engine: DockerEngine,
        name: str,
        keeper: Any,
        labels: dict[str, str],
        watcher: VolumeWatcher,
    ) -> None:
        self._engine = engine
        self.limits = engine.limits
        self._name = name
        self._keeper = keeper
        self._labels = labels
        self._watcher = watcher
        # Containers that wait for their turn, and the words that they wait for.
        self._waiting: dict[str, tuple[Any, str]] = {}

    def put(self, files: Mapping[str, Path | bytes]) -> None:
        # Through a file: a model may be too large to hold in memory.
        with tempfile.TemporaryFile() as archive:
            _write_tar(archive, files)
            archive.seek(0)
            with translate_errors():
                self._keeper.put_archive(_VOLUME, archive)

    def read(self, name: str) -> bytes | None:
        with io.BytesIO() as target:
            return target.getvalue() if self._copy_out(name, target, MOST_READ) else None

    def get(self, name: str, target: Path) -> None:
        with atomic_write(target) as temporary, open(temporary, "wb") as file:
            if not self._copy_out(name, file, self.limits.disk):
                raise FileNotFoundError(f"the volume holds no regular file '{name}'")

    def _copy_out(self, name: str, target: Any, most: int) -> bool:
        with translate_errors():
            try:
                chunks, _ = self._keeper.get_archive(f"{_VOLUME}/{name}")
            except docker.errors.NotFound:
                return False
            return _extract(chunks, target, most)

    def run(self, stage: Stage, on_line: OnLine, following: Stage | None = None) -> StageExit:
        memory = self._engine.memory
        with translate_errors():
            container = self._take_waiting(stage) or self._start(stage)

            def end() -> None:
                with suppress(docker.errors.DockerException, requests.exceptions.RequestException):
                    container.kill()

            watch = Watch(self.limits, 0, self._watcher.look, end)

            def handle_line(line: str) -> None:
                watch.count_output(line)
                if watch.exceeded is None:
                    on_line(line)

            try:
                with watch.run_in_background():
                    if following is not None:
                        self._start_ahead(following)
                    for line in split_lines(container.logs(stream=True, follow=True)):
                        handle_line(line)
                        if watch.exceeded is not None:
                            break  # output still in transit no longer matters
                    # The log ends with the daemon, too: only the state says that the stage ended.
                    status = int(container.wait(timeout=600)["StatusCode"])
                container.reload()
                state = container.attrs["State"]
            finally:
                _remove(container)
        if watch.exceeded is not None:
            return StageExit(status, watch.exceeded.reason, watch.exceeded.remedy)
        if state.get("OOMKilled") and status:
            return make_out_of_memory_exit(status, memory)
        if status > 128:
            return StageExit(status, f"The stage was ended by signal {status - 128}.")
        return StageExit(status)

    def _start(self, stage: Stage, word: str = "") -> Any:
        return self._engine.start(stage, self._name, self._labels, word)

    def _start_ahead(self, stage: Stage) -> None:
        # The memory that an engine elsewhere has left is unknown.
        if may_start_ahead(self._engine.core_count, None):
            word = make_word()
            # Its turn comes, and says what is wrong.
            with suppress(docker.errors.DockerException, requests.exceptions.RequestException):
                self._waiting[stage.name] = self._start(stage, word), word

    def _take_waiting(self, stage: Stage) -> Any:
        """Let a stage that was started ahead go on; return its container, or None."""
        container, word = self._waiting.pop(stage.name, (None, ""))
        if container is None:
            return None
        try:
            container.reload()
            if container.status == "running":
                self.put({word: b""})
                return container
        except docker.errors.NotFound:
            return None
        except BaseException:
            _remove(container)
            raise
        _remove(container)
        return None


def _remove(container: Any) -> None:
    with suppress(docker.errors.DockerException, requests.exceptions.RequestException):
        container.remove(force=True)


def _list_own_cores(info: Mapping[str, Any]) -> str | None:
    """List the cores that this process is kept to, for its containers; None if to no few.

    A container is the daemon's child and not ours: it would take all.
    """
    own, count = list_own_cores(), int(info.get("NCPU") or 0)
    if not info.get("CPUSet") or not own or max(own) >= count or len(own) >= count:
        return None
    return ",".join(map(str, own))


def _extract(chunks: Iterator[bytes], target: Any, most: int) -> bool:
    """Write the single regular file of a tar stream to `target`.

    Return False if the stream holds anything but a regular file of at most `most` bytes.
    """
    with tarfile.open(fileobj=io.BufferedReader(_Stream(chunks)), mode="r|") as archive:
        for member in archive:
            # A link or a device is not an artifact, and is never followed.
            fits = member.isreg() and member.size <= most
            source = archive.extractfile(member) if fits else None
            if source is None:
                return False
            while block := source.read(1 << 20):
                target.write(block)
            return True
        return False


def remove_run(client: docker.DockerClient, run: str) -> None:
    """Remove every container and volume of a run, found by its label."""
    with suppress(docker.errors.DockerException, requests.exceptions.RequestException):
        only: dict[str, str | list[str] | bool] = {"label": f"{LABEL}={run}"}
        for container in client.containers.list(all=True, filters=only):
            with suppress(docker.errors.DockerException):
                container.remove(force=True)
        for volume in client.volumes.list(filters=only):
            with suppress(docker.errors.DockerException):
                volume.remove(force=True)


def _write_tar(target: Any, files: Mapping[str, Path | bytes]) -> None:
    """Write a tar of these files and their parent folders, owned by the stages' user."""
    with tarfile.open(fileobj=target, mode="w") as archive:
        for folder in sorted({str(PurePosixPath(name).parent) for name in files} - {"."}):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            entry.uid = entry.gid = _USER
            archive.addfile(entry)
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.mode = 0o644
            entry.uid = entry.gid = _USER
            if isinstance(content, bytes):
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
            else:
                entry.size = content.stat().st_size
                with open(content, "rb") as file:
                    archive.addfile(entry, file)


class _Stream(io.RawIOBase):
    """The chunks of a download as a raw file, to be wrapped in an io.BufferedReader."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count
