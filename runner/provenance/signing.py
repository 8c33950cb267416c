"""Signed statements: DSSE envelopes, version 1, made and verified with the user's keys.

The signature covers the payload's type and its bytes, in DSSE's pre-authentication encoding, so no
canonical form is needed. https://github.com/secure-systems-lab/dsse/blob/master/protocol.md
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from pathlib import Path

from cryptography.exceptions import InternalError, InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from pydantic import BaseModel, ConfigDict, Field

from runner.errors import BadInput, Unverified
from runner.schemas.base import Invalid, validate_json

PAYLOAD_TYPE = "application/vnd.in-toto+json"

PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey
PublicKey = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey

_KINDS = "Ed25519 and ECDSA keys in PEM are understood: openssl genpkey -algorithm ed25519."
_MOST_KEY_BYTES = 1 << 16


class Signature(BaseModel):
    """One signature. `keyid` is the sha256 of the public key's DER: a hint that proves nothing."""

    model_config = ConfigDict(extra="ignore")
    keyid: str = ""
    sig: str


class Envelope(BaseModel):
    model_config = ConfigDict(extra="ignore")
    payload: str
    payloadType: str
    signatures: list[Signature] = Field(min_length=1, max_length=16)

    def to_json(self) -> str:
        return self.model_dump_json(indent=1) + "\n"

    def content(self) -> bytes:
        """Return the payload's bytes, verified or not. Raises `Unverified` if not base64."""
        return _decode(self.payload)


def load_signing_key(path: Path) -> PrivateKey:
    """Load a private key from an unencrypted PEM file. Raises `BadInput`."""
    try:
        key = serialization.load_pem_private_key(_read(path), password=None)
    except TypeError:
        raise BadInput(
            f"The key {path} is encrypted.",
            f"Decrypt it to where only you can read it: openssl pkey -in {path} -out FILE.",
        ) from None
    except (ValueError, UnsupportedAlgorithm, InternalError):  # InternalError: a truncated key
        raise BadInput(f"{path} holds no private key.", _KINDS) from None
    if not isinstance(key, PrivateKey):
        raise BadInput(f"{path} holds a {type(key).__name__.strip('_')}.", _KINDS)
    return key


def load_verifying_key(path: Path) -> PublicKey:
    """Load a public key from a PEM file. Raises `BadInput`."""
    try:
        key = serialization.load_pem_public_key(_read(path))
    except (ValueError, UnsupportedAlgorithm, InternalError):  # InternalError: a truncated key
        raise BadInput(
            f"{path} holds no public key.",
            "Write it from the private one: openssl pkey -in KEY -pubout -out FILE.",
        ) from None
    if not isinstance(key, PublicKey):
        raise BadInput(f"{path} holds a {type(key).__name__.strip('_')}.", _KINDS)
    return key


def sign(payload: bytes, key: PrivateKey) -> Envelope:
    """Put an in-toto statement into an envelope with one signature."""
    message = encode_preauth(PAYLOAD_TYPE, payload)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        signature = key.sign(message)
    else:
        signature = key.sign(message, ec.ECDSA(_choose_hash(key.curve)))
    return Envelope(
        payload=base64.b64encode(payload).decode(),
        payloadType=PAYLOAD_TYPE,
        signatures=[
            Signature(
                keyid=compute_key_id(key.public_key()), sig=base64.b64encode(signature).decode()
            )
        ],
    )


def verify(envelope: Envelope, key: PublicKey) -> bytes:
    """Return the payload, if one of the signatures is by this key. Raises `Unverified`."""
    if envelope.payloadType != PAYLOAD_TYPE:
        raise Unverified(f"The envelope holds {envelope.payloadType[:60]!r}, not {PAYLOAD_TYPE}.")
    payload = envelope.content()
    message = encode_preauth(envelope.payloadType, payload)
    if any(_is_by(key, _decode(signature.sig), message) for signature in envelope.signatures):
        return payload
    names = ", ".join(signature.keyid[:16] or "unnamed" for signature in envelope.signatures[:5])
    raise Unverified(
        f"The record's signature is not by this key ({compute_key_id(key)[:16]}): it is by another "
        f"(it names {names}), or the record was changed after it was signed.",
        "Take the record from where it was signed, and the key from whoever signed it.",
    )


def read_envelope(text: bytes, source: Path) -> Envelope:
    """Parse an envelope. Raises `BadInput` if the text is none."""
    try:
        return validate_json(Envelope, text)
    except Invalid as error:
        raise BadInput(f"{source} is not a DSSE envelope: {error.message}.") from None


def encode_preauth(payload_type: str, payload: bytes) -> bytes:
    """Encode as DSSE signs it (PAE): both lengths and both texts, so nothing can shift."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def compute_key_id(key: PublicKey) -> str:
    der = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(der).hexdigest()


def _is_by(key: PublicKey, signature: bytes, message: bytes) -> bool:
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, message)
        else:
            key.verify(signature, message, ec.ECDSA(_choose_hash(key.curve)))
    except InvalidSignature:
        return False
    return True


def _choose_hash(curve: ec.EllipticCurve) -> hashes.HashAlgorithm:
    """Choose a hash as long as the curve is strong, by RFC 5656's table."""
    if curve.key_size <= 256:
        return hashes.SHA256()
    return hashes.SHA384() if curve.key_size <= 384 else hashes.SHA512()


def _decode(text: str) -> bytes:
    """Decode standard or URL-safe base64, as DSSE allows either."""
    try:
        return base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
    except (binascii.Error, ValueError):
        raise Unverified("The envelope is damaged: it is not base64.") from None


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_MOST_KEY_BYTES)
    except OSError as error:
        raise BadInput(f"The key {path} cannot be read: {error.strerror}.") from None
