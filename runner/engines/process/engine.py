"""The process engine: stages in locked virtual environments on this machine, without Docker."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from runner.engines.ahead import make_word, may_start_ahead
from runner.engines.base import MOST_READ, OnLine, Progress, StageExit
from runner.engines.limits import DEFAULTS, Limits
from runner.engines.process import volume as volume_folder
from runner.engines.process.bubblewrap import Sandbox, find_sandbox
from runner.engines.process.environments import (
    compute_environment_identity,
    install_missing,
    is_installed,
    locate_environment,
    locate_environment_python,
)
from runner.engines.process.launch import StageProcess, StageProgram, start_stage
from runner.engines.process.precompile import precompile
from runner.errors import EnvironmentUnavailable, RunnerError
from runner.host.files import atomic_write, remove_tree
from runner.host.machine import count_cores, read_available_memory
from runner.host.paths import ROOT, cache_folder
from runner.packages.cpython import find_cpython
from runner.schemas.report import EnvironmentRecord
from runner.toolchains.model import DEFAULT_VARIANT, Image, Stage

# The user's environment variables that stages see; others could change what the stages do.
_KEPT_VARIABLES = ("PATH", "SYSTEMROOT", "CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH")


class ProcessEngine:
    """Runs stages as child processes."""

    name = "process"

    def __init__(self, limits: Limits = DEFAULTS) -> None:
        found = find_sandbox()
        self.sandbox = found if isinstance(found, Sandbox) else None
        self.details: dict[str, str] = {
            "cache": str(cache_folder()),
            "sandbox": f"bubblewrap {found.version}" if isinstance(found, Sandbox) else "none",
        }
        self._limits = limits
        self._images: dict[str, Image] = {}

    def prepare(self, images: Sequence[Image], progress: Progress) -> None:
        self._images = {image.name: image for image in images}
        install_missing(images, progress)
        if self.sandbox is not None:
            with ThreadPoolExecutor(len(images)) as pool:
                list(pool.map(lambda image: precompile(image, locate_environment(image)), images))

    def is_ready(self, image: Image) -> bool:
        return is_installed(image)

    def environment(self, image: Image) -> EnvironmentRecord:
        interpreter = find_cpython(image.python, install=False)
        return EnvironmentRecord(
            image=image.title,
            identity=compute_environment_identity(image, interpreter),
            lock_sha256=image.lock_sha256,
            interpreter=interpreter.record,
            stand_ins=[str(stand_in) for stand_in in image.stand_ins_used],
            wheels=[f"{wheel.path.name} sha256:{wheel.sha256}" for wheel in image.wheels],
        )

    @contextmanager
    def volume(self, run: str, folder: Path) -> Iterator[ProcessVolume]:
        folder.mkdir(parents=True)
        volume = ProcessVolume(folder, self._images, self._limits, self.sandbox, self.details)
        try:
            yield volume
        finally:
            try:
                volume.end_waiting()
            finally:
                remove_tree(folder)


class ProcessVolume:
    """A folder on this machine, whose contents are untrusted once a stage has run.

    The stages that were forked from warm processes are noted in the engine's `details`.
    """

    def __init__(
        self,
        folder: Path,
        images: Mapping[str, Image],
        limits: Limits,
        sandbox: Sandbox | None,
        details: dict[str, str],
    ) -> None:
        self._folder = folder
        self._images = images
        self.limits = limits
        self._sandbox = sandbox
        self._details = details
        self._waiting: dict[str, StageProcess] = {}

    def put(self, files: Mapping[str, Path | bytes]) -> None:
        for name, content in files.items():
            volume_folder.put(self._folder, name, content)

    def read(self, name: str) -> bytes | None:
        return volume_folder.read(self._folder, name, MOST_READ)

    def get(self, name: str, target: Path) -> None:
        with atomic_write(target) as temporary, open(temporary, "wb") as file:
            if not volume_folder.copy_out(self._folder, name, file, self.limits.disk):
                raise FileNotFoundError(f"the volume holds no regular file '{name}'")

    def run(self, stage: Stage, on_line: OnLine, following: Stage | None = None) -> StageExit:
        waiting = self._waiting.pop(stage.name, None)
        if waiting is not None and not waiting.is_running():
            waiting.end()
            waiting = None
        with waiting or self._start(stage) as process:
            if process.is_warm:
                self._details["warm"] = f"{self._details.get('warm', '')} {stage.name}".strip()
            if waiting is not None:
                self.put({waiting.word: b""})
            # What is warm has done its imports, and so will the next one have.
            if following is not None and not process.is_warm:
                self._start_ahead(following)
            return process.follow(on_line)

    def end_waiting(self) -> None:
        """End the processes of stages whose turn has not come."""
        while self._waiting:
            self._waiting.popitem()[1].end()

    def _start_ahead(self, stage: Stage) -> None:
        if may_start_ahead(count_cores(), read_available_memory()):
            with suppress(RunnerError, OSError):  # its turn comes, and says why it cannot start
                self._waiting[stage.name] = self._start(stage, make_word())

    def _start(self, stage: Stage, word: str = "") -> StageProcess:
        image = self._images[stage.image]
        python = locate_environment_python(image)
        if not python.exists():
            raise EnvironmentUnavailable(
                f"The environment '{image.title}' is no longer in {locate_environment(image)}.",
                "It was removed in the meantime: run the command again, which makes it.",
            )
        program = StageProgram(
            python=python,
            module=stage.module,
            code=ROOT,
            volume=self._folder,
            variables=_make_stage_environment(),
            gpu=image.variant != DEFAULT_VARIANT,
            word=word,
        )
        return start_stage(program, self.limits, self._sandbox)


def _make_stage_environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    return {
        **kept,
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": "0",
        "PYTHONUNBUFFERED": "1",
        "RUNNER_PROGRESS": "1",
    }
