"""The fixes: every net of tests/support/nets.py converts with them, and each is needed by some net.

With them, a net passes with builtin operators only, at 1e-6 or within twice the float32 noise
floor. Without a fix, its net fails, needs Flex, or takes more operators.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from harness import ROOT, SUPPORT

STAGES = ("torch", "onnx-tf", "tflite")
SOURCE = (SUPPORT / "nets.py").read_text()
# Read as text: the file needs torch, which the host does without.
NEEDS = dict(
    re.findall(r'^    "(\w+)": "([\w-]+)",$', SOURCE.partition("NEEDS: ")[2], re.MULTILINE)
)
# Large ones that smaller nets of the same fix stand for.
LEFT_OUT = {"alexnet", "googlenet", "squeezenet1_1", "mobilenet_v2", "resnet18"}
# Large ones of a family that others are in.
LARGE = LEFT_OUT | {
    *("densenet121", "inception_v3", "vgg11_bn", "resnext50_32x4d", "resnet50"),
    *("fcn_resnet50", "deeplabv3_resnet50", "scripted_resnet18", "scripted_mobilenet_v2"),
}


@dataclass(frozen=True)
class Outcome:
    """How far a net came: the failure's text if it failed, the error, the TFLite operators."""

    failure: str
    error: float
    allowed: float
    operators: dict[str, int]
    # At which other magnitudes it ran, and what came of them that is not explained by rounding.
    magnitudes: frozenset[float] = frozenset()
    stressed: tuple[str, ...] = ()
    # Of the stage onnx-tf, those that changed something.
    fixes: frozenset[str] = frozenset()

    @property
    def good(self) -> bool:
        return not self.failure and self.error < self.allowed and not self.flex

    @property
    def flex(self) -> list[str]:
        return [name for name in self.operators if name.startswith("Flex")]


LIST = "import nets; print(*nets.NETS)"

RunIn = Callable[..., "subprocess.CompletedProcess[str]"]


def convert(in_environment: RunIn, folder: Path, fixes: str, nets: list[str]) -> dict[str, Outcome]:
    """Convert nets in batches, one a stage; what came of each."""
    folder.mkdir(parents=True, exist_ok=True)
    for stage in STAGES:
        done = in_environment(stage, SUPPORT / "batch.py", stage, folder, fixes, *nets)
        assert done.returncode == 0, done.stderr[-3000:]
    return {net: outcome(folder / net) for net in nets}


def outcome(volume: Path) -> Outcome:
    for stage in STAGES:
        report = json.loads((volume / "reports" / f"{stage}.json").read_text())
        if report["status"] != "ok":
            return Outcome(f"{stage}: {report['error']['message'][:300]}", 0.0, 0.0, {})
    verdicts = {output["verdict"] for output in report["check"]["outputs"]}
    if verdicts & {"shape", "nonfinite"}:
        return Outcome(f"tflite: {verdicts}", 0.0, 0.0, report["operators"])
    outputs = report["check"]["outputs"]
    edges = volume.name.startswith("sweep_")
    worst = max(outputs, key=lambda output: output["mean_abs"] / allowance(output, edges))
    stressed = tuple(describe(stress, outputs) for stress in report["check"]["stress"])
    return Outcome(
        "",
        worst["mean_abs"],
        allowance(worst, edges),
        report["operators"],
        frozenset(stress["magnitude"] for stress in report["check"]["stress"]),
        tuple(text for text in stressed if text),
        frozenset(json.loads((volume / "reports" / "onnx-tf.json").read_text())["fixes"]),
    )


def allowance(output: dict[str, Any], edges: bool = False) -> float:
    """The largest error that counts as right.

    At the edges of operators, where outputs are large and few, also some units in the last place.
    """
    size = abs(output["reference_mean"]) + output["reference_std"]
    return max(1e-6, 2 * (output["noise_floor"] or 0.0), 8 * 2.0**-24 * size if edges else 0.0)


def describe(stress: dict[str, Any], outputs: list[dict[str, Any]]) -> str:
    """Say how an output goes wrong at another magnitude; '' if it does not."""
    if stress["name"] == "":
        return f"at {stress['magnitude']:g}: {stress['failure']}"
    usual = next(o["times_noise_floor"] or 0.0 for o in outputs if o["name"] == stress["name"])
    times = stress["times_noise_floor"] or 0.0
    if not stress["nonfinite"] and times <= max(10, 10 * usual):
        return ""
    what = f"{stress['nonfinite']} not finite" if stress["nonfinite"] else f"{times:.3g} times"
    return f"{stress['name']} at {stress['magnitude']:g}: {what}"


@pytest.fixture(scope="module")
def with_fixes(
    in_environment: RunIn, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Outcome]:
    listed = in_environment(
        "torch", "-c", f"import sys; sys.path.insert(0, {str(SUPPORT)!r})\n{LIST}"
    )
    assert listed.returncode == 0, listed.stderr
    names = [name for name in listed.stdout.split() if name not in LARGE]
    return convert(in_environment, tmp_path_factory.mktemp("fixes") / "all", "all", names)


def test_every_net_converts_with_the_fixes(with_fixes: dict[str, Outcome]) -> None:
    assert len(with_fixes) > 200 and set(with_fixes) >= set(NEEDS) - LEFT_OUT
    assert {net: found for net, found in with_fixes.items() if not found.good} == {}


def test_every_net_is_right_at_other_magnitudes(with_fixes: dict[str, Outcome]) -> None:
    """Every operator too: those of sweeps.py are nets, at their edges and as they are written."""
    sweeps = [found for net, found in with_fixes.items() if net.startswith("sweep_")]
    assert len(sweeps) > 20
    assert {found.magnitudes for found in sweeps} == {frozenset({1e-3, 1e2, 1e4})}
    # Loops whose length depends on values are unrolled as often as the usual inputs need.
    stressed = {net: found.stressed for net, found in with_fixes.items() if found.stressed}
    assert set(stressed) <= {"scripted_values"}, stressed


def test_shuffles_move_no_data_where_weights_can_follow(with_fixes: dict[str, Outcome]) -> None:
    """Those between convolutions, however they are written; those that others read stay."""
    nets = {net: found for net, found in with_fixes.items() if net.startswith("shuffle_")}
    kept = {net for net in nets if net.startswith("shuffle_kept_")}
    assert len(kept) >= 8 and len(nets) - len(kept) >= 18
    assert {net for net, found in nets.items() if "channel-shuffle" not in found.fixes} == kept
    moved = {net: found.operators for net, found in nets.items() if net not in kept}
    # The input and the outputs are turned; a vector's reshapes are of that.
    assert {net: found["TRANSPOSE"] for net, found in moved.items() if found["TRANSPOSE"] > 2} == {
        "shuffle_given_too": 3
    }
    assert not any("STRIDED_SLICE" in found or "GATHER" in found for found in moved.values())


def test_each_fix_has_a_net_that_needs_it() -> None:
    from stages.fixes.catalogue import FIXES

    # What files made elsewhere need is tested with them, in test_entry.py and test_onnx_files.py.
    elsewhere = {
        *("static-batch", "control-flow", "older-opset", "single-precision"),
        # Of an open batch: test_open_batch.py.
        *("open-trace", "open-onnx", "open-graph"),
        # Of frozen graphs and of quantised models: test_entry.py, test_quantize_layers.py.
        *(fix.name for fix in FIXES if fix.stage in ("graph", "quantize")),
    }
    assert {fix.name for fix in FIXES} - elsewhere == set(NEEDS.values())


@pytest.fixture(scope="module")
def without(in_environment: RunIn, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """Each net that needs a fix, converted with all fixes but that one."""
    folder = tmp_path_factory.mktemp("without")
    nets = [net for net in NEEDS if net not in LEFT_OUT]
    for net in nets:
        request = {"options": {"fixes": f"all,-{NEEDS[net]}"}}
        (folder / net / "requests").mkdir(parents=True)
        for stage in ("torch", "onnx-tf"):
            (folder / net / "requests" / f"{stage}.json").write_text(json.dumps(request))
    return convert(in_environment, folder, "requested", nets)


@pytest.mark.parametrize("net", [net for net in NEEDS if net not in LEFT_OUT])
def test_without_a_fix_its_net_is_worse(
    net: str, with_fixes: dict[str, Outcome], without: dict[str, Outcome]
) -> None:
    found, before = without[net], with_fixes[net]
    more = sum(found.operators.values()) > sum(before.operators.values())
    assert not found.good or more, f"{net} is as good without {NEEDS[net]}: {found}"


def test_the_page_lists_the_catalogue_as_it_is(tmp_path: Path) -> None:
    import runpy

    page = runpy.run_path(str(ROOT / "docs" / "generate.py"))["fixes_page"]()
    assert page == (ROOT / "docs" / "fixes.md").read_text()
