"""What cannot be used is refused with exit code 2, a remedy, and nothing left on disk."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import re
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import NEEDS, RECORD, STAGES, USER_CODE, Convert, Run, leftovers, run_cli, run_here

BAD_INPUT = 2


def rewritten(archive: Path, changes: dict[str, bytes]) -> bytes:
    """A zip archive with the content of some of its files changed, by the end of their names."""
    target = io.BytesIO()
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = changes.get(name.rpartition("/")[2], old.read(name))
            new.writestr(zipfile.ZipInfo(name), content)
    return target.getvalue()


def flipped(data: bytes, index: int) -> bytes:
    return data[:index] + bytes([data[index] ^ 0xFF]) + data[index + 1 :]


def zipped(**files: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"archive/{name.replace('__', '/')}", content)
    return target.getvalue()


def tarred() -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"), io.BytesIO())
    return target.getvalue()


SAFETENSORS = b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'

# What the file holds, made from the folder of models; then what the message says, in order.
FILES: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "empty": (lambda m: b"", "is empty.*→ .*cut off"),
    "text": (lambda m: b"not a model\n" * 50, "a text file.*→ .*error page"),
    "html": (lambda m: b"<!DOCTYPE html><html>" + b" " * 99, "a text file.*→"),
    "lfs pointer": (
        lambda m: b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        "Git LFS pointer.*→ .*git lfs pull",
    ),
    "random": (lambda m: np.random.default_rng(0).bytes(5000), "no format.*→ .*torch.save"),
    "keras": (lambda m: b"\x89HDF\r\n\x1a\n" + bytes(600), "HDF5.*→ .*PyTorch"),
    "tflite": (lambda m: b"\x1c\0\0\0TFL3" + bytes(600), "TensorFlow Lite model.*→"),
    "onnx": (lambda m: b"\x08\x06\x12\x07pytorch" + bytes(600), "an ONNX model.*→"),
    "safetensors": (
        lambda m: (64).to_bytes(8, "little") + SAFETENSORS.ljust(64) + bytes(8),
        "state_dict, weights without.*→ Name what builds",
    ),
    "cut safetensors": (
        lambda m: (64).to_bytes(8, "little") + SAFETENSORS.ljust(64) + bytes(7),
        "truncated.*→ Copy",
    ),
    "gzip": (lambda m: gzip.compress((m / "cnn.pt").read_bytes()), "compressed.*→ Unpack"),
    "tar": (lambda m: tarred(), "tar archive.*→"),
    "pickle": (lambda m: pickle.dumps({"w": 1}, 2), "Python pickle.*→ .*torch.save"),
    "truncated zip": (lambda m: (m / "script.pt").read_bytes()[:-500], "truncated.*→ Copy"),
    "head of a zip": (lambda m: (m / "script.pt").read_bytes()[:2000], "truncated.*→ Copy"),
    "damaged zip": (
        lambda m: flipped((m / "script.pt").read_bytes(), 9000),
        "(damaged|truncated).*→ Copy",
    ),
    "truncated": (lambda m: (m / "cnn.pt").read_bytes()[:-50], "truncated.*→ Copy"),
    "half a file": (
        lambda m: (m / "cnn.pt").read_bytes()[: (m / "cnn.pt").stat().st_size // 2],
        "truncated.*→ Copy",
    ),
    "head of a file": (lambda m: (m / "cnn.pt").read_bytes()[:700], "truncated.*→ Copy"),
    "torchscript of a newer torch": (
        lambda m: rewritten(m / "script.pt", {"version": b"3\n"}),
        "torch 1.6 or later .format 3.*→ .*_use_new_zipfile_serialization=False",
    ),
    "torch.export": (
        lambda m: zipped(archive_format=b"pt2", models__model_json=b"{}"),
        "torch.export.*→ .*state_dict",
    ),
    "other zip": (lambda m: zipped(readme=b"hello"), "PyTorch did not write.*→ .*torch.save"),
    "damaged pickle": (
        lambda m: rewritten(m / "zip_weights.pt", {"data.pkl": b"\x80\x02nonsense"}),
        "truncated or damaged.*→",
    ),
    "zip checkpoint with a module": (
        lambda m: (m / "zip_module.pt").read_bytes(),
        "zip checkpoint, the format of torch 1.6.*→ .*state_dict.*--arch",
    ),
    "dictionary": (lambda m: (m / "mapping.pt").read_bytes(), "a dict, neither.*→ Save"),
    "tensor": (lambda m: (m / "tensor.pt").read_bytes(), "neither a model.*→ Save"),
    "weights without arch": (
        lambda m: (m / "weights.pt").read_bytes(),
        "a state_dict, weights without.*→ .*--arch FILE.py:CALLABLE",
    ),
    "zip weights without arch": (
        lambda m: (m / "zip_weights.pt").read_bytes(),
        "a state_dict in a zip checkpoint.*→ .*--arch",
    ),
    "checkpoint without arch": (
        lambda m: (m / "checkpoint.pt").read_bytes(),
        "checkpoint with a state_dict.*→ .*--arch",
    ),
    "own class without arch": (
        lambda m: (m / "own.pt").read_bytes(),
        "user_code.OwnNet.*→ .*--arch FILE.py",
    ),
    "class of __main__ without arch": (
        lambda m: (m / "main.pt").read_bytes(),
        "__main__.OwnNet.*→ .*--arch FILE.py",
    ),
}


def assert_refused(finished: Any, words: str) -> None:
    """Exit code 2, and a message of these words with a remedy, without a traceback."""
    text = " ".join(finished.stderr.split())
    assert finished.returncode == BAD_INPUT, finished.stdout + finished.stderr
    assert "Traceback" not in text

    assert re.search(words, text), text
    assert finished.stdout == ""


@pytest.mark.parametrize("case", FILES)
def test_model_file(
    models: Path, tmp_path: Path, case: str, capfd: pytest.CaptureFixture[str]
) -> None:
    make, words = FILES[case]
    file = tmp_path / "model.pt"
    file.write_bytes(make(models))
    arguments = ("convert", "--model", file, "--engine", "process")
    assert_refused(run_here(capfd, *arguments, cwd=tmp_path), words)
    assert list(tmp_path.iterdir()) == [file]


def arrays(**content: Any) -> Callable[[Path], list[Any]]:
    """`--inputs` with an .npz of these arrays."""

    def make(folder: Path) -> list[Any]:
        np.savez(folder / "inputs.npz", **content)
        return ["--inputs", folder / "inputs.npz"]

    return make


def array(content: Any, *more: str) -> Callable[[Path], list[Any]]:
    """`--inputs` with an .npy."""

    def make(folder: Path) -> list[Any]:
        np.save(folder / "inputs.npy", content)
        return ["--inputs", folder / "inputs.npy", *more]

    return make


def file(name: str, content: str, *arguments: str) -> Callable[[Path], list[Any]]:
    """A file, and arguments in which FILE stands for it."""

    def make(folder: Path) -> list[Any]:
        (folder / name).write_text(content)
        return [argument.replace("FILE", str(folder / name)) for argument in arguments]

    return make


def output_in_the_way(folder: Path) -> list[Any]:
    (folder / "out").mkdir()
    (folder / "out" / "precious.txt").write_text("mine")
    return ["--output", folder / "out"]


IMAGES = np.zeros((4, 1, 3, 32, 32), np.float32)
LEFT, RIGHT = np.zeros((4, 1, 4), np.float32), np.zeros((4, 1, 6), np.float32)
NAMED = ("--input", "left=1x4", "--input", "right=1x6")

# The model, its arguments or what makes them, and what the message says.
OPTIONS: dict[str, tuple[str, Any, str]] = {
    "no such model": ("missing", [], "There is no file .*missing.pt"),
    "unknown option of the command": ("cnn", ["--fast"], "No such option.*--fast"),
    "input without numbers": ("cnn", ["--input", "a-b"], "'a-b' is not a shape; the form is"),
    "two open sizes": ("cnn", ["--input", "axb"], "several sizes are open"),
    "empty input": ("cnn", ["--input", ""], "is not a shape; the form is"),
    "size of zero": ("cnn", ["--input", "0x3x32x32"], "at least 1.*→ .*batch size"),
    "negative size": ("cnn", ["--input", "-1x3x32x32"], "at least 1.*→ .*batch size"),
    "unknown type": ("cnn", ["--input", "1x3x32x32:real"], "cannot be real; it can be float32"),
    "no name": ("two", ["--input", "a b=1x4", "--input", "1x6"], "'a b' is no name.*letters"),
    "one name twice": ("two", ["--input", "a=1x4", "--input", "a=1x6"], "the same name"),
    "samples 0": ("cnn", ["--samples", "0"], "--samples must be at least 1"),
    "samples -3": ("cnn", ["--samples", "-3"], "--samples must be at least 1"),
    "samples in words": ("cnn", ["--samples", "many"], "--samples"),
    "seed below 0": ("cnn", ["--seed", "-1"], "--seed"),
    "tolerance 0": ("cnn", ["--tolerance", "0"], "--tolerance must be .*above 0"),
    "tolerance nan": ("cnn", ["--tolerance", "nan"], "--tolerance must be .*above 0"),
    "metric": ("cnn", ["--metric", "median"], "no metric 'median'.*→ Metrics: mean, max"),
    "engine": ("cnn", ["--engine", "podman"], "no engine 'podman'.*→ Engines: auto, docker"),
    "toolchain": (
        "cnn",
        ["--toolchain", "jax"],
        "no toolchain 'jax'.*→ .*2020-09, 2019.*runner toolchain new",
    ),
    "stage option": ("cnn", ["--option", "tflite.int8=1"], "option 'tflite.int8'.*→ Known"),
    "stage of an option": ("cnn", ["--option", "jax.flex=1"], "'jax.flex'.*→ Known: torch.opset"),
    "option without value": ("cnn", ["--option", "opset"], "STAGE.NAME=VALUE"),
    "arch-args no JSON": ("weights", ["--arch-args", "{classes: 3}"], "not JSON.*→ .*width_mult"),
    "arch-args no object": ("weights", ["--arch-args", "[3]"], "must be a JSON object, such as"),
    "arch not there": ("weights", ["--arch", "no.py:Net"], "there is no file no.py"),
    "arch of no form": (
        "cnn",
        ["--arch", "resnet"],
        "neither a file nor a callable.*→ .*MODULE:CALLABLE",
    ),
    "arch not importable": (
        "weights",
        file("my-net.py", "", "--arch", "FILE:Net"),
        "my-net.py cannot be imported; .*identifier",
    ),
    "wheel not there": ("cnn", ["--wheel", "tf.whl"], "There is no wheel .*tf.whl"),
    "output in the way": ("cnn", output_in_the_way, "out exists and is not empty.*→ .*--output"),
    "output is a file": (
        "cnn",
        file("out", "", "--output", "FILE"),
        "out exists and is not empty.*→ .*--output",
    ),
    "no such inputs": ("cnn", ["--inputs", "no.npy"], "There is no file no.npy"),
    "inputs are text": (
        "cnn",
        file("x.npy", "1 2 3", "--inputs", "FILE"),
        "no NumPy file.*→ .*numpy.save",
    ),
    "inputs of objects": ("cnn", array(np.array([{}, {}])), "no NumPy file.*→ .*numpy.save"),
    "inputs of strings": ("cnn", array(np.array(["a", "b"])), "no array of samples"),
    "inputs of one number": ("cnn", array(np.float32(3)), "no array of samples"),
    "inputs with NaN": ("cnn", array(np.full_like(IMAGES, np.nan)), "contain NaN or infinity"),
    "inputs with infinity": ("cnn", array(IMAGES + np.inf), "contain NaN or infinity"),
    "no samples in the inputs": ("cnn", array(IMAGES[:0], "--input", "1x3x32x32"), "0"),
    "inputs of another shape": (
        "cnn",
        array(IMAGES[..., :31], "--input", "1x3x32x32"),
        "has shape .4, 1, 3, 32, 31.*→ Its first axis counts samples",
    ),
    "an input without array": (
        "two",
        lambda folder: [*NAMED, *arrays(left=LEFT, other=RIGHT)(folder)],
        "no array for right; it has left, other.*→ .*numpy.savez",
    ),
    "arrays that do not agree": (
        "two",
        lambda folder: [*NAMED, *arrays(left=LEFT, right=RIGHT[:3])(folder)],
        "3, 4. samples; they must agree",
    ),
    "an npy for two inputs": (
        "two",
        array(LEFT, *NAMED),
        "no array for left, right.*→ .*numpy.savez",
    ),
}


def with_architecture(model: str, arguments: list[Any]) -> list[Any]:
    """What the model needs anyway, unless the case itself says something about it."""
    needs = [str(item) for item in NEEDS.get(model, ())]
    pairs = list(zip(needs[::2], needs[1::2], strict=True))
    return [
        item
        for name, value in pairs
        if name not in arguments and (name != "--input")
        for item in (name, value)
    ]


@pytest.mark.parametrize("case", OPTIONS)
def test_options(
    models: Path, tmp_path: Path, case: str, capfd: pytest.CaptureFixture[str]
) -> None:
    model, given, words = OPTIONS[case]
    arguments = given(tmp_path) if callable(given) else list(given)
    before = sorted(tmp_path.rglob("*"))
    finished = run_here(
        capfd,
        *("convert", "--model", models / f"{model}.pt", *arguments),
        *with_architecture(model, arguments),
        *(() if "--engine" in arguments else ("--engine", "process")),
        cwd=tmp_path,
    )
    assert_refused(finished, words)
    assert sorted(tmp_path.rglob("*")) == before


TOMLS = {
    "no TOML": ("[[input]\n", "not valid TOML"),
    "no table": ("", r"no \[\[input\]\] table.*→ .*shape"),
    "no shape": ('[[input]]\nname = "x"\n', r"needs shape = \[1, 3"),
    "shape in words": ('[[input]]\nshape = "1x3"\n', r"needs shape = \[1, 3|not a shape"),
    "unknown key": ("[[input]]\nshape = [1]\nsize = 3\n", "unknown key 'size'; known"),
    "empty range": ("[[input]]\nshape = [1]\nrange = [3, 3]\n", "range .* is empty"),
    "range of one": ("[[input]]\nshape = [1]\nrange = [3]\n", "range as .low, high"),
    "range in words": ('[[input]]\nshape = [1]\nrange = ["a", "b"]\n', "range"),
    "a number for the name": ("[[input]]\nshape = [1]\nname = 3\n", "name"),
    "a table for the inputs": ("[input]\nshape = [1]\n", r"\[\[input\]\]"),
}


@pytest.mark.parametrize("case", TOMLS)
def test_toml_beside_the_model(
    models: Path, tmp_path: Path, case: str, capfd: pytest.CaptureFixture[str]
) -> None:
    text, words = TOMLS[case]
    (tmp_path / "model.pt").write_bytes((models / "cnn.pt").read_bytes())
    (tmp_path / "model.toml").write_text(text)
    arguments = ("convert", "--model", "model.pt", "--engine", "process")
    assert_refused(run_here(capfd, *arguments, cwd=tmp_path), words)
    assert {path.name for path in tmp_path.iterdir()} == {"model.pt", "model.toml"}


# What only the first stage can tell: the model, its arguments, and what the message says.
IN_THE_STAGE: dict[str, tuple[str, list[str], str]] = {
    "shape that does not fit": ("cnn", ["--input", "1x3x31x40"], "1x3x31x40.*batch size"),
    "channels that do not fit": ("cnn", ["--input", "1x4x32x32"], "1x4x32x32.*batch size"),
    "no batch axis": ("cnn", ["--input", "3x32x32"], "3x32x32.*batch size"),
    "one input too few": ("two", ["--input", "1x4"], "does not run on inputs.*batch size"),
    "inputs that cannot be told": ("roi", ["--arch", ""], "--input"),
    "type that does not fit": ("cnn", ["--input", "1x3x32x32:int64"], "does not run.*types"),
    "ids out of range": ("ids", ["--input", "1x4:float32"], "does not run.*types"),
    "arch args that it has not": (
        "weights",
        ["--arch-args", '{"layers": 3}'],
        "raised TypeError.*layers.*--arch-args",
    ),
    "weights of another size": (
        "weights",
        ["--arch-args", '{"classes": 9}'],
        "weights do not fit.*head.weight.*--arch-args",
    ),
    "weights of another net": (
        "weights",
        ["--arch", "torchvision.models:mobilenet_v2", "--arch-args", ""],
        "weights do not fit --arch torchvision.models:mobilenet_v2",
    ),
    "callable not there": ("weights", ["--arch", f"{USER_CODE}:Net"], "has no 'Net'.*colon"),
    "not callable": ("weights", ["--arch", f"{USER_CODE}:NOT_CALLABLE"], "is not callable"),
    "callable that raises": (
        "weights",
        ["--arch", f"{USER_CODE}:Broken", "--arch-args", ""],
        "no weights today",
    ),
    "callable of no module": (
        "weights",
        ["--arch", f"{USER_CODE}:not_a_module", "--arch-args", ""],
        "returns is not an nn.Module but of type int",
    ),
    "module not in the image": (
        "weights",
        ["--arch", "timm.models:resnet", "--arch-args", ""],
        "'timm.models' is not in this image.*FILE.py:CALLABLE",
    ),
    "class not in the file": ("own", ["--arch", "EMPTY"], "user_code.*--arch FILE.py"),
    "weights above 2 GB": ("huge", ["--input", "1x20000"], "2.4 GB.*2 GB at the most.*in parts"),
    "opset in words": (
        "cnn",
        ["--option", "torch.opset=eleven"],
        "cannot be .eleven.: the ONNX",
    ),
    "opset of the future": ("cnn", ["--opset", "21"], "operator set 21.*7 to 12"),
    "file that cannot be imported": (
        "own",
        ["--arch", "BROKEN"],
        "broken.py cannot be imported: .*pandas.*Python 3.8",
    ),
}


def arguments_of(case: str, folder: Path) -> list[Any]:
    model, given, _ = IN_THE_STAGE[case]
    for name, content in (("EMPTY", ""), ("BROKEN", "import pandas\n")):
        path = folder / f"{name.lower()}.py"
        path.write_text(content)
        given = [item.replace(name, str(path)) for item in given]
    return [*with_architecture(model, given), *given]


@pytest.fixture(scope="module")
def refuse(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Run]:
    """Run a case once; several tests look at it."""
    done: dict[str, Run] = {}

    def run(case: str) -> Run:
        if case not in done:
            folder = tmp_path_factory.mktemp("refused")
            model = IN_THE_STAGE[case][0]
            file = models / f"{model}.pt"
            if case in ("inputs that cannot be told", "ids out of range"):
                file = folder / file.name  # without the .toml beside it
                file.write_bytes((models / f"{model}.pt").read_bytes())
            finished = run_cli(
                *("convert", "--model", file, "--engine", "process", "--samples", "4"),
                *("--output", folder / "out", *arguments_of(case, folder)),
                cwd=folder,
            )
            done[case] = Run(finished.returncode, finished.stdout, finished.stderr, folder / "out")
        return done[case]

    return run


@pytest.mark.parametrize("case", IN_THE_STAGE)
def test_in_the_stage(refuse: Callable[[str], Run], case: str) -> None:

    run = refuse(case)
    assert run.code == BAD_INPUT, run.stdout + run.stderr
    stage = run.stage("torch")
    said = " ".join(f"{stage['failure']} {stage['remedy']}".split())
    assert re.search(IN_THE_STAGE[case][2], said), said
    assert stage["remedy"] and stage["remedy"] in " ".join(run.stdout.split())
    assert stage["report"]["error"]["blame"] == "input"
    assert run.report["outcome"] == "failed" and run.report["exit_code"] == BAD_INPUT
    assert [s["status"] for s in run.report["stages"]] == ["failed", "skipped", "skipped"]
    there = {str(path.relative_to(run.folder)) for path in run.folder.rglob("*")}
    assert there == RECORD | {"logs", "logs/torch.log"}
    assert leftovers(run.folder) == []


def test_quiet_and_json_still_tell(models: Path, tmp_path: Path) -> None:
    command = ("convert", "--model", models / "cnn.pt", "--engine", "process", "--samples", "4")
    wrong = ("--input", "1x3x31x40", "--output")
    quiet = run_cli(*command, *wrong, tmp_path / "one", "--quiet", cwd=tmp_path)
    assert (quiet.returncode, quiet.stdout) == (BAD_INPUT, "")
    assert "1x3x31x40" in quiet.stderr and "→" in quiet.stderr
    as_json = run_cli(*command, *wrong, tmp_path / "two", "--json", cwd=tmp_path)
    assert as_json.returncode == BAD_INPUT
    assert json.loads(as_json.stdout)["stages"][0]["name"] == STAGES[0]


def test_ones_own_mistakes_do_not_hide_the_traceback(tmp_path: Path) -> None:
    finished = run_cli("--traceback", "convert", "--model", "missing.pt", cwd=tmp_path)
    assert finished.returncode == BAD_INPUT
    assert "Traceback" in finished.stderr and "There is no file missing.pt" in finished.stderr


def test_from_python(tmp_path: Path) -> None:
    from runner import convert
    from runner.errors import BadInput

    with pytest.raises(BadInput, match="There is no file") as caught:
        convert(tmp_path / "missing.pt", output=tmp_path / "out")
    assert caught.value.exit_code == BAD_INPUT
    assert not list(tmp_path.iterdir())


def test_a_conversion_does_not_touch_what_was_there(convert: Convert, models: Path) -> None:
    """A finished run folder is never written into again."""
    run = convert("cnn")
    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")}
    again = run_cli(*("convert", "--model", models / "cnn.pt", "--output", run.folder), cwd=models)
    assert again.returncode == BAD_INPUT
    assert {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")} == before
