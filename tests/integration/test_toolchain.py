"""`runner toolchain` on the real index: toolchains of published requirements."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from harness import BAD_INPUT, ENVIRONMENT, PASSED, ROOT, SUPPORT, run_cli, run_here

from runner.packages.lockfile import parse_lock
from runner.recipes.check import load_probes

REQUIREMENTS = SUPPORT / "requirements"
network = pytest.mark.network


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a toolchain of pins of 2021 was made."""
    folder = tmp_path_factory.mktemp("made")
    wanted = ("--requirements", REQUIREMENTS / "pinned-2021.txt", "--json")
    done = run_cli("toolchain", "new", "mine", *wanted, cwd=folder)
    assert done.returncode == PASSED, done.stderr
    (folder / "said.json").write_text(done.stdout)
    return folder


@network
def test_what_is_written(made: Path) -> None:
    said = json.loads((made / "said.json").read_text())
    assert said["toolchains"] == ["mine", "mine-onnx"] and said["as_of"] == "2021-05-22"
    assert {i["name"]: i["python"] for i in said["images"]} == {
        "mine-torch": "3.8",  # onnx 1.8.1 has no wheel for 3.9
        "mine-onnx-tf": "3.8",
    }
    lock = (made / "toolchains/mine/images/mine-onnx-tf/requirements.lock").read_text()
    pins = {pin.name: str(pin.version) for pin in parse_lock(lock)}
    assert pins["tensorflow-cpu"] == "2.5.0" and pins["onnx-tf"] == "1.8.0"
    assert "tensorflow" not in pins and "matplotlib" not in pins
    # What others bring in is as pinned there, too.
    assert pins["wrapt"] == "1.12.1" and pins["keras-nightly"] == "2.5.0.dev2021032900"
    ignored = {entry["line"]: entry["reason"] for entry in said["ignored"]}
    assert ignored["jupyter==1.0.0"] == "part of no stage"
    assert {path.name for path in (made / "toolchains").iterdir()} == {"mine"}


@network
def test_it_is_listed_and_shown(made: Path) -> None:
    rows = json.loads(run_cli("toolchain", "list", "--json", cwd=made).stdout)
    row = next(row for row in rows if row["toolchain"] == "mine")
    assert row["starts from"] == "pytorch, onnx" and "tensorflow-cpu 2.5.0" in row["tools"]
    shown = json.loads(run_cli("toolchain", "show", "mine", "--json", cwd=made).stdout)
    assert [chain["accepts"] for chain in shown] == ["onnx", "pytorch"]
    assert shown[1]["stages"][0]["options"] == "opset=12, arch, arch_args, preprocessing"
    assert "mine" in run_cli("stages", "--toolchain", "mine", cwd=made).stdout


@network
def test_it_is_made_once(made: Path) -> None:
    again = run_cli("toolchain", "new", "mine", "--pin", "torch==1.8.1", cwd=made)
    assert again.returncode == BAD_INPUT and "exists already" in again.stderr


@network
@pytest.mark.years
def test_it_converts_the_example_and_the_probes(made: Path) -> None:
    example = ROOT / "examples" / "mbv2.pt"
    options = ("--toolchain", "mine", "--engine", "process", "--samples", "20")
    done = run_cli("convert", "--model", example, *options, "--output", "run", cwd=made)
    assert done.returncode == PASSED, done.stdout + done.stderr
    checked = run_cli("toolchain", "check", "mine", "--engine", "process", "--json", cwd=made)
    assert checked.returncode == PASSED, checked.stdout + checked.stderr
    rows = json.loads(checked.stdout)
    assert len(rows) == len(load_probes()) and rows[0]["result"] == "passed"


@network
@pytest.mark.parametrize(
    ("pins", "code", "message", "remedy"),
    [
        (
            ("torch==1.8.1", "torchvision==0.9.0", "onnx-tf==1.8.0", "tensorflow==2.5.0"),
            BAD_INPUT,
            "torchvision==0.9.0 needs torch==1.8.0, and torch==1.8.1 excludes it",
            "--without torchvision",
        ),
        (
            ("torch==1.8.1", "onnx-tf==1.8.0", "tensorflow==2.5.0", "numpy==1.21.0"),
            BAD_INPUT,
            "numpy==1.21.0 excludes it",
            "--without numpy",
        ),
        (
            ("torch==1.8.9", "onnx-tf==1.8.0", "tensorflow==2.5.0"),
            ENVIRONMENT,
            "is on no index",
            "--pin torch==1.8.1",
        ),
    ],
)
def test_pins_that_do_not_work(
    pins: tuple[str, ...], code: int, message: str, remedy: str, tmp_path: Path
) -> None:
    options = [option for pin in pins for option in ("--pin", pin)]
    done = run_cli("toolchain", "new", "mine", *options, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert message in done.stderr and remedy in done.stderr
    assert not list(tmp_path.iterdir())


@network
def test_builds_for_gpus_and_a_nightly_that_is_gone(tmp_path: Path) -> None:
    wanted = ("toolchain", "new", "mine", "--requirements", REQUIREMENTS / "cuda-2020.txt")
    refused = run_cli(*wanted, cwd=tmp_path)
    assert refused.returncode == BAD_INPUT and "--accept-stand-ins" in refused.stderr
    assert "tensorflow-cpu==2.4.0, stand-in for tf-nightly" in refused.stderr
    done = run_cli(*wanted, "--accept-stand-ins", "--json", cwd=tmp_path)
    assert done.returncode == PASSED, done.stderr
    taken = {row["asked for"]: row["taken"] for row in json.loads(done.stdout)["taken"]}
    assert taken["torch==1.5.1+cu101"] == "torch==1.5.1"
    assert taken["tensorflow-gpu==2.2.0"] == "tensorflow-cpu==2.2.0"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("new", "mine"), "Say what the toolchain is made of"),
        (("new", "../mine", "--pin", "torch==1.8.1"), "cannot name a toolchain"),
        (("new", "mine", "--requirements", "none.txt"), "none.txt cannot be read"),
        (("new", "mine", "--environment", "none.yml"), "none.yml cannot be read"),
        (("new", "mine", "--pin", "torch=1.8.1"), "is no requirement"),
        (("new", "mine", "--pin", "numpy==1.19.5"), "name no tool"),
        (("new", "mine", "--pin", "torch==1.8.1", "--as-of", "June"), "is no date"),
        (("show", "none"), "There is no toolchain 'none'"),
        (("check", "none"), "There is no toolchain 'none'"),
        (("check", "pb-tflite-2020"), "There is nothing to try"),
    ],
)
def test_what_cannot_be_meant(
    arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = run_here(capsys, "toolchain", *arguments, cwd=tmp_path)
    assert done.returncode == BAD_INPUT and message in done.stderr and "→" in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_default_toolchain_converts_the_probes(tmp_path: Path, pythons: object) -> None:
    done = run_cli("toolchain", "check", "2020-09", "--engine", "process", "--json", cwd=tmp_path)
    assert done.returncode == PASSED, done.stdout + done.stderr
    assert {row["result"] for row in json.loads(done.stdout)} == {"passed"}
    assert not list(tmp_path.iterdir())
