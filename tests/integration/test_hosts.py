"""Other hosts than Linux on x86-64, as far as they can be had here, and engines elsewhere.

What Windows and macOS lack is taken away from Python before the runner is imported: modules, parts
of `os` and `signal`, /proc. The libraries stay this platform's. The engine is real.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness import ENVIRONMENT, PASSED, ROOT, SUPPORT, run_cli

EXAMPLE = ROOT / "examples" / "mbv2.pt"
SIMULATE = """
import sys

platform, machine, *line = sys.argv[1:]
UNIX = {"pwd", "grp", "termios", "tty", "pty", "resource", "fcntl", "syslog", "crypt"}
LACKS = {
    "darwin": (set(), {"os": "sched_getaffinity sched_setaffinity posix_fallocate memfd_create"}),
    "win32": (
        UNIX,
        {
            "os": "sched_getaffinity sched_setaffinity posix_fallocate memfd_create getuid geteuid "
            "getgid getegid killpg getpgid setsid sysconf uname chown lchown mkfifo fork "
            "fchmod O_NONBLOCK O_CLOEXEC O_NOFOLLOW O_DIRECTORY",
            "signal": "SIGHUP SIGKILL",
            "select": "poll",
        },
    ),
}
# What the libraries need of this platform, they take first.
import ctypes.util, concurrent.futures, importlib.metadata, platform as names, subprocess, tempfile
import cryptography, docker, filelock, jinja2, numpy, platformdirs, pydantic, requests, rich.live
import pydantic.main, rich.progress, typer, yaml, zstandard, asyncio, socket, shutil, sysconfig
import zoneinfo

sysconfig.get_config_vars()

modules, attributes = LACKS[platform]


class Missing:
    def find_spec(self, name, path=None, target=None):
        if name in modules:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)


sys.meta_path.insert(0, Missing())
for name in modules:
    sys.modules.pop(name, None)
for module, gone in attributes.items():
    for name in gone.split():
        if hasattr(sys.modules[module], name):
            delattr(sys.modules[module], name)
if platform == "win32":
    import ctypes

    def refuse(name, *rest, real=ctypes.CDLL, **options):
        if name is None:
            raise TypeError("bad argument type for built-in operation")
        return real(name, *rest, **options)

    ctypes.CDLL = refuse
sys.platform = platform
names.machine = lambda: machine

import pathlib
import runner.host.process_identity as identity

identity._PROC = pathlib.Path("/nowhere")
from runner.cli.app import main

sys.exit(main(line))
"""
OTHERS = [("darwin", "arm64", "macOS arm64"), ("win32", "AMD64", "Windows AMD64")]
ssh = pytest.mark.skipif(
    not (shutil.which("sshd", path="/usr/sbin") and shutil.which("ssh")), reason="no ssh server"
)


def run_elsewhere(
    platform: str, machine: str, *line: str | Path, cwd: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SIMULATE, platform, machine, *map(str, line)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize(("platform", "machine", "name"), OTHERS)
class TestElsewhere:
    def test_a_file_is_inspected(
        self, platform: str, machine: str, name: str, tmp_path: Path
    ) -> None:
        done = run_elsewhere(platform, machine, "inspect", "--summary", EXAMPLE, cwd=tmp_path)
        assert done.returncode == PASSED, done.stderr
        assert "TorchScript archive" in done.stdout

    @pytest.mark.parametrize("engine", ["process", "auto"])
    def test_without_docker_nothing_is_converted_and_the_reason_told(
        self, platform: str, machine: str, name: str, engine: str, tmp_path: Path
    ) -> None:
        """A conversion is planned whole before an engine is chosen."""
        done = run_elsewhere(
            *(platform, machine, "convert", "--model", EXAMPLE, "--engine", engine),
            cwd=tmp_path,
            DOCKER_HOST="tcp://127.0.0.1:1",
        )
        assert done.returncode == ENVIRONMENT, done.stderr
        assert f"needs Linux on x86-64; this is {name}." in done.stderr
        assert ("No Docker engine answers" in done.stderr) == (engine == "auto")
        assert not list(tmp_path.iterdir())

    def test_the_doctor_says_what_works(
        self, platform: str, machine: str, name: str, tmp_path: Path
    ) -> None:
        done = run_elsewhere(platform, machine, "doctor", cwd=tmp_path, DOCKER_HOST="tcp://[::1]:1")
        assert done.returncode == ENVIRONMENT
        said = " ".join(done.stdout.split())
        assert f"process engine: It needs Linux on x86-64; this is {name}." in said
        assert "Neither engine can serve." in said

    @pytest.mark.docker
    def test_docker_converts(self, platform: str, machine: str, name: str, tmp_path: Path) -> None:
        done = run_elsewhere(
            *(platform, machine, "convert", "--model", EXAMPLE, "--samples", "2"),
            *("--engine", "docker", "--output", "run"),
            cwd=tmp_path,
        )
        assert done.returncode == PASSED, done.stderr
        assert (tmp_path / "run" / "model.tflite").stat().st_size > 1_000_000
        assert not list(tmp_path.glob("run/.*"))


@contextmanager
def relayed(folder: Path) -> Iterator[dict[str, str]]:
    """Yield the environment in which a client finds the engine behind TLS."""
    command = [sys.executable, str(SUPPORT / "relay.py"), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as relay:
        try:
            assert relay.stdout is not None
            port = relay.stdout.readline().strip()
            yield {
                "DOCKER_HOST": f"tcp://127.0.0.1:{port}",
                "DOCKER_TLS_VERIFY": "1",
                "DOCKER_CERT_PATH": str(folder),
            }
        finally:
            relay.terminate()


@pytest.mark.docker
def test_an_engine_behind_tls_converts_beside_a_companys_authority(tmp_path: Path) -> None:
    certificates = tmp_path / "certificates"
    certificates.mkdir()
    with relayed(certificates) as environment:
        # The authority of a mirror, say: it has not signed the engine's certificate.
        other = {"REQUESTS_CA_BUNDLE": str(certificates / "server-cert.pem")}
        done = run_cli(
            *("convert", "--model", EXAMPLE, "--samples", "2", "--engine", "docker"),
            *("--no-cache", "--output", "run"),
            cwd=tmp_path,
            environment={**environment, **other},
        )
        assert done.returncode == PASSED, done.stderr
        (certificates / "ca.pem").write_bytes((certificates / "cert.pem").read_bytes())
        refused = run_cli("doctor", cwd=tmp_path, environment=environment)
        assert "certificate verify failed" in " ".join(refused.stdout.split())


@contextmanager
def serving_ssh(folder: Path) -> Iterator[tuple[Path, int]]:
    """Yield a folder with an `ssh` that may log in here, and the port to log in at."""
    for name in ("host", "user"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(command, check=True, timeout=60)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = {
        "Port": port,
        "ListenAddress": "127.0.0.1",
        "HostKey": folder / "host",
        "AuthorizedKeysFile": folder / "user.pub",
        "UsePAM": "no",
        "StrictModes": "no",
        "PidFile": "none",
    }
    (folder / "sshd_config").write_text("".join(f"{k} {v}\n" for k, v in settings.items()))
    (folder / "known").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    (folder / "ssh").write_text(
        f"#!/bin/sh\nexec {shutil.which('ssh')} -F none -i {folder / 'user'} "
        f'-o UserKnownHostsFile={folder / "known"} "$@"\n'
    )
    (folder / "ssh").chmod(0o755)
    Path("/run/sshd").mkdir(exist_ok=True)
    server = [shutil.which("sshd", path="/usr/sbin"), "-D", "-f", str(folder / "sshd_config")]
    with subprocess.Popen(list(map(str, server)), stderr=subprocess.DEVNULL) as running:
        try:
            yield folder, port
        finally:
            running.terminate()


@ssh
@pytest.mark.docker
def test_an_engine_that_ssh_reaches_converts(tmp_path: Path) -> None:
    folder = tmp_path / "ssh"
    folder.mkdir()
    with serving_ssh(folder) as (programs, port):
        path = f"{programs}{os.pathsep}{os.environ['PATH']}"

        def run(*line: str | Path, host: str) -> subprocess.CompletedProcess[str]:
            return run_cli(*line, cwd=tmp_path, environment={"PATH": path, "DOCKER_HOST": host})

        before = set(Path(tempfile.gettempdir()).glob("runner-ssh-*"))
        here = f"ssh://{os.environ.get('USER') or 'root'}@127.0.0.1:{port}"
        deadline = time.monotonic() + 30
        while "answers." not in (said := run("doctor", host=here).stdout):
            assert time.monotonic() < deadline, said
        done = run(
            *("convert", "--model", EXAMPLE, "--samples", "2", "--engine", "docker"),
            *("--output", "run"),
            host=here,
        )
        assert done.returncode == PASSED, done.stderr
        refused = run("convert", "--model", EXAMPLE, "--engine", "docker", host=f"{here}/no.sock")
        assert refused.returncode == ENVIRONMENT
        assert set(Path(tempfile.gettempdir()).glob("runner-ssh-*")) == before
    gone = run_cli("doctor", cwd=tmp_path, environment={"DOCKER_HOST": here})
    assert "ssh does not reach 127.0.0.1" in " ".join(gone.stdout.split())
