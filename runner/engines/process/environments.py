"""Locked virtual environments in the cache folder: where they lie, and how to install them."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from uv import find_uv_bin

from runner.engines.base import Progress
from runner.errors import EnvironmentUnavailable
from runner.host.locks import make_lock
from runner.host.machine import runs_stages
from runner.host.paths import cache_folder
from runner.host.subprocesses import Programs, run_together
from runner.packages.cpython import Interpreter, find_cpython
from runner.packages.lockfile import parse_lock
from runner.packages.pip_settings import make_uv_environment
from runner.packages.wheel_store import provide_uv_variables
from runner.toolchains.model import Image

if TYPE_CHECKING:
    from filelock import BaseFileLock as FileLock

# Incremented when the way of making environments changes, so that old ones are not used.
_FORMAT = "2"
# Locked packages that build other packages from source, so they are installed first.
_BUILD_TOOLS = ("setuptools", "wheel")


def compute_environment_identity(image: Image, interpreter: Interpreter) -> str:
    """Compute 64 hex digits that change whenever an installed file or its interpreter could.

    The same packages under another CPython are another environment.
    """
    python = interpreter.record
    parts = (image.environment_key, python.version, python.build, python.sha256)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def locate_environment(image: Image, interpreter: Interpreter | None = None) -> Path:
    """Return where an image's environment lies on this machine, whether or not it is installed.

    Raises `EnvironmentUnavailable` if the machine has no such CPython.
    """
    interpreter = interpreter or find_cpython(image.python, install=False)
    identity = compute_environment_identity(image, interpreter)
    return cache_folder() / "environments" / f"{image.title}-{_FORMAT}-{identity[:16]}"


def is_installed(image: Image) -> bool:
    """Tell whether an image's environment is on this machine."""
    try:
        return runs_stages() and locate_environment_python(image).exists()
    except EnvironmentUnavailable:
        return False


def is_environment_folder(path: Path) -> bool:
    """Tell whether a folder is named like an environment of this engine, of any format."""
    return re.fullmatch(r".+-[0-9]+-[0-9a-f]{16}", path.name, re.ASCII) is not None


def locate_environment_python(image: Image) -> Path:
    """Return the interpreter of an image's environment, whether or not it is installed."""
    return _get_python(locate_environment(image))


def _get_python(folder: Path) -> Path:
    return folder / "bin" / "python"


def install_missing(images: Sequence[Image], progress: Progress) -> None:
    """Install the environments of these images that are not here yet, in parallel.

    Raises `EnvironmentUnavailable`.
    """
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        raise EnvironmentUnavailable(
            "The locked packages are for x86-64 Linux.",
            "Use the docker engine here: --engine docker.",
        )
    interpreters = {version: find_cpython(version) for version in {i.python for i in images}}
    missing = [image for image in images if not locate_environment_python(image).exists()]
    if not missing:
        return
    tasks = [progress.task(f"environment {image.title}") for image in missing]
    # Downloads of one environment overlap with the unpacking of another.
    jobs = [
        partial(_install, image, interpreters[image.python], show)
        for image, show in zip(missing, tasks, strict=True)
    ]
    run_together(jobs, width=len(missing))


def _install(
    image: Image,
    interpreter: Interpreter,
    show: Callable[[str, float | None], None],
    programs: Programs,
) -> None:
    """Create an image's virtual environment, which gets its final name only once complete."""
    folder = locate_environment(image, interpreter)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _held(make_lock(Path(f"{folder}.lock")), programs, show):
        if _get_python(folder).exists():
            show("installed by another run", 1.0)
            return
        draft = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(draft, ignore_errors=True)
        try:
            _fill(image, interpreter, draft, programs, show)
            shutil.rmtree(folder, ignore_errors=True)  # one that was partly deleted
            draft.rename(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    show("installed", 1.0)


@contextmanager
def _held(
    lock: FileLock, programs: Programs, show: Callable[[str, float | None], None]
) -> Iterator[None]:
    """Hold a lock; ending the programs also ends the wait for it."""
    while True:
        try:
            lock.acquire(timeout=1)
            break
        except TimeoutError:
            if programs.ended:
                raise EnvironmentUnavailable("Another run is installing it.") from None
            show("waiting for another run", None)
    try:
        yield
    finally:
        lock.release()


def _fill(
    image: Image,
    interpreter: Interpreter,
    draft: Path,
    programs: Programs,
    show: Callable[[str, float | None], None],
) -> None:
    text = image.render_requirements()
    pins = parse_lock(text)
    total = len(pins) + len(image.wheels)
    lock = draft.with_name(draft.name + ".txt")
    stopped = threading.Event()
    watcher = threading.Thread(target=_watch, args=(draft, total, show, stopped), daemon=True)
    try:
        show("creating", 0.0)
        venv = ("venv", "--quiet", "--relocatable", "--python", interpreter.path, draft)
        _run_uv(programs, image, *venv)
        watcher.start()
        install = (
            "pip",
            "install",
            "--no-deps",
            "--require-hashes",
            "--python",
            _get_python(draft),
        )
        with provide_uv_variables(image, draft.with_name(f"{draft.name}.wheels")) as store:
            lock.write_text("".join(pin.text for pin in pins if pin.name in _BUILD_TOOLS))
            _run_uv(programs, image, *install, "--requirement", lock, variables=store)
            lock.write_text(text)
            # Source-only packages are built by the locked tools, not by newer ones.
            _run_uv(
                programs,
                image,
                *install,
                "--no-build-isolation",
                "--requirement",
                lock,
                variables=store,
            )
    finally:
        stopped.set()
        lock.unlink(missing_ok=True)


def _run_uv(
    programs: Programs,
    image: Image,
    *arguments: str | Path,
    variables: Mapping[str, str] = MappingProxyType({}),
) -> None:
    finished = programs.run(
        [find_uv_bin(), *map(str, arguments)],
        lambda line: None,
        # Makes 'wrapt' pure Python on every machine, whether or not it has a compiler.
        environment={**make_uv_environment(), "WRAPT_EXTENSIONS": "false", **variables},
    )
    if finished.status:
        raise EnvironmentUnavailable(
            f"The environment '{image.title}' could not be installed:\n"
            + "\n".join(finished.lines[-12:]),
            image.explain_indexes()
            + "Check the network and the package index (PIP_INDEX_URL, SSL_CERT_FILE), then run "
            "the command again: what was downloaded is kept.",
        )


def _watch(
    draft: Path, total: int, show: Callable[[str, float | None], None], stop: threading.Event
) -> None:
    """Show how many of the locked packages are installed already, until `stop` is set."""
    while not stop.wait(0.25):
        count = len(list(draft.glob("lib/*/site-packages/*.dist-info")))
        show(
            "downloading" if count <= len(_BUILD_TOOLS) else "installing", min(count / total, 0.99)
        )
