"""The keeper of warm processes: which it starts, hands out and ends, and which are refused."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from harness import ROOT

from runner.engines.process import warm
from runner.engines.process.warm import take_warm_process
from runner.suite.jobs import keeper as keeper_module
from runner.suite.jobs.keeper import KIND, Keeper

STAGE = """
{}
class STAGE:
    imports = ("{}",)
"""


@pytest.fixture(autouse=True)
def enough_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper_module, "read_available_memory", lambda: None)


@pytest.fixture
def keeper(monkeypatch: pytest.MonkeyPatch) -> Iterator[Keeper]:
    """A keeper that serves this process as its job."""
    requests, asks = socket.socketpair(type=KIND)
    made = Keeper()
    job = subprocess.Popen(["sleep", "600"])
    thread = threading.Thread(target=made.serve, args=(job.pid, requests), daemon=True)
    thread.start()
    monkeypatch.setattr(warm, "_keeper", asks)
    yield made
    job.kill()
    thread.join(10)
    job.wait()
    assert not thread.is_alive()
    made.end()
    requests.close()
    asks.close()


Take = Callable[..., int | None]


@pytest.fixture
def take(keeper: Keeper, tmp_path: Path) -> Take:
    """Take a warm process of a stage of the folder `made`; return its id, or None."""
    place = tmp_path / "made"
    place.mkdir()
    for name in ("plain", "another", "third"):
        (place / f"{name}.py").write_text(STAGE.format("", "json"))

    def run(name: str = "plain") -> int | None:
        path = f"PYTHONPATH={ROOT}:{place}"
        command = ["/usr/bin/env", path, sys.executable, "-s", "-m", "stages.kit.warm", name]
        found = take_warm_process(command, place, place)
        if found is None:
            return None
        with closing(found):
            return max(kept.process.pid for kept in keeper._kept.values() if kept.job)

    return run


def test_a_process_is_used_again_and_again(take: Take, keeper: Keeper) -> None:
    first = take()
    assert first is not None and take() == first
    assert take("another") != first
    assert len(keeper._kept) == 2


def test_another_once_it_has_changed(take: Take, keeper: Keeper, tmp_path: Path) -> None:
    first = take()
    file = tmp_path / "made/plain.py"
    file.write_text(file.read_text() + "# changed\n")
    assert take() != first
    # One that has ended is replaced too.
    for kept in keeper._kept.values():
        kept.process.kill()
        kept.process.wait()
    assert take() is not None


def test_after_so_many_stages(take: Take, keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper_module, "_MOST_STAGES", 3)
    ids = [take() for _ in range(4)]
    assert ids[0] == ids[1] == ids[2] != ids[3]
    assert len(keeper._kept) == 1


@pytest.mark.parametrize(
    ("does", "imports"),
    [
        ("raise OSError('none')", "json"),
        ("import os; os._exit(3)", "json"),
        ("", "there_is_none"),
        ("import threading, time; threading.Thread(target=time.sleep, args=(99,)).start()", "json"),
        ("import os; file = os.open('/dev/zero', 0)", "json"),
        ("import socket; end = socket.socket()", "json"),
        ("import mmap; shared = mmap.mmap(-1, 4096)", "json"),
    ],
    ids=["error", "end", "no module", "thread", "file", "socket", "shared memory"],
)
def test_what_cannot_be_forked_safely_is_refused(
    take: Take, keeper: Keeper, tmp_path: Path, does: str, imports: str
) -> None:
    (tmp_path / "made/unsafe.py").write_text(STAGE.format(does, imports))
    for tries in (1, 2):
        assert take("unsafe") is None
        assert take("plain") is not None  # the keeper has read that it is refused, by now
        assert list(keeper._refused.values()) == [tries]
    started = dict(keeper._kept)
    assert take("unsafe") is None
    assert keeper._kept == started


def test_room_is_made_only_by_what_is_no_longer_asked_for(
    take: Take, keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper_module, "_MOST", 2)
    assert take("plain") and take("another")
    assert take("third") is None  # all are of this job
    keeper._jobs += 1
    assert take("another")
    assert take("third") is None  # the first is of the job before
    keeper._jobs += 1
    assert take("third")
    assert len(keeper._kept) == 2
    assert take("another") and take("plain") is None


def test_no_room_in_memory(take: Take, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper_module, "read_available_memory", lambda: 1000)
    assert take() is None


def test_none_without_a_keeper(tmp_path: Path) -> None:
    assert take_warm_process(["/bin/true"], tmp_path, tmp_path) is None


def test_a_job_that_ends_unheard(tmp_path: Path) -> None:
    """Its request is there, and it is not: the keeper goes on."""
    requests, asks = socket.socketpair(type=KIND)
    asks.send(
        json.dumps({"do": "take", "key": "k", "command": ["/bin/true"], "cores": [0]}).encode()
    )
    asks.close()
    job = subprocess.Popen(["true"])
    made = Keeper()
    thread = threading.Thread(target=made.serve, args=(job.pid, requests), daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    job.wait()
    made.end()
    requests.close()


def test_a_job_that_ends_with_an_answer_unread() -> None:
    """The socket is reset then: that is the job's end, and not the keeper's."""
    requests, asks = socket.socketpair(type=KIND)
    requests.send(b"an answer")
    asks.close()
    with subprocess.Popen(["true"]) as job:
        Keeper().serve(job.pid, requests)
    requests.close()
