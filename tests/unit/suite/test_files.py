"""Files by content, in pieces; a shared store; and a conversion's share of the cores."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from distributed import Client, LocalCluster, get_worker

from runner.engines.docker.engine import _list_own_cores
from runner.errors import BadInput, EnvironmentUnavailable
from runner.host.files import hash_file
from runner.planning.check import Check
from runner.planning.quantization import Quantization
from runner.suite.cluster import compute_share, compute_width
from runner.suite.files import (
    PIECE,
    FileStore,
    SharedStore,
    append_pieces,
    bundle_pieces,
    read_piece,
)
from runner.suite.jobs.job import claim_cores
from runner.suite.request import File, Request, Setting
from runner.suite.run import _read_small
from runner.suite.worker import MOST_CARRIED, MissingFiles, Task, _lay_out


def test_a_file_that_is_sent_in_pieces_appears_whole(tmp_path: Path) -> None:
    content = os.urandom(PIECE) + b"the rest"
    source = tmp_path / "source"
    source.write_bytes(content)
    sha256, store = hash_file(source), FileStore(tmp_path / "store")
    for offset in range(0, len(content), PIECE):
        assert store.find(sha256, len(content)) is None
        store.receive(sha256, len(content), offset, read_piece(source, offset), "client")
    found = store.find(sha256, len(content))
    assert found is not None and found.read_bytes() == content
    assert store.find(sha256, len(content) + 1) is None
    empty = hashlib.sha256(b"").hexdigest()
    store.receive(empty, 0, 0, b"", "client")
    assert store.find(empty, 0) is not None
    assert store.clear() == len(content) and not store.folder.exists()


def test_small_files_share_a_message_and_large_ones_take_several(tmp_path: Path) -> None:
    sizes = {"a": 10, "empty": 0, "large": 2 * PIECE + 5, "b": 20, "whole": PIECE, "c": 30}
    files = {name: ("ab" * 32, size) for name, size in sizes.items()}
    bundles = [
        [(piece.name, min(PIECE, piece.size - piece.offset)) for piece in bundle]
        for bundle in bundle_pieces(files)
    ]
    assert bundles == [
        [("a", 10)],
        [("large", PIECE)],
        [("large", PIECE)],
        [("large", 5), ("b", 20)],
        [("whole", PIECE)],
        [("c", 30)],
    ]


def test_a_file_that_is_another_is_not_kept(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    with pytest.raises(ValueError, match="is not"):
        store.receive("ab" * 32, 3, 0, b"abc", "client")
    assert not list(tmp_path.glob("files/*"))


def test_what_lies_unused_longest_goes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, hashes = FileStore(tmp_path / "store"), []
    for number in range(3):
        source = tmp_path / "source"
        source.write_bytes(bytes([number]) * 100)
        hashes.append(store.add(source)[0])
        os.utime(store.locate(hashes[-1]), (number, number))
    monkeypatch.setenv("RUNNER_SUITE_BYTES", "200")
    store.prune()
    assert [store.find(sha256, 100) is not None for sha256 in hashes] == [False, True, True]
    monkeypatch.setenv("RUNNER_SUITE_BYTES", "much")
    with pytest.raises(BadInput, match="RUNNER_SUITE_BYTES"):
        store.prune()


def test_a_shared_store(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"a model")
    sha256, store = hash_file(source), SharedStore(f"file://{tmp_path}/store")
    assert not store.get(sha256, tmp_path / "target")
    store.put(source, sha256)
    store.put(source, sha256)
    assert store.get(sha256, tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"a model"
    assert [path.name for path in (tmp_path / "store").glob("*/*")] == [sha256]
    (tmp_path / "store" / sha256[:2] / sha256).write_bytes(b"altered")
    with pytest.raises(EnvironmentUnavailable, match="damaged"):
        store.get(sha256, tmp_path / "another")
    assert not (tmp_path / "another").exists()
    with pytest.raises(BadInput, match="nothing-known"):
        SharedStore("nothing-known://bucket")


def test_two_conversions_do_not_share_a_core(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNNER_CACHE_DIR", str(tmp_path))
    before = os.sched_getaffinity(0)
    other = (
        "import os; from runner.suite.jobs.job import claim_cores\n"
        "with claim_cores(1): print(sorted(os.sched_getaffinity(0)))"
    )
    with claim_cores(1):
        mine = os.sched_getaffinity(0)
        assert len(mine) == 1
        # Their affinity is inherited: the other starts from all.
        os.sched_setaffinity(0, before)
        done = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True)
        theirs = set(json.loads(done.stdout))
    assert os.sched_getaffinity(0) == before
    assert theirs == before or not theirs & mine  # with one core alone there is none to claim
    with claim_cores(0):
        assert os.sched_getaffinity(0) == before


def test_shares_are_parts_of_the_machine() -> None:
    assert compute_share(1).cores == 0
    share = compute_share(2)
    assert share.cores >= 1 and 0 < share.memory < os.sysconf("SC_PAGE_SIZE") * os.sysconf(
        "SC_PHYS_PAGES"
    )
    assert compute_width(7) == 7 and compute_width() >= 1


def test_containers_keep_to_the_runners_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 3})
    assert _list_own_cores({"CPUSet": True, "NCPU": 4}) == "1,3"
    assert _list_own_cores({"CPUSet": False, "NCPU": 4}) is None
    assert _list_own_cores({"CPUSet": True, "NCPU": 2}) is None  # another machine's daemon
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    assert _list_own_cores({"CPUSet": True, "NCPU": 2}) is None


def test_small_files_come_with_their_conversion(tmp_path: Path) -> None:
    def request(*sizes: int) -> Request:
        files = {}
        for number, size in enumerate(sizes):
            path = tmp_path / f"{number}"
            path.write_bytes(bytes([number]) * size)
            files[f"model/{number}"] = File(str(path), hash_file(path), size)
        return Request("k", "t", "model/0", "", {}, Check(), Quantization(), {}, files)

    carried = _read_small(request(10, MOST_CARRIED - 10))
    assert {len(content) for content in carried.values()} == {10, MOST_CARRIED - 10}
    assert all(hashlib.sha256(content).hexdigest() == key for key, content in carried.items())
    assert not _read_small(request(10, MOST_CARRIED - 9))
    gone = request(10)
    (tmp_path / "0").unlink()
    assert not _read_small(gone)


def test_a_worker_takes_what_comes_with_a_conversion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks nobody for it, and keeps it; what does not come is missing."""
    monkeypatch.setenv("RUNNER_CACHE_DIR", str(tmp_path / "cache"))
    content = b"a small model"
    sha256 = hashlib.sha256(content).hexdigest()
    file = File("gone", sha256, len(content))
    made = Request("k", "t", "model/0", "", {}, Check(), Quantization(), {}, {"model/0": file})
    task = Task(made, Setting(), "cell", "runner", "client")

    def lay_out(task: Task, folder: str) -> None:
        _lay_out(get_worker(), task, Path(folder))

    with (
        LocalCluster(n_workers=1, processes=False, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        with pytest.raises(MissingFiles):
            client.submit(lay_out, task, str(tmp_path / "none"), pure=False).result()
        carried = replace(task, contents={sha256: content})
        client.submit(lay_out, carried, str(tmp_path / "made"), pure=False).result()
    assert (tmp_path / "made/model/0").read_bytes() == content
    found = FileStore().find(sha256, len(content))
    assert found is not None and found.read_bytes() == content


def test_pieces_make_the_files_again(tmp_path: Path) -> None:
    contents = {"a": b"x" * 10, "large": os.urandom(2 * PIECE + 5), "b": b"y" * 20}
    (tmp_path / "made").mkdir()
    files = {name: ("ab" * 32, len(content)) for name, content in contents.items()}
    for bundle in bundle_pieces(files):
        given = [contents[p.name][p.offset : p.offset + PIECE] for p in bundle]
        assert append_pieces(tmp_path / "made", bundle, given) == ""
        assert sum(map(len, given)) <= PIECE
    for name, content in contents.items():
        assert (tmp_path / "made" / name).read_bytes() == content
    assert append_pieces(tmp_path / "made", bundle, [None] * len(bundle)) == bundle[0].name
