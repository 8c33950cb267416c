"""--input Nx...: a batch that stays open, checked at 1, 2 and 7; and --signature."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import BAD_INPUT, DOCKER, OUT_OF_TOLERANCE, PASSED, Run, run_cli, run_here

from runner.conversion.observer import Observer
from runner.engines.process.engine import ProcessEngine
from runner.engines.process.environments import locate_environment
from runner.toolchains.load import load_image

NETS = '''
import torch
import torch.nn as nn


class Baked(nn.Module):
    """A size that a trace bakes, and the first states of a GRU."""

    def __init__(self, share):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4 * 6 * 6, 12)
        self.gru = nn.GRU(4, 5)
        self.share = share

    def forward(self, x):
        x = self.conv(x)
        count = int(x.size(0))
        x = self.fc(torch.tanh(x).view(count, 144)).view(count, 3, 4).permute(1, 0, 2)
        y = self.gru(x)[0]
        return y / count if self.share else y


class Fixed(nn.Module):
    """A view that holds for one image alone."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4 * 6 * 6, 5)

    def forward(self, x):
        return self.fc(self.conv(x).view(1, 144))


class Shuffled(nn.Module):
    """Channels of two branches in turn, with the sizes that a trace bakes."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.left = nn.Conv2d(8, 8, 1)
        self.right = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 5, 1)

    def forward(self, x):
        x = self.first(x)
        x = torch.cat([self.left(x), self.right(x)], 1)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.last(x.chunk(2, 1)[1])


def baked(share=False):
    return Baked(share).eval()
'''
MAKE = """
import sys
import torch
folder = sys.argv[1]
sys.path.insert(0, folder)
import open_nets
torch.manual_seed(0)
torch.save(open_nets.baked().state_dict(), folder + "/baked.pt")
torch.save(open_nets.Fixed().state_dict(), folder + "/fixed.pt")
torch.save(open_nets.Shuffled().state_dict(), folder + "/shuffled.pt")
"""
# Runs a model by its SignatureDef, at several batch sizes, each against one image at a time.
BY_NAME = """
import json, sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter

interpreter = Interpreter(sys.argv[1])
names = interpreter.get_signature_list()
run = interpreter.get_signature_runner("serving_default")
images = np.random.RandomState(0).randn(7, 3, 8, 8).astype("float32")
single = np.concatenate([run(input=images[i : i + 1])["output"] for i in range(7)], axis=1)
worst = max(float(np.abs(run(input=images[:n])["output"] - single[:, :n]).max()) for n in (1, 2, 7))
signature = interpreter.get_input_details()[0]["shape_signature"].tolist()
print(json.dumps({"names": names, "worst": worst, "shape": signature}))
"""
RunIn = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory, in_environment: RunIn) -> Path:
    folder = tmp_path_factory.mktemp("open")
    (folder / "open_nets.py").write_text(NETS)
    made = in_environment("torch", "-c", MAKE, folder)
    assert made.returncode == 0, made.stderr
    return folder


def convert(nets: Path, folder: Path, *arguments: str, model: str = "--model=baked.pt") -> Run:
    own = "--from" in model or "--arch" in arguments
    given = () if own else ("--arch", "open_nets.py:baked", "--trust-model")
    done = run_cli(
        *("convert", model, *given, "--samples", "16", "--output", folder, *arguments), cwd=nets
    )
    return Run(done.returncode, done.stdout, done.stderr, folder)


@pytest.fixture(scope="module", params=["process", DOCKER])
def baked(nets: Path, tmp_path_factory: pytest.TempPathFactory, request: Any) -> Run:
    folder = tmp_path_factory.mktemp("runs") / request.param
    return convert(*(nets, folder, "--input", "Nx3x8x8", "--signature", "--engine", request.param))


def test_what_a_trace_bakes_follows_the_batch(baked: Run) -> None:
    assert baked.code == PASSED, baked.stdout + baked.stderr
    for stage in ("torch", "onnx-tf", "tflite"):
        check = baked.stage(stage)["report"]["check"]
        assert [(at["size"], at["verdict"]) for at in check["sizes"]] == [
            (2, "passed"),
            (7, "passed"),
        ]
        assert all(0 < at["value"] < 1e-6 and at["samples"] >= 2 for at in check["sizes"])
    assert "open-trace" in baked.stage("torch")["report"]["fixes"]
    ends = baked.stage("tflite")["report"]["signature"]
    assert [end["dims"] for end in (*ends["inputs"], *ends["outputs"])] == [
        ["N", "", "", ""],
        ["", "N", ""],
    ]
    assert any("at other sizes: at 2:" in note for note in baked.report["notes"])
    operators = baked.stage("tflite")["report"]["operators"]
    assert not any(name.startswith("Flex") for name in operators)


def test_shuffles_are_folded_for_any_batch(nets: Path, tmp_path: Path) -> None:
    arch = ("--arch", "open_nets.py:Shuffled", "--trust-model")
    run = convert(
        *(nets, tmp_path / "run", *arch, "--input", "Nx3x8x8", "--engine", "process"),
        model="--model=shuffled.pt",
    )
    assert run.code == PASSED, run.stdout + run.stderr
    assert "channel-shuffle" in run.stage("onnx-tf")["report"]["fixes"]
    sizes = run.stage("tflite")["report"]["check"]["sizes"]
    assert [(at["size"], at["verdict"]) for at in sizes] == [(2, "passed"), (7, "passed")]


def test_litert_runs_it_by_name_at_any_size(baked: Run) -> None:
    image = load_image("litert")
    ProcessEngine().prepare([image], Observer())
    python = locate_environment(image) / "bin" / "python"
    done = subprocess.run(
        [python, "-s", "-c", BY_NAME, baked.folder / "model.tflite"],
        text=True,
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["names"] == {"serving_default": {"inputs": ["input"], "outputs": ["output"]}}
    assert found["shape"] == [-1, 3, 8, 8] and found["worst"] < 1e-5


def test_open_files_of_others_stay_open(nets: Path, baked: Run, tmp_path: Path) -> None:
    given = baked.folder / "model.onnx"
    run = convert(
        *(nets, tmp_path / "run", "--input", "Nx3x8x8", "--engine", "process"),
        model=f"--from-onnx={given}",
    )
    assert run.code == PASSED, run.stdout + run.stderr
    sizes = run.report["stages"][-1]["report"]["check"]["sizes"]
    assert [at["verdict"] for at in sizes] == ["passed", "passed"]
    graph = convert(
        *(nets, tmp_path / "graph", "--input", "Nx3x8x8", "--engine", "process"),
        model=f"--from-pb={given.with_name('model.pb')}",
    )
    assert graph.code == PASSED, graph.stdout + graph.stderr
    sizes = graph.report["stages"][-1]["report"]["check"]["sizes"]
    assert [at["verdict"] for at in sizes] == ["passed", "passed"]


def test_without_the_fixes_a_baked_size_fails_the_gate(nets: Path, tmp_path: Path) -> None:
    run = convert(
        *(nets, tmp_path / "run", "--input", "Nx3x8x8", "--engine", "process", "--no-diagnose"),
        "--fixes=-open-trace,-concrete-sizes",
    )
    assert run.code in (OUT_OF_TOLERANCE, 3), run.stdout
    check = run.stage("torch")["report"]["check"]
    assert check["verdict"] == "shape" and check["sizes"][0]["failure"]
    assert check["outputs"][0]["verdict"] == "passed"  # at 1 it is right


def test_a_share_of_the_batch_is_refused_by_its_layer(nets: Path, tmp_path: Path) -> None:
    run = convert(
        *(nets, tmp_path / "run", "--input", "Nx3x8x8", "--engine", "process"),
        *("--arch-args", '{"share": true}'),
    )
    assert run.code == BAD_INPUT, run.stdout
    said = run.stage("torch")
    assert "open_nets.py, line 2" in said["failure"] and "Div" in said["failure"]
    assert "x.size(0)" in said["remedy"]


def test_quantised_models_keep_the_batch_open(nets: Path, tmp_path: Path) -> None:
    for name, seed in (("seen", 1), ("held", 2)):
        images = np.random.default_rng(seed).standard_normal((100, 1, 3, 8, 8), np.float32)
        np.save(tmp_path / f"{name}.npy", images)
    run = convert(
        *(nets, tmp_path / "run", "--input", "Nx3x8x8", "--engine", "process"),
        *("--quantize", "float16,int8", "--runtimes", "litert"),
        *("--calibration", f"{tmp_path}/seen.npy", "--inputs", f"{tmp_path}/held.npy"),
    )
    assert run.code == PASSED, run.stdout + run.stderr
    for record in run.report["quantized"]:
        check = record["report"]["check"]
        assert [at["size"] for at in check["sizes"]] == [2, 7]
        assert {at["verdict"] for at in check["sizes"]} == {"passed"}
        assert record["report"]["signature"]["inputs"][0]["dims"][0] == "N"
    (elsewhere,) = (found["files"] for found in run.report["elsewhere"])
    assert {found["mode"] for found in elsewhere} == {"float16", "int8"}
    assert all(found["check"]["verdict"] == "passed" for found in elsewhere)
    assert all(len(found["check"]["sizes"]) == 2 for found in elsewhere)


def test_a_model_for_one_image_is_refused_by_its_line(nets: Path, tmp_path: Path) -> None:
    run = convert(
        *(nets, tmp_path / "run", "--input", "Nx3x8x8", "--engine", "process"),
        *("--arch", "open_nets.py:Fixed"),
        model="--model=fixed.pt",
    )
    assert run.code == BAD_INPUT, run.stdout
    failure = run.stage("torch")["failure"]
    assert "does not run the model with a batch of 2" in failure
    assert "open_nets.py, line" in failure and ".view(1, 144)" in failure


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--input", "NxCx8x8"), "only the batch"),
        (("--input", "Nx3x8x8", "--toolchain", "2019"), "cannot leave the batch size open"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(
    nets: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    given = ("convert", "--model", "fixed.pt", "--arch", "open_nets.py:Fixed", "--trust-model")
    done = run_here(capsys, *given, *arguments, cwd=nets)
    assert done.returncode == BAD_INPUT and words in done.stderr
    assert not (nets / "runs").exists()
