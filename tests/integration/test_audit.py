"""`runner lock --audit`: whether each pin can still be had, asked of indexes of all kinds."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import subprocess
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from harness import BAD_INPUT, ENVIRONMENT, PASSED, ROOT, run_cli, run_here

from runner.archive.writer import ArchiveWriter
from runner.packages.index import PackageIndexes
from runner.packages.lockfile import Pin, choose_file, list_stage_tags, parse_lock
from runner.packages.pip_settings import read_registry
from runner.toolchains.load import load_image

# This machine's own settings for pip, which the tests otherwise leave out.
MACHINE = dict(os.environ)
NIGHTLY = "tf-nightly==2.4.0.dev20200923"
PINS = {str(pin): pin for pin in parse_lock(load_image("tflite").lock.read_text())}
WHEEL = "wheel==0.36.2"
Audit = Callable[..., subprocess.CompletedProcess[str]]


class Shelf:
    """What an index on loopback has: for each project, file names and their hashes."""

    def __init__(self) -> None:
        self.files = {pin.name: [(_file(pin), min(pin.hashes))] for pin in PINS.values()}
        self.attributes: dict[str, str] = {}
        self.broken: set[str] = set()
        self.json = False

    def page(self, name: str) -> tuple[int, str, bytes]:
        if name in self.broken:
            return 503, "text/plain", b"later"
        if name not in self.files:
            return 404, "text/plain", b"no such project"
        if self.json:
            files = [
                {"filename": f, "url": f"../../files/{f}", "hashes": {"sha256": sha}}
                for f, sha in self.files[name]
            ]
            return 200, "application/vnd.pypi.simple.v1+json", json.dumps({"files": files}).encode()
        more = self.attributes.get(name, "")
        links = [f'<a href="/files/{f}#sha256={sha}" {more}>{f}</a>' for f, sha in self.files[name]]
        return 200, "text/html", "<br>".join(links).encode()


def _file(pin: Pin) -> str:
    return f"{pin.name.replace('-', '_')}-{pin.version}-py3-none-any.whl"


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def address(shelf: Shelf) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/files/"):
                answer = 200, "application/octet-stream", b"not what its hash says"
            else:
                answer = shelf.page(self.path.strip("/").rpartition("/")[2])
            self.send_response(answer[0])
            self.send_header("Content-Type", answer[1])
            self.send_header("Content-Length", str(len(answer[2])))
            self.end_headers()
            self.wfile.write(answer[2])

        do_HEAD = do_GET

        def log_message(self, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}/simple"
        server.shutdown()
        thread.join()


def only(tmp_path: Path, **variables: str) -> dict[str, str]:
    """This machine's own settings for pip left out."""
    none = {"PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": "", "PIP_INDEX_URL": ""}
    cache = {"PIP_CONFIG_FILE": "/dev/null", "RUNNER_CACHE_DIR": str(tmp_path / "cache")}
    return {**none, **cache, **variables}


@pytest.fixture
def audit(
    address: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Audit:
    for name, value in only(tmp_path, PIP_INDEX_URL=f"http://me:secret@{address}").items():
        monkeypatch.setenv(name, value)
    return lambda *options: run_here(capsys, "lock", "tflite", "--audit", *options, cwd=tmp_path)


def found(finished: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    findings = json.loads(finished.stdout)
    return {finding["pin"]: finding for finding in findings}


@pytest.mark.parametrize("as_json", [False, True])
def test_all_is_there_but_the_nightly(shelf: Shelf, audit: Audit, as_json: bool) -> None:
    shelf.json = as_json
    finished = audit("--json")
    assert finished.returncode == PASSED, finished.stderr
    told = found(finished)
    assert told.keys() == {*PINS, NIGHTLY}
    assert {told[pin]["status"] for pin in PINS} == {"available"}
    nightly = told[NIGHTLY]
    assert (nightly["status"], nightly["level"]) == ("stand-in", "warning")
    (stand_in,) = load_image("tflite").stand_ins
    assert stand_in.use in nightly["detail"] and stand_in.reason in nightly["detail"]
    assert "secret" not in finished.stdout + finished.stderr


def test_a_vanished_pin_is_an_error_that_names_it(shelf: Shelf, audit: Audit) -> None:
    del shelf.files["wheel"]
    shelf.files["keras-preprocessing"] = []
    finished = audit()
    assert finished.returncode == ENVIRONMENT
    lost = [line for line in finished.stderr.splitlines() if line.startswith("- ")]
    assert [line.split(": ")[1] for line in lost] == ["keras-preprocessing==1.1.2", WHEEL]
    assert all("no index lists this release" in line for line in lost)


def test_another_files_hash_does_not_count(shelf: Shelf, audit: Audit) -> None:
    shelf.files["wheel"] = [("wheel-0.36.2-py3-none-any.whl", "0" * 64)]
    finished = audit("--json")
    assert finished.returncode == ENVIRONMENT
    told = found(finished)
    assert told[WHEEL]["status"] == "vanished"
    assert told[WHEEL]["detail"] == "what is listed has other hashes than the lock"
    assert sum(finding["level"] == "error" for finding in told.values()) == 1


def test_a_file_that_the_environment_cannot_install_does_not_count(
    shelf: Shelf, audit: Audit
) -> None:
    ((_, sha),) = shelf.files["grpcio"]
    shelf.files["grpcio"] = [("grpcio-1.32.0-cp38-cp38-win_amd64.whl", sha)]
    told = found(audit("--json"))
    assert told["grpcio==1.32.0"]["status"] == "vanished"
    shelf.files["grpcio"] = [("grpcio-1.32.0-cp38-cp38-manylinux2014_x86_64.whl", sha)]
    assert found(audit("--json"))["grpcio==1.32.0"]["status"] == "available"


def test_a_yanked_pin_is_a_warning(shelf: Shelf, audit: Audit) -> None:
    shelf.attributes["wheel"] = 'data-yanked="broken &amp; sad"'
    finished = audit("--json")
    assert finished.returncode == PASSED
    told = found(finished)[WHEEL]
    assert (told["status"], told["level"]) == ("yanked", "warning")
    assert told["detail"] == "broken & sad"


def test_an_index_that_does_not_answer_is_not_a_vanished_pin(shelf: Shelf, audit: Audit) -> None:
    shelf.broken = {"wheel"}
    finished = audit("--json")
    assert finished.returncode == ENVIRONMENT
    assert found(finished)[WHEEL]["status"] == "unknown"
    assert "Check the network" in finished.stderr and "secret" not in finished.stderr


def test_a_nightly_that_is_listed_again(shelf: Shelf, audit: Audit) -> None:
    shelf.files["tf-nightly"] = [("tf_nightly-2.4.0.dev20200923-cp38-cp38-linux_x86_64.whl", "1")]
    told = found(audit("--json"))[NIGHTLY]
    assert told["status"] == "available" and "need not stand in" in told["detail"]


def test_an_own_wheel_takes_the_stand_ins_place(audit: Audit, tmp_path: Path) -> None:
    name = "tf_nightly-2.4.0.dev20200923-cp38-cp38-manylinux2010_x86_64.whl"
    info = "tf_nightly-2.4.0.dev20200923.dist-info"
    digest = base64.urlsafe_b64encode(hashlib.sha256(b"").digest()).rstrip(b"=").decode()
    with zipfile.ZipFile(tmp_path / name, "w") as wheel:
        wheel.writestr(f"{info}/METADATA", "")
        wheel.writestr(f"{info}/RECORD", f"{info}/METADATA,sha256={digest},0\n{info}/RECORD,,\n")
    finished = audit("--json", "--wheel", tmp_path / name)
    assert finished.returncode == PASSED, finished.stderr
    told = found(finished)
    assert told[NIGHTLY]["status"] == "own-wheel" and told[NIGHTLY]["sources"] == ["own wheel"]
    assert name in told[NIGHTLY]["detail"]
    # The stand-in is not asked for.
    assert "tensorflow-cpu==2.4.0" not in told


@pytest.mark.network
def test_an_archive_has_what_the_index_lost(shelf: Shelf, audit: Audit, tmp_path: Path) -> None:
    del shelf.files["wheel"]
    indexes = PackageIndexes(read_registry(MACHINE))
    pin = PINS[WHEEL]
    locked = [file for file in indexes.list_files(pin).files if file.sha256 in pin.hashes]
    file = choose_file(locked, list_stage_tags("3.8", "x86_64-manylinux2014"))
    assert file is not None
    with indexes.open(file) as source:
        content = source.read()
    archive = tmp_path / "x.tar"
    with ArchiveWriter(archive, "") as writer:
        writer.add(
            f"wheels/{file.name}", "wheel", io.BytesIO(content), len(content), sha256=file.sha256
        )
        writer.finish(
            created="2026-01-01T00:00:00Z",
            runner="",
            platform="",
            toolchains=(),
            environments=(),
            host_python="",
            interpreters=(),
            runs=(),
        )
    finished = audit("--json", "--archive", archive)
    assert finished.returncode == PASSED, finished.stderr
    assert found(finished)[WHEEL]["sources"] == ["archive"]
    # What it says counts only as long as it really has it.
    data = bytearray(archive.read_bytes())
    data[2000] ^= 1
    archive.write_bytes(data)
    finished = audit("--archive", archive)
    assert finished.returncode == BAD_INPUT and file.name in finished.stderr.replace("\n", "")


def test_a_folder_of_wheels_is_asked_too(tmp_path: Path) -> None:
    """With pip's no-index, and find-links: nobody else is asked."""
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "wheel-0.36.2-py2.py3-none-any.whl").write_bytes(b"another")
    environment = only(tmp_path, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path / "links"))
    finished = run_cli(
        *("lock", "tflite", "--audit", "--json"), cwd=tmp_path, environment=environment
    )
    assert finished.returncode == ENVIRONMENT
    told = found(finished)
    assert {told[pin]["status"] for pin in PINS} == {"vanished"}
    assert told[WHEEL]["detail"] == "what is listed has other hashes than the lock"


def test_what_is_not_asked_for(audit: Audit, tmp_path: Path) -> None:
    assert audit("--check").returncode == BAD_INPUT
    assert audit("--archive", tmp_path / "missing.tar").returncode == BAD_INPUT
    assert run_cli("lock", "--json", cwd=tmp_path).returncode == BAD_INPUT


@pytest.mark.network
def test_today_every_pin_can_be_had_but_the_nightly(tmp_path: Path) -> None:
    finished = run_cli("lock", "--audit", "--json", cwd=tmp_path)
    assert finished.returncode == PASSED, finished.stderr
    findings = json.loads(finished.stdout)
    assert {f["pin"] for f in findings if f["status"] == "stand-in"} == {NIGHTLY}
    assert {f["status"] for f in findings} == {"available", "stand-in"}
    locks = [*ROOT.glob("images/*/requirements*.lock"), ROOT / "requirements.lock"]
    count = sum(len(parse_lock(lock.read_text())) for lock in locks)
    assert len(findings) == count + 1


def test_save_takes_nothing_but_what_the_lock_says(
    shelf: Shelf, address: str, tmp_path: Path
) -> None:
    """An index that lists the right hash and serves other bytes; and one that lacks a pin."""
    for pin in parse_lock((ROOT / "requirements.lock").read_text()):
        shelf.files.setdefault(pin.name, []).append((_file(pin), min(pin.hashes)))
    environment = only(tmp_path, PIP_INDEX_URL=f"http://{address}")
    command = ("archive", "save", "x.tar", "--engine", "process", "--toolchain", "pb-tflite-2020")
    finished = run_cli(*command, cwd=tmp_path, environment=environment)
    assert finished.returncode == BAD_INPUT, finished.stderr
    assert "not what the lock" in finished.stderr and "goes on" in finished.stderr
    assert not (tmp_path / "x.tar").exists()
    del shelf.files["termcolor"]
    finished = run_cli(*command, cwd=tmp_path, environment=environment)
    assert finished.returncode == ENVIRONMENT
    assert "termcolor==1.1.0" in finished.stderr and "absl-py" not in finished.stderr
