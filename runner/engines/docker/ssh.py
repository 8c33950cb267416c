"""An engine that ssh reaches: its socket, forwarded to one here by the user's own ssh.

The SDK's own way needs paramiko, which knows neither the user's ssh settings nor every kind of key.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

from runner.errors import EnvironmentUnavailable
from runner.host.process_identity import make_death_signal

# The engine's socket where the URL names none, as in ssh://user@host.
_SOCKET = "/var/run/docker.sock"
# Time for the user to type a passphrase.
_SECONDS_TO_CONNECT = 120
_REMEDY = "Try `ssh HOST docker version`; DOCKER_HOST is ssh://[USER@]HOST[:PORT][/SOCKET]."


@functools.cache
def forward_socket(url: str) -> str:
    """Return the URL of a local socket that leads to the engine, as long as this process lives.

    Raises `EnvironmentUnavailable`.
    """
    parts = urlsplit(url)
    if not parts.hostname:
        raise EnvironmentUnavailable(f"DOCKER_HOST={url} names no host.", _REMEDY)
    # Short names: the path of a socket has at most 104 characters, of which macOS's temporary
    # folder takes half.
    folder = Path(tempfile.mkdtemp(prefix="runner-ssh-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    here = folder / "engine"
    options = ["-N", "-o", "ExitOnForwardFailure=yes", "-L", f"{here}:{parts.path or _SOCKET}"]
    options += ["-l", parts.username] if parts.username else []
    options += ["-p", str(parts.port)] if parts.port else []
    try:
        process = subprocess.Popen(
            ["ssh", *options, "--", parts.hostname],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            preexec_fn=make_death_signal(),
        )
    except FileNotFoundError:
        raise EnvironmentUnavailable("There is no ssh for DOCKER_HOST=ssh://.", _REMEDY) from None
    atexit.register(process.terminate)
    deadline = time.monotonic() + _SECONDS_TO_CONNECT
    while not _accepts(here):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            said = process.communicate()[1].decode(errors="replace").strip().splitlines()
            why = said[-1] if said else "it did not connect"
            raise EnvironmentUnavailable(f"ssh does not reach {parts.hostname}: {why}", _REMEDY)
        time.sleep(0.05)
    return f"unix://{here}"


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
        return True
