"""Set the runner up in .venv, from its hashed lock, and run a command there.

    python3 bootstrap.py runner convert --model examples/mbv2.pt
    python3 bootstrap.py pytest

Needs Python 3.10 or later and nothing else. What is missing comes from the package index that pip
is set up for (pip.conf, PIP_INDEX_URL, SSL_CERT_FILE), checked by hash.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from runner.packages.pip_settings import read_registry

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
LOCK = ROOT / "requirements.lock"
PROJECT = ROOT / "pyproject.toml"
# What the environment was made from, written when it is complete.
STAMP = VENV / "made-from"
ENVIRONMENT_UNAVAILABLE = 6


def main() -> int:
    if sys.version_info < (3, 10):  # noqa: UP036 - this file is what tells so
        print("error: the runner needs Python 3.10 or later.", file=sys.stderr)
        return ENVIRONMENT_UNAVAILABLE
    command = sys.argv[1:] or ["runner", "--help"]
    # The project's file names the commands that are installed.
    parts = (LOCK.read_bytes(), PROJECT.read_bytes(), f"{sys.version} {ROOT}".encode())
    made_from = hashlib.sha256(b"".join(parts)).hexdigest()
    if not STAMP.exists() or STAMP.read_text() != made_from:
        print("Setting up .venv ...", file=sys.stderr)
        try:
            set_up()
        except subprocess.CalledProcessError as error:
            print(f"error: the set-up failed: {error}", file=sys.stderr)
            print(
                "→ Check the network, and behind a mirror PIP_INDEX_URL and SSL_CERT_FILE, or "
                "pip.conf. Debian's Python lacks its own pip: apt-get install python3-venv.",
                file=sys.stderr,
            )
            return ENVIRONMENT_UNAVAILABLE
        STAMP.write_text(made_from)
    os.environ["PATH"] = f"{VENV / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"
    os.environ["VIRTUAL_ENV"] = str(VENV)
    for name in ("PYTHONHOME", "PYTHONPATH"):
        os.environ.pop(name, None)
    if shutil.which(command[0]) is None:
        print(f"error: there is no command '{command[0]}' in {VENV / 'bin'}.", file=sys.stderr)
        return ENVIRONMENT_UNAVAILABLE
    os.execvp(command[0], command)


def set_up() -> None:
    """Make .venv by uv: from the lock alone, then the project itself on top, editable."""
    uv = find_uv()
    environment = {**os.environ, **read_registry().make_uv_environment(), "VIRTUAL_ENV": str(VENV)}

    def run(*arguments: str | Path) -> None:
        subprocess.run([uv, *arguments], check=True, env=environment, cwd=ROOT)

    run("venv", "--quiet", "--clear", "--python", sys.executable, VENV)
    run("pip", "sync", "--quiet", "--require-hashes", LOCK)
    run("pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--editable", ROOT)


def find_uv() -> Path:
    """uv's executable in .bootstrap, installed there by pip as the lock pins it."""
    requirement = re.search(r"^uv==(\S+)(?:.*\\\n)+.*", LOCK.read_text(), re.MULTILINE)
    assert requirement is not None, "the lock pins uv"
    folder = ROOT / ".bootstrap" / requirement[1]
    uv = folder / "bin" / "uv"
    if not uv.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        pins = folder / "uv.lock"
        pins.write_text(requirement[0] + "\n")
        pip = [folder / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "--quiet"]
        subprocess.run([*pip, "install", "--require-hashes", "--requirement", pins], check=True)
    return uv


if __name__ == "__main__":
    sys.exit(main())
