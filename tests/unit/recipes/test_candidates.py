"""Which toolchain has a package, and which of its releases are tried."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fake_index import ANY, FakeIndex

from runner.errors import BadInput, EnvironmentUnavailable
from runner.packages.index import IndexFile, Listing
from runner.recipes.candidates import Span, Subject, choose_subject
from runner.recipes.releases import Releases

# Some releases of packages that the toolchains have.
INDEX = FakeIndex(
    {
        "onnx": {
            version: (day, ANY)
            for version, day in {
                "1.6.0": "2019-09-28",
                "1.7.0": "2020-05-09",
                "1.8.0rc1": "2020-10-20",
                "1.8.0": "2020-11-06",
                "1.8.1": "2021-02-04",
                "1.9.0": "2021-04-19",
                "1.10.0": "2021-07-30",
                "1.10.2": "2021-10-27",
                "1.11.0": "2022-02-17",
            }.items()
        },
        "tensorflow-cpu": {
            "2.4.0": ("2020-12-14", ANY),
            "2.4.1": ("2021-01-21", ANY),
            "2.5.0": ("2021-05-13", ANY),
        },
        "tf-nightly": {},
        "torch": {"2.12.1": ("2026-06-17", ANY), "2.13.0": ("2026-07-08", ANY)}
        | {"2.12.1+cpu": ("", ANY), "2.13.0+cpu": ("", ANY), "2.14.0+cpu": ("", ANY)},
    }
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no toolchains of the user's own are."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RUNNER_TOOLCHAINS", raising=False)


def choose(span: Span, kind: str = "pytorch") -> tuple[Subject, list[str]]:
    subject = choose_subject(span, kind, Releases(INDEX))
    return subject, [str(release.version) for release in subject.candidates]


@pytest.mark.parametrize(
    ("span", "versions"),
    [
        (Span("onnx", "1.7", "1.8"), ["1.7.0", "1.8.0", "1.8.1"]),
        (Span("onnx", "1.7.0", "1.8.0"), ["1.7.0", "1.8.0"]),
        (Span("ONNX", "1.7", "1.8", prereleases=True), ["1.7.0", "1.8.0rc1", "1.8.0", "1.8.1"]),
        # One that is named is meant.
        (Span("onnx", "1.8.0rc1", "1.8.0"), ["1.8.0rc1", "1.8.0"]),
        # 1.10 is after 1.9, and takes 1.10.2 too.
        (Span("onnx", "1.9", "1.10"), ["1.9.0", "1.10.0", "1.10.2"]),
        # Without ends: from the toolchain's own to the newest.
        (
            Span("onnx", toolchain="2021"),
            ["1.9.0", "1.10.0", "1.10.2", "1.11.0"],
        ),
        # Builds of PyTorch's own index stay apart from the main one's.
        (
            Span("torch", "2.12", "2.13", toolchain="2026"),
            ["2.12.1+cpu", "2.13.0+cpu"],
        ),
    ],
)
def test_releases_between(span: Span, versions: list[str]) -> None:
    assert choose(span)[1] == versions


def test_withdrawn_releases_are_left_out_unless_asked_for() -> None:
    class Withdrawn:
        def list_project(self, name: str) -> Listing:
            days = {"1.7.0": "", "1.8.0": "broken", "1.9.0": ""}
            return Listing(
                tuple(
                    IndexFile(f"onnx-{v}-py3-none-any.whl", "", "", yanked=why, uploaded="2021-01")
                    for v, why in days.items()
                )
            )

    def choose_among(span: Span) -> list[str]:
        found = choose_subject(span, "pytorch", Releases(Withdrawn()))
        return [str(release.version) for release in found.candidates]

    assert choose_among(Span("onnx", "1.7", "1.9")) == ["1.7.0", "1.9.0"]
    assert choose_among(Span("onnx", "1.7", "1.9", yanked=True)) == ["1.7.0", "1.8.0", "1.9.0"]
    assert choose_among(Span("onnx", "1.7", "1.8.0")) == ["1.7.0", "1.8.0"]


def test_the_toolchain_is_the_nearest_one() -> None:
    for first, title, images in (
        ("1.7", "2020-09", ["torch", "onnx-tf"]),
        ("1.6", "2019", ["torch-1.3", "onnx-tf-1.5"]),
        ("1.9", "2021", ["torch-1.9", "onnx-tf-1.9"]),
    ):
        subject, _ = choose(Span("onnx", first, "1.11"))
        assert subject.chain.title == title
        assert [target.image.name for target in subject.targets] == images
    subject, _ = choose(Span("onnx", "1.7", "1.9", images=["onnx-tf"]))
    assert [target.image.name for target in subject.targets] == ["onnx-tf"]


def test_another_build_of_a_tool_is_the_same_tool() -> None:
    subject, versions = choose(Span("tensorflow", "2.4", "2.5"), "frozen-graph")
    assert subject.targets[0].name == "tensorflow-cpu"
    assert versions == ["2.4.0", "2.4.1", "2.5.0"]


@pytest.mark.parametrize(
    ("span", "kind", "said"),
    [
        (Span("requests2", "1", "2"), "pytorch", "No toolchain .* has requests2.* pin .*torch"),
        (Span("torch", toolchain="2020-09"), "frozen-graph", "No image .* has torch"),
        (Span("onnx", toolchain="2026-onnx2tf"), "frozen-graph", "does not start from such"),
        (Span("onnx", "1.11", "1.11"), "pytorch", "not two releases .* 1.10.2, 1.11.0"),
        (Span("onnx", "1.9", "1.7"), "pytorch", "not two releases"),
        (Span("onnx", "new", ""), "pytorch", "--from new is no version"),
        (Span("onnx", "1.7", "1.9", images=["tflite"]), "pytorch", "tflite is no image.*onnx-tf"),
    ],
)
def test_what_cannot_be_meant(span: Span, kind: str, said: str) -> None:
    with pytest.raises(BadInput) as raised:
        choose(span, kind)
    assert re.search(said, f"{raised.value.message} {raised.value.remedy}")
    assert raised.value.remedy


def test_without_an_index() -> None:
    class Silent:
        def list_project(self, name: str) -> Listing:
            return Listing((), ("it does not answer",))

    with pytest.raises(EnvironmentUnavailable, match="does not list onnx"):
        choose_subject(Span("onnx"), "pytorch", Releases(Silent()))
