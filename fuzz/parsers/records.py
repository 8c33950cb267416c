"""Records of runs, their signatures and the keys for these."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from fuzz import sample
from fuzz.harness import Harness
from runner.errors import RunnerError
from runner.provenance.read import read_record
from runner.provenance.signing import (
    PAYLOAD_TYPE,
    Envelope,
    Signature,
    load_signing_key,
    load_verifying_key,
    sign,
)
from runner.schemas.reproduction import Difference

_PLAIN = Path(__file__).parents[1] / "files/provenance.json"


@cache
def _key() -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def public_key() -> bytes:
    return (
        _key()
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


def records() -> Sequence[bytes]:
    return [_PLAIN.read_bytes()]


def envelopes() -> Sequence[bytes]:
    return [sign(records()[0], _key()).to_json().encode()]


def _read(path: Path, key: Path | None) -> bool:
    try:
        found = read_record(path, key)
        for difference in found.alterations:
            assert isinstance(difference, Difference)
            difference.model_dump_json()
        for subject in found.statement.subject:
            assert found.artifact(subject.name) is None or (path / subject.name).is_file()
        found.statement.to_json()
    except RunnerError as error:
        str(error)
        return False
    return True


def _record(data: bytes, folder: Path) -> bool:
    (folder / "provenance.json").write_bytes(data)
    (folder / "model.onnx").write_bytes(b"another model")
    return _read(folder, None)


def _beside(data: bytes, folder: Path) -> bool:
    """A record that names the report beside it by its hash, with a report of any content."""
    import hashlib

    record = json.loads(records()[0])
    named = {"name": "report.json", "digest": {"sha256": hashlib.sha256(data).hexdigest()}}
    record["predicate"]["runDetails"]["byproducts"] = [named]
    (folder / "report.json").write_bytes(data)
    return _record(json.dumps(record).encode(), folder)


def _envelope(data: bytes, folder: Path) -> bool:
    (folder / "provenance.dsse.json").write_bytes(data)
    (folder / "key.pem").write_bytes(public_key())
    return _read(folder, folder / "key.pem") & _read(folder, None)


def _signed(data: bytes, folder: Path) -> bool:
    """Any payload, rightly signed: its content is hostile for all that."""
    return _envelope(sign(data, _key()).to_json().encode(), folder)


def _signature(data: bytes, folder: Path) -> bool:
    payload = base64.b64encode(records()[0]).decode()
    made = Envelope(
        payload=payload,
        payloadType=PAYLOAD_TYPE,
        signatures=[Signature(sig=base64.b64encode(data).decode())],
    )
    return _envelope(made.to_json().encode(), folder)


def _keys(data: bytes, folder: Path) -> bool:
    (folder / "key.pem").write_bytes(data)
    taken = False
    for load in (load_signing_key, load_verifying_key):
        try:
            load(folder / "key.pem")
            taken = True
        except RunnerError:
            pass
    return taken


def _key_files() -> Sequence[bytes]:
    private: list[ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey] = [_key()]
    private.append(ec.derive_private_key(7, ec.SECP256R1()))
    form = serialization.PrivateFormat.PKCS8
    none = serialization.NoEncryption()
    pem = serialization.Encoding.PEM
    return [public_key(), *(key.private_bytes(pem, form, none) for key in private)]


_PEM = (b"-----BEGIN PUBLIC KEY-----\n", b"-----BEGIN RSA PRIVATE KEY-----\n", b"ENCRYPTED ", b"=")

HARNESSES = [
    Harness("record", records, _record),
    Harness("record-report", sample.run_reports, _beside),
    Harness("envelope", envelopes, _envelope, (b"-", b"_", b"=")),
    Harness("signed-record", records, _signed),
    Harness("signature", lambda: [_key().sign(b"x"), bytes(64)], _signature),
    Harness("key", _key_files, _keys, _PEM),
]
