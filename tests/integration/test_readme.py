"""What README.md shows, run as it stands there."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from harness import ENGINES, ROOT

from runner.toolchains.load import Toolchain, load_image, load_toolchain, load_toolchains

README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^    (python3 bootstrap\.py .+)$", README, re.MULTILINE)


def test_there_are_two_commands_and_ci_runs_the_second() -> None:
    assert len(COMMANDS) == 2
    assert COMMANDS[1] in (ROOT / ".ci/run").read_text()


@pytest.mark.parametrize("engine", ENGINES)
def test_the_first_command_on_a_fresh_clone(engine: str, tmp_path: Path) -> None:
    """Cold: no virtual environment, and on the process engine no Docker and no environments."""
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    environment = {**os.environ, "RUNNER_CACHE_DIR": str(tmp_path / "cache")}
    if engine == "process":
        environment["DOCKER_HOST"] = f"unix://{tmp_path}/nothing.sock"
    for name in ("VIRTUAL_ENV", "PYTHONPATH"):
        environment.pop(name, None)
    command = shlex.split(COMMANDS[0])
    # The python3 that a user's shell finds, and not that of the tests' own environment.
    command[0] = str(Path(sys.base_prefix) / "bin" / "python3")
    done = subprocess.run(command, cwd=clone, env=environment, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = (clone / "runs").iterdir()
    report = json.loads((folder / "report.json").read_text())
    assert report["engine"]["name"] == engine
    check = report["stages"][-1]["report"]["check"]
    assert check["samples"] == 1000
    assert check["outputs"][0]["mean_abs"] < 1e-6
    assert check["outputs"][0]["reference_sample_std"] > 0.05
    assert (folder / "model.tflite").stat().st_size > 1_000_000


def test_every_link_leads_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_exit_codes_are_all_there() -> None:
    from runner.errors import ExitCode

    table = set(map(int, re.findall(r"^\| (\d+) \|", README, re.MULTILINE)))
    assert table == {int(code) for code in ExitCode}


def test_the_pins_are_those_of_the_intents() -> None:
    images = load_toolchain().images
    assert len(images) == 3
    for image in images:
        for name, version in list_pins(load_image(image).intent):
            assert version in README, f"{name} {version}"


@pytest.mark.parametrize("chain", load_toolchains(), ids=lambda chain: chain.title)
def test_the_page_of_toolchains_has_the_tools_of_the_intents(chain: Toolchain) -> None:
    page = (ROOT / "docs/toolchains.md").read_text()
    row = re.search(rf"^\| `{re.escape(chain.title)}` \|.*$", page, re.MULTILINE)
    assert row, chain.title
    named = {"torch", "onnx-tf", "onnx2tf", "litert-torch", "tensorflow-cpu"}
    pins = [
        (name, version)
        for image in chain.images
        for name, version in list_pins(load_image(image).intent)
        if name in named
    ]
    # Of the default toolchain's last image the page names what stands in for a vanished nightly.
    assert pins or chain.accepts == "frozen-graph"
    for name, version in pins:
        short = ".".join(version.split(".")[:2])
        tool = name.removesuffix("-cpu").replace("tensorflow", "TensorFlow")
        assert re.search(rf"{tool} [^,;]*\b{re.escape(short)}", row.group()), (name, version)


def list_pins(intent: Path) -> list[tuple[str, str]]:
    """Return the names and versions that a requirements.in pins."""
    return re.findall(r"^([a-z0-9-]+)==(\S+)$", intent.read_text(), re.MULTILINE)
