"""A package index in memory: projects, their releases, and the files of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runner.packages.index import IndexFile, Listing

ANY = ("py3-none-any",)


def linux(*pythons: str) -> tuple[str, ...]:
    """The tags of wheels for Linux under these Pythons, such as '3.8'."""
    versions = [python.replace(".", "") for python in pythons]
    return tuple(f"cp{v}-cp{v}{'m' if v == '37' else ''}-manylinux2014_x86_64" for v in versions)


class FakeIndex:
    """Lists what it is made of: by project and version, a day and the tags of wheels.

    No tags stand for a release of sources alone.
    """

    def __init__(self, projects: Mapping[str, Mapping[str, tuple[str, Sequence[str]]]]) -> None:
        self.projects = projects
        self.asked: list[str] = []

    def list_project(self, name: str) -> Listing:
        self.asked.append(name)
        files = []
        for version, (day, tags) in self.projects.get(name, {}).items():
            stem = f"{name.replace('-', '_')}-{version}"
            names = [f"{stem}-{tag}.whl" for tag in tags] or [f"{stem}.tar.gz"]
            moment = f"{day}T12:00:00Z" if day else ""
            files += [IndexFile(file, "", "", uploaded=moment) for file in names]
        return Listing(tuple(files))


# What PyPI has of some tools of 2020 to 2022, in short.
YEARS = {
    "torch": {
        "1.5.1": ("2020-06-18", linux("3.7", "3.8")),
        "1.8.1": ("2021-03-25", linux("3.7", "3.8", "3.9")),
        "1.9.0": ("2021-06-15", linux("3.7", "3.8", "3.9")),
    },
    "torchvision": {"0.9.1": ("2021-03-25", linux("3.7", "3.8", "3.9"))},
    "onnx": {
        "1.7.0": ("2020-05-09", linux("3.7", "3.8")),
        "1.8.1": ("2021-02-04", linux("3.7", "3.8")),
        "1.9.0": ("2021-04-19", linux("3.7", "3.8", "3.9")),
    },
    "onnx-tf": {
        "1.6.0": ("2020-12-01", ANY),
        "1.8.0": ("2021-04-13", ANY),
        "1.9.0": ("2021-08-23", ANY),
    },
    "onnx2tf": {"1.22.3": ("2024-05-22", ANY), "2.6.9": ("2026-09-14", ANY)},
    "tensorflow": {
        "2.2.0": ("2020-05-06", linux("3.7", "3.8")),
        "2.4.0": ("2020-12-14", linux("3.7", "3.8")),
        "2.5.0": ("2021-05-13", linux("3.7", "3.8", "3.9")),
    },
    "tensorflow-cpu": {
        "2.2.0": ("2020-05-06", linux("3.7", "3.8")),
        "2.4.0": ("2020-12-14", linux("3.7", "3.8")),
        "2.5.0": ("2021-05-13", linux("3.7", "3.8", "3.9")),
    },
    "tensorflow-addons": {"0.13.0": ("2021-04-29", linux("3.7", "3.8", "3.9"))},
    "numpy": {"1.19.5": ("2021-01-05", linux("3.7", "3.8", "3.9"))},
}
