"""The images: their data agree, and what is built from them is what they promise."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from runner.conversion.observer import Observer
from runner.engines.docker import base_image, images
from runner.engines.docker.base_image import BaseImage
from runner.engines.docker.engine import DockerEngine
from runner.errors import BadInput, EnvironmentUnavailable
from runner.host.compat import tomllib
from runner.host.paths import ROOT
from runner.host.subprocesses import run_showing_lines
from runner.toolchains.base import read_recipe
from runner.toolchains.load import (
    list_image_names,
    load_all_images,
    load_image,
    load_targets,
    load_toolchain,
    load_toolchains,
)
from runner.toolchains.model import Image, Wheel, add_wheels

IMAGES = load_all_images()
STAGES = (
    *(s for chain in load_toolchains() if chain.accepts == "pytorch" for s in chain.stages),
    *load_targets().values(),
)
QUANTIZERS = tuple(s for chain in load_toolchains() for s in chain.quantizers)
# Those that are built here. `pytest -m years` converts by all toolchains, on both engines.
BUILT = [*load_toolchain().images, *load_toolchain("2026-onnx2tf").images]
HARDENED = {
    "network_mode": "none",
    "read_only": True,
    "tmpfs": ["/tmp"],
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
    "user": "1000:1000",
    "init": True,
    "pull_policy": "missing",
    "platform": images.PLATFORM,
}


def services() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    return loaded


def argument(dockerfile: str, name: str) -> str:
    found = re.search(rf"^ARG {name}=(.*)$", dockerfile, re.MULTILINE)
    assert found, f"no ARG {name}"
    return found[1]


def default_of(text: str) -> str:
    """The default of a compose variable, `${NAME:-default}`."""
    found = re.fullmatch(r"\$\{\w+:-(.*)\}", text)
    assert found, text
    return found[1]


def default_base(image: Image) -> str:
    return read_recipe().published.get(image.python, f"runner-base:local-{image.python}")


@pytest.mark.parametrize("name", list_image_names())
def test_dockerfile_agrees_with_the_data(name: str) -> None:
    image, recipe = load_image(name), read_recipe()
    text = image.dockerfile.read_text()
    assert argument(text, "BASE") == default_base(image)
    assert argument(text, "SOURCE_DATE_EPOCH") == str(recipe.epoch)
    assert argument(text, "LOCK") == image.lock.relative_to(ROOT).as_posix()
    modules = {stage.module for stage in (*STAGES, *QUANTIZERS) if stage.image == name}
    entry = re.search(r'ENTRYPOINT \["python", "-m", "([\w.]+)"\]', text)
    assert entry and entry[1] in modules
    assert "# syntax=" not in text, "it would be pulled, and no registry may be reachable"


def test_dockerfiles_have_one_shape() -> None:
    def shape(name: str) -> str:
        text = load_image(name).dockerfile.read_text()
        return re.sub(r"(?m)^(ARG BASE=|ARG LOCK=|ENTRYPOINT ).*$", r"\1", text)

    assert len({shape(name) for name in list_image_names()}) == 1


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: image.title)
def test_compose_builds_what_the_runner_builds(image: Image) -> None:
    recipe = read_recipe()
    tag = f"runner-{image.title}:latest"
    service = next(s for s in services().values() if s["image"] == tag and "build" in s)
    arguments = service["build"]["args"]
    assert service["build"]["dockerfile"] == image.dockerfile.relative_to(ROOT).as_posix()
    base = arguments["BASE"]
    assert (default_of(base) if base.startswith("$") else base) == default_base(image)
    assert arguments["SOURCE_DATE_EPOCH"] == str(recipe.epoch)
    assert arguments["LOCK"] == image.lock.relative_to(ROOT).as_posix()
    if image.variant == images.CUDA_VARIANT:
        assert default_of(arguments["CUDA"]) in recipe.cuda_sources
        assert service["profiles"] == ["cuda"]
    else:
        assert "CUDA" not in arguments


def test_compose_names_the_stages() -> None:
    for stage in STAGES:
        service = services()[stage.service]
        assert service["image"] == f"runner-{stage.image}:latest"
        entry = load_image(stage.image).dockerfile.read_text().rpartition("ENTRYPOINT ")[2]
        assert stage.module in service.get("entrypoint", json.loads(entry))


@pytest.mark.parametrize("name", services())
def test_compose_hardens(name: str) -> None:
    service = services()[name]
    assert {key: service.get(key) for key in HARDENED} == HARDENED
    assert service["pids_limit"] and service["mem_limit"]
    assert "depends_on" not in service


def test_tag_changes_with_base_lock_and_variant() -> None:
    tags = {
        images.make_image_tag(image, base)
        for image in IMAGES
        for base in ("sha256:one", "sha256:two")
    }
    assert len(tags) == 2 * len(IMAGES)


def test_context_holds_what_the_build_reads_and_a_handed_over_wheel(tmp_path: Path) -> None:
    image = load_image("tflite")
    (stand_in,) = image.stand_ins
    file = tmp_path / "tf_nightly-2.4.0.dev20200923-cp38-cp38-manylinux2010_x86_64.whl"
    file.write_bytes(b"wheel")
    wheel = Wheel(file, pin=stand_in.pin, replaces=stand_in.use, sha256="ab" * 32)
    folder = tmp_path / "build"
    images._lay_out(add_wheels(image, (wheel,)), folder)
    lock = (folder / "context/images/tflite/requirements.lock").read_text()
    url = f"file://{images.WHEELS}/{file.name}"
    assert f"tf-nightly @ {url} --hash=sha256:{wheel.sha256}\n" in lock
    assert f"\n{stand_in.use} " not in lock
    assert (folder / "wheels" / file.name).read_bytes() == b"wheel"
    files = {p.relative_to(folder / "context") for p in (folder / "context").rglob("*")}
    assert Path("images/base/install") in files
    assert Path("stages/__init__.py") in files
    assert not any("__pycache__" in path.parts for path in files)


def test_last_words_are_the_failed_steps() -> None:
    lines = [
        "#5 DONE 1.8s",
        "#6 3.95 Collecting six",
        "#6 4.05 ERROR: No matching",
        "Dockerfile:18",
    ]
    assert images._last_words(lines) == "Collecting six\nERROR: No matching"
    assert images._last_words(["ERROR: no builder"]) == "ERROR: no builder"


def test_an_interrupt_ends_the_whole_process_group(tmp_path: Path) -> None:
    script = f"sleep 300 & echo $! >{tmp_path}/child; echo started; wait"

    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_showing_lines(["sh", "-c", script], interrupt)
    child = (tmp_path / "child").read_text().strip()
    for _ in range(50):
        status = Path("/proc", child, "stat")
        # An orphan that nobody reaps stays as a zombie.
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("the child still runs")


def test_base_packages_are_locked_by_one_writer(tmp_path: Path) -> None:
    recipe = SimpleNamespace(lock=tmp_path / "packages.lock")
    base = BaseImage("tag", "id", "3.8.18", ("libc6=1", "zlib1g=2"))
    assert base.find_drift(recipe) == ()  # type: ignore[arg-type]
    assert base_image.lock_base(base, recipe)  # type: ignore[arg-type]
    assert not base_image.lock_base(base, recipe)  # type: ignore[arg-type]
    newer = BaseImage("tag", "id", "3.8.18", ("libc6=1", "zlib1g=3"))
    assert newer.find_drift(recipe) == ("zlib1g=3",)  # type: ignore[arg-type]
    recipe.lock.write_text("mine")
    with pytest.raises(BadInput):
        base_image.lock_base(base, recipe)  # type: ignore[arg-type]


def test_the_locked_packages_hold_those_of_the_recipe() -> None:
    recipe = read_recipe()
    locked = {line.partition("=")[0] for line in recipe.lock.read_text().splitlines()}
    assert set(recipe.packages) <= locked


def test_no_mmdebstrap_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(base_image.shutil, "which", lambda name: None)
    with pytest.raises(EnvironmentUnavailable, match="mmdebstrap") as caught:
        base_image._check_machine()
    assert "apt-get install mmdebstrap" in caught.value.remedy


# ---- with an engine -------------------------------------------------------------------------

docker = pytest.mark.docker
LOOK = r"""
import ast, glob, importlib.util, json, os, pwd, shutil, sys
names = json.loads(sys.argv[1])
site = os.path.dirname(os.path.dirname(importlib.import_module(names[0]).__file__))
scripts = [f for name in names for f in glob.glob(f"{site}/{name}/**/*.py", recursive=True)]
cached = importlib.util.cache_from_source
def flags(path):
    with open(cached(path), "rb") as file:
        return int.from_bytes(file.read(8)[4:], "little")
def is_code(path):
    # Packages have files for other releases of Python, which this one cannot compile.
    try:
        return ast.parse(open(path, "rb").read()) is not None
    except SyntaxError:
        return False
print(json.dumps({
    "versions": {name: importlib.import_module(name).__version__ for name in names},
    "user": [os.getuid(), os.getgid(), pwd.getpwuid(os.getuid()).pw_name],
    "home": os.path.expanduser("~"),
    "cwd": os.getcwd(),
    "owner": os.stat("/artifacts").st_uid,
    "compilers": [c for c in ("cc", "gcc", "g++", "c++", "clang", "ld", "pip") if shutil.which(c)],
    "scripts": len(scripts),
    "uncompiled": [f for f in scripts if not os.path.exists(cached(f)) and is_code(f)],
    # PEP 552: 1 is a hash, 2 would be to check the source against it.
    "flags": sorted({flags(f) for f in scripts + [os.__file__] if os.path.exists(cached(f))}),
    "left": [f for d in ("/tmp", "/dev/shm", "/run/secrets", "/root/.cache")
             if os.access(d, os.R_OK) for f in os.listdir(d)],
}))
"""
PROBED = {
    "torch": ["torch", "onnx"],
    "onnx-tf": ["tensorflow", "onnx"],
    "tflite": ["tensorflow"],
    "torch-2.13": ["torch", "onnx"],
    "onnx2tf-2.6": ["onnx2tf"],
}


@pytest.fixture(scope="module")
def client() -> Any:
    from docker import from_env

    return from_env(timeout=300)


@pytest.fixture(scope="module", params=BUILT)
def built(request: pytest.FixtureRequest, client: Any) -> tuple[Image, images.ImageRecord]:
    image = load_image(request.param)
    record = images.find_image(client, image)
    if record is None:
        base = images.choose_base(client, image.python, print)
        record = images.build_image(client, image, base, print)
    return image, record


@docker
def test_a_built_image_is_found_again(built: Any, client: Any) -> None:
    image, record = built
    assert images.find_image(client, image) == record
    labels = client.images.get(record.id).labels
    assert labels["org.runner.lock"] == image.lock_sha256
    assert labels["org.runner.variant"] == image.variant


@docker
def test_an_image_is_what_it_promises(built: Any) -> None:
    image, record = built
    names = PROBED[image.name]
    command = [
        *("docker", "run", "--rm", "--network", "none", "--read-only", "--cap-drop", "ALL"),
        # Not on /tmp, so that what a build left there is seen.
        *("--security-opt", "no-new-privileges", "--init", "--tmpfs", "/var/tmp"),
        *("--entrypoint", "python"),
        *(record.id, "-W", "ignore", "-c", LOOK, json.dumps(names)),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    seen = json.loads(result.stdout.splitlines()[-1])
    lock = image.lock.read_text()
    for name in names:
        pin = re.search(rf"^{name}(?:-cpu)?==(\S+)", lock, re.MULTILINE)
        assert pin and seen["versions"][name] == pin[1]
    assert seen["user"] == [1000, 1000, "runner"]
    assert (seen["home"], seen["cwd"], seen["owner"]) == ("/tmp", "/", 1000)
    assert seen["compilers"] == []
    assert seen["left"] == []
    assert seen["scripts"] > 100 and seen["uncompiled"] == []
    assert seen["flags"] == [1]


@docker
def test_an_image_has_the_python_that_it_declares(client: Any, tmp_path: Path) -> None:
    """On a base of that Python; on another one it is refused before anything is built."""
    tflite = load_image("tflite")
    (tmp_path / "requirements.lock").write_text("# Nothing but Python.\n")
    image = replace(tflite, python="3.11", lock=tmp_path / "requirements.lock", variant="other")
    with pytest.raises(EnvironmentUnavailable, match=r"Python 3\.11 .* has Python 3\.8\.\d+"):
        images.build_image(client, image, images.choose_base(client, "3.8", print), print)
    assert images.find_image(client, image) is None
    base = images.choose_base(client, "3.11", print)
    record = images.build_image(client, image, base, print)
    try:
        command = ["docker", "run", "--rm", "--entrypoint", "python", record.id, "--version"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert said.startswith("Python 3.11.")
        engine = DockerEngine(client)
        engine.prepare([image], Observer())
        interpreter = engine.environment(image).interpreter
        assert interpreter is not None and interpreter.version.startswith("3.11.")
        images.check_python(image, interpreter.version, record.id)
        with pytest.raises(EnvironmentUnavailable, match=r"Python 3\.8 .* has Python 3\.11"):
            images.check_python(tflite, interpreter.version, record.id)
    finally:
        client.images.remove(record.id, force=True)


@docker
def test_no_secret_is_in_an_images_configuration_or_history(built: Any, client: Any) -> None:
    _, record = built
    image = client.images.get(record.id)
    text = json.dumps([image.history(), image.attrs["Config"]])
    registry = images.read_registry()
    for secret in (registry.index_url, *registry.extra_index_urls, registry.ca_bundle):
        assert not secret or secret not in text
    assert not [name for name in os.environ if name.startswith("PIP_") and f"{name}=" in text]


@docker
def test_compose_uses_the_image_that_is_here(built: Any) -> None:
    image, _ = built
    (stage,) = (stage for stage in STAGES if stage.image == image.name)
    compose = ["docker", "compose", "--project-name", f"runner-test-{os.getpid()}"]
    command = [*compose, "run", "--rm", "--entrypoint", "python", stage.service]
    result = subprocess.run(
        [*command, "-c", "print('ran')"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    subprocess.run([*compose, "down", "--volumes"], cwd=ROOT, capture_output=True, check=True)
    assert result.stdout.split() == ["ran"], result.stderr


def test_base_toml_has_nothing_unread() -> None:
    data = tomllib.loads((ROOT / "images/base/base.toml").read_text())
    assert set(data) == {"published", "source-date-epoch", "local", "cuda"}
