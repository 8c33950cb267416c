"""`runner images sbom`: what an image is made of, as a CycloneDX 1.5 bill of materials.

Everything comes from the lock and from the base's list of packages, so the same files give the same
text. Licences come from the packages' own metadata, which only an installed environment has: the
process engine's, if it is on this machine.
https://cyclonedx.org/docs/1.5/json/ and https://github.com/package-url/purl-spec
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from email.parser import BytesHeaderParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

from packaging.utils import canonicalize_name

from runner.packages.lockfile import Pin, parse_lock
from runner.toolchains.base import read_recipe
from runner.toolchains.model import Image
from runner.version import __version__

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:tflite-runner:sbom")
_MOST_METADATA = 1 << 20
_LONGEST_LICENCE = 120
# The names that packages give to licences, where exactly one SPDX identifier fits.
_SPDX = {
    "mit": "MIT",
    "mit license": "MIT",
    "apache 2.0": "Apache-2.0",
    "apache-2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "bsd-3": "BSD-3-Clause",
    "bsd-3-clause": "BSD-3-Clause",
    "3-clause bsd license": "BSD-3-Clause",
    "bsd-2-clause": "BSD-2-Clause",
    "mpl-2.0": "MPL-2.0",
    "isc": "ISC",
    "lgpl-3.0": "LGPL-3.0-only",
    "hpnd": "HPND",
}

Licences = Mapping[str, str]


def make_bill_of_materials(image: Image, licences: Licences) -> dict[str, Any]:
    """Make an image's bill of materials in the JSON form of CycloneDX 1.5.

    The components are the lock's packages with the edges between them, the Debian packages of the
    local base, and CPython. A package's hashes are those that its lock accepts: one for each file
    of the release, of which one is installed. `licences` is keyed by package name.
    """
    pins = parse_lock(image.render_requirements())
    recipe = read_recipe()
    system = _read_lines(recipe.lock)
    root = f"image:{image.title}"
    packages = [_describe_package(pin, image, licences.get(pin.name, "")) for pin in pins]
    debian = [_describe_debian_package(line, recipe.suite) for line in system]
    python = {
        "type": "application",
        "bom-ref": f"pkg:generic/python@{image.python}",
        "name": "python",
        "version": image.python,
        "purl": f"pkg:generic/python@{image.python}",
        "licenses": [{"license": {"id": "PSF-2.0"}}],
    }
    edges = _collect_edges(pins)
    top = [ref for ref in (_make_purl(pin) for pin in pins) if ref not in _collect_reached(edges)]
    body: dict[str, Any] = {
        "metadata": {
            "tools": {
                "components": [{"type": "application", "name": "runner", "version": __version__}]
            },
            "component": {
                "type": "container",
                "bom-ref": root,
                "name": f"runner-{image.title}",
                "version": image.environment_key[:16],
            },
            "properties": [
                _make_property("lock:sha256", image.lock_sha256),
                _make_property("lock:as-of", image.as_of),
                _make_property("base:published", recipe.published.get(image.python, "none")),
                _make_property("base:listed", f"the local base, of Debian {recipe.suite}"),
                _make_property(
                    "licences", f"known of {sum('licenses' in p for p in packages)} of {len(pins)}"
                ),
            ],
        },
        "components": [*packages, python, *debian],
        "dependencies": [
            {"ref": root, "dependsOn": [*top, *(item["bom-ref"] for item in [python, *debian])]},
            *({"ref": ref, "dependsOn": sorted(needs)} for ref, needs in sorted(edges.items())),
        ],
    }
    number = uuid.uuid5(_NAMESPACE, json.dumps(body, sort_keys=True))
    head = {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1}
    return {**head, "serialNumber": f"urn:uuid:{number}", **body}


def collect_licences(environment: Path) -> dict[str, str]:
    """Collect the licences that the packages of a virtual environment state, by package name."""
    found: dict[str, str] = {}
    for metadata in environment.glob("lib/python*/site-packages/*.dist-info/METADATA"):
        with open(metadata, "rb") as file:
            headers = BytesHeaderParser().parsebytes(file.read(_MOST_METADATA))
        classified = [
            value.rpartition("::")[2].strip()
            for value in map(str, headers.get_all("Classifier", []))
            if value.startswith("License ::")
        ]
        stated = str(headers.get("License-Expression") or headers.get("License") or "").strip()
        # Some packages put the whole text of the licence there.
        short = stated if len(stated) <= _LONGEST_LICENCE and "\n" not in stated else ""
        said = short if short.upper() not in ("", "UNKNOWN") else " / ".join(classified)
        if said:
            found[canonicalize_name(str(headers.get("Name", "")))] = said
    return found


def _describe_package(pin: Pin, image: Image, licence: str) -> dict[str, Any]:
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": _make_purl(pin),
        "name": pin.name,
        "version": str(pin.version),
        "purl": _make_purl(pin),
        "hashes": [{"alg": "SHA-256", "content": content} for content in sorted(pin.hashes)],
    }
    if licence:
        spdx = _SPDX.get(licence.lower())
        component["licenses"] = [{"license": {"id": spdx} if spdx else {"name": licence}}]
    for stand_in in image.stand_ins_used:
        if stand_in.use == str(pin):
            component["properties"] = [_make_property("stand-in-for", stand_in.pin)]
    return component


def _describe_debian_package(line: str, suite: str) -> dict[str, Any]:
    name, _, version = line.partition("=")
    purl = f"pkg:deb/debian/{quote(name, safe='')}@{quote(version, safe='~')}?distro={suite}"
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def _make_purl(pin: Pin) -> str:
    return f"pkg:pypi/{pin.name}@{quote(str(pin.version), safe='')}"


def _collect_edges(pins: list[Pin]) -> dict[str, set[str]]:
    """Map each package to those that it needs, by the lock's `via` notes."""
    refs = {pin.name: _make_purl(pin) for pin in pins}
    edges: dict[str, set[str]] = {ref: set() for ref in refs.values()}
    for pin in pins:
        for asker in pin.via:
            if asker in refs:
                edges[refs[asker]].add(refs[pin.name])
    return edges


def _collect_reached(edges: Mapping[str, set[str]]) -> set[str]:
    return set().union(*edges.values()) if edges else set()


def _read_lines(lock: Path) -> list[str]:
    lines = lock.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def _make_property(name: str, value: str) -> dict[str, str]:
    return {"name": f"runner:{name}", "value": value}
