"""Watching a stage that knows that it is watched, and tidying up only what is one's own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT))

from fuzz.sample import stage_report
from runner.cached_run import CachedRun
from runner.engines.processes_seen import tree_use
from runner.engines.watch import Use, Watch, breach_of, disk_use
from runner.limits import Limits
from runner.report import EnvironmentRecord, StageRecord, StageReport
from runner.stage_cache import StageCache, stage_key
from runner.toolchain import load_toolchain


def test_a_process_may_have_any_name() -> None:
    program = "open('/proc/self/comm', 'wb').write(b'a\\rRssAnon:x');print('ready', flush=True)"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        # It has ended and nobody has asked how: nothing is left of it but its name.
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        use = tree_use(os.getpid())
    assert use.processes >= 2 and use.memory > 0


def test_a_folder_may_have_any_name() -> None:
    found = breach_of(Use(hidden="\udcff\x1b[2J"), Limits(), 0, None)
    assert found is not None
    assert "\x1b" not in found.reason
    found.reason.encode()


def test_a_sparse_file_counts_in_full(tmp_path: Path) -> None:
    (tmp_path / "sparse").touch()
    os.truncate(tmp_path / "sparse", 10**9)
    assert disk_use([str(tmp_path)], 100).disk >= 10**9


def test_who_cannot_be_watched_is_ended() -> None:
    ended: list[bool] = []

    def look() -> Use:
        raise RuntimeError("nothing to be seen")

    watch = Watch(Limits(), 0, look, lambda: ended.append(True))
    with watch.watching():
        for _ in range(200):
            if ended:
                break
            watch._finished.wait(0.05)
    assert ended and watch.breach is not None
    assert "could not be watched" in watch.breach.reason


def test_only_entries_are_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user may point the cache at a folder that holds other things."""
    (tmp_path / "fixes").mkdir()
    (tmp_path / ("0" * 64)).mkdir()
    (tmp_path / f".{'1' * 64}.77.part").mkdir()
    StageCache(tmp_path).clear()
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["fixes"]


def test_a_run_keeps_what_it_took_from_the_cache(tmp_path: Path) -> None:
    """Another process empties the cache between two stages."""
    cache, run = StageCache(tmp_path / "cache"), tmp_path / "run"
    run.mkdir()
    report = StageReport.model_validate(stage_report())
    artifact = tmp_path / "artifact"
    artifact.write_bytes(b"made before")
    written = tmp_path / "report"
    written.write_text(report.model_dump_json(by_alias=True))
    stage = load_toolchain().stages[0]
    environment = EnvironmentRecord(image="torch", identity="i", lock_sha256="0" * 64, stand_ins=[])
    record = StageRecord(name="torch", title="t", status="failed", environment=environment)
    key = stage_key("", "process i", stage.module, {})
    files = {stage.produces: artifact, "reports/torch.json": written, "log": artifact}
    cache.store(key, "torch", "before", files)
    with closing(CachedRun(cache, "now", run, {}, {})) as cached:
        cached._key = ""
        assert cached.take(stage, "process", {}, record)
        cache.clear()
        assert cache.find(key) is None
        volume = Volume()
        cached.restore(volume)
        assert volume.files[stage.produces] == b"made before"
    assert sorted(path.name for path in run.iterdir()) == ["logs", stage.produces]


class Volume:
    """Only what `restore` needs of one."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def put(self, files: Mapping[str, Path]) -> None:
        self.files |= {name: path.read_bytes() for name, path in files.items()}
