"""Small files that would take hours or gigabytes: each is refused, or read, within bounds."""

from __future__ import annotations

import base64
import io
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from harness import ROOT
from rich.console import Console

sys.path.insert(0, str(ROOT))

from fuzz import sample, seeds
from fuzz.guard import bounded
from fuzz.parsers import records
from runner.cli.inspection import render_inspection
from runner.errors import BadInput
from runner.formats.blank import BLANK, Unreadable
from runner.formats.numpy import read_headers
from runner.packages.user_wheel import accept_wheel
from runner.planning.source import identify_source, summarize
from runner.provenance.read import read_record
from runner.provenance.signing import PAYLOAD_TYPE, read_envelope, verify
from runner.report.runs import read_report
from runner.schemas.stage_reports import read_report as read_stage_report
from runner.toolchains.load import load_all_images, load_toolchain


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_members_that_unpack_without_bounds(tmp_path: Path, compression: int) -> None:
    """zipfile unpacks a whole block of bzip2 at once: a few bytes are gigabytes."""
    path, zeros = tmp_path / "m.pt", bytes(1 << 20)
    path.write_bytes(seeds.zipped({"m/data.pkl": zeros, "m/version": zeros}, compression))
    with pytest.raises(BadInput):
        identify_source(load_toolchain(), path)
    assert summarize(path).damaged
    (tmp_path / "x.npz").write_bytes(seeds.zipped({"x.npy": zeros}, compression))
    with pytest.raises(BadInput, match="compressed in a way"):
        read_headers(tmp_path / "x.npz")
    wheel = tmp_path / "tf_nightly-2.4.0.dev20200923-cp38-cp38-manylinux2010_x86_64.whl"
    wheel.write_bytes(seeds.zipped({"x.dist-info/RECORD": zeros}, compression))
    with pytest.raises(BadInput):
        accept_wheel(str(wheel), load_all_images())


def of_too_many(report: dict[str, Any]) -> bytes:
    """A report of four million wrong notes."""
    text = json.dumps({**report, "notes": "HERE"})
    return text.encode().replace(b'"HERE"', b"[" + b"1," * 3_900_000 + b"1]")


def test_a_report_of_wrong_items(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_bytes(of_too_many(json.loads(sample.run_reports()[0])))
    with bounded(), pytest.raises(BadInput, match="items"):
        read_report(tmp_path)
    with bounded(), pytest.raises(ValueError, match="items"):
        read_stage_report(of_too_many(sample.stage_report()))


def test_a_report_of_many_errors() -> None:
    report = {**sample.stage_report(), "notes": [1] * 400_000}
    with bounded(), pytest.raises(ValueError, match="400,000 things in it are wrong"):
        read_stage_report(json.dumps(report).encode())


@pytest.mark.parametrize("count", [9_000, 40_000])
def test_a_record_of_many_dependencies(tmp_path: Path, count: int) -> None:
    record = json.loads(records.records()[0])
    more = [{"uri": f"a{number}"} for number in range(count)]
    record["predicate"]["buildDefinition"]["resolvedDependencies"] += more
    (tmp_path / "provenance.json").write_text(json.dumps(record))
    with bounded():
        if count > 10_000:
            with pytest.raises(BadInput, match="at most 10000"):
                read_record(tmp_path)
        else:
            read_record(tmp_path)


def test_an_envelope_of_many_signatures(tmp_path: Path) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    signature = {"sig": base64.b64encode(bytes(64)).decode()}
    envelope: dict[str, Any] = {"payloadType": PAYLOAD_TYPE, "signatures": [signature] * 20_000}
    envelope["payload"] = base64.b64encode(bytes(4 << 20)).decode()
    with bounded(), pytest.raises(BadInput, match="at most 16"):
        verify(read_envelope(json.dumps(envelope).encode(), tmp_path), key.public_key())


def domains(count: int) -> bytes:
    """An ONNX model of so many operator sets, and nodes of as many domains."""
    names = [f"a.domain.with.a.long.name.{number}" for number in range(count)]
    nodes = [(1, seeds.message((4, "Op"), (7, name))) for name in names]
    opsets = [(8, seeds.message((1, name), (2, 1))) for name in names]
    return seeds.message((1, 6), (7, seeds.message(*nodes)), *opsets)


def test_an_onnx_model_of_many_domains(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(domains(50_000))
    with bounded():
        found = summarize(tmp_path / "x.onnx")
        with io.StringIO() as shown:
            Console(file=shown, width=80).print(render_inspection(found))
            assert "characters more" in shown.getvalue() and len(shown.getvalue()) < 50_000


def test_a_bundle_of_a_tensor_of_many_fields() -> None:
    tensor = b"\x4a\x00" * 5_000_000
    data = bytearray(seeds.message((7, seeds.message((5, tensor)))))
    with bounded(), pytest.raises(Unreadable, match="more fields"):
        BLANK[".onnx"](data)
