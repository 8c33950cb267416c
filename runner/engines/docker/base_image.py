"""The base image, built without a registry from Debian packages and a CPython on this machine.

mmdebstrap creates the root file system as a tar, CPython is copied from an interpreter found here,
and the engine loads both from an archive that we write. The same packages and the same interpreter
give the same image id.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import docker
import docker.errors

from runner.engines.docker.image_tar import write_archive
from runner.errors import BadInput, EnvironmentUnavailable
from runner.host.subprocesses import run_showing_lines
from runner.packages.cpython import find_cpython
from runner.toolchains.base import BaseRecipe, read_recipe

REPOSITORY = "runner-base"
BANNER = "# Written by `runner images base --lock`. Do not edit: change base.toml."
_LABELS = "org.runner.base"

# Parts of CPython that no stage needs: tests, Tk, and what compiles C extensions.
_LEFT_OUT = (
    *("test", "tests", "idlelib", "tkinter", "turtledemo", "site-packages", "dist-packages"),
    *("config-*", "_test*.so", "_tkinter*.so", "__pycache__"),
)
# Modules whose shared libraries must be in the image.
_NEEDED = "bz2, ctypes, ensurepip, lzma, readline, sqlite3, ssl, uuid, venv, zlib"


@dataclass(frozen=True)
class BaseImage:
    """A base image that was built on this machine."""

    tag: str
    id: str
    python: str
    packages: tuple[str, ...]

    @property
    def packages_sha256(self) -> str:
        return hashlib.sha256("\n".join(self.packages).encode()).hexdigest()

    def find_drift(self, recipe: BaseRecipe) -> tuple[str, ...]:
        """List the packages that differ from packages.lock because the mirror has moved on."""
        if not recipe.lock.exists():
            return ()
        lines = recipe.lock.read_text().splitlines()
        locked = {line for line in lines if line and not line.startswith("#")}
        return tuple(package for package in self.packages if package not in locked)


def get_local_tag(python: str) -> str:
    """Return the tag of the base that was built last for a Python, such as '3.8'."""
    return f"{REPOSITORY}:local-{python}"


def find_base(client: docker.DockerClient, python: str) -> BaseImage | None:
    """Return the base image that was built last on this machine for this Python, or None."""
    local = get_local_tag(python)
    try:
        image = client.images.get(local)
    except docker.errors.ImageNotFound:
        return None
    if f"{_LABELS}.python" not in image.labels or image.id is None:
        return None
    return BaseImage(
        tag=next((tag for tag in image.tags if not tag.startswith(f"{REPOSITORY}:local-")), local),
        id=image.id,
        python=image.labels[f"{_LABELS}.python"],
        packages=tuple(image.labels[f"{_LABELS}.packages"].split()),
    )


def build_base(
    client: docker.DockerClient,
    python: str,
    on_line: Callable[[str], None],
    recipe: BaseRecipe | None = None,
) -> BaseImage:
    """Build the base image of a Python and load it into the engine, which takes about a minute.

    `on_line` gets mmdebstrap's output and a warning if packages differ from packages.lock.
    Raises `EnvironmentUnavailable` unless there are Linux, root, mmdebstrap and a CPython of this
    version.
    """
    recipe = recipe or read_recipe()
    _check_machine()
    executable = find_cpython(python).path
    with tempfile.TemporaryDirectory(prefix="runner-base-") as name:
        folder = Path(name)
        # mmdebstrap's helpers drop privileges, but must still reach the files that it passes them.
        folder.chmod(0o755)
        version = copy_cpython(executable, python, folder / "python")
        _bootstrap(recipe, python, folder, on_line)
        packages = tuple((folder / "packages").read_text().split())
        key = _compute_recipe_key(recipe, folder / "python")
        tag = f"{REPOSITORY}:py{python.replace('.', '')}-{key}"
        archive = folder / "image.tar"
        write_archive(
            archive,
            folder / "layer.tar",
            tags=(tag, get_local_tag(python)),
            created=recipe.created,
            labels={f"{_LABELS}.python": version, f"{_LABELS}.packages": " ".join(packages)},
        )
        with archive.open("rb") as file:
            client.images.load(file)
    image = client.images.get(tag)
    base = BaseImage(tag=tag, id=str(image.id), python=version, packages=packages)
    drift = base.find_drift(recipe)
    if drift:
        on_line(f"Warning: {len(drift)} packages differ from packages.lock: {', '.join(drift)}")
    return base


def lock_base(base: BaseImage, recipe: BaseRecipe | None = None) -> bool:
    """Write packages.lock from a base image, and return whether it changed."""
    recipe = recipe or read_recipe()
    old = recipe.lock.read_text() if recipe.lock.exists() else ""
    if old and not old.startswith(BANNER):
        raise BadInput(
            f"{recipe.lock} was not written by `runner images base --lock`.", "Move it away."
        )
    text = "\n".join([BANNER, "", *base.packages]) + "\n"
    if text == old:
        return False
    temporary = recipe.lock.with_suffix(".lock.part")
    temporary.write_text(text)
    temporary.replace(recipe.lock)
    return True


def _check_machine() -> None:
    if not sys.platform.startswith("linux"):
        raise EnvironmentUnavailable(
            "A base image can be built from packages only on Linux.",
            "Make a registry reachable, or load a saved base with `docker load`.",
        )
    if shutil.which("mmdebstrap") is None:
        raise EnvironmentUnavailable(
            "Building the base image takes mmdebstrap, which is not installed.",
            "Install it: `apt-get install mmdebstrap`.",
        )
    if os.geteuid() != 0:
        raise EnvironmentUnavailable(
            "Building the base image takes root: mmdebstrap makes a root file system.",
            "Build it once as root: `sudo runner images base`.",
        )


def copy_cpython(executable: Path, version: str, target: Path) -> str:
    """Copy an interpreter as it belongs under /usr/local; return its full version ('3.8.18')."""
    script = (
        "import platform, sys, sysconfig; "
        "print(platform.python_version(), sys.base_prefix, sysconfig.get_path('stdlib'), "
        "getattr(sys, '_base_executable', sys.executable), sep='\\n')"
    )
    result = subprocess.run(
        [str(executable), "-I", "-c", script], capture_output=True, text=True, check=True
    )
    full_version, prefix, stdlib, binary = result.stdout.splitlines()
    (target / "bin").mkdir(parents=True)
    shutil.copy(Path(binary).resolve(), target / "bin" / f"python{version}")
    for link in ("python3", "python"):
        (target / "bin" / link).symlink_to(f"python{version}")
    shutil.copytree(
        stdlib,
        target / "lib" / f"python{version}",
        symlinks=True,
        ignore=shutil.ignore_patterns(*_LEFT_OUT),
    )
    # Up to Python 3.7 the name has the ABI's flags: libpython3.7m.so.
    for library in Path(prefix, "lib").glob(f"libpython{version}*.so*"):
        shutil.copy(library, target / "lib" / library.name, follow_symlinks=False)
    return full_version


def _bootstrap(
    recipe: BaseRecipe, version: str, folder: Path, on_line: Callable[[str], None]
) -> None:
    """Write the root file system to layer.tar and its package list to packages."""
    python = shlex.quote(str(folder / "python"))
    packages = shlex.quote(str(folder / "packages"))
    stdlib = f"/usr/local/lib/python{version}"
    # A read-only image cannot write .pyc files, and a timestamp in one would be the build's.
    compile_options = "-q --invalidation-mode unchecked-hash -x lib2to3/tests"
    hooks = (
        f'cp -R --preserve=mode,links {python}/. "$1/usr/local/"',
        'chroot "$1" ldconfig',
        # -B: a .pyc written by an import would contain a timestamp, and compileall would keep it.
        f'chroot "$1" python3 -I -B -c "import {_NEEDED}"',
        f'PYTHONHASHSEED=0 chroot "$1" python3 -m compileall {compile_options} {stdlib}',
        f"""chroot "$1" dpkg-query --show -f '${{Package}}=${{Version}}\\n' >{packages}""",
        # Remove what differs between machines or names their mirror.
        'for file in resolv.conf hostname hosts apt/sources.list; do : >"$1/etc/$file"; done',
        'rm -rf "$1"/var/cache/apt/*.bin "$1"/var/cache/debconf/*-old "$1"/var/lib/dpkg/*-old',
    )
    command = [
        *("mmdebstrap", "--variant=minbase", "--mode=root", "--architectures=amd64"),
        "--include=" + ",".join(recipe.packages),
        # Without this hook, apt chooses the package usrmerge, which pulls in 50 MB of Perl.
        "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
        # Keep licences, but not manuals and translations.
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale")),
        "--dpkgopt=path-include=/usr/share/doc/*/copyright",
        *(f"--customize-hook={hook}" for hook in hooks),
        *(recipe.suite, str(folder / "layer.tar")),
        *_list_apt_sources(recipe.suite),
    ]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(recipe.epoch), "LC_ALL": "C.UTF-8"}
    finished = run_showing_lines(command, on_line, environment)
    if finished.status != 0:
        raise EnvironmentUnavailable(
            "mmdebstrap could not build the base image:\n" + "\n".join(finished.lines[-20:]),
            "Check that the mirror in apt's sources is reachable (`apt-get update`).",
        )


def _list_apt_sources(suite: str) -> list[str]:
    """List this machine's apt sources for Debian's `suite`; if none, mmdebstrap has a default."""
    command = [
        *("apt-get", "indextargets", "--format", "deb $(REPO_URI) $(RELEASE) $(COMPONENT)"),
        *("Created-By: Packages", "Origin: Debian", "Component: main"),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = result.stdout.splitlines()
    wanted = {suite, f"{suite}-updates", f"{suite}-security"}
    return [line for line in lines if line.split()[2] in wanted]


def _compute_recipe_key(recipe: BaseRecipe, python: Path) -> str:
    """Compute 12 hex digits from the recipe, this module's source and the interpreter."""
    digest = hashlib.sha256(repr((recipe.epoch, recipe.suite, recipe.packages)).encode())
    digest.update(Path(__file__).read_bytes())
    for path in sorted(path for path in python.rglob("*") if path.is_file()):
        digest.update(path.relative_to(python).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:12]
