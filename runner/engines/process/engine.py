"""The process engine: stages in locked virtual environments on this machine, without Docker."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

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
from runner.engines.process.launch import StageProgram, run_stage_program
from runner.engines.process.precompile import precompile
from runner.errors import EnvironmentUnavailable
from runner.host.files import atomic_write, remove_tree
from runner.host.paths import ROOT, cache_folder
from runner.host.process_identity import make_scratch_folder
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
        try:
            yield ProcessVolume(folder, self._images, self._limits, self.sandbox)
        finally:
            remove_tree(folder)


class ProcessVolume:
    """A folder on this machine, whose contents are untrusted once a stage has run."""

    def __init__(
        self,
        folder: Path,
        images: Mapping[str, Image],
        limits: Limits,
        sandbox: Sandbox | None,
    ) -> None:
        self._folder = folder
        self._images = images
        self.limits = limits
        self._sandbox = sandbox

    def put(self, files: Mapping[str, Path | bytes]) -> None:
        for name, content in files.items():
            volume_folder.put(self._folder, name, content)

    def read(self, name: str) -> bytes | None:
        return volume_folder.read(self._folder, name, MOST_READ)

    def get(self, name: str, target: Path) -> None:
        with atomic_write(target) as temporary, open(temporary, "wb") as file:
            if not volume_folder.copy_out(self._folder, name, file, self.limits.disk):
                raise FileNotFoundError(f"the volume holds no regular file '{name}'")

    def run(self, stage: Stage, on_line: OnLine) -> StageExit:
        image = self._images[stage.image]
        python = locate_environment_python(image)
        if not python.exists():
            raise EnvironmentUnavailable(
                f"The environment '{image.title}' is no longer in {locate_environment(image)}.",
                "It was removed in the meantime: run the command again, which makes it.",
            )
        with make_scratch_folder("home") as home:
            return run_stage_program(
                StageProgram(
                    python=python,
                    module=stage.module,
                    code=ROOT,
                    volume=self._folder,
                    home=home,
                    variables=_make_stage_environment(),
                    gpu=image.variant != DEFAULT_VARIANT,
                ),
                self.limits,
                self._sandbox,
                on_line,
            )


def _make_stage_environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    return {
        **kept,
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": "0",
        "PYTHONUNBUFFERED": "1",
        "RUNNER_PROGRESS": "1",
    }
