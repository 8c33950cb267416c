"""What is wrong with a quantised model, layer by layer, and layers that stay in float."""

from __future__ import annotations

import html
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import BAD_INPUT, OUT_OF_TOLERANCE, PASSED, SUPPORT, Run, run_cli

CODE = SUPPORT / "quantized.py"
# By fault: the net, its calibration, the layer that is named, the kind, and words of the reason.
FAULTS = {
    "outlier channel": ("outlier", "seen", "mid", "outlier", "channel 5 reaches"),
    "outlier by BatchNorm": (
        "outlier_norm",
        "seen",
        "block.conv.3",
        "outlier",
        "channel 3 reaches",
    ),
    "saturated sigmoid": ("sigmoid", "seen", "sigmoid", "saturated", "the sigmoid is saturated"),
    "saturated tanh": ("tanh", "seen", "tanh", "saturated", "the tanh is saturated"),
    "unlike operands": ("concat", "seen", "fork", "operands", "as far as 'fork.left'"),
    "narrow range": ("sound", "narrow", "input", "range", "lie outside of"),
    "wide range": ("sound", "wide", "input", "range", "of its levels"),
    "swapped mean": ("sound", "swapped", "input", "input", "was -6"),
}
# So much that no model has it: each run is diagnosed at once, and only its quantised models.
UNREACHABLE = ("--min-sqnr", "90")
# Without what makes up for a part of a planted fault.
UNREPAIRED = ("--fixes=-weight-rounding,-bias-correction",)
# How far the mean outputs of an integer model, over samples, are from those of the float one.
MEANS = """
import sys
import numpy as np
import tensorflow as tf

def run(file):
    interpreter = tf.lite.Interpreter(file)
    interpreter.allocate_tensors()
    (given,), (made,) = interpreter.get_input_details(), interpreter.get_output_details()
    for sample in samples:
        interpreter.set_tensor(given["index"], sample.reshape(given["shape"]))
        interpreter.invoke()
        yield interpreter.get_tensor(made["index"])[0].copy()

arrays = np.load(sys.argv[3])
samples = arrays[arrays.files[0]][:64]
print(np.abs(np.mean([a - b for a, b in zip(run(sys.argv[1]), run(sys.argv[2]))], 0)).mean())
"""
RunIn = Callable[..., "subprocess.CompletedProcess[str]"]
Quantize = Callable[..., Run]


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory, in_environment: RunIn) -> Path:
    folder = tmp_path_factory.mktemp("nets")
    made = in_environment("torch", CODE, folder)
    assert made.returncode == 0, made.stderr
    return folder


@pytest.fixture(scope="module")
def quantize(nets: Path, tmp_path_factory: pytest.TempPathFactory) -> Quantize:
    done: dict[tuple[str, ...], Run] = {}

    def run(net: str, calibration: str, *options: str) -> Run:
        key = (net, calibration, *options)
        if key not in done:
            folder = tmp_path_factory.mktemp("runs") / net
            finished = run_cli(
                *("convert", "--model", nets / f"{net}.pt", "--arch", CODE),
                *("--input", "1x3x32x32", "--inputs", nets / "held.npz", "--min-top1", "0"),
                *("--calibration", nets / f"{calibration}.npz", "--engine", "process", "--cache"),
                *("--output", folder, *options),
                cwd=nets,
            )
            done[key] = Run(finished.returncode, finished.stdout, finished.stderr, folder)
        return done[key]

    return run


def read_trace(run: Run, mode: str = "int8") -> dict[str, Any]:
    traces = run.report["diagnosis"]["quantized"]
    (found,) = [trace for trace in traces if trace["mode"] == mode]
    assert not found["failure"], found
    return dict(found)


def list_named(trace: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [
        (" + ".join(fault["modules"]) or fault["tensor"], fault["kind"], fault["reason"])
        for fault in trace["faults"]
    ]


def read_sqnr(run: Run, mode: str) -> float:
    (record,) = [record for record in run.report["quantized"] if record["name"] == mode]
    (output,) = record["report"]["check"]["outputs"]
    return float(-20 * np.log10(output["rms_rel"]))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_named_at_its_layer(quantize: Quantize, fault: str) -> None:
    net, calibration, layer, kind, words = FAULTS[fault]
    run = quantize(net, calibration, "--quantize", "int8", *UNREACHABLE)
    assert run.code == OUT_OF_TOLERANCE, run.stderr
    named = list_named(read_trace(run))
    assert [(where, what) for where, what, _ in named] == [(layer, kind)]
    assert words in named[0][2]
    assert run.report["diagnosis"]["verdict"] == "quantization"
    assert layer in run.report["diagnosis"]["summary"]
    page = html.unescape((run.folder / "report.html").read_text())
    assert named[0][2] in page and "int8 by layer" in page
    assert "Signal to noise by depth, int8" in page
    # Its row links to what is around it in the graph.
    assert f'<a href="#graph-1">{named[0][0]}</a>' in page
    drawing = page.partition('<figure id="graph-1"')[2].partition("</figure>")[0]
    assert drawing.count('class="box fail"') == 1 and drawing.count('class="edge"') >= 1


def test_a_depthwise_convolution_with_one_scale_is_named(
    quantize: Quantize, nets: Path, in_environment: RunIn
) -> None:
    """The converter itself never writes one: the file is changed, and traced as it is now."""
    run = quantize("sound", "seen", "--quantize", "int8", "--min-sqnr", "21")
    assert run.code == PASSED, run.stderr
    changed = in_environment("tflite", SUPPORT / "per_tensor.py", run.folder / "model.int8.tflite")
    assert changed.returncode == 0, changed.stderr
    done = run_cli("diagnose", run.folder, "--engine", "process", "--json", cwd=nets)
    assert done.returncode == OUT_OF_TOLERANCE, done.stderr
    (trace,) = json.loads(done.stdout)["quantized"]
    ((layer, kind, reason),) = list_named(trace)
    assert layer.startswith("block.conv.1") and kind == "weights"
    assert "one scale for all 32 channels, and channel 0's" in reason


def test_nothing_is_named_in_a_sound_net(quantize: Quantize) -> None:
    run = quantize("sound", "seen", "--quantize", "dynamic,int8,int16x8", *UNREACHABLE)
    for mode in ("dynamic", "int8", "int16x8"):
        trace = read_trace(run, mode)
        assert not trace["faults"]
        assert trace["matched"] > 15 and all(p["own_sqnr"] > 25 for p in trace["points"])
    assert "no layer is unusual" in run.report["diagnosis"]["summary"]


def test_the_kernels_of_int16_are_wrong_without_the_fix(quantize: Quantize) -> None:
    """TensorFlow 2.4 computes sigmoid and tanh of int16 wrongly; in float, they cost nothing."""
    fixed = quantize("sound", "seen", "--quantize", "dynamic,int8,int16x8", *UNREACHABLE)
    option = ("--fixes=-int16-tables", *UNREACHABLE)
    plain = quantize("sound", "seen", "--quantize", "int16x8", *option)
    assert read_sqnr(fixed, "int16x8") > 35 > 10 > read_sqnr(plain, "int16x8")
    named = list_named(read_trace(plain, "int16x8"))
    assert [(layer, kind) for layer, kind, _ in named] == [
        ("sigmoid", "kernel"),
        ("tanh", "kernel"),
    ]


def test_a_padded_max_pool_is_of_integers(quantize: Quantize) -> None:
    """The converter leaves what it pads with in float, and the interpreter refuses that."""
    options = ("--quantize", "int8", "--runtimes", "none")
    fixed = quantize("pooled", "seen", *options)
    assert fixed.code == PASSED and read_sqnr(fixed, "int8") > 30
    plain = quantize("pooled", "seen", *options, "--fixes=-integer-pads")
    (record,) = plain.report["quantized"]
    assert plain.code != PASSED and "PADV2" in record["failure"]


def test_a_recurrent_net_is_traced(quantize: Quantize) -> None:
    """Its scalars have no shape in the file."""
    run = quantize("recurrent", "seen", "--quantize", "int8", *UNREACHABLE)
    assert read_trace(run)["matched"] > 15


def test_what_a_layer_costs_is_what_it_gives_back(quantize: Quantize) -> None:
    """Left in float, the fork and what reads it take their noise with them."""
    options = ("--quantize", "int8", *UNREPAIRED, *UNREACHABLE)
    whole = quantize("concat", "seen", *options)
    layers = ("--keep-float", "fork", "--keep-float", "mid")
    kept = quantize("concat", "seen", *layers, *options)
    assert read_sqnr(whole, "int8") < 10 and read_sqnr(kept, "int8") > 30
    assert not read_trace(kept)["faults"]
    sizes = [(run.folder / "model.int8.tflite").stat().st_size for run in (whole, kept)]
    # A convolution of 32 x 32 x 3 x 3 and the fork's two, three bytes more for each weight.
    assert 3 * 9216 < sizes[1] - sizes[0] < 3 * (9216 + 256 + 2304) + 4000


def test_auto_keeps_as_little_in_float_as_the_gate_takes(quantize: Quantize) -> None:
    run = quantize("concat", "seen", "--quantize", "int8,auto", "--min-sqnr", "20")
    assert run.code == OUT_OF_TOLERANCE  # by int8
    assert read_sqnr(run, "int8") < 20 <= read_sqnr(run, "auto")
    sizes = {
        name: (run.folder / f"model{name}.tflite").stat().st_size for name in ("", ".int8", ".auto")
    }
    assert sizes[""] - sizes[".auto"] >= 0.95 * (sizes[""] - sizes[".int8"])
    (record,) = [record for record in run.report["quantized"] if record["name"] == "auto"]
    steps = record["report"]["search"]
    assert steps[0]["kept"] == [] and steps[0]["sqnr"] < 20
    assert any("mid" in step["kept"] and step["sqnr"] > 21 for step in steps)
    assert any("Kept in float: " in note and "mid" in note for note in run.report["notes"])


def test_a_sound_net_needs_no_layer_in_float(quantize: Quantize) -> None:
    run = quantize("sound", "seen", "--quantize", "int8,auto")
    assert run.code == PASSED, run.stderr
    files = [(run.folder / f"model.{mode}.tflite").read_bytes() for mode in ("int8", "auto")]
    assert files[0] == files[1]


def test_a_record_has_the_quantised_models_and_is_reproduced(
    quantize: Quantize, nets: Path, tmp_path: Path
) -> None:
    run = quantize("sound", "seen", "--quantize", "int8,auto")
    options = ("--engine", "process", "--json")
    done = run_cli("reproduce", run.folder, *options, "--output", tmp_path / "new", cwd=tmp_path)
    found = json.loads(done.stdout)
    assert done.returncode == PASSED and found["verdict"] == "identical", found
    paths = [artifact["path"] for artifact in found["artifacts"]]
    assert paths[-3:] == ["model.tflite", "model.int8.tflite", "model.auto.tflite"]
    # Other samples than those that were recorded are refused.
    other = ("--calibration", nets / "wide.npz", "--output", tmp_path / "other")
    refused = run_cli("reproduce", run.folder, *options, *other, cwd=tmp_path)
    assert refused.returncode == BAD_INPUT
    assert "is not the calibration file of the record" in " ".join(refused.stderr.split())


def test_a_layer_that_is_not_there_is_refused(quantize: Quantize) -> None:
    run = quantize("sound", "seen", "--quantize", "int8", "--keep-float", "block.conf")
    assert run.code == BAD_INPUT
    (record,) = run.report["quantized"]
    assert "no layer 'block.conf'" in record["failure"] and "block.conv" in record["remedy"]


def test_the_ranges_of_weights_are_left_out(quantize: Quantize) -> None:
    """A fix, which changes bytes that nothing reads."""
    fixed = quantize("sound", "seen", "--quantize", "int8,auto")
    plain = quantize("sound", "seen", "--quantize", "int8", "--fixes=-weight-ranges")
    sizes = [(run.folder / "model.int8.tflite").stat().st_size for run in (fixed, plain)]
    assert sizes[0] < sizes[1]
    assert read_sqnr(fixed, "int8") == read_sqnr(plain, "int8")


def read_repairs(run: Run, mode: str) -> dict[str, dict[str, Any]]:
    (record,) = [record for record in run.report["quantized"] if record["name"] == mode]
    found = {repair["name"]: repair for repair in record["report"]["repairs"]}
    for name, repair in found.items():
        # What is kept is told as a fix, and gains more than its error; all of it is in a note.
        assert repair["kept"] == (name in record["report"]["fixes"])
        assert not repair["kept"] or repair["gain"] > repair["error"] > 0
        words = f"The fix {name} was tried and {'kept' if repair['kept'] else 'left out'}"
        assert any(words in note for note in record["report"]["notes"])
    return found


def test_repairs_are_kept_where_they_help(quantize: Quantize) -> None:
    """Judged by the check's samples, which no repair has seen."""
    options = ("--quantize", "int8,int16x8", "--runtimes", "none")
    plain = quantize("sound", "seen", *options, *UNREPAIRED)
    fixed = quantize("sound", "seen", *options)
    files = [(run.folder / "model.int16x8.tflite").read_bytes() for run in (plain, fixed)]
    # Other weights and biases, and not a byte more.
    assert files[0] != files[1] and len(files[0]) == len(files[1])
    assert all(repair["kept"] for repair in read_repairs(fixed, "int16x8").values())
    assert read_sqnr(fixed, "int16x8") > read_sqnr(plain, "int16x8") + 10
    # The noise of int8's activations hides what either repair gains.
    assert list(read_repairs(fixed, "int8")) == ["weight-rounding", "bias-correction"]
    assert not any(repair["kept"] for repair in read_repairs(fixed, "int8").values())
    files = [(run.folder / "model.int8.tflite").read_bytes() for run in (plain, fixed)]
    assert files[0] == files[1]
    assert not any(read_repairs(plain, mode) for mode in ("int8", "int16x8"))


def test_repairs_need_samples_to_be_judged_by(quantize: Quantize, nets: Path) -> None:
    arrays = np.load(nets / "seen.npz")
    np.savez(nets / "few.npz", **{name: array[:15] for name, array in dict(arrays).items()})
    run = quantize("sound", "few", "--quantize", "int8", "--runtimes", "none")
    assert run.code == PASSED and not read_repairs(run, "int8")
    assert any("Not tried: weight-rounding and bias-correction" in n for n in run.report["notes"])


def test_biases_bring_the_means_back(quantize: Quantize, nets: Path, in_environment: RunIn) -> None:
    """Over the calibration samples, most of what the outputs are off by in the mean is gone."""
    options = ("--quantize", "int16x8", "--runtimes", "none")
    plain = quantize("sound", "seen", *options, *UNREPAIRED)
    fixed = quantize("sound", "seen", *options, "--fixes=-weight-rounding")
    assert read_repairs(fixed, "int16x8")["bias-correction"]["kept"]
    means = []
    for run in (plain, fixed):
        names = [run.folder / f"model{ending}.tflite" for ending in ("", ".int16x8")]
        done = in_environment("tflite", "-c", MEANS, *names, nets / "seen.npz")
        assert done.returncode == 0, done.stderr
        means.append(float(done.stdout.split()[-1]))
    assert means[1] < 0.5 * means[0]


# Repairs by number: what they make of a model's one output, whose right value is 1 in each sample.
TRIED = """
import contextlib, json, sys
import numpy as np
from stages.quantize.layers import repairs

class Job:
    options = {"fixes": "all", "calibration": "some"}
    report, notes = {}, []
    note = notes.append
    phase = staticmethod(lambda name: contextlib.nullcontext())

def fail(*given):
    raise ValueError("not this one")

def make(content):
    return lambda *given: content

samples = np.arange(1.0, 10.0)
right = {"finite": samples, "nan": np.append(samples[1:], np.nan)}[sys.argv[1]]
repairs.count_fake_quantizers = lambda *given: 0
repairs.convert_float = lambda *given: b""
repairs.open_model = lambda signature, content: (None, [])
repairs._choose_samples = lambda *given: ([0], list(range(9)))
repairs.run_quantized = lambda content, *given: [
    [np.array([[1 + sample / content[0]]])] for sample in samples
]
repairs._REPAIRS = {"weight-rounding": make(bytes([9])), "bias-correction": fail}
class Trial(repairs._Trial):
    def __init__(self, job, signature, content, fitted, judged):
        self.job, self.signature, self.content = job, signature, content
        self.source, self.fitted, self.judged = None, fitted, judged
        self.expected = [[np.array([[value / value]])] for value in right]
        self.found = repairs.run_quantized(content)
repairs._Trial = Trial
content = repairs.repair_layers(Job(), None, bytes([3]))
print(json.dumps([content[0], Job.report, Job.notes]))
"""


def try_repairs(in_environment: RunIn, samples: str) -> tuple[int, dict[str, Any], list[str]]:
    done = in_environment("tflite", "-c", TRIED, samples)
    assert done.returncode == 0, done.stderr
    content, report, notes = json.loads(done.stdout.splitlines()[-1])
    return content, report, notes


def test_a_repair_that_fails_costs_no_other(in_environment: RunIn) -> None:
    content, report, notes = try_repairs(in_environment, "finite")
    assert content == 9 and report["fixes"] == ["weight-rounding"]
    assert [repair["name"] for repair in report["repairs"]] == ["weight-rounding"]
    assert any("bias-correction failed, and was left out: not this one" in note for note in notes)


def test_what_cannot_be_judged_is_left_out(in_environment: RunIn) -> None:
    """The float model makes no number of one sample."""
    content, report, notes = try_repairs(in_environment, "nan")
    assert content == 3 and not report
    assert any("weight-rounding was left out" in note and "not finite" in note for note in notes)
