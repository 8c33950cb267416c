"""Which file of a release an environment takes, and what a lock says."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from runner.host.paths import ROOT
from runner.packages.lockfile import (
    applies_here,
    choose_file,
    compare_locks,
    filter_release,
    list_host_tags,
    list_stage_tags,
    parse_lock,
    parse_pin,
)
from runner.toolchains.load import load_all_images


@dataclass(frozen=True)
class File:
    name: str


def chosen(*names: str) -> str | None:
    file = choose_file(
        [File(name) for name in names], list_stage_tags("3.8", "x86_64-manylinux2014")
    )
    return file.name if file else None


@pytest.mark.parametrize(
    ("best", "others"),
    [
        ("x-1-cp38-cp38-manylinux2014_x86_64.whl", ["x-1-py3-none-any.whl", "x-1.tar.gz"]),
        ("x-1-cp38-cp38-manylinux2010_x86_64.whl", ["x-1-cp38-cp38-manylinux1_x86_64.whl"]),
        ("x-1-cp38-cp38-manylinux1_x86_64.whl", ["x-1-cp37-cp37m-manylinux1_x86_64.whl"]),
        ("x-1-cp35-abi3-manylinux2010_x86_64.whl", ["x-1-py2.py3-none-any.whl"]),
        ("x-1-py2.py3-none-any.whl", ["x-1-cp39-cp39-manylinux2014_x86_64.whl", "x-1.tar.gz"]),
        ("x-1.tar.gz", ["x-1-cp38-cp38-win_amd64.whl", "x-1-cp38-cp38-manylinux2014_aarch64.whl"]),
        ("x-1.tar.gz", ["x-1-cp38-cp38-macosx_10_9_x86_64.whl"]),
    ],
)
def test_the_best_file_for_a_stage(best: str, others: list[str]) -> None:
    assert chosen(best, *others) == best
    assert chosen(*others, best) == best


def test_no_file_for_a_stage() -> None:
    assert chosen("x-1-cp39-cp39-manylinux2014_x86_64.whl", "x-1-cp38-cp38-win32.whl") is None
    assert chosen() is None


def test_files_of_a_release() -> None:
    files = [
        File("Keras_Preprocessing-1.1.2-py2.py3-none-any.whl"),
        File("keras-preprocessing-1.1.2.tar.gz"),
        File("Keras_Preprocessing-1.1.3-py2.py3-none-any.whl"),
        File("keras-1.1.2.tar.gz"),
        File("nonsense"),
    ]
    assert filter_release(parse_pin("keras-preprocessing==1.1.2"), files) == files[:2]


def test_every_pin_of_every_lock_is_read() -> None:
    for lock in [*(image.lock for image in load_all_images()), ROOT / "requirements.lock"]:
        text = lock.read_text()
        pins = parse_lock(text)
        assert len(pins) == text.count("==") - text.split("\n\n")[0].count("==") - sum(
            line.split(" ; ")[-1].count("==") for line in text.splitlines() if " ; " in line
        )
        assert all(pin.hashes for pin in pins)
        assert sum(len(pin.hashes) for pin in pins) == text.count("--hash=sha256:")


def test_a_wheel_by_its_url_is_no_pin() -> None:
    text = "a @ file:///a-1-py3-none-any.whl --hash=sha256:" + "0" * 64 + "\n    # via x\nb==1 \\\n"
    assert [str(pin) for pin in parse_lock(text)] == ["b==1"]


def test_markers() -> None:
    text = "a==1 ; sys_platform == 'win32'\nb==1 ; python_full_version >= '3.8'\nc==1\n"
    assert [str(pin) for pin in parse_lock(text) if applies_here(pin)] == ["b==1", "c==1"]
    assert choose_file([File("c-1-py3-none-any.whl")], list_host_tags()) is not None


def test_what_differs_between_two_locks() -> None:
    old = "# A lock.\n\na==1.0 \\\n    --hash=sha256:00\nb==2.0\n    # via a\ngone==1\n"
    new = "a==1.1 \\\n    --hash=sha256:01\nb==2.0\ncame==3\n"
    assert compare_locks(old, new) == ["a 1.0 → 1.1", "came none → 3", "gone 1 → none"]
    assert compare_locks(old, old) == []
