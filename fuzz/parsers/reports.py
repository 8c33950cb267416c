"""Reports: of stages, of runs, and all that is made of them; the cache of finished stages."""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console

from fuzz import sample
from fuzz.harness import Harness
from runner.cache.session import parse_sample_index
from runner.cache.store import StageCache
from runner.cli.progress import ConsoleView
from runner.conversion.diagnose import read_check
from runner.errors import RunnerError
from runner.report.html.render import render_run
from runner.report.html.table import write_table
from runner.report.issue_bundle import write_bundle
from runner.report.runs import find_runs, read_report
from runner.report.table import make_rows, render_table, write_csv
from runner.schemas.stage_reports import read_report as read_stage_report


def _stage_report(data: bytes, folder: Path) -> bool:
    """Read a report as a conversion does: one that is not valid is a failure of its stage."""
    try:
        report = read_stage_report(data)
    except ValueError as error:
        assert not re.search(r"[\x00-\x1f\x7f-\x9f]", str(error))
        return False
    assert "\x1b" not in report.model_dump_json()
    report.model_dump_json(by_alias=True)
    return True


def _run_report(data: bytes, folder: Path) -> bool:
    (folder / "report.json").write_bytes(data)
    try:
        report = read_report(folder)
    except RunnerError:
        return False
    with suppress(RunnerError):
        read_check(report)
    page = render_run(report, folder.name)
    assert "<script" not in page and "\x1b" not in page
    made = make_rows(find_runs([folder]).reports)
    with open("/dev/null", "w") as nothing:
        console = Console(file=nothing, width=120)
        console.print(render_table(made, 120))
        view = ConsoleView(console)
        view.finished(report, folder)
    write_csv(made)
    json.dumps([row.as_dict() for row in made])
    write_table(made, (), folder / "table.html")
    write_bundle(folder, folder / "x.zip")
    return True


def _cache_entry(data: bytes, folder: Path) -> bool:
    """An entry whose index says this of files that are what it says, where it says so at all."""
    key = "0" * 64
    files = folder / key / "files"
    (files / "reports").mkdir(parents=True)
    (files / "reports/torch.json").write_bytes(json.dumps(sample.stage_report()).encode())
    (files / "model.onnx").write_bytes(b"model")
    (files / "log").write_bytes(b"log")
    (folder / key / "index.json").write_bytes(data)
    cache = StageCache(folder)
    for listed in cache.list_entries():
        listed.report() if (listed.folder / f"files/reports/{listed.stage}.json").exists() else None
    entry = cache.find(key)
    if entry is None:
        return False
    entry.report()
    assert entry.log.is_file()
    assert all(path.resolve().is_relative_to(files) for path in entry.files.values())
    return True


def cache_index() -> bytes:
    report = json.dumps(sample.stage_report()).encode()
    contents = {"reports/torch.json": report, "model.onnx": b"model", "log": b"log"}
    files = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        for name, content in contents.items()
    }
    index: dict[str, Any] = {"format": 1, "stage": "torch", "made_by_run": "r", "created": 1.0}
    return json.dumps({**index, "files": files}).encode()


def _sample_index(data: bytes, folder: Path) -> bool:
    found = parse_sample_index(data)
    if found is None:
        return False
    assert found.bytes >= 0
    return True


HARNESSES = [
    Harness("stage-report", lambda: [json.dumps(sample.stage_report()).encode()], _stage_report),
    Harness("run-report", sample.run_reports, _run_report),
    Harness("stage-cache", lambda: [cache_index()], _cache_entry),
    Harness(
        "sample-index",
        lambda: [b'{"count": 3, "outputs": [{"shape": [1, 10], "dtype": "float32"}]}'],
        _sample_index,
    ),
]
