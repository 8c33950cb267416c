"""The command line itself: whatever a file holds, no traceback and no status of a defect."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path

from fuzz import sample, seeds
from fuzz.harness import Harness
from fuzz.parsers import archives, records, reports
from runner.cli.app import main
from runner.errors import ExitCode


def _run(*arguments: str) -> int:
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        status = main(list(arguments))
    assert status != ExitCode.INTERNAL or "Traceback" not in said.getvalue(), said.getvalue()
    assert "defect of the runner" not in said.getvalue(), said.getvalue()
    return status


def _commands(data: bytes, folder: Path) -> bool:
    """Every command that reads a file and needs no environment, on this file."""
    file, run = str(folder / "file.bin"), folder / "run"
    run.mkdir()
    for path in (folder / "file.bin", run / "report.json", run / "provenance.json"):
        path.write_bytes(data)
    key = folder / "key.pem"
    key.write_bytes(records.public_key())
    text = data.decode(errors="surrogateescape").replace("\0", " ")
    statuses = [
        _run("inspect", "--summary", "--json", file),
        _run("inspect", "--summary", file),
        _run("report", "page", str(run)),
        _run("report", "table", str(run)),
        _run("report", "bundle", str(run), "--output", str(folder / "x.zip")),
        _run("report", "explain", file),
        _run("archive", "verify", file),
        _run("reproduce", str(run), "--verify-key", str(key)),
        _run("reproduce", str(run), "--verify-key", file),
        _run("lock", "--audit", "--wheel", file),
        _run("inspect", "--summary", "--arch-args", text, __file__),
    ]
    return 0 in statuses[:7]


def _files() -> Sequence[bytes]:
    return [
        *(seeds.onnx_model(), seeds.tflite(), seeds.torch_zip(seeds.state_dict())),
        *(*sample.run_reports(), *records.records(), *records.envelopes()),
        *(*archives._whole(), reports.cache_index(), b"RuntimeError: CUDA out of memory"),
    ]


HARNESSES = [Harness("command-line", _files, _commands, (b"[" * 3000, b"\x1b[2J"))]
