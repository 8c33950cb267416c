"""What answers where a Docker engine is looked for."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from runner.engines.docker.client import connect
from runner.engines.docker.ssh import forward_socket
from runner.errors import EnvironmentUnavailable

# As Podman 4.3.1 answers, shortened.
PODMAN = {
    "ApiVersion": "1.41",
    "Components": [{"Name": "Podman Engine", "Version": "4.3.1"}, {"Name": "Conmon"}],
}


class Podman(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps(PODMAN).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def test_podman_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    with HTTPServer(("127.0.0.1", 0), Podman) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{server.server_port}")
        monkeypatch.delenv("DOCKER_TLS_VERIFY", raising=False)
        monkeypatch.delenv("DOCKER_CERT_PATH", raising=False)
        with pytest.raises(EnvironmentUnavailable, match="Podman, which has no BuildKit"):
            connect()
        server.shutdown()


def test_an_ssh_url_without_a_host_is_refused() -> None:
    with pytest.raises(EnvironmentUnavailable, match="names no host"):
        forward_socket("ssh:///var/run/docker.sock")
