"""Watching a stage that knows that it is watched, and tidying up only what is one's own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import docker.errors
import pytest
from harness import ROOT

sys.path.insert(0, str(ROOT))

from fuzz.sample import stage_report
from runner.cache.session import CachedRun
from runner.cache.store import StageCache, compute_stage_key
from runner.engines.docker.volume_usage import VolumeWatcher
from runner.engines.limits import Limits, compute_least_memory
from runner.engines.process.procfs import measure_tree
from runner.engines.watchdog import ResourceUsage, Watch, check_limits, measure_disk
from runner.errors import EnvironmentUnavailable
from runner.schemas.report import EnvironmentRecord, StageRecord, StageReport
from runner.toolchains.load import load_toolchain


def test_a_process_may_have_any_name() -> None:
    program = "open('/proc/self/comm', 'wb').write(b'a\\rRssAnon:x');print('ready', flush=True)"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        # It has ended and nobody has asked how: nothing is left of it but its name.
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        use = measure_tree(os.getpid())
    assert use.processes >= 2 and use.memory > 0


def test_a_folder_may_have_any_name() -> None:
    found = check_limits(ResourceUsage(hidden="\udcff\x1b[2J"), Limits(), 0, ResourceUsage())
    assert found is not None
    assert "\x1b" not in found.reason
    found.reason.encode()


def test_a_sparse_file_counts_in_full(tmp_path: Path) -> None:
    (tmp_path / "sparse").touch()
    os.truncate(tmp_path / "sparse", 10**9)
    assert measure_disk([str(tmp_path)], 100).disk >= 10**9


def test_who_cannot_be_watched_is_ended() -> None:
    ended: list[bool] = []

    def look() -> ResourceUsage:
        raise RuntimeError("nothing to be seen")

    watch = Watch(Limits(), 0, look, lambda: ended.append(True))
    with watch.run_in_background():
        for _ in range(200):
            if ended:
                break
            watch._finished.wait(0.05)
    assert ended and watch.exceeded is not None
    assert "could not be watched" in watch.exceeded.reason


def test_it_is_ended_until_it_has_ended() -> None:
    """An engine that is busy does not do it at once."""
    ended: list[bool] = []
    watch = Watch(Limits(disk=1), 0, lambda: ResourceUsage(disk=2), lambda: ended.append(True))
    with watch.run_in_background():
        for _ in range(200):
            if len(ended) > 1:
                break
            watch._finished.wait(0.05)
    assert len(ended) > 1


def test_a_machine_without_memory() -> None:
    least = compute_least_memory()
    full, empty = ResourceUsage(available=least - 1), ResourceUsage(available=least)
    assert check_limits(full, Limits(), 0, full) is None
    found = check_limits(full, Limits(), 0, empty)
    assert found is not None and "memory are left" in found.reason


def test_what_is_renamed_is_seen(tmp_path: Path) -> None:
    """By a look at folders that have another name at each moment."""
    inner = tmp_path / Path(*"a" * 60)
    inner.mkdir(parents=True)
    (inner / "sparse").touch()
    os.truncate(inner / "sparse", 10**9)
    looks = []
    with subprocess.Popen([sys.executable, "-c", RENAMES, tmp_path], stdout=subprocess.PIPE) as him:
        assert him.stdout is not None and him.stdout.readline() == b"ready\n"
        for _ in range(50):
            looks.append(measure_disk([str(tmp_path)], 100))
        him.kill()
    assert all(use.disk >= 10**9 or use.vanished for use in looks)
    assert any(use.disk >= 10**9 for use in looks)


RENAMES = """
import os, sys
print("ready", flush=True)
os.chdir(sys.argv[1])
while True:
    os.rename("a", "b")
    os.rename("b", "a")
"""


def test_what_never_stays_is_no_place_to_hide() -> None:
    watch = Watch(Limits(), 0, lambda: ResourceUsage(vanished=True), lambda: None)
    breaches = [watch._examine() for _ in range(100)]
    assert breaches[0] is None and breaches[-1] is not None
    assert "renamed or removed all the time" in breaches[-1].reason


def test_folders_without_end(tmp_path: Path) -> None:
    assert measure_disk([str(tmp_path)], 9).hidden == ""
    (tmp_path / Path(*"d" * 300)).mkdir(parents=True)
    assert "nested more than" in measure_disk([str(tmp_path)], 1000).hidden


def test_what_is_closed_to_us_is_no_place_to_hide(tmp_path: Path) -> None:
    """Neither a folder that cannot be listed nor one whose files cannot be looked at."""
    for mode in (0o000, 0o400):
        folder = tmp_path / f"{mode:o}"
        (folder / "closed").mkdir(parents=True)
        (folder / "closed" / "file").touch()
        if os.getuid() == 0:
            os.chown(folder / "closed", 65534, 65534)
        (folder / "closed").chmod(mode)
        child = os.fork()
        if child == 0:
            status = 1
            with suppress(BaseException):
                os.chdir(folder)
                if os.getuid() == 0:
                    os.setuid(65534)
                status = int(not measure_disk(["."], 100).hidden)
            os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        (folder / "closed").chmod(0o700)


def test_a_watcher_that_is_gone_is_said() -> None:
    class Client:
        containers: Any = None

    watcher = VolumeWatcher(Client(), "image", "volume", {})  # type: ignore[arg-type]
    Client.containers = Refusing()
    assert watcher.look() is None
    assert watcher._thread is not None
    watcher._thread.join()
    with pytest.raises(EnvironmentUnavailable, match="has ended"):
        watcher.look()


class Refusing:
    """An engine's containers, when there can be none."""

    def run(self, *_: Any, **__: Any) -> None:
        raise docker.errors.APIError("no")


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
    key = compute_stage_key("", "process i", stage.module, {})
    files = {stage.produces: artifact, "reports/torch.json": written, "log": artifact}
    cache.store(key, "torch", "before", files)
    with closing(CachedRun(cache, "now", run, {}, {})) as cached:
        cached._key = ""
        assert cached.load_stage(stage, "process", {}, record)
        cache.clear()
        assert cache.find(key) is None
        volume = Volume()
        cached.populate_volume(volume)
        assert volume.files[stage.produces] == b"made before"
    assert sorted(path.name for path in run.iterdir()) == ["logs", stage.produces]


class Volume:
    """Only what `populate_volume` needs of one."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def put(self, files: Mapping[str, Path]) -> None:
        self.files |= {name: path.read_bytes() for name, path in files.items()}
