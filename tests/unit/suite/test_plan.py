"""A suite's file: what it may say, what is planned of it, and under which names and keys."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from runner.errors import BadInput
from runner.host.paths import ROOT
from runner.suite import images
from runner.suite.plan import Cell, Conversion, make_suite_plan
from runner.suite.settings import Options, merge_options, read_suite

EXAMPLE = ROOT / "examples" / "mbv2.pt"
TOML = '[[input]]\nname = "x"\nshape = [1, 3, 32, 32]\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two models, in two folders."""
    for place in ("a/one", "b/two"):
        target = tmp_path / "models" / f"{place}.pt"
        target.parent.mkdir(parents=True)
        shutil.copyfile(EXAMPLE, target)
    return tmp_path


def plan(folder: Path, text: str) -> list[Conversion]:
    (folder / "suite.toml").write_text(text)
    return list(make_suite_plan(read_suite(folder / "suite.toml")).conversions)


def test_every_model_with_every_toolchain_in_every_variant(folder: Path) -> None:
    found = plan(
        folder,
        'models = ["models/**/*.pt"]\ntoolchains = ["2020-09", "2022"]\n'
        '[variants.plain]\n[variants.nhwc]\nio_layout = "nhwc"\n',
    )
    assert [str(c.cell) for c in found] == [
        f"models/{model} · {chain} · {variant}"
        for model in ("a/one", "b/two")
        for chain in ("2020-09", "2022")
        for variant in ("plain", "nhwc")
    ]
    assert found[0].cell.folder == "runs/models--a--one/2020-09/plain"
    # The toolchain of 2022 has no such option: refused, and the others are planned.
    refused = [c for c in found if c.request is None]
    assert [(c.cell.toolchain, c.cell.variant) for c in refused] == [("2022", "nhwc")] * 2
    assert refused[0].refusal is not None and "io_layout" in refused[0].refusal.message


def test_folders_of_names_are_told_apart() -> None:
    names = ("a/b", "a--b", "a b", "ä", "x" * 200, "x" * 201, "..")
    folders = [Cell(name, "2022", "default").folder for name in names]
    assert len(set(folders)) == len(names)
    assert all(".." not in folder.split("/") for folder in folders)


def test_the_nearest_table_wins(folder: Path) -> None:
    (folder / "models/a/one.toml").write_text(f"{TOML}[convert]\ntolerance = 1e-4\n")
    found = plan(
        folder,
        'models = ["models/**/*.pt"]\ntoolchains = ["2020-09"]\n'
        "[defaults]\nsamples = 10\ntolerance = 1e-2\n"
        '[[model]]\nfiles = ["models/a/*.pt"]\nsamples = 20\ntolerance = 1e-3\n'
        "[variants.default]\nseed = 7\n",
    )
    checks = [c.request.check for c in found if c.request]
    assert [(c.samples, c.tolerance, c.seed) for c in checks] == [(20, 1e-4, 7), (10, 1e-2, 7)]
    assert merge_options(Options(samples=3), Options(seed=1)).samples == 3


def test_files_are_named_relative_to_the_file_that_names_them(folder: Path) -> None:
    (folder / "models/a/net.py").write_text("def build():\n    pass\n")
    (folder / "models/a/one.toml").write_text('[convert]\narch = "net.py:build"\n')
    conversion = plan(folder, 'models = ["models/a/*.pt"]\ntoolchains = ["2020-09"]\n')[0]
    assert conversion.request is not None
    request = conversion.request
    assert request.arch == "arch/net.py:build"
    assert set(request.files) == {"model/one.pt", "model/one.toml", "arch/net.py"}
    source, _, _ = request.locate(Path("/elsewhere"))
    assert source.path == Path("/elsewhere/model/one.pt")
    assert source.arch == "/elsewhere/arch/net.py:build"
    assert request.locate()[0].path == folder / "models/a/one.pt"


def test_a_key_changes_with_whatever_the_result_is_made_from(folder: Path) -> None:
    text = 'models = ["models/a/*.pt"]\ntoolchains = ["2020-09"]\n[defaults]\nsamples = 10\n'

    def key(more: str = "") -> str:
        request = plan(folder, text + more)[0].request
        assert request is not None
        return request.key

    first = key()
    assert key() == first
    assert key("seed = 3\n") != first
    assert key('fixes = "none"\n') != first
    assert key("timeout = 60\n") != first
    (folder / "models/a/one.toml").write_text(TOML)
    assert key() != first
    (folder / "models/a/one.toml").unlink()
    assert key() == first
    with open(folder / "models/a/one.pt", "ab") as file:
        file.write(b"\0")
    changed = plan(folder, text)[0]
    assert changed.request is None or changed.request.key != first


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "toolchains"),
        ("toolchains = []\nmodels = ['*']", "toolchains"),
        ("toolchains = ['2022']", "names no models"),
        ("toolchains = ['2022']\nmodels = ['none/*.pt']", "'none/*.pt' finds no file"),
        ("toolchains = ['1999']\nmodels = ['models/**/*.pt']", "no toolchain '1999'"),
        ("toolchains = ['2022']\nmodels = []\nfoo = 1", "no key 'foo'"),
        ("toolchains = ['2022']\n[defaults]\nsample = 1", "no key 'defaults.sample'"),
        ("toolchains = ['2022']\n[defaults]\nsamples = 0", "defaults.samples"),
        ("toolchains = ['2022']\n[variants.'a/b']", "variants"),
        ("toolchains = ['2022']\nmodels = ['models/**/*.pt']\n[defaults]\nio_layout = 'nhwc'",
         "None of the suite's toolchains has the option 'io_layout'"),
        ("toolchains = ['2022'", "not valid TOML"),
        ("toolchains = ['2022']\n[latency]\nsessions = -1", "latency.sessions"),
    ],
)  # fmt: skip
def test_a_file_that_is_wrong_is_told_so(folder: Path, text: str, said: str) -> None:
    with pytest.raises(BadInput) as error:
        plan(folder, text)
    assert said in str(error.value)


def test_a_model_that_nobody_reads_is_refused_everywhere(folder: Path) -> None:
    (folder / "models/a/one.pt").write_bytes(b"no model")
    found = plan(folder, 'models = ["models/**/*.pt"]\ntoolchains = ["2020-09", "2022"]\n')
    assert [c.request is None for c in found] == [True, True, False, False]


def test_wrong_options_beside_a_model(folder: Path) -> None:
    (folder / "models/a/one.toml").write_text("[convert]\nsamplez = 3\n")
    with pytest.raises(BadInput, match="no key 'convert.samplez'"):
        plan(folder, 'models = ["models/**/*.pt"]\ntoolchains = ["2022"]\n')


def test_options_are_those_of_convert() -> None:
    """Whatever `runner convert` takes to say how, a suite's file takes by the same name."""
    import inspect

    from runner.cli.commands.convert import convert

    # A target goes with a toolchain's name there: 2020-09+litert.
    elsewhere = {
        "target",
        *("model", "from_onnx", "from_pb", "output", "engine", "gpu", "wheel", "toolchain", "jobs"),
        *("trust_model", "sign", "cache", "as_json", "quiet", "verbose"),
    }
    assert set(inspect.signature(convert).parameters) - elsewhere == set(Options.model_fields)


def test_folders_of_images_become_arrays_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNNER_CACHE_DIR", str(folder / "cache"))
    made: list[Path] = []
    prepare = images.prepare_samples

    def count(*arguments: Any) -> Any:
        made.append(arguments[0].path)
        return prepare(*arguments)

    monkeypatch.setattr(images, "prepare_samples", count)
    (folder / "seen").mkdir()
    for number in range(4):
        pixels = np.full((32, 32, 3), 50 * number, np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f"seen/{number}.png")
    for place in ("a/one", "b/two"):
        toml = '[[input]]\nname = "x"\nshape = [1, 3, 32, 32]\nkind = "image"\n'
        (folder / f"models/{place}.toml").write_text(toml)
    text = (
        'models = ["models/**/*.pt"]\ntoolchains = ["2020-09", "2022"]\n[defaults]\nsamples = 3\n'
        'inputs = "seen"\ncalibration = "seen"\n[variants.plain]\n'
        '[variants.int8]\nquantize = ["int8"]\n'
    )
    found = plan(folder, text)
    taken = []
    for conversion in found:
        assert conversion.request is not None, conversion.refusal
        _, check, quantization = conversion.request.locate()
        assert check.inputs_file is not None and not check.made
        assert np.load(check.inputs_file).shape == (3, 1, 3, 32, 32)
        wanted = conversion.cell.variant == "int8"
        assert (quantization.calibration is not None) == wanted
        if quantization.calibration is not None:
            assert len(np.load(quantization.calibration)) == 4
        taken.append(conversion.request.key)
    # Both models take the same pixels, since their files say the same: the array is theirs both.
    assert len(made) == 2
    assert [c.request.key for c in plan(folder, text) if c.request] == taken
    assert len(made) == 2
    PIL.Image.new("RGB", (32, 32), (9, 9, 9)).save(folder / "seen/0.png")
    changed = [c.request.key for c in plan(folder, text) if c.request]
    assert len(made) == 4 and not set(changed) & set(taken)
