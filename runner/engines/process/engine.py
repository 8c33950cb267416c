"""The process engine: stages in locked virtual environments on this machine, no Docker needed."""

from __future__ import annotations

import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from filelock import FileLock, Timeout
from uv import find_uv_bin

from runner.engines.base import MOST_READ, Ended, OnLine, Progress
from runner.engines.limits import DEFAULTS, Limits
from runner.engines.process import volume as volume_folder
from runner.engines.process.bubblewrap import Sandbox, find_sandbox
from runner.engines.process.launch import StageProgram, run_stage_program
from runner.engines.process.precompile import warm
from runner.errors import EnvironmentUnavailable
from runner.host.files import appearing
from runner.host.paths import ROOT
from runner.host.paths import cache_folder as cache_folder
from runner.host.process_identity import scratch_folder
from runner.host.subprocesses import Programs
from runner.packages.cpython import find_cpython
from runner.packages.pip_settings import uv_environment
from runner.packages.wheel_store import uv_variables
from runner.schemas.report import EnvironmentRecord
from runner.toolchains.model import DEFAULT_VARIANT, Image, Stage

# Counted up when the way of making environments changes, so that old ones are not used.
_FORMAT = "1"
# What stages see of the user's environment variables; the rest could change what they do.
_KEPT_VARIABLES = ("PATH", "SYSTEMROOT", "CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH")
# Lines of the lock that other packages' sources are built with, installed before the rest.
_BUILD_TOOLS = ("setuptools", "wheel")


def environment_folder(image: Image) -> Path:
    return cache_folder() / "environments" / f"{image.title}-{_FORMAT}-{image.environment_key[:16]}"


def is_environment_folder(path: Path) -> bool:
    """Whether a folder has the name of one that this engine makes, of whatever format."""
    return re.fullmatch(r".+-[0-9]+-[0-9a-f]{16}", path.name, re.ASCII) is not None


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
        self._install_missing(images, progress)
        if self.sandbox is not None:
            with ThreadPoolExecutor(len(images)) as pool:
                list(pool.map(lambda image: warm(image, environment_folder(image)), images))

    def _install_missing(self, images: Sequence[Image], progress: Progress) -> None:
        missing = [image for image in images if not _python(environment_folder(image)).exists()]
        if not missing:
            return
        if sys.platform != "linux" or os.uname().machine != "x86_64":
            raise EnvironmentUnavailable(
                "The packages of 2020 exist for x86-64 Linux only.",
                "Use the docker engine here: --engine docker.",
            )
        interpreters = {version: find_cpython(version) for version in {i.python for i in missing}}
        tasks = [progress.task(f"environment {image.title}") for image in missing]
        programs = Programs()
        # Downloads of one environment overlap with the unpacking of another.
        with ThreadPoolExecutor(len(missing)) as pool:
            try:
                jobs = [
                    pool.submit(_install, image, interpreters[image.python], programs, show)
                    for image, show in zip(missing, tasks, strict=True)
                ]
                for job in jobs:
                    job.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                programs.end()
                raise

    def environment(self, image: Image) -> EnvironmentRecord:
        return EnvironmentRecord(
            image=image.title,
            identity=image.environment_key,
            lock_sha256=image.lock_sha256,
            stand_ins=[str(stand_in) for stand_in in image.stand_ins_used],
            wheels=[f"{wheel.path.name} sha256:{wheel.sha256}" for wheel in image.wheels],
        )

    @contextmanager
    def volume(self, run: str, folder: Path) -> Iterator[ProcessVolume]:
        folder.mkdir(parents=True)
        try:
            yield ProcessVolume(folder, self._images, self._limits, self.sandbox)
        finally:
            volume_folder.remove(folder)


class ProcessVolume:
    """A folder on this machine, where nothing is what it was once a stage has run."""

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
        with appearing(target) as temporary, open(temporary, "wb") as file:
            if not volume_folder.copy_out(self._folder, name, file, self.limits.disk):
                raise FileNotFoundError(f"the volume holds no regular file '{name}'")

    def run(self, stage: Stage, on_line: OnLine) -> Ended:
        image = self._images[stage.image]
        python = _python(environment_folder(image))
        if not python.exists():
            raise EnvironmentUnavailable(
                f"The environment '{image.title}' is no longer in {environment_folder(image)}.",
                "It was removed in the meantime: run the command again, which makes it.",
            )
        with scratch_folder("home") as home:
            return run_stage_program(
                StageProgram(
                    python=python,
                    module=stage.module,
                    code=ROOT,
                    volume=self._folder,
                    home=home,
                    variables=_stage_environment(),
                    gpu=image.variant != DEFAULT_VARIANT,
                ),
                self.limits,
                self._sandbox,
                on_line,
            )


def _stage_environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    return {
        **kept,
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": "0",
        "PYTHONUNBUFFERED": "1",
        "RUNNER_PROGRESS": "1",
    }


def _python(folder: Path) -> Path:
    return folder / "bin" / "python"


def _install(
    image: Image,
    interpreter: Path,
    programs: Programs,
    show: Callable[[str, float | None], None],
) -> None:
    """Make an image's virtual environment, under its final name only when it is whole."""
    folder = environment_folder(image)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _held(FileLock(str(folder) + ".lock"), programs, show):
        if _python(folder).exists():
            show("installed by another run", 1.0)
            return
        draft = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(draft, ignore_errors=True)
        try:
            _fill(image, interpreter, draft, programs, show)
            shutil.rmtree(folder, ignore_errors=True)  # one that somebody has removed in part
            draft.rename(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    show("installed", 1.0)


@contextmanager
def _held(
    lock: FileLock, programs: Programs, show: Callable[[str, float | None], None]
) -> Iterator[None]:
    """Hold a lock; whoever ends the programs ends the wait for it too."""
    while True:
        try:
            lock.acquire(timeout=1)
            break
        except Timeout:
            if programs.ended:
                raise EnvironmentUnavailable("Another run is installing it.") from None
            show("waiting for another run", None)
    try:
        yield
    finally:
        lock.release()


def _fill(
    image: Image,
    interpreter: Path,
    draft: Path,
    programs: Programs,
    show: Callable[[str, float | None], None],
) -> None:
    text = image.requirements()
    total = len(re.findall(r"^\S+(==| @ )", text, re.MULTILINE))
    lock = draft.with_name(draft.name + ".txt")
    watching = threading.Event()
    watcher = threading.Thread(target=_watch, args=(draft, total, show, watching), daemon=True)
    try:
        show("creating", 0.0)
        venv = ("venv", "--quiet", "--relocatable", "--python", interpreter, draft)
        _uv(programs, image, *venv)
        watcher.start()
        install = ("pip", "install", "--no-deps", "--require-hashes", "--python", _python(draft))
        with uv_variables(image, draft.with_name(f"{draft.name}.wheels")) as store:
            lock.write_text(_only(text, _BUILD_TOOLS))
            _uv(programs, image, *install, "--requirement", lock, variables=store)
            lock.write_text(text)
            # What is published as source only is built by the locked tools, not by newer ones.
            _uv(
                programs,
                image,
                *install,
                "--no-build-isolation",
                "--requirement",
                lock,
                variables=store,
            )
    finally:
        watching.set()
        lock.unlink(missing_ok=True)


def _uv(
    programs: Programs,
    image: Image,
    *arguments: str | Path,
    variables: Mapping[str, str] = MappingProxyType({}),
) -> None:
    finished = programs.run(
        [find_uv_bin(), *map(str, arguments)],
        lambda line: None,
        # 'wrapt' is the same pure Python on every machine, whether it has a compiler or not.
        environment={**uv_environment(), "WRAPT_EXTENSIONS": "false", **variables},
    )
    if finished.status:
        raise EnvironmentUnavailable(
            f"The environment '{image.title}' could not be installed:\n"
            + "\n".join(finished.lines[-12:]),
            "Check the network and the package index (PIP_INDEX_URL, SSL_CERT_FILE), then run the "
            "command again: what was downloaded is kept.",
        )


def _watch(
    draft: Path, total: int, show: Callable[[str, float | None], None], stop: threading.Event
) -> None:
    """Show how many of the lock's packages are installed already."""
    while not stop.wait(0.25):
        count = len(list(draft.glob("lib/*/site-packages/*.dist-info")))
        show(
            "downloading" if count <= len(_BUILD_TOOLS) else "installing", min(count / total, 0.99)
        )


def _only(text: str, names: Sequence[str]) -> str:
    """The requirements of these names, with their hashes."""
    blocks = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)
    return "".join(block for block in blocks if block.partition("==")[0] in names)
