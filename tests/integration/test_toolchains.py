"""Toolchains of other years: each converts a net of today's checks, on its own tools.

Five networks through all of them, on both engines, are `python benchmarks/toolchains.py`.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from harness import BAD_INPUT, PASSED, SUPPORT, run_cli, sha256

from runner.conversion.observer import Observer
from runner.engines.process.engine import ProcessEngine
from runner.engines.process.environments import locate_environment_python
from runner.toolchains.load import load_image, load_toolchain, load_toolchains

NET = SUPPORT / "any_year.py"
CHAINS = [c.title for c in load_toolchains() if c.accepts == "pytorch" and not c.default]
OFTEN = ("2022", "2026-onnx2tf")
FROM_ONNX = [
    pytest.param(c.title, marks=() if c.title in OFTEN else pytest.mark.years)
    for c in load_toolchains()
    if c.accepts == "onnx" and not c.default
]
INPUTS = ("--input", "image=1x8x8x8", "--input", "signal=1x8x8")
ARCH = ("--arch", f"{NET}:make")


def make_files(image: str, folder: Path) -> Path:
    """Let the torch of an image save the net in all its ways."""
    chosen = load_image(image)
    ProcessEngine().prepare([chosen], Observer())
    command = [locate_environment_python(chosen), "-W", "ignore", NET, folder]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return folder


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of torch 1.5.1, whose weights every torch reads."""
    return make_files("torch", tmp_path_factory.mktemp("old"))


@pytest.fixture(scope="module")
def oldest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of torch 1.3.1, whose archives it reads itself."""
    return make_files("torch-1.3", tmp_path_factory.mktemp("oldest"))


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of torch 2.13."""
    return make_files("torch-2.13", tmp_path_factory.mktemp("new"))


def convert(output: Path, *arguments: str | Path, engine: str = "process") -> dict[str, Any]:
    """Convert by the real command, and return the report of a run that passed."""
    done = run_cli(
        *("convert", *arguments, "--engine", engine, "--samples", "20", "--json"),
        *("--output", output),
        cwd=output.parent,
    )
    assert done.returncode == PASSED, done.stdout[-3000:] + done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    outputs = report["stages"][-1]["report"]["check"]["outputs"]
    assert all(output["reference_std"] > 0.1 for output in outputs), "the check proves nothing"
    assert max(output["mean_abs"] for output in outputs) < 1e-6
    return report


def hashes(report: dict[str, Any]) -> dict[str, str]:
    artifacts = [stage["report"]["artifact"] for stage in report["stages"]]
    return {artifact["path"]: artifact["sha256"] for artifact in artifacts}


@pytest.fixture(scope="module")
def converted(old: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Convert the weights of torch 1.5.1 by a toolchain, once a module."""
    runs: dict[str, Path] = {}

    def run(chain: str) -> Path:
        if chain not in runs:
            runs[chain] = tmp_path_factory.mktemp(chain) / "run"
            weights = ("--model", old / "weights.pt", *ARCH, *INPUTS)
            convert(runs[chain], *weights, "--toolchain", chain)
        return runs[chain]

    return run


@pytest.mark.parametrize("chain", CHAINS)
def test_every_toolchain_converts_one_state_dict(converted: Any, chain: str) -> None:
    folder = converted(chain)
    report = json.loads((folder / "report.json").read_text())
    assert (folder / "model.tflite").stat().st_size > 3000
    for stage in report["stages"]:
        # Every stage is checked against PyTorch, by the tools that the lock names.
        assert stage["report"]["check"]["verdict"] == "passed", stage["name"]
        image = load_image(stage["environment"]["image"])
        assert stage["environment"]["interpreter"]["version"].startswith(f"{image.python}.")
        assert stage["environment"]["lock_sha256"] == sha256(image.lock)
    record = json.loads((folder / "provenance.json").read_text())
    code = next(
        entry["annotations"]["files"]
        for entry in record["predicate"]["buildDefinition"]["resolvedDependencies"]
        if entry["name"] == "stages"
    )
    modules = {s.module.replace(".", "/")[7:] + ".py" for s in load_toolchain(chain).stages}
    assert modules < set(code)
    assert not any(name.startswith("fixes/") for name in code), "the code of another toolchain"


@pytest.mark.parametrize("chain", FROM_ONNX)
def test_a_toolchain_takes_onnx(converted: Any, tmp_path: Path, chain: str) -> None:
    """The oldest one's file, of operator set 10, is read by all."""
    model = converted("2019") / "model.onnx"
    report = convert(tmp_path / "run", "--from-onnx", model, "--toolchain", chain)
    assert "ONNX Runtime" in " ".join(report["notes"])


@pytest.mark.docker
def test_both_engines_write_the_same_bytes(converted: Any, old: Path, tmp_path: Path) -> None:
    folder = converted("2026-onnx2tf")
    weights = ("--model", old / "weights.pt", *ARCH, *INPUTS)
    again = convert(tmp_path / "run", *weights, "--toolchain", "2026-onnx2tf", engine="docker")
    assert hashes(again) == hashes(json.loads((folder / "report.json").read_text()))


@pytest.mark.parametrize("chain", ["2022", "2026-onnx2tf"])
def test_a_run_is_reproduced(converted: Any, tmp_path: Path, chain: str) -> None:
    done = run_cli(
        *("reproduce", converted(chain), "--engine", "process", "--output", tmp_path / "again"),
        cwd=tmp_path,
    )
    assert done.returncode == PASSED, done.stdout + done.stderr
    assert "identical" in done.stdout


@pytest.mark.parametrize("file", ["script.pt", "program.pt2", "module.pt", "weights.pt"])
def test_todays_files_convert_by_what_the_refusal_names(
    new: Path, tmp_path: Path, file: str
) -> None:
    """Everything but weights is refused by the default toolchain, which says who takes it."""
    code = ("--arch", NET) if file == "module.pt" else ARCH if file == "weights.pt" else ()
    shapes = () if file == "program.pt2" else INPUTS
    arguments = ("--model", new / file, *code, *shapes)
    if file != "weights.pt":
        refused = run_cli("convert", *arguments, cwd=tmp_path)
        assert refused.returncode == BAD_INPUT
        assert "--toolchain 2026 (or 2026-onnx2tf" in refused.stderr
    report = convert(tmp_path / "run", *arguments, "--toolchain", "2026")
    if file == "program.pt2":
        assert any("as the program was exported with" in note for note in report["notes"])


def test_a_newer_operator_set_is_refused_with_who_takes_it(
    new: Path, converted: Any, tmp_path: Path
) -> None:
    model = converted("2026-onnx2tf") / "model.onnx"  # of operator set 18
    done = run_cli("convert", "--from-onnx", model, "--toolchain", "2021", cwd=tmp_path)
    assert done.returncode == BAD_INPUT
    assert "operator set 18" in done.stderr and "--toolchain 2026-onnx2tf" in done.stderr


@pytest.mark.parametrize(
    ("known", "chain", "file", "options"),
    [
        ("script-in-torch-1-3", "2019", "script.pt", INPUTS),
        (
            "operator-set-of-onnx-tf",
            "2021",
            "Unsqueezed.pt",
            ("--arch", f"{NET}:Unsqueezed", "--input", "1x4x8", "--opset", "13"),
        ),
        pytest.param(
            "recurrent-layer-with-variables",
            "2021",
            "Recurrent.pt",
            ("--arch", f"{NET}:Recurrent", "--input", "5x1x4"),
            marks=pytest.mark.years,
        ),
    ],
)
def test_a_known_failure_of_a_toolchain(
    oldest: Path, tmp_path: Path, known: str, chain: str, file: str, options: tuple[str, ...]
) -> None:
    done = run_cli(
        *("convert", "--model", oldest / file, *options, "--toolchain", chain, "--json"),
        *("--engine", "process", "--samples", "4", "--output", tmp_path / "run"),
        cwd=tmp_path,
    )
    report = json.loads(done.stdout)
    found = [stage["known"]["id"] for stage in report["stages"] if stage["known"]]
    assert found == [known], done.stdout[-3000:]


def test_an_option_that_a_toolchain_lacks(old: Path, tmp_path: Path) -> None:
    model = ("--model", old / "weights.pt", *ARCH, "--toolchain", "2022")
    done = run_cli("convert", *model, "--io-layout", "nhwc", cwd=tmp_path)
    assert done.returncode == BAD_INPUT
    assert "'2022' has the option 'io_layout'" in done.stderr
    assert "2020-09" in done.stderr and "2026-onnx2tf" in done.stderr


def test_safetensors(old: Path, converted: Any, tmp_path: Path) -> None:
    """Weights in this format give the very bytes of the same weights in PyTorch's own."""
    python = locate_environment_python(load_image("torch"))
    write = tmp_path / "write.py"
    write.write_text(WRITE_SAFETENSORS)
    target = tmp_path / "weights.safetensors"
    subprocess.run([python, write, old / "weights.pt", target], check=True, timeout=100)
    weights = ("--model", target, *ARCH, *INPUTS, "--toolchain", "2026-onnx2tf")
    report = convert(tmp_path / "run", *weights)
    folder = converted("2026-onnx2tf")
    assert hashes(report) == hashes(json.loads((folder / "report.json").read_text()))


WRITE_SAFETENSORS = """
import json, sys, torch
header, data = {}, b""
for name, tensor in torch.load(sys.argv[1]).items():
    raw = tensor.numpy().tobytes()
    dtype = {torch.float32: "F32", torch.int64: "I64"}[tensor.dtype]
    place = [len(data), len(data) + len(raw)]
    header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": place}
    data += raw
text = json.dumps(header).encode()
open(sys.argv[2], "wb").write(len(text).to_bytes(8, "little") + text + data)
"""


def test_a_toolchain_has_one_short_name() -> None:
    """`2020-09` is the default's, whatever it starts from; the long names still work."""
    for accepts in ("pytorch", "onnx", "frozen-graph"):
        chain = load_toolchain("2020-09", accepts)
        assert chain.accepts == accepts and chain.default
        assert load_toolchain(chain.name) == load_toolchain(accepts=accepts) == chain
