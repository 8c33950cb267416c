"""Requirements in every form that people publish them."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import SUPPORT

from runner.errors import BadInput
from runner.recipes.knowledge import load_knowledge
from runner.recipes.reading.conda import read_environment
from runner.recipes.reading.requirements import read_pin, read_requirements

PYTHONS = load_knowledge().pythons
NAMES = load_knowledge().data["conda-names"]


def read(tmp_path: Path, text: str) -> tuple[dict[str, str], dict[str, str]]:
    """The wishes by name, and what is ignored with the reason."""
    (tmp_path / "r.txt").write_text(text)
    found = read_requirements(tmp_path / "r.txt", PYTHONS)
    return (
        {want.name: str(want.specifier) for want in found.wants},
        {line.text: line.reason for line in found.ignored},
    )


def test_the_forms_of_a_requirement(tmp_path: Path) -> None:
    wants, ignored = read(
        tmp_path,
        "# a comment\n"
        "Torch == 1.8.1  # the exporter\n"
        "onnx_tf==1.8.0 \\\n    --hash=sha256:00 \\\n    --hash=sha256:11\n"
        "tensorflow[and-cuda]>=2.4,<2.6\n"
        'pywin32==300; sys_platform == "win32"\n'
        'dataclasses; python_version < "3.7"\n'
        'typing-extensions; python_version < "3.9"\n'
        "torchvision @ https://example.org/whl/torchvision-0.9.1%2Bcu111-cp38-cp38-linux_x86_64.whl\n"
        "https://example.org/onnx-1.8.1.tar.gz\n"
        "\n",
    )
    assert wants == {
        "torch": "==1.8.1",
        "onnx-tf": "==1.8.0",
        "tensorflow": "<2.6,>=2.4",
        "typing-extensions": "",
        "torchvision": "==0.9.1+cu111",
        "onnx": "==1.8.1",
    }
    assert len(ignored) == 2 and set(ignored.values()) == {"is for other machines or Pythons"}


def test_what_names_no_release_is_ignored_with_a_reason(tmp_path: Path) -> None:
    wants, ignored = read(
        tmp_path,
        "-e .\n-f https://example.org/whl\n--extra-index-url=https://example.org/simple\n"
        "git+https://github.com/onnx/onnx-tensorflow@v1.8.0\n./local\n"
        "onnx-tf @ git+https://github.com/onnx/onnx-tensorflow@main\n--no-binary :all:\n",
    )
    assert wants == {} and len(ignored) == 7
    assert "source tree" in ignored["./local"] and "index" in ignored["-f https://example.org/whl"]


def test_files_that_others_include(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/base.txt").write_text("torch==1.8.1\n-r ../r.txt\n-c limits.txt\n")
    (tmp_path / "sub/limits.txt").write_text("numpy<1.20\n")
    (tmp_path / "r.txt").write_text("-r sub/base.txt\nonnx==1.8.1\n")
    found = read_requirements(tmp_path / "r.txt", PYTHONS)
    assert [(w.name, w.limit) for w in found.wants] == [
        ("torch", False),
        ("numpy", True),
        ("onnx", False),
    ]


def test_a_file_as_powershell_writes_it(tmp_path: Path) -> None:
    (tmp_path / "r.txt").write_bytes("torch==1.8.1\r\n".encode("utf-16"))
    assert read_requirements(tmp_path / "r.txt", PYTHONS).wants[0].name == "torch"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"torch=1.8\n", "r.txt, line 1: 'torch=1.8' is no requirement"),
        (b"\n\ntorch 1.8\n", "line 3"),
        (b"\x80\x81\x00", "no text file"),
        (b"-r none.txt\n", "none.txt of r.txt cannot be read: No such file"),
        (b"torch==\n", "is no requirement"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "r.txt").write_bytes(content)
    with pytest.raises(BadInput, match=message) as caught:
        read_requirements(tmp_path / "r.txt", PYTHONS)
    assert caught.value.remedy


def test_a_folder_and_a_missing_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.txt"):
        with pytest.raises(BadInput, match="cannot be read"):
            read_requirements(path, PYTHONS)


@pytest.mark.parametrize("text", ["torch=1.8", "-e .", "", "./x"])
def test_a_bad_pin(text: str) -> None:
    with pytest.raises(BadInput, match="--pin"):
        read_pin(text)


def test_the_published_files_are_read() -> None:
    for path in (SUPPORT / "requirements").glob("*.txt"):
        assert len(read_requirements(path, PYTHONS).wants) >= 8


def test_an_environment_of_conda(tmp_path: Path) -> None:
    path = tmp_path / "environment.yml"
    path.write_text(
        "name: export\nchannels: [pytorch, defaults]\ndependencies:\n"
        "  - python=3.8\n  - pytorch::pytorch=1.8.1=py3.8_cuda11.1_cudnn8.0.5_0\n"
        "  - cudatoolkit=11.1\n  - numpy>=1.19,<1.20\n  - scipy 1.6.*\n  - pillow\n  - pip\n"
        "  - pip:\n    - onnx==1.8.1\n    - tensorflow-gpu==2.5.0 # GPU\n"
    )
    found = read_environment(path, PYTHONS, NAMES)
    assert found.python == "3.8"
    assert {want.name: str(want.specifier) for want in found.wants} == {
        "torch": "==1.8.1",
        "cudatoolkit": "==11.1.*",
        "numpy": "<1.20,>=1.19",
        "scipy": "==1.6.*",
        "pillow": "",
        "pip": "",
        "onnx": "==1.8.1",
        "tensorflow-gpu": "==2.5.0",
    }
    assert {want.optional for want in found.wants if want.name in ("torch", "onnx")} == {
        True,
        False,
    }


@pytest.mark.parametrize(
    "text",
    [
        "dependencies: [",
        "- a\n",
        "name: x\n",
        "dependencies: python\n",
        "dependencies: [[a]]\n",
        "dependencies: [1.0]\n",
        "dependencies:\n  - '???'\n",
        "dependencies: [!!python/object/apply:os.system [echo]]\n",
        "a: &a [*a]\ndependencies: *a\n",
    ],
)
def test_an_environment_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "e.yml").write_text(text)
    with pytest.raises(BadInput) as caught:
        read_environment(tmp_path / "e.yml", PYTHONS, NAMES)
    assert "dependencies" in caught.value.remedy
