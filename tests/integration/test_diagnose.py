"""`runner diagnose`: planted faults are found at their layers, and nothing is named without one."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from faults import FAULTS
from harness import (
    BAD_INPUT,
    DOCKER,
    OUT_OF_TOLERANCE,
    PASSED,
    ROOT,
    STAGE_FAILED,
    SUPPORT,
    Convert,
    Run,
    docker_leftovers,
    leftovers,
    run_cli,
    run_here,
)

CODE = SUPPORT / "diagnosed.py"
INPUTS = {
    "planted": ("1x4x12x14",),
    "residual": ("1x4x12x14",),
    "shuffled": ("1x4x12x14",),
    "large": ("1x4x12x14",),
    "attention": ("1x7x16",),
    "recurrent": ("1x6x8",),
    "two": ("image=1x4x12x14", "numbers=1x6"),
    "pooled": ("1x4x12x14",),
    "moved": ("1x4x32",),
    "refused": (),
}
# The first column of a box is the image's index in the batch, of which there is one.
BOXES = "[[input]]\nshape = [1, 3, 16, 16]\n[[input]]\nshape = [2, 5]\nrange = [0.0, 0.9]\n"
IMAGES = {"model.onnx": "torch", "model.pb": "tflite", "model.tflite": "tflite"}
STAGE_OF = {"model.onnx": "torch", "model.pb": "onnx-tf", "model.tflite": "tflite"}
# One spoils the model for the others.
TOGETHER = [name for name in FAULTS if name != "onnx_stride"]
RunIn = Callable[..., "subprocess.CompletedProcess[str]"]
Made = Callable[..., Run]


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory, in_environment: RunIn) -> Path:
    folder = tmp_path_factory.mktemp("networks")
    made = in_environment("torch", CODE, folder)
    assert made.returncode == 0, made.stderr
    (folder / "refused.toml").write_text(BOXES)
    return folder


@pytest.fixture(scope="module")
def made(networks: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Convert one of the networks, once for the same arguments."""
    done: dict[tuple[Any, ...], Run] = {}

    def run(name: str, *options: str, engine: str = "process", samples: int = 12) -> Run:
        key = (name, options, engine)
        if key not in done:
            folder = tmp_path_factory.mktemp("diagnosed") / name
            inputs = [part for shape in INPUTS[name] for part in ("--input", shape)]
            finished = run_cli(
                *("convert", "--model", networks / f"{name}.pt", "--arch", CODE, *inputs),
                *("--samples", str(samples), "--engine", engine, "--output", folder, *options),
                cwd=networks,
            )
            done[key] = Run(finished.returncode, finished.stdout, finished.stderr, folder)
        return done[key]

    return run


def diagnose(run: Path, *options: str | Path, engine: str = "process") -> tuple[int, Any]:
    finished = run_cli("diagnose", run, "--engine", engine, "--json", *options, cwd=run.parent)
    assert "Traceback" not in finished.stderr, finished.stderr
    return finished.returncode, json.loads(finished.stdout) if finished.stdout else finished.stderr


def named(diagnosis: Any, stage: str) -> list[dict[str, Any]]:
    """What a diagnosis names in a stage, the culprit first."""
    found = [diagnosis["culprit"], *diagnosis["others"]]
    return [culprit for culprit in found if culprit and culprit["stage"] == stage]


@pytest.fixture(scope="module")
def plant(made: Made, in_environment: RunIn, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A copy of the run of `planted` with faults in its artifacts."""

    def run(*names: str, clean: Run | None = None) -> Path:
        clean = clean or made("planted")
        assert clean.code == PASSED, clean.stdout
        folder = tmp_path_factory.mktemp("faulty") / "run"
        shutil.copytree(clean.folder, folder)
        image = IMAGES[FAULTS[names[0].partition("@")[0]][0]]
        planted = in_environment(image, SUPPORT / "faults.py", folder, *names)
        assert planted.returncode == 0, planted.stderr
        return folder

    return run


@pytest.fixture(scope="module")
def diagnoses(plant: Any) -> Callable[[str], Any]:
    """The diagnosis of a run with all faults of one artifact, each at another layer."""
    done: dict[str, Any] = {}

    def of(artifact: str) -> Any:
        if artifact not in done:
            names = [name for name in TOGETHER if FAULTS[name][0] == artifact]
            code, done[artifact] = diagnose(plant(*names), "--samples", "3")
            assert code == OUT_OF_TOLERANCE
        return done[artifact]

    return of


@pytest.mark.parametrize("name", TOGETHER)
def test_a_fault_is_found_at_its_layer(diagnoses: Callable[[str], Any], name: str) -> None:
    artifact, layer, _ = FAULTS[name]
    found = named(diagnoses(artifact), STAGE_OF[artifact])
    assert [c for c in found if layer in c["modules"]], [c["modules"] for c in found]


@pytest.mark.parametrize("artifact", IMAGES)
def test_only_the_faulty_layers_are_named(diagnoses: Callable[[str], Any], artifact: str) -> None:
    """Each operator is judged on right inputs: what follows a wrong one is not wrong for that."""
    layers = [FAULTS[name][1] for name in TOGETHER if FAULTS[name][0] == artifact]
    diagnosis = diagnoses(artifact)
    found = named(diagnosis, STAGE_OF[artifact])
    assert len(found) == len(layers)
    for culprit in found:
        assert sum(layer in culprit["modules"] for layer in layers) == 1, culprit
        assert culprit["artifact"] == artifact
        assert culprit["own_error"] > culprit["limit"] or culprit["wrong"].startswith("shape")
    stages = [stage["stage"] for stage in diagnosis["stages"]]
    earlier = stages[: stages.index(STAGE_OF[artifact])]
    assert not [c for stage in earlier for c in named(diagnosis, stage)]
    assert any(f"{artifact} has changed" in note for note in diagnosis["notes"])


def test_the_culprit_is_the_first(diagnoses: Callable[[str], Any]) -> None:
    diagnosis = diagnoses("model.onnx")
    assert diagnosis["verdict"] == "found"
    assert diagnosis["culprit"]["modules"] == ["features.0.2"]
    assert diagnosis["culprit"]["operators"] == ["Relu"]
    for word in ("'torch'", "'features.0.2'", "Relu", "model.onnx"):
        assert word in diagnosis["summary"]


@pytest.mark.parametrize("artifact", IMAGES)
def test_each_tensor_names_those_it_is_computed_from(
    diagnoses: Callable[[str], Any], artifact: str
) -> None:
    traces = [stage["trace"] for stage in diagnoses(artifact)["stages"] if stage["trace"]]
    assert len(traces) == 3
    for trace in traces:
        known: set[str] = set()
        for point in trace["points"]:
            assert known.issuperset(point["inputs"]), point
            known.add(point["tensor"])
        read = {name for point in trace["points"] for name in point["inputs"]}
        # All but the outputs are read by others that were compared.
        assert len(known - read) <= 3 and len(known) > 10


@pytest.mark.parametrize("name", ["onnx_epsilon", "lite_scaled_channel"])
def test_a_fault_alone(plant: Any, name: str) -> None:
    artifact, layer, _ = FAULTS[name]
    code, diagnosis = diagnose(plant(name), "--samples", "2")
    assert code == OUT_OF_TOLERANCE
    assert layer in diagnosis["culprit"]["modules"]
    assert diagnosis["culprit"]["stage"] == STAGE_OF[artifact]
    # model.pb was made of the right model.onnx, so it differs from the faulty one just there.
    assert all(layer in other["modules"] for other in diagnosis["others"])
    trace = diagnosis["stages"][list(STAGE_OF).index(artifact)]["trace"]
    wrong = [point["tensor"] for point in trace["points"] if point["wrong"]]
    assert wrong == [diagnosis["culprit"]["tensor"]]
    if name == "onnx_epsilon":
        # The curve: right before the fault, wrong from there on to the end.
        errors = [point["error"] for point in trace["points"]]
        place = [point["tensor"] for point in trace["points"]].index(wrong[0])
        assert max(errors[:place]) < 1e-5 < min(errors[place], errors[-1])


def test_a_model_that_does_not_run_any_more(plant: Any) -> None:
    code, diagnosis = diagnose(plant("onnx_stride"), "--samples", "2")
    assert code == OUT_OF_TOLERANCE
    assert diagnosis["culprit"]["modules"] == ["features.4.0"]
    assert diagnosis["culprit"]["wrong"].startswith("shape 1x12x")
    # The other fault, where the matrices do not fit.
    assert [other["modules"] for other in diagnosis["others"]] == [["head"]]
    assert "does not run on the reference's values" in diagnosis["others"][0]["wrong"]
    assert any("as a whole does not run" in note for note in diagnosis["notes"])


@pytest.mark.parametrize("fault", ["onnx_epsilon@image.1", "lite_rounded_weight@numbers"])
def test_a_fault_in_the_chain_of_the_tools_alone(made: Made, plant: Any, fault: str) -> None:
    layer = fault.partition("@")[2]
    folder = plant(fault, clean=made("two", "--faithful"))
    code, diagnosis = diagnose(folder, "--samples", "2")
    assert code == OUT_OF_TOLERANCE
    assert diagnosis["culprit"]["modules"] == [layer]
    assert all(layer in other["modules"] for other in diagnosis["others"])


CLEAN = [
    ("residual", ()),
    ("shuffled", ()),
    ("large", ()),
    ("attention", ()),
    ("recurrent", ("--faithful",)),
    ("moved", ("--faithful",)),
    pytest.param("planted", (), marks=pytest.mark.years),
    pytest.param("recurrent", (), marks=pytest.mark.years),
    pytest.param("two", (), marks=pytest.mark.years),
    pytest.param("attention", ("--faithful",), marks=pytest.mark.years),
    pytest.param("two", ("--faithful",), marks=pytest.mark.years),
]


@pytest.mark.parametrize(("name", "options"), CLEAN)
def test_nothing_is_named_on_a_clean_run(made: Made, name: str, options: tuple[str, ...]) -> None:
    """With a tolerance that rounding exceeds, the gate fails and the diagnosis comes by itself."""
    run = made(name, "--tolerance", "1e-12", "--strict", *options)
    assert run.code == OUT_OF_TOLERANCE, run.stdout + run.stderr
    diagnosis = run.report["diagnosis"]
    assert diagnosis["verdict"] == "rounding" and diagnosis["culprit"] is None
    assert diagnosis["others"] == []
    assert [stage["failure"] for stage in diagnosis["stages"]] == ["", "", ""]
    for stage in diagnosis["stages"]:
        points = stage["trace"]["points"]
        assert len(points) == stage["trace"]["matched"] >= 4
        assert points[-1]["error"] < 1e-4
        # Far from the limit on both sides: most of a fault's room is above it.
        assert max(point["ratio"] for point in points) < 0.5
    assert "No operator is wrong" in run.stdout
    assert leftovers(run.folder) == []


def test_channels_in_another_order_are_compared_with_their_own(made: Made) -> None:
    run = made("shuffled", "--tolerance", "1e-12", "--strict")
    report = run.stage("onnx-tf")["report"]
    assert "channel-shuffle" in report["fixes"]
    reordered = [name for name, place in report["tensors"].items() if place["channels"]]
    traced = {
        point["reference"] for point in run.report["diagnosis"]["stages"][1]["trace"]["points"]
    }
    assert len(reordered) > 5 and set(reordered) <= traced


def test_outputs_in_the_tens(made: Made) -> None:
    run = made("large", "--tolerance", "1e-12", "--strict")
    assert run.outputs("torch")[0]["reference_std"] > 10


def test_the_gate_names_a_wrong_shape(made: Made) -> None:
    """A real fault of the tools: the layout is never turned back after the last mean."""
    run = made("pooled", "--faithful")
    assert run.code == OUT_OF_TOLERANCE
    culprit = run.report["diagnosis"]["culprit"]
    assert culprit["stage"] == "tflite" and "pool" in culprit["modules"]
    assert "shape 1x1x1x6 instead of 1x6x1x1" in run.stdout.replace("\n", " ")
    schema = json.loads((ROOT / "docs/schemas/report.schema.json").read_text())
    jsonschema.validate(run.report, schema)
    assert (run.folder / "logs/trace-tflite.log").exists()


def test_no_diagnosis_on_request(made: Made) -> None:
    run = made("pooled", "--faithful", "--no-diagnose")
    assert run.code == OUT_OF_TOLERANCE and run.report["diagnosis"] is None


def test_a_model_that_decides_by_its_inputs(convert: Convert) -> None:
    run = convert("branches", "--samples", "16")
    assert run.code == OUT_OF_TOLERANCE
    culprit = run.report["diagnosis"]["culprit"]
    assert culprit["stage"] == "torch" and "depends on the values" in culprit["wrong"]


def test_the_reference_has_nan(convert: Convert) -> None:
    run = convert("nan", "--input", "1x8")
    assert run.code == OUT_OF_TOLERANCE
    diagnosis = run.report["diagnosis"]
    assert diagnosis["verdict"] == "reference" and "(Log)" in diagnosis["summary"]


def test_torchscript_has_paths_too(convert: Convert) -> None:
    run = convert("script", "--tolerance", "1e-12", "--strict")
    diagnosis = run.report["diagnosis"]
    assert diagnosis["verdict"] == "rounding", diagnosis["notes"]
    modules = [point["modules"] for point in diagnosis["stages"][0]["trace"]["points"]]
    assert [path for paths in modules for path in paths] == list("01234567")


def test_samples_are_those_of_the_check(
    convert: Convert, made: Made, networks: Path, tmp_path: Path
) -> None:
    """The worst samples of the check come into the trace, drawn again just as they were.

    Unasked, two are traced of a run whose error is at rounding.
    """
    run = made("two", "--tolerance", "1e-12", "--strict")
    worst = [w["sample"] for w in run.outputs("tflite")[0]["worst_samples"]]
    asked = ("diagnose", run.folder, "--json", "--engine", "process", "--samples")
    one, few, many = (
        run.report["diagnosis"],
        *(json.loads(run_cli(*asked, count, cwd=tmp_path).stdout) for count in ("2", "8")),
    )
    assert one["samples"] == few["samples"] and len(one["samples"]) == 2
    assert many["samples"][0] == 0 and set(worst[:4]) <= set(many["samples"])
    for before, after in zip(one["stages"], few["stages"], strict=True):
        assert before["trace"] == after["trace"]


def test_samples_of_the_users(made: Made, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    path = tmp_path / "own.npz"
    np.savez(
        path,
        image=rng.normal(size=(5, 4, 12, 14)).astype("float32"),
        numbers=rng.normal(size=(5, 6)).astype("float32"),
    )
    run = made("two", "--inputs", str(path))
    assert run.code == PASSED
    code, diagnosis = diagnose(run.folder)
    assert code == PASSED and sorted(diagnosis["samples"]) == [0, 1, 2, 3, 4]
    path.unlink()
    code, said = diagnose(run.folder)
    assert code == BAD_INPUT and "no longer" in said


def test_the_table_for_a_person(plant: Any) -> None:
    folder = plant("lite_flipped_kernel")
    finished = run_cli(
        "diagnose", folder, "--engine", "process", "--samples", "1", cwd=folder.parent
    )
    text = " ".join(finished.stdout.split())
    assert finished.returncode == OUT_OF_TOLERANCE
    assert "born in the stage 'tflite', at the layer 'features.4.0 + features.4.1'" in text
    assert "tensors of model.tflite compared" in text
    saved = json.loads((folder / "diagnosis.json").read_text())
    assert saved["culprit"]["modules"] == ["features.4.0", "features.4.1"]


def test_given_onnx(made: Made, tmp_path: Path) -> None:
    source = made("planted").folder / "model.onnx"
    arguments = ("--samples", "4", "--engine", "process", "--tolerance", "1e-12", "--strict")
    finished = run_cli(
        *("convert", "--from-onnx", source, "--output", tmp_path / "run", *arguments),
        cwd=tmp_path,
    )
    assert finished.returncode == OUT_OF_TOLERANCE
    report = json.loads((tmp_path / "run/report.json").read_text())
    assert report["diagnosis"]["verdict"] == "rounding"
    stages = report["diagnosis"]["stages"]
    assert [stage["stage"] for stage in stages] == ["onnx", "onnx-tf", "tflite"]
    assert all(stage["trace"]["matched"] >= 15 for stage in stages)


@pytest.fixture
def copied(made: Made, tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "run"
    shutil.copytree(made("planted").folder, folder)
    yield folder


def test_wrong_use(
    made: Made, copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*arguments: str | Path) -> str:
        finished = run_here(capsys, "diagnose", *arguments, "--engine", "process", cwd=tmp_path)
        assert finished.returncode == BAD_INPUT, finished.stderr
        return " ".join(finished.stderr.split())

    assert "is not the folder of a run" in said(tmp_path)
    assert "between 1 and" in said(copied, "--samples", "0")
    assert "is not the model of this run" in said(copied, "--model", CODE)
    assert "is not at" in said(copied, "--model", tmp_path / "none.pt")
    report = json.loads((copied / "report.json").read_text())
    report["model"]["path"] = str(tmp_path / "moved.pt")
    (copied / "report.json").write_text(json.dumps(report))
    assert "Say where it is: --model FILE" in said(copied)
    for name in ("model.onnx", "model.pb", "model.tflite"):
        (copied / name).unlink()
    model = made("planted").report["model"]["path"]
    assert "no artifact to trace" in said(copied, "--model", model)
    (copied / "report.json").write_text("{}")
    assert "not a report of this version" in said(copied)


def test_a_part_is_traced_as_far_as_it_goes(copied: Path) -> None:
    (copied / "model.tflite").unlink()
    code, diagnosis = diagnose(copied, "--samples", "1")
    assert code == PASSED
    assert [stage["stage"] for stage in diagnosis["stages"]] == ["torch", "onnx-tf"]


def test_an_artifact_that_cannot_be_read(copied: Path) -> None:
    (copied / "model.pb").write_bytes(b"no graph")
    code, diagnosis = diagnose(copied, "--samples", "1")
    assert code == STAGE_FAILED and diagnosis["verdict"] == "incomplete"
    assert diagnosis["stages"][1]["failure"] and not diagnosis["stages"][0]["failure"]


@pytest.mark.parametrize("engine", [DOCKER])
def test_on_docker(made: Made, plant: Any, engine: str) -> None:
    run = made("pooled", "--faithful", engine=engine)
    culprit = run.report["diagnosis"]["culprit"]
    assert culprit["stage"] == "tflite" and "pool" in culprit["modules"]
    folder = plant("graph_no_bias")
    code, diagnosis = diagnose(folder, "--samples", "2", engine=engine)
    assert code == OUT_OF_TOLERANCE and diagnosis["culprit"]["modules"] == ["classifier"]
    assert docker_leftovers(run.report["run"]) == ""


@pytest.mark.parametrize("options", [(), ("--faithful",)])
def test_a_refusal_names_the_users_layer(made: Made, options: tuple[str, ...]) -> None:
    run = made("refused", *options, samples=2)
    assert run.code == STAGE_FAILED
    assert "the layer 'head.crop' (ONNX operator RoiAlign" in run.stage("onnx-tf")[
        "failure"
    ].replace("The", "the")


def test_a_refusal_of_the_last_converter_names_it_too(made: Made) -> None:
    run = made("residual", "--faithful")
    assert run.code == STAGE_FAILED
    assert "broke the graph at the layer 'conv0'" in run.stage("tflite")["failure"]
