"""`--wheel`: a wheel of the user's is verified before it takes a stand-in's place."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from runner.errors import BadInput
from runner.packages.user_wheel import accept_wheel
from runner.toolchains.load import load_image
from runner.toolchains.model import Wheel, add_wheels

NAME = "tf_nightly-2.4.0.dev20200923-cp38-cp38-manylinux2010_x86_64.whl"
INFO = "tf_nightly-2.4.0.dev20200923.dist-info"
FILES = {
    "tensorflow/__init__.py": b"__version__ = '2.4.0'\n",
    f"{INFO}/METADATA": b"Metadata-Version: 2.1\nName: tf-nightly\nVersion: 2.4.0.dev20200923\n",
    f"{INFO}/WHEEL": b"Wheel-Version: 1.0\n",
}
IMAGES = [load_image("torch"), load_image("tflite")]


def digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def make(
    folder: Path, name: str = NAME, record: str | None = None, more: Mapping[str, bytes] = {}
) -> Path:
    """A small wheel: with its right RECORD, or another; `more` is not in the RECORD."""
    lines = [f"{file},sha256={digest(content)},{len(content)}" for file, content in FILES.items()]
    lines.append(f"{INFO}/RECORD,,")
    with zipfile.ZipFile(folder / name, "w") as wheel:
        for file, content in {**FILES, **more}.items():
            wheel.writestr(file, content)
        wheel.writestr(f"{INFO}/RECORD", "\n".join(lines) if record is None else record)
    return folder / name


def test_accepted(tmp_path: Path) -> None:
    file = make(tmp_path)
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    (stand_in,) = load_image("tflite").stand_ins
    expected = Wheel(file, stand_in.pin, stand_in.use, sha256)
    assert accept_wheel(str(file), IMAGES) == expected
    assert accept_wheel(f"{file}#sha256={sha256.upper()}", IMAGES) == expected


def test_takes_the_stand_ins_place(tmp_path: Path) -> None:
    file = make(tmp_path)
    wheel = accept_wheel(str(file), IMAGES)
    torch, tflite = (add_wheels(image, (wheel,)) for image in IMAGES)
    assert torch == IMAGES[0] and torch.wheels == ()
    assert tflite.stand_ins_used == () and IMAGES[1].stand_ins_used != ()
    assert tflite.environment_key != IMAGES[1].environment_key
    lines = tflite.render_requirements().splitlines()
    assert f"tf-nightly @ file://{file} --hash=sha256:{wheel.sha256}" in lines
    assert not [line for line in lines if line.startswith("tensorflow-cpu==")]
    # Nothing else is changed: the other requirements keep their hashes.
    kept = [line for line in lines if line.startswith("    --hash")]
    whole = IMAGES[1].render_requirements().splitlines()
    start = next(i for i, line in enumerate(whole) if line.startswith("tensorflow-cpu=="))
    own = next(i for i, line in enumerate(whole[start:]) if not line.endswith("\\"))
    assert len([line for line in whole if line.startswith("    --hash")]) == len(kept) + own


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tf_nightly-2.4.0.dev20200924-cp38-cp38-manylinux2010_x86_64.whl", "No pin .*20200924"),
        ("tensorflow-2.4.0-cp38-cp38-manylinux2010_x86_64.whl", "No pin .*tensorflow==2.4.0"),
        (NAME.replace("cp38-cp38", "cp37-cp37m"), "not for CPython 3.8"),
        (NAME.replace("manylinux2010_x86_64", "win_amd64"), "not for CPython 3.8"),
        ("tf_nightly.whl", "not a wheel's file name"),
        ("tf-nightly.zip", "not a wheel's file name"),
    ],
)
def test_of_another_name(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        accept_wheel(str(make(tmp_path, name)), IMAGES)


def test_of_another_hash(tmp_path: Path) -> None:
    file = make(tmp_path)
    with pytest.raises(BadInput, match=f"has sha256 .*, not {'0' * 64}"):
        accept_wheel(f"{file}#sha256={'0' * 64}", IMAGES)


@pytest.mark.parametrize(
    ("record", "more"),
    [
        ("tensorflow/__init__.py,sha256=" + digest(b"other") + ",22\n", {}),
        ("", {}),
        (None, {"tensorflow/extra.py": b"import os\n"}),
        ("tensorflow/__init__.py,md5000=AAAA,22\n", {}),
    ],
    ids=["wrong hash", "no hashes", "a file too many", "no such algorithm"],
)
def test_of_another_content(tmp_path: Path, record: str | None, more: dict[str, bytes]) -> None:
    with pytest.raises(BadInput, match="damaged|not a whole wheel"):
        accept_wheel(str(make(tmp_path, record=record, more=more)), IMAGES)


def test_a_file_that_the_record_names_is_missing(tmp_path: Path) -> None:
    lines = [f"{file},sha256={digest(content)}," for file, content in FILES.items()]
    lines.append(f"tensorflow/lost.py,sha256={digest(b'')},0")
    file = make(tmp_path, record="\n".join(lines))
    with pytest.raises(BadInput, match="lost.py|not a whole wheel"):
        accept_wheel(str(file), IMAGES)


@pytest.mark.parametrize("cut", [0, 10, -30])
def test_cut_off(tmp_path: Path, cut: int) -> None:
    file = make(tmp_path)
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(BadInput, match="not a whole wheel"):
        accept_wheel(str(file), IMAGES)


def test_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="There is no wheel"):
        accept_wheel(str(tmp_path / NAME), IMAGES)
