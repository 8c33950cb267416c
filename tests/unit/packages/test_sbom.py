"""`runner images sbom`: valid by CycloneDX's own schema, and complete by the locks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from harness import BAD_INPUT, PASSED, run_here
from packaging.utils import canonicalize_name
from packaging.version import Version

from runner.host.paths import ROOT
from runner.packages.sbom import collect_licences, make_bill_of_materials
from runner.toolchains.load import load_all_images, load_image
from runner.toolchains.model import Image

IMAGES = load_all_images()


def validate(bill: dict[str, Any]) -> None:
    """By the schema that CycloneDX publishes, which its Python library ships."""
    error = JsonStrictValidator(SchemaVersion.V1_5).validate_str(json.dumps(bill))
    assert error is None, error


@pytest.fixture(params=IMAGES, ids=lambda image: image.title)
def image(request: pytest.FixtureRequest) -> Image:
    chosen: Image = request.param
    return chosen


def test_it_is_valid_and_has_every_package_once(image: Image) -> None:
    bill = make_bill_of_materials(image, {"numpy": "BSD", "future": "MIT"})
    validate(bill)
    libraries = [c["purl"] for c in bill["components"]]
    assert len(set(libraries)) == len(libraries)
    pinned = {
        (canonicalize_name(name), str(Version(version)))
        for line in image.lock.read_text().splitlines()
        if "==" in line and not line.startswith((" ", "#"))
        for name, _, version in [line.partition(" ")[0].partition("==")]
    }
    pypi = [c for c in bill["components"] if c["purl"].startswith("pkg:pypi/")]
    assert {(c["name"], c["version"]) for c in pypi} == pinned
    for component in pypi:
        assert component["hashes"]
        for entry in component["hashes"]:
            assert f"--hash=sha256:{entry['content']}" in image.lock.read_text()
    debian = (ROOT / "images/base/packages.lock").read_text().splitlines()
    listed = {f"{c['name']}={c['version']}" for c in bill["components"] if "deb/" in c["purl"]}
    assert listed == {line for line in debian if line and not line.startswith("#")}


def test_every_component_is_reached_from_the_image(image: Image) -> None:
    bill = make_bill_of_materials(image, {})
    edges = {entry["ref"]: entry["dependsOn"] for entry in bill["dependencies"]}
    reached, pending = set(), [bill["metadata"]["component"]["bom-ref"]]
    while pending:
        if (ref := pending.pop()) not in reached:
            reached.add(ref)
            pending += edges.get(ref, [])
    assert {c["bom-ref"] for c in bill["components"]} <= reached


def test_an_error_in_it_would_be_seen() -> None:
    bill = make_bill_of_materials(load_image("torch"), {})
    bill["components"][0]["hashes"][0]["alg"] = "SHA-257"
    with pytest.raises(AssertionError):
        validate(bill)
    bill = make_bill_of_materials(load_image("torch"), {})
    bill["components"][0]["licenses"] = [{"license": {"id": "No-Such-Licence"}}]
    with pytest.raises(AssertionError):
        validate(bill)


def test_what_it_says_of_one_package() -> None:
    bill = make_bill_of_materials(
        load_image("tflite"), {"numpy": "Apache 2.0", "six": "Some own words"}
    )
    by_name = {component["name"]: component for component in bill["components"]}
    assert by_name["numpy"]["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    assert by_name["six"]["licenses"] == [{"license": {"name": "Some own words"}}]
    stand_in = {"name": "runner:stand-in-for", "value": "tf-nightly==2.4.0.dev20200923"}
    assert by_name["tensorflow-cpu"]["properties"] == [stand_in]
    assert by_name["bsdutils"]["purl"].startswith("pkg:deb/debian/bsdutils@1%3A2.38")


def test_the_same_lock_gives_the_same_bill() -> None:
    first, second = (make_bill_of_materials(load_image("torch"), {}) for _ in range(2))
    assert first == second
    other = make_bill_of_materials(load_image("torch"), {"numpy": "BSD"})
    assert other["serialNumber"] != first["serialNumber"]


def test_licences_come_from_the_installed_environment(tmp_path: Path) -> None:
    torch = load_image("torch")
    assert collect_licences(tmp_path) == {}
    info = tmp_path / "lib/python3.8/site-packages/numpy-1.19.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Name: numpy\nVersion: 1.19.2\nLicense: BSD\n\nLicense: MIT\n")
    bill = make_bill_of_materials(torch, collect_licences(tmp_path))
    by_name = {c["name"]: c for c in bill["components"]}
    assert by_name["numpy"]["licenses"] == [{"license": {"name": "BSD"}}]
    assert "licenses" not in by_name["torch"]


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    written = run_here(capsys, "images", "sbom", "--output", "bills", cwd=tmp_path)
    assert written.returncode == PASSED
    files = {path.name for path in (tmp_path / "bills").iterdir()}
    assert files == {f"{image.title}.cdx.json" for image in IMAGES}
    printed = run_here(capsys, "images", "sbom", "torch", cwd=tmp_path)
    assert json.loads(printed.stdout) == json.loads((tmp_path / "bills/torch.cdx.json").read_text())
    for wrong in (["--output", "bills/torch.cdx.json"], [], ["nothing"]):
        finished = run_here(capsys, "images", "sbom", *wrong, cwd=tmp_path)
        assert finished.returncode == BAD_INPUT and "→" in finished.stderr
