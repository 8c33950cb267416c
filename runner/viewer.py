"""A model's graph in the browser: Netron's page and one file, for this machine alone.

Netron's own server is not used: it gives out the whole folder of the file, and its page reports to
its makers what is looked at and stops when it is half a year old. Here the page may ask nobody but
this server. Netron is an optional dependency, the extra `view`; nothing of it is imported.
"""

from __future__ import annotations

import html
import io
import re
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from runner.errors import BadInput, EnvironmentUnavailable
from runner.report.html.marks import make_link
from runner.report.runs import find_run_folder, read_report

HOST = "127.0.0.1"
_INSTALL = "Install it: pip install 'tflite-runner[view]', or netron itself beside the runner."
_POLICY = (
    "default-src 'none'; script-src 'self'; worker-src 'self'; connect-src 'self'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def find_artifact(path: Path, wanted: str = "") -> Path:
    """Return a file to look at: the path itself, or an artifact of the run that it names.

    `wanted` is an artifact's name, or a part of it between dots (`onnx`, `int8`); by default the
    float .tflite file, or the last artifact of a run that came less far. Raises `BadInput`.
    """
    folder = find_run_folder(path)
    if not folder.is_dir():
        if wanted:
            raise BadInput(f"{path} is no run folder.", "--artifact chooses one of a run's files.")
        return _check_file(path)
    report = read_report(folder)
    # A report may come from anywhere: what leads out of its folder is none of its artifacts.
    names = [a.path for a in report.list_made() if make_link(a.path)]
    if not names:
        raise BadInput(
            f"The run in {folder} made no artifact.", f"Why: runner report page {folder}"
        )
    if not wanted:
        last = report.artifacts[-1].path if report.artifacts else names[-1]
        return _check_file(folder / (last if last in names else names[0]))
    for name in names:
        if wanted == name or wanted in Path(name).name.split(".")[1:]:
            return _check_file(folder / name)
    raise BadInput(f"The run has no artifact '{wanted}'.", f"It has {', '.join(names)}.")


def _check_file(path: Path) -> Path:
    try:
        with open(path, "rb") as file:
            if not file.read(1):
                raise BadInput(f"{path} is empty.", "Name a file with a model in it.")
    except FileNotFoundError:
        raise BadInput(f"There is no file {path}.", "Name a run's folder, or a model.") from None
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}.", "Name another file.") from None
    return path


class Viewer:
    """A server of Netron's page for one file, on loopback: open from the start, until `close`.

    Raises `EnvironmentUnavailable` without Netron, and `BadInput` if the port is taken; port 0 is
    any free one.
    """

    def __init__(self, path: Path, port: int = 0) -> None:
        spec = find_spec("netron")
        if spec is None or not spec.submodule_search_locations:
            raise EnvironmentUnavailable("Netron, which draws graphs, is not installed.", _INSTALL)
        root = Path(spec.submodule_search_locations[0])
        # The ending tells Netron how to read it; the rest stands in an address and in a page.
        name = re.sub(r"[^\w.-]", "_", path.name, flags=re.ASCII)
        page = _make_page(root, name)

        class Handler(_Handler):
            contents = {"/": page, "/index.html": page, f"/data/{name}": path}

            def __init__(self, *arguments: Any) -> None:
                super().__init__(*arguments, directory=str(root))

        try:
            self._server = ThreadingHTTPServer((HOST, port), Handler)
        except OSError as error:
            raise BadInput(
                f"Port {port} cannot be served: {error.strerror}.",
                "Leave --port out: any free one will do.",
            ) from None
        self.address = f"http://{HOST}:{self._server.server_address[1]}/"

    def serve(self) -> None:
        """Answer requests until `KeyboardInterrupt` or another exception ends it."""
        self._server.serve_forever(poll_interval=0.1)

    def close(self) -> None:
        self._server.server_close()


def _make_page(root: Path, name: str) -> bytes:
    """Return Netron's page, told which file to open, and nothing of its own version and age."""
    try:
        page = (root / "index.html").read_text(encoding="utf-8")
    except OSError:
        raise EnvironmentUnavailable(f"{root} is no Netron.", _INSTALL) from None
    page, dates = re.subn(r'<meta name="date"[^>]*>', "", page)
    named = html.escape(name)
    ours = (
        '<meta name="type" content="Python"><meta name="version" content="0.0.0">'
        f'<meta name="file" content="/data/{named}"><meta name="name" content="{named}">'
        f'<meta name="identifier" content="{named}">'
    )
    page, versions = re.subn(r'<meta name="version"[^>]*>', ours, page)
    if versions != 1 or dates > 1:
        raise EnvironmentUnavailable(f"The Netron in {root} is of an unknown version.", _INSTALL)
    return page.encode()


class _Handler(SimpleHTTPRequestHandler):
    """Netron's own files, and what `contents` has at its paths: bytes of a page, or a file."""

    contents: dict[str, bytes | Path] = {}

    def send_head(self) -> io.BytesIO | BinaryIO | None:
        # Another name leads here if a page of the web lets its own name point to this machine.
        if self.headers.get("Host", "").rpartition(":")[0] not in (HOST, "localhost"):
            self.send_error(403)
            return None
        path = urlsplit(self.path).path
        found = self.contents.get(path)
        if found is None:
            return super().send_head()
        if isinstance(found, bytes):
            self._send(len(found), "text/html; charset=utf-8")
            return io.BytesIO(found)
        try:
            file = open(found, "rb")  # noqa: SIM115 - the base class closes it
        except OSError:
            self.send_error(404)
            return None
        self._send(found.stat().st_size, "application/octet-stream")
        return file

    def _send(self, size: int, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(size))
        self.end_headers()

    def end_headers(self) -> None:
        self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("Cache-Control", "no-store")
        # Else the page asks for consent to what it cannot do here.
        self.send_header("Set-Cookie", "consent=none; SameSite=Strict")
        super().end_headers()

    def list_directory(self, path: Any) -> None:
        self.send_error(404)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass
