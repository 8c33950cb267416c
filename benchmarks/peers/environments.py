"""The benchmark's environments: each locked with hashes, installed by uv in the cache folder."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from uv import find_uv_bin

from runner.errors import EnvironmentUnavailable
from runner.host.compat import tomllib
from runner.host.paths import cache_folder
from runner.host.subprocesses import run_showing_lines
from runner.packages.cpython import find_cpython
from runner.packages.pip_settings import make_uv_environment, read_registry

HERE = Path(__file__).resolve().parent
_CONFIGURATION = tomllib.loads((HERE / "environments.toml").read_text())
AS_OF: str = _CONFIGURATION["as-of"]


@dataclass(frozen=True)
class Environment:
    """One folder of benchmarks/peers with a requirements.in and a requirements.lock."""

    name: str

    @property
    def source(self) -> Path:
        return HERE / self.name

    @property
    def version_of_python(self) -> str:
        return str(_CONFIGURATION[self.name]["python"])

    @property
    def lock(self) -> Path:
        return self.source / "requirements.lock"

    @property
    def folder(self) -> Path:
        digest = hashlib.sha256(self.lock.read_bytes()).hexdigest()
        return cache_folder() / "benchmarks" / f"{self.name}-{digest[:16]}"

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def version_of(self, package: str) -> str:
        """The version that the lock has of a package."""
        for line in self.lock.read_text().splitlines():
            name, equals, version = line.partition("==")
            if equals and name == package:
                return version.split()[0]
        raise KeyError(package)

    def megabytes(self) -> int:
        """The size of the installed environment."""
        files = (path for path in self.folder.rglob("*") if not path.is_symlink())
        return round(sum(path.stat().st_size for path in files if path.is_file()) / 1e6)


def environments() -> list[Environment]:
    return [Environment(name) for name, value in _CONFIGURATION.items() if isinstance(value, dict)]


def write_lock(environment: Environment) -> None:
    """Resolve requirements.in as of the date. Needs torch's CPU build in pip's find-links."""
    options = ["--quiet", "--no-header", "--generate-hashes", "--annotation-style=line"]
    options += ["--exclude-newer", AS_OF, "--python-version", environment.version_of_python]
    options += ["--python-platform", "x86_64-manylinux_2_28"]
    for place in read_registry().find_links:
        options += ["--find-links", place]
    result = subprocess.run(
        [find_uv_bin(), "pip", "compile", *options, "requirements.in"],
        cwd=environment.source,
        env=make_uv_environment(main_only=True),
        text=True,
        capture_output=True,
        check=False,
    )
    if result.returncode:
        raise EnvironmentUnavailable(f"No lock for {environment.name}:\n{result.stderr.strip()}")
    environment.lock.write_text(result.stdout)


def install(environment: Environment) -> Environment:
    """Install what the lock says, under the final name only when it is whole."""
    if environment.python.exists():
        return environment
    draft = environment.folder.with_name(f".{environment.folder.name}.part")
    shutil.rmtree(draft, ignore_errors=True)
    draft.parent.mkdir(parents=True, exist_ok=True)
    interpreter = find_cpython(environment.version_of_python).path
    try:
        _uv("venv", "--quiet", "--relocatable", "--python", interpreter, draft)
        options = ("--no-deps", "--require-hashes", "--python", draft / "bin" / "python")
        _uv("pip", "install", *options, "--requirement", environment.lock)
        draft.rename(environment.folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return environment


def _uv(*arguments: str | Path) -> None:
    command = [find_uv_bin(), *map(str, arguments)]
    finished = run_showing_lines(command, lambda line: None, environment=make_uv_environment())
    if finished.status:
        raise EnvironmentUnavailable("\n".join(finished.lines[-12:]))
