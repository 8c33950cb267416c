"""A new toolchain's files, with a resolver that gives what a fake index has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from fake_index import ANY, YEARS, FakeIndex
from packaging.requirements import Requirement

from runner.errors import BadInput, EnvironmentUnavailable
from runner.packages import resolver
from runner.packages.cpython import Interpreter, find_cpython
from runner.recipes.locking import pythons
from runner.recipes.new import Made, Order, make_toolchain
from runner.recipes.reading.requirements import Wanted, read_pin
from runner.recipes.show import describe_images, describe_stages, list_remarks
from runner.toolchains.load import load_image, load_toolchain
from runner.toolchains.model import Image

PINS = ("torch==1.8.1", "onnx-tf==1.8.0", "tensorflow==2.5.0", "matplotlib==3.4.2")
INDEX = {
    **YEARS,
    "onnxruntime": {"1.7.0": ("2021-03-03", ANY)},
    "setuptools": {"56.0.0": ("2021-04-09", ANY)},
    "wheel": {"0.36.2": ("2020-12-13", ANY)},
    "termcolor": {"1.1.0": ("2011-01-13", ())},
}
# What some packages bring along, whatever the release.
BRINGS = {"tensorflow-cpu": ["termcolor"]}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, and a resolver that needs no network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RUNNER_TOOLCHAINS", raising=False)
    monkeypatch.setattr(resolver, "resolve", resolve)
    return tmp_path


def resolve(image: Image, constraints: Sequence[str] = ()) -> str:
    """The newest release of everything, in the form of a lock."""
    uses = {stand_in.pin: stand_in.use for stand_in in image.stand_ins}
    lines = [line for line in image.intent.read_text().splitlines() if line[0] != "#"]
    wanted = {Requirement(uses.get(line, line)).name: uses.get(line, line) for line in lines}
    for name in [*wanted]:
        for other in BRINGS.get(name, ()):
            wanted.setdefault(other, other)
    limits = {Requirement(line).name: Requirement(line).specifier for line in constraints}
    text = f"{resolver.BANNER} {image.intent.name}.\n\n"
    for name, line in sorted(wanted.items()):
        allowed = Requirement(line).specifier & limits.get(name, Requirement("a").specifier)
        release = next(iter(allowed.filter(sorted(INDEX[name], reverse=True))))
        text += f"{name}=={release} \\\n    --hash=sha256:{'0' * 64}\n"
    return text


def make(name: str, *pins: str, accept: bool = True, **wishes: str) -> Made:
    wanted = Wanted(tuple(replace(read_pin(pin), where="line 1") for pin in pins))
    without = tuple(wishes.pop("without", "").split())
    order = Order(name, wanted, "requirements.txt", without=without, **wishes)
    return make_toolchain(order, FakeIndex(INDEX), accept=lambda stand_ins: accept)


def test_the_files_are_a_toolchain(here: Path) -> None:
    made = make("mine", *PINS)
    assert made.toolchains == ("mine", "mine-onnx") and made.as_of == "2021-05-20T00:00:00Z"
    chain = load_toolchain("mine")
    assert chain.accepts == "pytorch" and chain.date == "2021-05-20"
    assert chain.images == ("mine-torch", "mine-onnx-tf")
    assert chain.stages[0].defaults == {"opset": 12}
    assert load_toolchain("mine", "onnx").name == "mine-onnx"
    image = load_image("mine-onnx-tf")
    # onnx 1.8.1 of the index would do for 3.8 alone: nothing pins it, and 1.9.0 is for 3.9 too.
    assert image.python == "3.9" and image.platform == "x86_64-manylinux2014"
    assert "'termcolor' is published as source only" in image.intent.read_text()
    assert {"setuptools", "wheel"} <= set(image.intent.read_text().splitlines())
    dockerfile = image.dockerfile.read_text()
    assert "ARG LOCK=images/mine-onnx-tf/requirements.lock\n" in dockerfile
    assert "ARG BASE=runner-base:local-3.9\n" in dockerfile
    assert 'ENTRYPOINT ["python", "-m", "stages.plain.onnx_to_saved_model"]' in dockerfile
    assert load_image("mine-torch").reads["onnx"].newest == 12
    assert ("matplotlib==3.4.2", "part of no stage") in made.ignored
    assert describe_stages(chain)[0]["options"] == "opset=12, arch, arch_args, preprocessing"
    assert "torch==1.8.1" in describe_images(chain)[0]["pins that matter"]
    assert "mine-torch does not read torch-export" in list_remarks(chain)
    assert [path.name for path in (here / "toolchains").iterdir()] == ["mine"]


def test_a_stand_in_is_confirmed_and_recorded(here: Path) -> None:
    pins = ("torch==1.5.1", "onnx-tf==1.6.0", "tf-nightly==2.4.0.dev20200923")
    with pytest.raises(BadInput, match="others would stand in") as caught:
        make("mine", *pins, accept=False)
    assert "--accept-stand-ins" in caught.value.remedy
    assert not (here / "toolchains").exists()
    make("mine", *pins, accept=True)
    (stand_in,) = load_image("mine-onnx-tf").stand_ins
    assert str(stand_in) == "tensorflow-cpu==2.4.0, stand-in for tf-nightly==2.4.0.dev20200923"
    assert stand_in.pin in load_image("mine-onnx-tf").intent.read_text().splitlines()
    assert any("stand-in for" in remark for remark in list_remarks(load_toolchain("mine")))


def test_nothing_is_left_of_one_that_fails(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(image: Image, constraints: Sequence[str] = ()) -> str:
        if image.name.endswith("onnx-tf"):
            raise EnvironmentUnavailable("No lock: requirements.in does not resolve.\nbecause")
        return resolve(image, constraints)

    monkeypatch.setattr(resolver, "resolve", fail)
    with pytest.raises(EnvironmentUnavailable):
        make("mine", *PINS)
    assert not list(here.iterdir())


def test_pins_that_exclude_each_other_are_named(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(image: Image, constraints: Sequence[str] = ()) -> str:
        raise EnvironmentUnavailable(
            "No lock.\n  ╰─▶ Because onnx-tf==1.8.0 depends on onnx>=1.9 and ..."
        )

    monkeypatch.setattr(resolver, "resolve", fail)
    with pytest.raises(EnvironmentUnavailable, match="exclude each other: onnx-tf") as caught:
        make("mine", *PINS, "onnx==1.8.1")
    assert caught.value.exit_code == BadInput.exit_code and "--without onnx" in caught.value.remedy


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../x", "cannot name a toolchain"),
        (".x", "cannot name a toolchain"),
        ("", "cannot name a toolchain"),
        ("a b", "cannot name a toolchain"),
        ("x" * 61, "cannot name a toolchain"),
        (load_toolchain().name, "There is a toolchain"),
        (load_toolchain().short, "There is a toolchain"),
    ],
)
def test_a_name_that_cannot_be_taken(here: Path, name: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        make(name, *PINS)
    assert not list(here.iterdir())


def test_an_existing_toolchain_is_kept(here: Path) -> None:
    made = make("mine", *PINS)
    before = (made.folder / "mine.toml").read_bytes()
    with pytest.raises(BadInput, match="exists already"):
        make("mine", *PINS)
    assert (made.folder / "mine.toml").read_bytes() == before


def test_a_name_whose_images_are_there(here: Path) -> None:
    make("mine-litert", *PINS)
    with pytest.raises(BadInput, match="There is an image 'mine-litert-torch'"):
        make("mine", *PINS)


def test_another_place(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNNER_TOOLCHAINS", str(here / "other"))
    make("mine", *PINS)
    assert (here / "other" / "mine" / "mine.toml").is_file()
    assert load_toolchain("mine").name == "mine"


@pytest.mark.parametrize(
    ("python", "error"), [("3.8", None), ("3.12", BadInput), ("2.7", BadInput)]
)
def test_a_python_that_was_asked_for(
    here: Path, python: str, error: type[Exception] | None
) -> None:
    run: Callable[[], Made] = lambda: make("mine", *PINS, python=python)  # noqa: E731
    if error is None:
        assert {image.python for image in run().images} == {python}
        return
    with pytest.raises((BadInput, EnvironmentUnavailable)) as caught:
        run()
    assert caught.value.remedy


def test_a_python_that_no_machine_has(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """3.7 is in no catalogue of uv's, so it has to be there."""
    real = find_cpython

    def find(version: str, install: bool = True) -> Interpreter:
        if version == "3.7":
            raise EnvironmentUnavailable("CPython 3.7 is not on this machine.")
        return real(version, install)

    monkeypatch.setattr(pythons, "find_cpython", find)
    with pytest.raises(EnvironmentUnavailable, match="need Python 3.7, which is not") as caught:
        make("mine", *PINS, python="3.7")
    assert caught.value.remedy == "Install one: pyenv install 3.7."


def test_a_package_is_left_out(here: Path) -> None:
    made = make("mine", *PINS, "onnx==1.7.0", without="onnx")
    assert load_image("mine-torch").lock.read_text().count("onnx==1.9.0")
    assert ("onnx==1.7.0", "left out, as --without says") in made.ignored
