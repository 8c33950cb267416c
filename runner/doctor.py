"""What works on this machine, and how to mend the rest. A finding is data, not an exception."""

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
from runner.host.files import human_bytes
from runner.host.paths import cache_folder
from runner.packages.cpython import find_cpython
from runner.packages.pip_settings import read_registry
from runner.toolchains.load import all_images, load_toolchain
from runner.toolchains.model import Image

# Three environments, their downloads, and the samples of one run at 224 by 224.
_WANTED_BYTES = 8_000_000_000


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `level` is ok, warning (one way less) or error."""

    topic: str
    level: str
    message: str
    remedy: str = ""

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


def examine() -> list[Finding]:
    """Look at everything a conversion needs; an error means that no engine can serve."""
    docker, process = _docker(), _interpreter()
    findings = [docker, process]
    if docker.level == "ok":
        findings.append(_docker_images())
    findings += [_sandbox(), _limits(), _environments(), _disk(), _gpu(), _index()]
    if docker.level != "ok" and process.level != "ok":
        findings.append(
            Finding("engine", "error", "Neither engine can serve.", "Mend one of the two above.")
        )
    else:
        which = "docker" if docker.level == "ok" else "process"
        findings.append(Finding("engine", "ok", f"`--engine auto` takes {which}."))
    return findings


def image_states(images: Sequence[Image]) -> list[dict[str, str]]:
    """For each image: its lock, and whether either engine has it ready."""
    is_built = _built_images()
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


def _built_images() -> Callable[[Image], str]:
    from runner.engines.docker.engine import connect
    from runner.engines.docker.images import find_image

    try:
        client = connect()
    except EnvironmentUnavailable:
        return lambda image: "no engine"

    def state(image: Image) -> str:
        record = find_image(client, image)
        return record.id.removeprefix("sha256:")[:12] if record else "-"

    return state


def _docker() -> Finding:
    from runner.engines.docker.engine import connect

    try:
        version = connect().version()["Version"]
    except EnvironmentUnavailable as error:
        return Finding("docker", "warning", error.message, error.remedy)
    return Finding("docker", "ok", f"Docker Engine {version} answers.")


def _docker_images() -> Finding:
    is_built = _built_images()
    images = [image for image in all_images() if image.variant == "cpu"]
    missing = [image.title for image in images if is_built(image) == "-"]
    if missing:
        return Finding(
            "images",
            "warning",
            f"Not built yet: {', '.join(missing)}.",
            "`runner images build` builds them; so does the first conversion.",
        )
    return Finding("images", "ok", "All CPU images are here.")


def _interpreter() -> Finding:
    versions = sorted({image.python for image in all_images()})
    try:
        found = [find_cpython(version, install=False) for version in versions]
    except EnvironmentUnavailable as error:
        return Finding("process engine", "warning", error.message, error.remedy)
    hide_password = ", ".join(
        f"CPython {python.record.version} at {python.path}" for python in found
    )
    return Finding("process engine", "ok", f"{hide_password}.")


def _sandbox() -> Finding:
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


def _limits() -> Finding:
    return Finding("limits", "ok", DEFAULTS.describe())


def _environments() -> Finding:
    chain = load_toolchain()
    count = sum(is_installed(image) for image in all_images() if image.name in chain.images)
    return Finding("environments", "ok", f"{count} installed in {cache_folder()}.")


def _disk() -> Finding:
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
    message = f"{human_bytes(free)} free for {cache_folder()}."
    if free < _WANTED_BYTES:
        remedy = "Set RUNNER_CACHE_DIR to a larger disk."
        return Finding(
            "disk", "warning", f"{message} {human_bytes(_WANTED_BYTES)} is safe.", remedy
        )
    return Finding("disk", "ok", message)


def _gpu() -> Finding:
    if Path("/dev/nvidiactl").exists():
        return Finding("gpu", "ok", "An NVIDIA GPU is here; --gpu uses it on the docker engine.")
    return Finding("gpu", "ok", "No NVIDIA GPU; none is needed, and results do not depend on one.")


def _index() -> Finding:
    from runner.packages.index import hide_password

    registry = read_registry(os.environ)
    parts = [hide_password(registry.index_url) or "the default package index"]
    if registry.ca_bundle:
        parts.append(f"certificates from {registry.ca_bundle}")
    return Finding("packages", "ok", ", ".join(parts) + ".")
