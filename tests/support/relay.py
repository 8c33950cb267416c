"""A Docker engine elsewhere, as far as a client can tell: its socket behind TLS on loopback.

    python tests/support/relay.py FOLDER

writes a certificate authority, a server's and a client's certificate into FOLDER (as
DOCKER_CERT_PATH wants them), prints the port, and relays until it is ended. Only clients with a
certificate of the authority are let through.
"""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
import sys
import threading
from contextlib import suppress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

SOCKET = "/var/run/docker.sock"


def write_certificates(folder: Path) -> None:
    """Write ca.pem, cert.pem and key.pem for clients, server-cert.pem and server-key.pem."""
    authority = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "relay")])
    now = datetime.datetime.now(datetime.timezone.utc)

    def issue(subject: str, key: ec.EllipticCurvePrivateKey, ca: bool) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName(
                    [
                        x509.DNSName("localhost"),
                        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
                    ]
                ),
                critical=False,
            )
        )
        signed = builder.sign(authority, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM)

    (folder / "ca.pem").write_bytes(issue("relay", authority, True))
    for who, prefix in (("server", "server-"), ("client", "")):
        key = ec.generate_private_key(ec.SECP256R1())
        (folder / f"{prefix}cert.pem").write_bytes(issue(who, key, False))
        (folder / f"{prefix}key.pem").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )


def relay(folder: Path) -> None:
    """Print the port, and relay each connection to the engine's socket, in threads."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server-cert.pem", folder / "server-key.pem")
    context.load_verify_locations(folder / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    with socket.create_server(("127.0.0.1", 0)) as server:
        print(server.getsockname()[1], flush=True)
        while True:
            plain, _ = server.accept()
            threading.Thread(target=_serve, args=(context, plain), daemon=True).start()


def _serve(context: ssl.SSLContext, plain: socket.socket) -> None:
    with (
        suppress(OSError),
        context.wrap_socket(plain, server_side=True) as client,
        socket.socket(socket.AF_UNIX) as engine,
    ):
        engine.connect(SOCKET)
        answers = threading.Thread(target=_copy, args=(engine, client), daemon=True)
        answers.start()
        _copy(client, engine)
        with suppress(OSError):  # the client has said all: the engine may go on answering
            engine.shutdown(socket.SHUT_WR)
        answers.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while block := source.recv(1 << 16):
            target.sendall(block)


if __name__ == "__main__":
    write_certificates(Path(sys.argv[1]))
    relay(Path(sys.argv[1]))
