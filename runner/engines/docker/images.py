"""Stage images: naming them, finding them on this machine, and building them with BuildKit."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import docker
import docker.errors

from runner.engines.docker.base_image import build_base, find_base
from runner.engines.docker.interpreter import find_interpreter
from runner.errors import EnvironmentUnavailable
from runner.host.paths import ROOT
from runner.host.subprocesses import run_showing_lines
from runner.packages.lockfile import parse_lock, parse_release
from runner.packages.pip_settings import read_registry
from runner.toolchains.base import read_recipe
from runner.toolchains.model import Image
from runner.toolchains.tools import list_image_code

# The platform of the locked packages.
PLATFORM = "linux/amd64"
CUDA_VARIANT = "cuda"
LABELS = "org.runner"
# Where images/base/install finds the wheels that the user supplied.
WHEELS = "/dev/shm/wheels"

_INSTALL = Path("images", "base", "install")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
_OUTPUT_OF_A_STEP = re.compile(r"#\d+ \d+\.\d+ (?P<text>.*)")


@dataclass(frozen=True)
class ImageRecord:
    """A stage image on this machine; `base` is the id of the image that it was built from."""

    tag: str
    id: str
    base: str
    size: int


def make_image_tag(image: Image, base_id: str) -> str:
    """Return the tag under which an image built from exactly these inputs is found."""
    return f"runner-{image.title}:{_compute_key(image, base_id)[:12]}"


def find_image(client: docker.DockerClient, image: Image) -> ImageRecord | None:
    """Find an image that was built from the current lock, Dockerfile and code, or return None.

    If there are several, on different bases, return the one that was built last.
    """
    labels = [f"{LABELS}.image={image.name}", f"{LABELS}.variant={image.variant}"]
    found: list[ImageRecord] = []
    make_tag = cache(partial(make_image_tag, image))  # of several on one base: all code is hashed
    for candidate in client.images.list(filters={"label": labels}):
        base_id = candidate.labels.get(f"{LABELS}.base", "")
        tag = make_tag(base_id)
        if tag in candidate.tags:
            record = ImageRecord(tag, str(candidate.id), base_id, candidate.attrs["Size"])
            if _get_latest_tag(image) in candidate.tags:
                return record
            found.append(record)
    # Their dates are all the same, so any deterministic order will do.
    return min(found, key=lambda record: record.tag, default=None)


def build_image(
    client: docker.DockerClient,
    image: Image,
    base: str,
    on_line: Callable[[str], None],
    *,
    cuda: str | None = None,
    options: Sequence[str] = (),
) -> ImageRecord:
    """Build an image on `base` and load it into the engine: half a minute, without a cache.

    `cuda` is the image that the cuda variant takes its libraries from; by default, the first one
    in base.toml that is available. `options` are passed on to `docker buildx build`. Raises
    `EnvironmentUnavailable` with the last lines of the build's output.
    """
    if cuda is None:
        cuda = choose_cuda(client, on_line) if image.variant == CUDA_VARIANT else "scratch"
    base_id = _get_image_id(client, base)
    check_python(image, find_interpreter(client, base_id).version, base)
    if cuda != "scratch":
        base_id += f"+{_get_image_id(client, cuda)}"
    tag = make_image_tag(image, base_id)
    arguments = {
        "BASE": base,
        "CUDA": cuda,
        "LOCK": image.lock_path,
        "SOURCE_DATE_EPOCH": str(read_recipe().epoch),
    }
    labels = {
        "image": image.name,
        "variant": image.variant,
        "lock": image.lock_sha256,
        "key": _compute_key(image, base_id),
        "base": base_id,
    }
    with tempfile.TemporaryDirectory(prefix="runner-build-") as name, _provide_secrets() as secrets:
        folder = Path(name)
        _lay_out(image, folder)
        finished = run_showing_lines(
            [
                *("docker", "buildx", "build", "--load", "--progress=plain"),
                *("--provenance=false", "--platform", PLATFORM),
                *(f"--build-arg={name}={value}" for name, value in arguments.items()),
                # Predefined in BuildKit, which keeps them out of the image's history.
                *(f"--build-arg={name}" for name in _PROXIES if os.environ.get(name)),
                *(f"--label={LABELS}.{name}={value}" for name, value in labels.items()),
                *secrets,
                f"--build-context=wheels={folder / 'wheels'}",
                *("--tag", tag, "--tag", _get_latest_tag(image)),
                *("--file", str(image.dockerfile)),
                *options,
                str(folder / "context"),
            ],
            on_line,
        )
    if finished.status != 0:
        raise EnvironmentUnavailable(
            f"The image '{image.title}' could not be built:\n" + _last_words(finished.lines),
            image.explain_indexes()
            + "Containers must reach the package index. Behind a mirror, set PIP_INDEX_URL, and "
            "PIP_CERT if it has a certificate of its own: without that, pip says that it found no "
            "matching distribution.",
        )
    built = client.images.get(tag)
    return ImageRecord(tag, str(built.id), base_id, built.attrs["Size"])


def choose_base(client: docker.DockerClient, python: str, on_line: Callable[[str], None]) -> str:
    """Choose the base of a Python: one built here before, else the published one, else a new one.

    Raises `EnvironmentUnavailable` naming each way that was tried.
    """
    local = find_base(client, python)
    if local is not None:
        return local.tag
    recipe = read_recipe()
    published = recipe.published.get(python)
    refusal = "images/base/base.toml names none"
    if published is not None:
        refusal = _obtain(client, published, on_line)
        if not refusal:
            return published
        on_line(f"{published} cannot be had: {refusal}")
        on_line("Building a base from Debian's packages instead.")
    try:
        return build_base(client, python, on_line, recipe).tag
    except EnvironmentUnavailable as error:
        raise EnvironmentUnavailable(
            f"There is no base image with Python {python} for the stages.\n"
            "- none was built on this machine before\n"
            f"- {published or 'a published one'} could not be pulled: {refusal}\n"
            f"- none could be built here: {error.message}",
            error.remedy or "Make a registry reachable.",
        ) from error


def check_python(image: Image, version: str, place: str) -> None:
    """Raise `EnvironmentUnavailable` unless a Python is the one that a stage image declares.

    `place` names the image that has it.
    """
    if not f"{version}.".startswith(f"{image.python}."):
        raise EnvironmentUnavailable(
            f"The image '{image.title}' is to run on Python {image.python} "
            f"(images/{image.name}/image.toml), and {place} has Python {version}.",
            f"Make a base of that Python: runner images base --python {image.python}.",
        )


def choose_cuda(client: docker.DockerClient, on_line: Callable[[str], None]) -> str:
    """Return the first image with CUDA 10.1 in base.toml that is here or can be pulled."""
    sources = read_recipe().cuda_sources
    refusals = []
    for source in sources:
        refusal = _obtain(client, source, on_line)
        if not refusal:
            return source
        refusals.append(f"- {source}: {refusal}")
    raise EnvironmentUnavailable(
        "No image with CUDA 10.1 and cuDNN 7.6 can be had.\n" + "\n".join(refusals),
        "Load one of them with `docker load`, or use the cpu variant.",
    )


def _get_image_id(client: docker.DockerClient, reference: str) -> str:
    try:
        return str(client.images.get(reference).id)
    except docker.errors.ImageNotFound:
        raise EnvironmentUnavailable(
            f"The image {reference}, to build on, is not on this machine.",
            f"Get it: `docker pull {reference}`.",
        ) from None


def _obtain(client: docker.DockerClient, reference: str, on_line: Callable[[str], None]) -> str:
    """Make sure that an image is here, pulling it if needed; return why it cannot be, or ''."""
    try:
        client.images.get(reference)
    except docker.errors.ImageNotFound:
        pass
    else:
        return ""
    command = ["docker", "pull", "--platform", PLATFORM, reference]
    finished = run_showing_lines(command, on_line)
    if finished.status == 0:
        return ""
    said = [line for line in finished.lines if line.strip()]
    return (said or [f"docker pull ended with exit status {finished.status}"])[-1]


def _compute_key(image: Image, base_id: str) -> str:
    """Compute 64 hex digits from everything that goes into an image."""
    digest = hashlib.sha256(f"{image.environment_key}\n{image.variant}\n{base_id}\n".encode())
    named = {
        f"images/{image.name}/Dockerfile": image.dockerfile,
        _INSTALL.as_posix(): ROOT / _INSTALL,
    }
    code = {path.relative_to(ROOT).as_posix(): path for path in list_image_code(image.name)}
    for name, path in (named | code).items():
        digest.update(name.encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _get_latest_tag(image: Image) -> str:
    """Return the tag that compose.yaml uses."""
    return f"runner-{image.title}:latest"


def _lay_out(image: Image, folder: Path) -> None:
    """Create the build context, laid out like the repository, with only what the build reads."""
    context = folder / "context"
    for path in (ROOT / _INSTALL, *list_image_code(image.name)):
        copy = context / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    lock = context / image.lock_path
    lock.parent.mkdir(parents=True)
    lock.write_text(image.render_requirements(WHEELS))
    (folder / "wheels").mkdir()
    for path in (*(wheel.path for wheel in image.wheels), *_find_local_files(image)):
        shutil.copy(path, folder / "wheels")


def _find_local_files(image: Image) -> Iterator[Path]:
    """Yield the files of a lock that lie in folders of the user's, which a build cannot reach."""
    if not image.indexes:
        return
    pins = {(pin.name, pin.version) for pin in parse_lock(image.lock.read_text())}
    for link in read_registry().find_links:
        if "://" not in link and Path(link).is_dir():
            yield from (p for p in Path(link).iterdir() if parse_release(p.name) in pins)


@contextmanager
def _provide_secrets() -> Iterator[list[str]]:
    """Yield options that expose this machine's index and certificates only during the build."""
    registry = read_registry()
    options = []
    if registry.ca_bundle:
        options.append(f"--secret=id=ca_bundle,src={registry.ca_bundle}")
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", prefix="runner-pip-conf-") as file:
        file.write(registry.render_pip_conf())
        file.flush()
        options.append(f"--secret=id=pip_conf,src={file.name}")
        yield options


def _last_words(lines: Sequence[str]) -> str:
    """Return the end of the failed step's own output, or of BuildKit's if no step had begun."""
    words = [match["text"] for line in lines if (match := _OUTPUT_OF_A_STEP.match(line))]
    return "\n".join((words or list(lines))[-12:])
