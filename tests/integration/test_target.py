"""--target litert: the model as today's runtime takes it, checked by that runtime."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import (
    BAD_INPUT,
    PASSED,
    ROOT,
    STAGE_FAILED,
    run_cli,
    run_here,
    sha256,
)

from runner.errors import BadInput
from runner.toolchains.load import load_targets, load_toolchain, load_toolchains

OWN, MADE = "model.tflite", "model.litert.tflite"
NET = """
import sys
import torch
import torch.nn as nn


class Block(nn.Module):
    def __init__(self, channels, stride, groups=4, dilation=1):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(channels, 16, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.grouped = nn.Conv2d(16, 16, 3, stride, dilation, dilation, groups, bias=False)
        self.last = nn.Sequential(nn.BatchNorm2d(16), nn.ReLU6(), nn.Conv2d(16, 16, 1, groups=2))
        self.around = nn.Conv2d(channels, 16, 1, stride)

    def forward(self, x):
        return torch.relu(self.around(x) + self.last(self.grouped(self.first(x))))


torch.manual_seed(0)
net = nn.Sequential(Block(3, 2), Block(16, 1, 8, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
with torch.no_grad():
    for _ in range(4):
        net(torch.randn(8, 3, 16, 16))
torch.jit.trace(net.eval(), torch.randn(1, 3, 16, 16)).save(sys.argv[1] + "/net.pt")
erf = torch.jit.trace(lambda x: torch.erf(x) * 2, torch.randn(1, 3, 8, 8))
erf.save(sys.argv[1] + "/erf.pt")
"""
INPUT = ("--input", "1x3x16x16", "--samples", "8")


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory, in_environment: Any) -> Path:
    """A traced net of two blocks with grouped convolutions, two in each."""
    folder = tmp_path_factory.mktemp("grouped")
    made = in_environment("torch", "-c", NET, folder)
    assert made.returncode == 0, made.stderr
    return folder / "net.pt"


Go = Callable[..., Path]


@pytest.fixture
def go(grouped: Path, tmp_path: Path) -> Go:
    """Convert the net; return the run's folder."""

    def run(name: str, *options: str | Path, given: tuple[str | Path, ...] = ()) -> Path:
        start = given or ("--model", grouped, *INPUT)
        engine = () if "--engine" in options else ("--engine", "process")
        done = run_cli(
            "convert", *start, "--output", tmp_path / name, *options, *engine, cwd=tmp_path
        )
        assert done.returncode == PASSED, done.stdout + done.stderr
        return tmp_path / name

    return run


def read(run: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((run / "report.json").read_text())
    return loaded


def count(record: dict[str, Any]) -> dict[str, int]:
    found: dict[str, int] = record["report"]["operators"]
    return found


def test_groups_are_one_operator_in_litert(go: Go) -> None:
    plain, run = go("plain"), go("litert", "--target", "litert")
    # The toolchain's own model is what it is without.
    assert sha256(run / OWN) == sha256(plain / OWN)
    report = read(run)
    assert report["toolchain"].endswith("+litert")
    own, made = report["stages"][-2:]
    assert (count(own)["SPLIT"], count(own)["CONV_2D"]) == (4, 4 + 4 + 8 + 2 + 2)
    assert "SPLIT" not in count(made) and count(made)["CONV_2D"] == 8
    assert "CONCATENATION" not in count(made)
    check = made["report"]["check"]
    assert check["framework"].startswith("LiteRT") and made["status"] == "ok"
    assert report["gate"]["verdict"] in ("passed", "rounding")
    assert (run / MADE).stat().st_size < (run / OWN).stat().st_size
    # It is the run's model: what is measured and shown.
    assert MADE in (run / "report.html").read_text()


@pytest.mark.docker
def test_both_engines_make_the_same(go: Go) -> None:
    one = go("process", "--target", "litert", "--no-cache")
    other = go("docker", "--target", "litert", "--engine", "docker", "--no-cache")
    assert sha256(one / MADE) == sha256(other / MADE)


def test_a_run_is_reproduced_and_diagnosed(go: Go, tmp_path: Path) -> None:
    run = go("run", "--target", "litert")
    again = ("reproduce", run, "--output", tmp_path / "again", "--engine", "process")
    done = run_cli(*again, cwd=tmp_path)
    assert done.returncode == 0 and "All 4 artifacts" in done.stdout, done.stdout + done.stderr
    done = run_cli("diagnose", run, "--engine", "process", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_any_start_and_any_year(go: Go) -> None:
    run = go("run")
    for kind in ("onnx", "pb"):
        given = (f"--from-{kind}", run / f"model.{kind}", "--samples", "8")
        made = read(go(kind, "--target", "litert", given=given))["stages"][-1]
        assert count(made)["CONV_2D"] == 8
    faithful = read(go("faithful", "--target", "litert", "--faithful", "--tolerance", "1e-5"))
    assert count(faithful["stages"][-1])["CONV_2D"] == 8


def test_quantised_models_are_those_without(go: Go) -> None:
    """They are made for the toolchain's own interpreter, of its own model, and judged by it."""
    options = ("--quantize", "float16,dynamic")
    plain, run = go("plain", *options), go("litert", "--target", "litert", *options)
    for mode in ("float16", "dynamic"):
        assert sha256(run / f"model.{mode}.tflite") == sha256(plain / f"model.{mode}.tflite")


def test_what_is_joined_can_be_quantised(go: Go, tmp_path: Path) -> None:
    run = go("litert", "--target", "litert")
    modes = ("float16", "dynamic", "int8", "int16x8")
    done = run_cli(
        *("quantize", run / MADE, "--to", ",".join(modes), "--calibrate-on-noise"),
        *("--engine", "process", "--samples", "8", "--output", tmp_path / "made"),
        cwd=tmp_path,
    )
    assert done.returncode == PASSED, done.stdout + done.stderr
    made = {record["name"]: record for record in read(tmp_path / "made")["quantized"]}
    assert {mode: count(made[mode])["CONV_2D"] for mode in modes} == dict.fromkeys(modes, 8)


def test_a_batch_stays_open(go: Go, grouped: Path) -> None:
    given = ("--model", grouped, "--input", "Nx3x16x16", "--samples", "8")
    report = read(go("open", "--target", "litert", given=given))
    assert count(report["stages"][-1])["CONV_2D"] == 8
    made = report["stages"][-1]["report"]
    assert made["signature"]["inputs"][0]["dims"]
    verdicts = [at["verdict"] for at in made["check"]["sizes"]]
    assert len(verdicts) == 2 and set(verdicts) <= {"passed", "rounding"}


def test_a_signature_keeps_its_names(go: Go, in_environment: Any) -> None:
    run = go("named", "--target", "litert", "--signature")
    code = (
        "import sys\nimport numpy as np\nfrom ai_edge_litert.interpreter import Interpreter\n"
        "run = Interpreter(sys.argv[1]).get_signature_runner()\n"
        "names = [*run.get_input_details()]\n"
        "print(*names, *run(**{names[0]: np.ones((1, 3, 16, 16), np.float32)}))\n"
    )
    said = [in_environment("litert", "-c", code, run / name).stdout for name in (OWN, MADE)]
    assert said[0] == said[1] and len(said[0].split()) == 2


def test_what_needs_flex_is_refused(grouped: Path, tmp_path: Path) -> None:
    model = grouped.with_name("erf.pt")
    done = run_cli(
        *("convert", "--model", model, "--input", "1x3x8x8", "--samples", "8", "--fixes", "none"),
        *("--output", tmp_path / "run", "--target", "litert", "--engine", "process"),
        cwd=tmp_path,
    )
    assert done.returncode == STAGE_FAILED, done.stdout + done.stderr
    assert "needs the Flex delegate (FlexErf)" in done.stdout + done.stderr
    assert (tmp_path / "run" / OWN).is_file() and not (tmp_path / "run" / MADE).exists()


def test_side_by_side_and_in_a_suite(go: Go, grouped: Path, tmp_path: Path) -> None:
    both = ("--toolchain", "2020-09,2020-09+litert")
    run = go("both", *both)
    rows = json.loads((run / "comparison.json").read_text())["toolchains"]
    assert [row["toolchain"] for row in rows] == ["2020-09", "2020-09+litert"]
    (tmp_path / "suite.toml").write_text(
        f'models = ["{grouped}"]\ntoolchains = ["2020-09+litert"]\n'
        '[defaults]\nsamples = 8\nio_layout = "nchw"\ninput = ["1x3x16x16"]\n'
        "[latency]\nsessions = 0\n"
    )
    command = ("suite", "run", "suite.toml", "--engine", "process", "--quiet")
    done = run_cli(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = (tmp_path / "suite-results").rglob(MADE)
    assert sha256(made) == sha256(run / "2020-09+litert" / MADE)


def test_bisecting_for_a_target(go: Go, grouped: Path, tmp_path: Path) -> None:
    """Each toolchain of the span makes its model for it, with one operator for a group."""
    span = ("--from", "2020-09", "--to", "2021-05", "--what", "operators", "--target", "litert")
    done = run_cli(
        *("bisect", grouped, *INPUT, *span, "--output", "found", "--engine", "process", "--json"),
        cwd=tmp_path,
    )
    found = json.loads(done.stdout)
    assert [step["toolchain"] for step in found["steps"]] == ["2020-09+litert", "2021-05+litert"]
    assert all(step["record"]["outcome"] == "passed" for step in found["steps"]), done.stdout
    assert len(list((tmp_path / "found").rglob(MADE))) == 2


def test_a_toolchain_is_shown_for_its_target(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shown = run_here(capfd, "toolchain", "show", "2020-09+litert", "--json", cwd=tmp_path)
    chains = json.loads(shown.stdout)
    assert {chain["stages"][-1]["stage"] for chain in chains} == {"litert"} and len(chains) == 3
    none = run_here(capfd, "toolchain", "show", "2020-09+tf9", cwd=tmp_path)
    assert none.returncode == BAD_INPUT and "no target 'tf9'" in none.stderr
    mixed = ("bisect", "net.pt", "--package", "torch", "--target", "litert")
    assert run_here(capfd, *mixed, cwd=tmp_path).returncode == BAD_INPUT


def test_what_is_no_target_is_refused(
    grouped: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    start = ("convert", "--model", grouped, *INPUT, "--output", tmp_path / "run")
    done = run_here(capfd, *start, "--target", "tf2.10", cwd=tmp_path)
    assert done.returncode == BAD_INPUT and "Known: tf2.4, litert" in done.stderr
    done = run_here(capfd, *start, "--target", "litert", "--toolchain", "all", cwd=tmp_path)
    assert done.returncode == BAD_INPUT and "named toolchains" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_toolchains_own_target_adds_nothing() -> None:
    for chain in load_toolchains():
        assert load_toolchain(f"{chain.name}+{chain.target}") == chain
    assert load_toolchain("2026+litert").own_stages == load_toolchain("2026").stages
    with pytest.raises(BadInput, match="no target"):
        load_toolchain("2022+tf2.4")


def test_every_toolchain_can_have_every_target() -> None:
    """A definition of a target fits the end of each toolchain that has another target."""
    for name, stage in load_targets(ROOT).items():
        for chain in load_toolchains():
            aimed = load_toolchain(f"{chain.name}+{name}")
            assert aimed.stages[-1] == (stage if name != chain.target else chain.stages[-1])
