"""The figures in the report are right: the same ones, worked out another way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import SUPPORT, Convert, in_order

KINDS = {"torch": "onnx", "onnx-tf": "graph", "tflite": "tflite"}
FILES = {"onnx": "model.onnx", "graph": "model.pb", "tflite": "model.tflite"}
COUNT, SEED = 8, 0


@pytest.fixture(scope="module")
def recomputed(
    convert: Convert, models: Path, in_environment: Any, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """Per model, the outputs of PyTorch and of each artifact for the seeded inputs."""
    done: dict[tuple[str, str], list[np.ndarray]] = {}
    folder = tmp_path_factory.mktemp("recomputed")

    def outputs(name: str, stage: str) -> list[np.ndarray]:
        if (name, stage) in done:
            return done[name, stage]
        run = convert(name)
        kind = "torch" if stage == "" else KINDS[stage]
        signature = run.stage(stage or "torch")["report"]["signature"]
        nodes = [",".join(t["node"] for t in signature[side]) for side in ("inputs", "outputs")]
        made = in_environment(
            stage or "torch",
            SUPPORT / "recompute.py",
            kind,
            models / f"{name}.pt" if kind == "torch" else run.folder / FILES[kind],
            folder / name,
            json.dumps(signature["inputs"]),
            SEED,
            COUNT,
            *([] if kind == "torch" else nodes),
        )
        assert made.returncode == 0, made.stderr
        done[name, stage] = [np.load(path) for path in in_order(folder / name, kind)]
        return done[name, stage]

    return outputs


@pytest.mark.parametrize("stage", KINDS)
@pytest.mark.parametrize("name", ["cnn", "two", "ids", "lstm"])
def test_every_error_is_the_one_recomputed(
    convert: Convert, recomputed: Any, name: str, stage: str
) -> None:
    references, actual = recomputed(name, ""), recomputed(name, stage)
    reported = convert(name).outputs(stage)
    assert len(references) == len(actual) == len(reported)
    for wanted, got, output in zip(references, actual, reported, strict=True):
        assert got.shape == wanted.shape == (COUNT, *output["shape"])
        error = np.abs(got.astype(np.float64) - wanted.astype(np.float64))
        assert output["samples"] == COUNT
        assert output["mean_abs"] == pytest.approx(error.mean(), rel=1e-3)
        assert output["max_abs"] == pytest.approx(error.max(), rel=1e-3)
        assert output["rms_abs"] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-3)
        assert output["reference_mean"] == pytest.approx(wanted.mean(dtype=np.float64), rel=1e-5)
        assert output["reference_std"] == pytest.approx(wanted.std(dtype=np.float64), rel=1e-5)


def test_the_gate_is_the_worst_output_of_the_last_stage(convert: Convert) -> None:
    outputs = convert("lstm").outputs("tflite")
    gate = convert("lstm").report["gate"]
    assert len(outputs) == 3
    assert gate["value"] == max(output["mean_abs"] for output in outputs)


@pytest.mark.parametrize("metric", ["max", "p99-rel"])
def test_each_metric_is_judged_by_its_own_figure(convert: Convert, metric: str) -> None:
    """With the tolerance just above and just below the figure, the verdict changes."""
    key = metric.replace("-", "_") if metric.endswith("-rel") else f"{metric}_abs"
    (output,) = convert("cnn").outputs("tflite")
    value = output[key]
    assert value > 0
    codes = [
        convert("cnn", "--metric", metric, "--strict", "--tolerance", repr(value * factor)).code
        for factor in (1.001, 0.999)
    ]
    assert codes == [0, 4]
