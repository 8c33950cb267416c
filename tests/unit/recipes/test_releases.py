"""Releases of an index: a folder of files, and what installs where."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_index import ANY, FakeIndex, linux
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from runner.packages.index import PackageIndexes
from runner.packages.pip_settings import Registry
from runner.recipes.releases import Releases, add_days

OLD = "x86_64-manylinux2014"


def test_the_releases_in_a_folder(tmp_path: Path) -> None:
    for name in (
        "torch-1.8.1-cp38-cp38-manylinux1_x86_64.whl",
        "torch-1.8.1-cp39-cp39-win_amd64.whl",
        "torch-1.9.0.tar.gz",
        "onnx-1.8.1.tar.gz",
        "notes.txt",
    ):
        (tmp_path / name).touch()
    registry = Registry(find_links=(str(tmp_path),), no_index=True)
    releases = Releases(PackageIndexes(registry))
    found = releases.list_all("torch")
    assert list(map(str, sorted(found))) == ["1.8.1", "1.9.0"]
    assert found[Version("1.8.1")].installs("3.8", OLD)
    assert not found[Version("1.8.1")].installs("3.9", OLD)
    assert found[Version("1.9.0")].is_source("3.9", OLD)
    assert releases.list_all("none") == {}


@pytest.mark.parametrize(
    ("tags", "installs"),
    [
        (linux("3.8"), True),
        (linux("3.9"), False),
        (ANY, True),
        ((), True),
        (("cp38-cp38-manylinux_2_28_x86_64",), False),
        (("cp38-cp38-win_amd64",), False),
    ],
)
def test_what_installs_under_a_python(tags: tuple[str, ...], installs: bool) -> None:
    releases = Releases(FakeIndex({"a": {"1.0": ("2021-01-01", tags)}}))
    assert releases.list_all("a")[Version("1.0")].installs("3.8", OLD) is installs


@pytest.mark.parametrize("tag", ["cp38-cp38-win_amd64", "py2-none-any"])
def test_wheels_for_others_leave_the_sources_for_linux(tag: str) -> None:
    releases = Releases(FakeIndex({"a": {"1.0": ("2021-01-01", (tag,))}}))
    listed = FakeIndex({"a": {"1.0": ("2021-01-01", ())}}).list_project("a").files
    only = releases.list_all("a")[Version("1.0")]
    both = type(only)("a", only.version, (*only.files, *listed))
    assert both.installs("3.8", OLD) and both.is_source("3.8", OLD)


def test_the_newest_as_of_a_date() -> None:
    index = FakeIndex(
        {
            "a": {
                "1.0": ("2021-01-01", ANY),
                "1.1": ("2021-02-01", ANY),
                "1.2rc1": ("2021-01-15", ANY),
                "1.3+cpu": ("", ANY),
                "2.0": ("2021-01-02", linux("3.13")),
            }
        }
    )
    releases, usable = Releases(index), [("3.8", OLD)]
    for date, version in (("2021-01-20T00:00:00Z", "1.0"), ("", "1.1"), ("2022", "1.1")):
        found = releases.find_newest("a", SpecifierSet(), date, usable=usable)
        assert found is not None and str(found.version) == version
    assert releases.find_newest("a", SpecifierSet(), "2020-01-01", usable=usable) is None
    assert index.asked == ["a"]


def test_days_are_added() -> None:
    import datetime

    day = add_days("2020-12-30T23:59:59.9Z", datetime.timedelta(days=3))
    assert day == "2021-01-02T00:00:00Z"
