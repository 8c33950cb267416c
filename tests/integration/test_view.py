"""`runner view`: Netron's page and one file, on loopback, until Ctrl-C."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from browser import Browser
from harness import BAD_INPUT, ENVIRONMENT, Convert, run_here

import runner.viewer


@dataclass
class Viewed:
    """A running `runner view`, and what it has printed."""

    line: str
    address: str
    code: int | None = None

    def ask(self, path: str, host: str = "") -> tuple[HTTPResponse, bytes]:
        parts = urlsplit(self.address)
        connection = HTTPConnection(parts.hostname or "", parts.port, timeout=30)
        connection.request("GET", path, headers={"Host": host} if host else {})
        answer = connection.getresponse()
        return answer, answer.read()


@contextmanager
def view(*arguments: str | Path, cwd: Path) -> Iterator[Viewed]:
    process = subprocess.Popen(
        [sys.executable, "-m", "runner", "view", *map(str, arguments), "--no-browser"],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline()
        assert line, process.stderr.read()
        viewed = Viewed(line, line.partition(" (")[0].rpartition(" ")[2])
        yield viewed
        process.send_signal(signal.SIGINT)
        viewed.code = process.wait(30)
        assert process.stderr.read() == ""
    finally:
        process.kill()
        process.wait()


def test_the_page_and_the_model_and_nothing_else(convert: Convert, tmp_path: Path) -> None:
    folder = convert("cnn").folder
    with view(folder, cwd=tmp_path) as viewed:
        assert viewed.line.startswith(f"{folder / 'model.tflite'}: http://127.0.0.1:")
        answer, page = viewed.ask("/")
        assert answer.status == 200 and b'content="/data/model.tflite"' in page
        # The page may ask this server alone, and its age does not matter.
        assert "connect-src 'self';" in (answer.headers["Content-Security-Policy"])
        assert b'name="date"' not in page and b'name="version" content="0.0.0"' in page
        answer, model = viewed.ask("/data/model.tflite")
        assert answer.status == 200 and model == (folder / "model.tflite").read_bytes()
        for path in ("/data/model.onnx", "/data/report.json", "/data/../report.json", "/images/"):
            assert viewed.ask(path)[0].status == 404
        assert viewed.ask("/", host="elsewhere.example")[0].status == 403
    assert viewed.code == 0


@pytest.mark.parametrize("artifact", ["onnx", "pb", ""])
def test_netron_draws_it_and_asks_nobody_else(
    browser: Browser, convert: Convert, tmp_path: Path, artifact: str
) -> None:
    """A file's name that is markup stays a name."""
    target = convert("cnn").folder
    if not artifact:
        copy = tmp_path / 'a"><b>%41 ü.tflite'
        copy.write_bytes((target / "model.tflite").read_bytes())
        target = copy
    choice = ("--artifact", artifact) if artifact else ()
    with view(target, *choice, cwd=tmp_path) as viewed:
        browser.open(viewed.address, width=1280)
        drawn = wait_for(lambda: browser.evaluate("document.querySelectorAll('.node').length"))
        assert drawn >= 3
        assert {urlsplit(url).netloc for url in browser.requests} == {
            urlsplit(viewed.address).netloc
        }
        assert browser.messages == []


def wait_for(look: Callable[[], int]) -> int:
    until = time.monotonic() + 30
    while not (found := look()) and time.monotonic() < until:
        time.sleep(0.1)
    return found


def test_what_cannot_be_shown(
    capsys: pytest.CaptureFixture[str],
    convert: Convert,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = convert("cnn").folder
    (tmp_path / "empty.tflite").touch()
    for arguments, said in (
        (("missing.tflite",), "There is no file missing.tflite."),
        (("empty.tflite",), "is empty"),
        ((".",), "holds no report.json"),
        ((folder, "--artifact", "int8"), "It has model.onnx, model.pb, model.tflite."),
        ((folder / "model.tflite", "--artifact", "onnx"), "is no run folder"),
    ):
        done = run_here(capsys, "view", *arguments, "--no-browser", cwd=tmp_path)
        assert done.returncode == BAD_INPUT and said in done.stderr
    monkeypatch.setattr(runner.viewer, "find_spec", lambda name: None)
    done = run_here(capsys, "view", folder, "--no-browser", cwd=tmp_path)
    assert done.returncode == ENVIRONMENT
    assert "pip install 'tflite-runner[view]'" in done.stderr
