"""`--wheel`: a conversion with the pin's own wheel, and no stand-in."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import BAD_INPUT, ENVIRONMENT, PASSED, Convert, run_cli, sha256

from runner.engines.process.environments import locate_environment
from runner.toolchains.load import load_image

PIN = "tf-nightly==2.4.0.dev20200923"
INFO = "tf_nightly-2.4.0.dev20200923.dist-info"
NAME = "tf_nightly-2.4.0.dev20200923-cp38-cp38-manylinux2010_x86_64.whl"


def installed_files(site: Path) -> Iterator[tuple[str, bytes]]:
    """The files of the installed tensorflow-cpu, as in its wheel, under the pin's name."""
    (info,) = site.glob("tensorflow_cpu-*.dist-info")
    for row in csv.reader(io.StringIO((info / "RECORD").read_text())):
        name = row[0]
        by_the_installer = name.endswith(("/RECORD", "/INSTALLER", "/REQUESTED", ".pyc"))
        if name.startswith("..") or by_the_installer:
            continue
        content = (site / name).read_bytes()
        if name.endswith("/METADATA"):
            text = content.decode()
            text = text.replace("Name: tensorflow-cpu", "Name: tf-nightly", 1)
            content = text.replace("Version: 2.4.0", "Version: 2.4.0.dev20200923", 1).encode()
        yield name.replace(info.name, INFO, 1), content


@pytest.fixture(scope="module")
def wheel(convert: Convert, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the vanished nightly, made from the release that stands in for it."""
    assert convert("cnn").code == PASSED  # the environment is there
    (site,) = locate_environment(load_image("tflite")).glob("lib/python3.8/site-packages")
    file = tmp_path_factory.mktemp("wheel") / NAME
    record = []
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in installed_files(site):
            archive.writestr(name, content)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=")
            record.append(f"{name},sha256={digest.decode()},{len(content)}\n")
        archive.writestr(f"{INFO}/RECORD", "".join(record) + f"{INFO}/RECORD,,\n")
    return file


@pytest.mark.slow
def test_takes_the_stand_ins_place(
    wheel: Path, convert: Convert, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # A cache of its own, so that the user's is not filled; the other environments are lent.
    cache = tmp_path_factory.mktemp("cache")
    (cache / "environments").mkdir()
    for name in ("torch", "onnx-tf"):
        folder = locate_environment(load_image(name))
        (cache / "environments" / folder.name).symlink_to(folder)
    run = convert("cnn", "--wheel", wheel, environment={"RUNNER_CACHE_DIR": str(cache)})
    assert run.code == PASSED, run.stdout + run.stderr
    environment = run.stage("tflite")["environment"]
    assert environment["stand_ins"] == []
    assert environment["wheels"] == [f"{NAME} sha256:{sha256(wheel)}"]
    assert "stand-in" not in run.stdout
    # Another environment; but the same code, so the same model.
    assert environment["identity"] != convert("cnn").stage("tflite")["environment"]["identity"]
    assert run.hashes == convert("cnn").hashes
    (site,) = (cache / "environments").glob("tflite-*/lib/python3.8/site-packages")
    names = {path.name for path in site.glob("*.dist-info")}
    assert INFO in names and not [name for name in names if name.startswith("tensorflow_cpu-")]
    # Anybody can write a record: no wheel is installed because a record says so.
    arguments = ("reproduce", run.folder, "--engine", "process", "--output", cache / "again")
    settings = {"RUNNER_CACHE_DIR": str(cache)}
    refused = run_cli(*arguments, cwd=cache, environment=settings)
    assert refused.returncode == ENVIRONMENT and "--wheel FILE" in refused.stderr
    again = run_cli(*arguments, "--wheel", wheel, cwd=cache, environment=settings)
    assert again.returncode == PASSED, again.stdout + again.stderr


@pytest.mark.slow
def test_is_refused_with_another_hash(wheel: Path, models: Path, tmp_path: Path) -> None:
    finished = run_cli(
        *("convert", "--model", models / "cnn.pt", "--engine", "process"),
        *("--wheel", f"{wheel}#sha256={'0' * 64}"),
        cwd=tmp_path,
    )
    assert finished.returncode == BAD_INPUT
    assert f"has sha256 {sha256(wheel)}" in finished.stderr
    assert list(tmp_path.iterdir()) == []
