"""What works on this machine, and how to fix the rest. A finding is data, not an exception."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from runner.engines.limits import DEFAULTS
from runner.engines.process.bubblewrap import find_sandbox
from runner.engines.process.environments import is_installed
from runner.errors import EnvironmentUnavailable
from runner.host.files import format_bytes
from runner.host.machine import describe_platform, runs_stages
from runner.host.paths import cache_folder
from runner.packages.cpython import find_cpython
from runner.packages.pip_settings import read_registry
from runner.toolchains.load import load_all_images, load_image, load_toolchain
from runner.toolchains.model import Image

# Enough for three environments, their downloads, and the samples of one run at 224 by 224.
_WANTED_BYTES = 8_000_000_000


@dataclass(frozen=True)
class Finding:
    """The result of one check. `level` is ok, warning (something is unavailable) or error."""

    topic: str
    level: str
    message: str
    remedy: str = ""

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


def examine() -> list[Finding]:
    """Check everything a conversion needs; an error means that no conversion can run."""
    docker = _check_docker()
    process = _check_interpreters() if runs_stages() else _refuse_processes()
    findings = [docker, process]
    if docker.level == "ok":
        findings += [_check_docker_images(), *_check_processor()]
    findings += [
        *([_check_sandbox(), _count_environments()] if runs_stages() else ()),
        _describe_limits(),
        _check_disk(),
        _check_gpu(),
        _describe_index(),
    ]
    if docker.level != "ok" and process.level != "ok":
        findings.append(
            Finding("engine", "error", "Neither engine can serve.", "Mend one of the two above.")
        )
    else:
        which = "docker" if docker.level == "ok" else "process"
        findings.append(Finding("engine", "ok", f"`--engine auto` takes {which}."))
    return findings


def describe_images(images: Sequence[Image]) -> list[dict[str, str]]:
    """Describe each image: its lock, and whether either engine has it ready."""
    is_built = _make_image_lookup()
    return [
        {
            "image": image.title,
            "as of": image.as_of[:10],
            "lock": image.lock_sha256[:12],
            "docker": is_built(image),
            "process": "installed" if is_installed(image) else "-",
        }
        for image in images
    ]


def _make_image_lookup() -> Callable[[Image], str]:
    from runner.engines.docker.client import connect
    from runner.engines.docker.images import find_image

    try:
        client = connect()
    except EnvironmentUnavailable:
        return lambda image: "no engine"

    def find_id(image: Image) -> str:
        record = find_image(client, image)
        return record.id.removeprefix("sha256:")[:12] if record else "-"

    return find_id


def _check_docker() -> Finding:
    from runner.engines.docker.client import connect

    try:
        version = connect().version()["Version"]
    except EnvironmentUnavailable as error:
        return Finding("docker", "warning", error.message, error.remedy)
    return Finding("docker", "ok", f"Docker Engine {version} answers.")


def _check_docker_images() -> Finding:
    is_built = _make_image_lookup()
    images = [load_image(name) for name in load_toolchain().images]
    missing = [image.title for image in images if is_built(image) == "-"]
    if missing:
        return Finding(
            "images",
            "warning",
            f"Not built yet: {', '.join(missing)}.",
            "`runner images build` builds them; so does the first conversion.",
        )
    return Finding("images", "ok", "The default toolchain's images are here.")


def _check_interpreters() -> Finding:
    versions = sorted({load_image(name).python for name in load_toolchain().images})
    try:
        pythons = [find_cpython(version, install=False) for version in versions]
    except EnvironmentUnavailable as error:
        return Finding("process engine", "warning", error.message, error.remedy)
    found = ", ".join(f"CPython {python.record.version} at {python.path}" for python in pythons)
    others = {image.python for image in load_all_images()}.difference(versions)
    missing = sorted(filter(_is_missing, others), key=lambda text: int(text.partition(".")[2]))
    if missing:
        found += f"; other toolchains also want {', '.join(missing)} (runner toolchain list)"
    return Finding("process engine", "ok", f"{found}.")


def _refuse_processes() -> Finding:
    return Finding(
        "process engine",
        "warning",
        f"It needs Linux on x86-64; this is {describe_platform()}.",
        "Use docker, which runs the stages' images here too (docs/hosts.md).",
    )


def _check_processor() -> list[Finding]:
    """Run an image, if one is here, to see whether its programs run where the engine is."""
    from runner.engines.docker.client import connect
    from runner.engines.docker.images import find_image
    from runner.engines.docker.processor import examine_processor

    client = connect()
    images = (load_image(name) for name in load_toolchain().images)
    found = next(filter(None, (find_image(client, image) for image in images)), None)
    if found is None:
        return []
    level, message, remedy = examine_processor(client, found.id)
    return [Finding("processor", level, message, remedy)]


def _is_missing(python: str) -> bool:
    try:
        find_cpython(python, install=False)
    except EnvironmentUnavailable:
        return True
    return False


def _check_sandbox() -> Finding:
    found = find_sandbox()
    if isinstance(found, str):
        return Finding(
            "sandbox",
            "warning",
            f"{found[0].upper()}{found[1:]}: the process engine does not isolate a model's code.",
            "Install the package 'bubblewrap'; until then, models that could run code need docker "
            "or --trust-model (docs/security.md).",
        )
    return Finding("sandbox", "ok", f"bubblewrap {found.version} isolates the process engine.")


def _describe_limits() -> Finding:
    return Finding("limits", "ok", DEFAULTS.describe())


def _count_environments() -> Finding:
    count = sum(is_installed(image) for image in load_all_images())
    return Finding("environments", "ok", f"{count} installed in {cache_folder()}.")


def _check_disk() -> Finding:
    folder = cache_folder()
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        return Finding(
            "disk",
            "error",
            f"The cache folder {cache_folder()} cannot be made or written: see {folder}.",
            "Set RUNNER_CACHE_DIR to a folder of yours.",
        )
    free = shutil.disk_usage(folder).free
    message = f"{format_bytes(free)} free for {cache_folder()}."
    if free < _WANTED_BYTES:
        remedy = "Set RUNNER_CACHE_DIR to a larger disk."
        return Finding(
            "disk", "warning", f"{message} {format_bytes(_WANTED_BYTES)} is safe.", remedy
        )
    return Finding("disk", "ok", message)


def _check_gpu() -> Finding:
    if Path("/dev/nvidiactl").exists():
        return Finding("gpu", "ok", "An NVIDIA GPU is here; --gpu uses it on the docker engine.")
    return Finding("gpu", "ok", "No NVIDIA GPU; none is needed, and results do not depend on one.")


def _describe_index() -> Finding:
    from runner.packages.index import hide_password

    registry = read_registry(os.environ)
    parts = [hide_password(registry.index_url) or "the default package index"]
    if registry.ca_bundle:
        parts.append(f"certificates from {registry.ca_bundle}")
    return Finding("packages", "ok", ", ".join(parts) + ".")
