"""Reports for tests of what is made of them: as real runs leave them, with figures to choose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from runner.schemas.report import Report

HASH = "0123456789abcdef" * 4
_CHECKS = {"torch": "ONNX Runtime 1.4.0", "onnx-tf": "TensorFlow 2.2.0", "tflite": "TFLite 2.4.0"}
_ARTIFACTS = {"torch": "model.onnx", "onnx-tf": "model.pb", "tflite": "model.tflite"}
_OPERATORS = {
    "torch": {"Conv": 3, "Constant": 2},
    "onnx-tf": {"Conv2D": 3, "Const": 6, "Placeholder": 1},
    "tflite": {"CONV_2D": 3, "FlexErf": 1},
}


def output(name: str = "scores", error: float = 1e-7, **changes: Any) -> dict[str, Any]:
    """The statistics of one output, with a mean error."""
    return {
        "name": name,
        "shape": [1, 10],
        "actual_shape": None,
        "dtype": "float32",
        "samples": 100,
        "nonfinite": 0,
        "reference_nonfinite": 0,
        **{f"mean_{kind}": error for kind in ("abs", "rel")},
        **{f"max_{kind}": 9 * error for kind in ("abs", "rel")},
        **{f"p99_{kind}": 4 * error for kind in ("abs", "rel")},
        **{f"rms_{kind}": 2 * error for kind in ("abs", "rel")},
        "cosine_mean": 1.0,
        "cosine_min": 1.0,
        "top1_agreement": 1.0,
        "reference_mean": 0.1,
        "reference_std": 1.0,
        "reference_sample_std": 0.9,
        "worst_samples": [
            {"sample": 41, "max_abs": 9 * error, "mean_abs": 2 * error},
            {"sample": 7, "max_abs": 3 * error, "mean_abs": error},
        ],
        "histogram": {
            "zeros": 200,
            "edges": [error / 2, error, 2 * error, 4 * error, 16 * error],
            "counts": [500, 200, 0, 100],
        },
        "verdict": "passed",
        "passing_tolerance": error * 1.0001,
        "noise_floor": 5e-8,
        "times_noise_floor": error / 5e-8,
        **changes,
    }


def stage(name: str, outputs: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """A stage that went well."""
    outputs = [output()] if outputs is None else outputs
    artifact = {"path": _ARTIFACTS[name], "sha256": HASH, "bytes": 1_500_000}
    tensor = {"name": "image", "shape": [1, 3, 8, 8], "dtype": "float32", "node": "image:0"}
    floor = {"name": "scores", **{f"{m}_abs": 5e-8 for m in ("mean", "max", "rms", "p99")}}
    return {
        "name": name,
        "title": f"To {_ARTIFACTS[name]}",
        "status": "ok",
        "seconds": 2.5,
        "exit_status": 0,
        "environment": {
            "image": name,
            "identity": HASH,
            "lock_sha256": HASH,
            "stand_ins": ["new==2, stand-in for old==1"] if name == "tflite" else [],
        },
        "log": f"logs/{name}.log",
        "report": {
            "schema": 1,
            "stage": name,
            "status": "ok",
            "started": "2026-01-02T03:04:05+00:00",
            "seconds": 2.4,
            "phases": {"export": 0.5, "convert": 1.5, "check": 0.7},
            "peak_memory_bytes": 300_000_000,
            "platform": {"python": "3.8.18", "machine": "x86_64"},
            "versions": {"tool": "1.2.3", "numpy": "1.19.2"},
            "options": {"fixes": "all"},
            "notes": [],
            "input": None,
            "artifact": artifact,
            "signature": {"inputs": [tensor], "outputs": [{**tensor, "name": "scores"}]},
            "operators": _OPERATORS[name],
            "check": {
                "framework": _CHECKS[name],
                "samples": 100,
                "metric": "mean_abs",
                "tolerance": 1e-6,
                "verdict": max((o["verdict"] for o in outputs), key=_SERIOUS.index),
                "seconds": 0.6,
                "outputs": outputs,
            },
            "error": None,
            "parameters": 1234,
            "noise_floor": {"samples": 16, "outputs": [floor], "reason": ""}
            if name == "torch"
            else None,
            "fixes": ["layout"] if name == "onnx-tf" else [],
        },
    }


_SERIOUS = ("passed", "rounding", "vacuous", "exceeded", "nonfinite", "shape")


def report(**changes: Any) -> dict[str, Any]:
    """A run that passed, as JSON."""
    stages = [stage(name) for name in _ARTIFACTS]
    return {
        "schema_version": 1,
        "runner": "0.1.0",
        "run": "net-20260102-030405-abcd",
        "started": "2026-01-02T03:04:05.678+00:00",
        "seconds": 9.5,
        "setup_seconds": 1.5,
        "overhead_seconds": 0.2,
        "outcome": "passed",
        "exit_code": 0,
        "toolchain": "pytorch-tflite-2020",
        "model": {"name": "net.pt", "kind": "pickled module", "sha256": HASH, "bytes": 2_000_000},
        "options": {"samples": 100, "seed": 3, "fixes": "all"},
        "inputs_from": "net.toml",
        "engine": {"name": "process", "reason": "asked for", "details": {"cache": "/c"}},
        "gate": {"metric": "mean_abs", "tolerance": 1e-6, "value": 1e-7, "verdict": "passed"},
        "notes": ["A note."],
        "artifacts": [s["report"]["artifact"] for s in stages],
        "stages": stages,
        **changes,
    }


def point(tensor: str, *inputs: str, **changes: Any) -> dict[str, Any]:
    """A tensor of a trace, computed from others, of which nothing is wrong."""
    return {
        "tensor": tensor,
        "reference": tensor,
        "shape": [1, 8, 16, 16],
        "inputs": list(inputs),
        "operators": ["Conv", "Relu"],
        "nodes": [f"node_{tensor}"],
        "modules": [f"features.{tensor}"],
        "error": 1e-7,
        "own_error": 1e-8,
        "limit": 1e-6,
        "ratio": 0.01,
        "wrong": "",
        "reference_nonfinite": False,
        **changes,
    }


def culprit(stage: str, found: dict[str, Any]) -> dict[str, Any]:
    """What a diagnosis says of a point that is wrong."""
    keys = ("tensor", "operators", "nodes", "modules", "own_error", "limit")
    wrong = {"stage": stage, "artifact": _ARTIFACTS[stage], "wrong": "error"}
    return {**wrong, **{key: found[key] for key in keys}}


def diagnosis(
    traces: dict[str, list[dict[str, Any]]], *culprits: dict[str, Any], **changes: Any
) -> dict[str, Any]:
    """A diagnosis of these points by stage, which names these culprits, the first one first."""
    stages = [
        {
            "stage": name,
            "artifact": _ARTIFACTS[name],
            "seconds": 1.0,
            "trace": {
                "samples": 8,
                "tensors": len(points),
                "matched": len(points),
                "points": points,
                "notes": [],
            }
            if points
            else None,
        }
        for name, points in traces.items()
    ]
    return {
        "verdict": "found" if culprits else "rounding",
        "summary": "What is wrong, in words.",
        "culprit": culprits[0] if culprits else None,
        "others": list(culprits[1:]),
        "samples": [0, 1],
        "notes": [],
        "seconds": 2.0,
        "stages": stages,
        **changes,
    }


def quantized_point(tensor: str, *inputs: str, **changes: Any) -> dict[str, Any]:
    """A tensor of a quantised model's trace, of which nothing is wrong."""
    return {
        "tensor": tensor,
        "operators": ["CONV_2D"],
        "modules": [tensor],
        "shape": [1, 8, 8, 4],
        "inputs": list(inputs),
        **dict.fromkeys(("sqnr", "own_sqnr", "quiet_sqnr"), 30.0),
        "output_sqnr": 60.0,
        "levels": [-1.0, 1.0],
        "seen": [-0.9, 0.9],
        "outside": 0.0,
        **changes,
    }


def quantized_trace(points: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """The trace of an int8 model with these points, and no faults."""
    counts = dict.fromkeys(("samples", "tensors", "matched"), len(points))
    named = {"mode": "int8", "artifact": "model.int8.tflite"}
    return {**named, **counts, "points": points, "faults": [], **changes}


def latency(median: float) -> dict[str, Any]:
    """A model's latency of 12 turns, with its quartiles a tenth away."""
    near = {"least": 0.8 * median, "low": 0.9 * median, "high": 1.1 * median}
    return {"threads": 1, "turns": 12, "median": median, "most": 2 * median, **near}


def timed(mode: str, runtime: str, whole: float, own: float) -> dict[str, Any]:
    """The record of a quantised model, with the latency of both."""
    made = stage("tflite")
    made["report"]["stage"] = made["name"] = mode
    made["report"]["artifact"]["path"] = f"model.{mode}.tflite"
    pair = {"float_model": latency(whole), "quantized": latency(own)}
    made["report"]["latency"] = {"runtime": runtime, **pair}
    return made


def exceeded() -> dict[str, Any]:
    """A run whose error is beyond the tolerance."""
    made = report(outcome="out-of-tolerance", exit_code=4)
    made["gate"] = {**made["gate"], "value": 1e-5, "verdict": "exceeded"}
    outputs = [output(error=1e-5, verdict="exceeded")]
    made["stages"] = [stage(name, outputs) for name in _ARTIFACTS]
    return made


def failed() -> dict[str, Any]:
    """A run whose second stage failed."""
    made = report(outcome="failed", exit_code=3)
    made["gate"] = {**made["gate"], "value": None, "verdict": None}
    first, second, third = made["stages"]
    error = {
        "phase": "convert",
        "type": "StageError",
        "message": "No such operator.\nAt Conv_1.",
        "remedy": "Write it otherwise.",
        "blame": "stage",
        "traceback": ["Traceback:\n", "  File 'x'\n"],
    }
    second["report"].update(status="failed", artifact=None, check=None, error=error, operators={})
    second.update(status="failed", failure=error["message"], remedy=error["remedy"], blame="stage")
    left = {"name": "tflite", "title": third["title"], "status": "skipped"}
    made.update(stages=[first, second, left], artifacts=made["artifacts"][:1])
    return made


def interrupted() -> dict[str, Any]:
    made = failed()
    made.update(outcome="interrupted", exit_code=130)
    made["stages"][1].update(status="interrupted", failure="", remedy="", report=None)
    return made


def nonfinite() -> dict[str, Any]:
    made = report(outcome="out-of-tolerance", exit_code=4)
    made["gate"] = {**made["gate"], "value": 0.0, "verdict": "nonfinite"}
    nothing = {"zeros": 0, "edges": [], "counts": []}
    changes = {"nonfinite": 10, "reference_nonfinite": 10, "worst_samples": []}
    outputs = [output(error=0.0, verdict="nonfinite", histogram=nothing, **changes)]
    made["stages"] = [stage(name, outputs) for name in _ARTIFACTS]
    return made


def wrong_shape() -> dict[str, Any]:
    made = report(outcome="out-of-tolerance", exit_code=4)
    made["gate"] = {**made["gate"], "value": None, "verdict": "shape"}
    figures = {f"{m}_{k}": None for m in ("mean", "max", "p99", "rms") for k in ("abs", "rel")}
    changes = {"actual_shape": [10, 1], "histogram": None, "worst_samples": [], "samples": 0}
    outputs = [output(verdict="shape", **changes, **figures)]
    made["stages"] = [stage(name, outputs) for name in _ARTIFACTS]
    return made


def vacuous() -> dict[str, Any]:
    made = report(outcome="vacuous", exit_code=5)
    made["gate"] = {**made["gate"], "verdict": "vacuous"}
    made["stages"] = [stage(name, [output(verdict="vacuous")]) for name in _ARTIFACTS]
    return made


def quantized() -> dict[str, Any]:
    """A run with a quantised model that takes some classes for others, and with labels."""
    labelled = {"reference_accuracy": 0.97, "accuracy": 0.97}
    made = report(stages=[stage(name, [output(**labelled)]) for name in _ARTIFACTS])
    pair = {"reference": 3, "actual": 8, "count": 2, "sample": 41}
    wrong = {"top1_agreement": 0.98, "accuracy": 0.9512, "confusion": [pair]}
    record = stage("tflite", [output(error=0.01, **{**labelled, **wrong})])
    picture = {"sample": 41, "width": 2, "height": 1, "channels": 1, "pixels": "AP8="}
    record["report"]["check"].update(metric="rms_rel", tolerance=0.1, pictures=[picture])
    made["quantized"] = [{**record, "name": "int8"}]
    return made


KINDS: dict[str, Callable[[], dict[str, Any]]] = {
    "passed": report,
    "exceeded": exceeded,
    "failed": failed,
    "interrupted": interrupted,
    "nonfinite": nonfinite,
    "shape": wrong_shape,
    "vacuous": vacuous,
    "quantized": quantized,
}


def validated(made: dict[str, Any]) -> Report:
    return Report.model_validate(made)
