"""A toolchain with another release of one package: its intent, its date, its lock, its files."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from fake_index import ANY, FakeIndex, linux
from packaging.requirements import Requirement

from runner.errors import EnvironmentUnavailable
from runner.host.paths import ROOT
from runner.packages import resolver
from runner.packages.lockfile import compare_locks, parse_lock
from runner.recipes.candidates import Span, choose_subject
from runner.recipes.releases import Releases
from runner.recipes.variant import ReleaseUnavailable, Variant, replace_pins, write_variant
from runner.toolchains.load import load_image, load_toolchain
from runner.toolchains.model import Image

PROJECTS = {
    "onnx": {
        "1.6.0": ("2019-09-28", linux("3.8")),
        "1.7.0": ("2020-05-09", linux("3.8")),
        "1.8.0": ("2020-11-06", linux("3.8")),
        "1.9.0": ("2021-04-19", linux("3.9")),
        "1.10.0": ("", linux("3.8")),
    },
    "torch": {"1.5.1": ("2020-06-18", linux("3.8"))},
    "torchvision": {"0.6.1": ("2020-06-23", linux("3.8"))},
    "onnxruntime": {"1.4.0": ("2020-07-17", linux("3.8"))},
    "onnx-tf": {"1.6.0": ("2020-07-14", ANY)},
    "tensorflow-cpu": {
        "2.2.0": ("2020-05-06", linux("3.8")),
        "2.4.0": ("2020-12-14", linux("3.8")),
        "2.4.1": ("2021-01-21", linux("3.8")),
    },
    "tensorflow-addons": {"0.11.2": ("2020-08-13", linux("3.8"))},
    "protobuf": {"3.14.0": ("2020-11-13", ANY), "4.21.1": ("2022-05-27", ANY)},
}


class Resolver:
    """A resolver that gives back what it was asked for, and notes it."""

    def __init__(self) -> None:
        self.asked: list[tuple[Image, list[str], str]] = []
        self.answer = ""

    def __call__(self, image: Image, constraints: Sequence[str] = ()) -> str:
        intent = image.intent.read_text()
        self.asked.append((image, list(constraints), intent))
        if self.answer:
            raise EnvironmentUnavailable(self.answer)
        uses = {stand_in.pin: stand_in.use for stand_in in image.stand_ins}
        wanted = [uses.get(line, line) for line in intent.splitlines() if line[0] != "#"]
        lines = [line if "==" in line else f"{line}==1.0" for line in wanted]
        lines += [f"came-along=={image.as_of[:4] or 1}"]
        held = {Requirement(line).name: line for line in constraints}
        lines = [held.get(Requirement(line).name, line) for line in lines]
        entries = "".join(f"{line} \\\n    --hash=sha256:{'0' * 64}\n" for line in lines)
        return f"{resolver.BANNER} requirements.in.\n\n{entries}"


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Resolver:
    """A resolver without a network, a cache folder of its own, and no toolchains of the user's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RUNNER_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("RUNNER_TOOLCHAINS", str(tmp_path / "place"))
    found = Resolver()
    monkeypatch.setattr(resolver, "resolve", found)
    return found


def write(
    package: str,
    version: str,
    kind: str = "pytorch",
    toolchain: str = "2020-09",
    loosen: Sequence[str] = (),
    beside: Variant | None = None,
) -> Variant:
    releases = Releases(FakeIndex(PROJECTS))
    subject = choose_subject(Span(package, "0", toolchain=toolchain), kind, releases)
    wanted = next(r for r in subject.candidates if str(r.version) == version)
    return write_variant(subject, wanted, releases, Path("place"), loosen, beside)


def test_one_pin_is_another_as_of_its_date(asked: Resolver) -> None:
    variant = write("onnx", "1.8.0")
    assert variant.name == "2020-09-onnx-1.8.0"
    # A week after the newest pin: what a release needs may come out days after it.
    assert variant.as_of == "2020-11-13T00:00:00Z"
    original = (ROOT / "images/torch/requirements.in").read_text()
    assert asked.asked[0][2] == original.replace("onnx==1.7.0", "onnx==1.8.0")
    assert [image.as_of for image, _, _ in asked.asked] == ["2020-11-13T00:00:00Z"] * 2
    # Of an older release the date is that of the other pins.
    assert write("onnx", "1.6.0").as_of[:10] == "2020-08-20"


def test_it_is_a_toolchain_like_any_other(asked: Resolver) -> None:
    name = write("onnx", "1.8.0").name
    original, chain = load_toolchain(), load_toolchain(name)
    assert chain.date == "2020-11-06" and "onnx 1.8.0" in chain.description
    assert not chain.default and chain.opens_batch
    assert chain.images == ("torch-onnx-1.8.0", "onnx-tf-onnx-1.8.0", "tflite")
    for stages, theirs in (
        (original.stages, chain.stages),
        (original.quantizers, chain.quantizers),
    ):
        modules = [(s.name, s.module, s.trace, s.options, dict(s.defaults)) for s in stages]
        same = [(s.name, s.module, s.trace, s.options, dict(s.defaults)) for s in theirs]
        assert modules == same
    ours, image = load_image("torch"), load_image("torch-onnx-1.8.0")
    assert (image.python, image.platform) == (ours.python, ours.platform)
    assert (image.reads, image.reach, image.runtime) == (ours.reads, ours.reach, ours.runtime)
    assert "onnx==1.8.0" in [str(pin) for pin in parse_lock(image.lock.read_text())]
    assert f"ARG LOCK={image.lock_path}" in image.dockerfile.read_text()


def test_a_stand_in_goes_with_its_pin(asked: Resolver) -> None:
    write("tensorflow", "2.4.1", "frozen-graph")
    image = load_image("tflite-tensorflow-cpu-2.4.1")
    assert image.stand_ins == () and image.runtime == "TensorFlow Lite 2.4"
    assert image.tries_quantized
    assert "tensorflow-cpu==2.4.1" in image.intent.read_text()
    assert "nightly==" not in image.intent.read_text()
    # Where it is about another package it stays, and its own date counts.
    variant = write("protobuf", "3.14.0", "frozen-graph")
    assert variant.as_of[:10] == "2020-12-21"
    assert len(load_image("tflite-protobuf-3.14.0").stand_ins) == 1
    assert load_image("tflite-protobuf-3.14.0").intent.read_text().endswith("protobuf==3.14.0\n")


def test_a_lock_is_resolved_once(asked: Resolver) -> None:
    first = write("protobuf", "4.21.1", "frozen-graph")
    shutil.rmtree("place")
    second = write("protobuf", "4.21.1", "frozen-graph")
    assert len(asked.asked) == 1 and first.locks == second.locks
    write("protobuf", "3.14.0", "frozen-graph")
    assert len(asked.asked) == 2


def test_a_release_that_cannot_be_had(asked: Resolver) -> None:
    with pytest.raises(ReleaseUnavailable, match="no file for Python 3.8"):
        write("onnx", "1.9.0")
    asked.answer = """No lock: requirements.in does not resolve.
  × No solution found when resolving dependencies:
  ╰─▶ Because onnxruntime==1.4.0 depends on onnx<1.8 and you require
      onnx==1.8.0, we can conclude that your requirements are unsatisfiable."""
    with pytest.raises(ReleaseUnavailable, match="onnxruntime==1.4.0 needs onnx<1.8"):
        write("onnx", "1.8.0")
    assert not list(Path("place").iterdir()) and not Path("cache/locks").exists()
    # An index that does not answer is nothing that a release is skipped for.
    asked.answer = "error: Failed to fetch: `https://index/onnx/`"
    with pytest.raises(EnvironmentUnavailable, match="Failed to fetch") as raised:
        write("onnx", "1.8.0")
    assert not isinstance(raised.value, ReleaseUnavailable)


def test_without_a_date_only_the_package_changes(asked: Resolver) -> None:
    variant = write("onnx", "1.10.0")
    assert variant.as_of == ""
    image, held, _ = asked.asked[0]
    assert image.as_of == "" and "torch==1.5.1" in held and "numpy==1.19.2" in held
    assert not any(line.startswith("onnx==") for line in held)


def test_a_pin_gives_way(asked: Resolver) -> None:
    write("onnx", "1.8.0", loosen=["onnxruntime", "onnx-tf"])
    intents = [intent.splitlines() for _, _, intent in asked.asked]
    assert "onnxruntime" in intents[0] and "torch==1.5.1" in intents[0]
    assert "onnx-tf" in intents[1]


def test_beside_the_packages_of_another(asked: Resolver) -> None:
    good = write("protobuf", "3.14.0", "frozen-graph")
    bad = write("protobuf", "4.21.1", "frozen-graph")
    both = compare_locks(good.locks["tflite"], bad.locks["tflite"])
    assert both == ["came-along 2020 → 2022", "protobuf 3.14.0 → 4.21.1"]
    alone = write("protobuf", "4.21.1", "frozen-graph", beside=good)
    assert alone.name == "2020-09-protobuf-4.21.1-beside-3.14.0"
    assert compare_locks(good.locks["tflite"], alone.locks["tflite"]) == both[1:]


def test_images_of_the_user_come_along(asked: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Path("own/mine")
    shutil.copytree(ROOT / "images/tflite", own / "images/mine-tflite")
    text = (ROOT / "stages/toolchains/pytorch-tflite-2020.toml").read_text()
    text = text.replace('image = "tflite"', 'image = "mine-tflite"').replace("default = true\n", "")
    (own / "mine.toml").write_text(text.replace('short = "2020-09"\n', ""))
    monkeypatch.setenv("RUNNER_TOOLCHAINS", str(own.parent.absolute()))
    name = write("onnx", "1.8.0", toolchain="mine").name
    monkeypatch.setenv("RUNNER_TOOLCHAINS", str(Path("place").absolute()))
    assert load_toolchain(name).images[-1] == "mine-tflite"
    assert load_image("mine-tflite").folder.is_relative_to(Path("place").absolute())


def test_what_an_intent_says_otherwise_stays() -> None:
    releases = Releases(FakeIndex(PROJECTS))
    found = next(iter(releases.list_all("torch").values()))
    intent = "# why\ntorch>=1.4 ; python_version < '3.9'\nonnx[all]==1.7.0\nnumpy\n"
    assert replace_pins(intent, found, "torch", ["ONNX"]) == [
        "# why",
        'torch==1.5.1 ; python_version < "3.9"',
        "onnx[all]",
        "numpy",
    ]
