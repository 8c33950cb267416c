"""One model through several toolchains: one reference, a run each, and what is said of them all."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from harness import (
    BAD_INPUT,
    PASSED,
    RECORD,
    ROOT,
    STAGE_FAILED,
    USER_CODE,
    Convert,
    leftovers,
    run_cli,
    run_here,
    sha256,
)
from html_checks import check

from runner.conversion.observer import Observer
from runner.engines.process.engine import ProcessEngine
from runner.engines.process.environments import locate_environment
from runner.schemas.comparison import Comparison
from runner.toolchains.code import compute_tree_digest
from runner.toolchains.load import load_image

OLD, NEW = "2020-09", "2026-onnx2tf"
FAST = ("--samples", "8", "--engine", "process")


@pytest.fixture(scope="module")
def side(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished conversion by the oldest toolchain and a new one."""
    folder = tmp_path_factory.mktemp("side") / "out"
    done = run_cli(
        *("convert", "--model", models / "script.pt", "--toolchain", f"{OLD},{NEW}"),
        *("--output", folder, *FAST),
        cwd=folder.parent,
    )
    assert done.returncode == PASSED, done.stdout + done.stderr
    assert f"Take {OLD}" in done.stdout or f"Take {NEW}" in done.stdout
    return folder


def read(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return loaded


def test_each_run_is_whole_and_judged_by_one_reference(side: Path) -> None:
    first, second = read(side / OLD), read(side / NEW)
    for name in (OLD, NEW):
        assert {path.name for path in (side / name).iterdir()} >= RECORD
    assert not leftovers(side)
    assert {path.name for path in (side / "reference").glob("input-*")} == {"input-0.npy"}
    given = (side / "reference").glob("[!i]*")  # what pins the inputs down
    kept = {path.name: sha256(path) for path in given}
    assert first["given_reference"] is None
    assert second["given_reference"] == {
        "toolchain": OLD,
        "run": first["run"],
        "sha256": compute_tree_digest(kept),
    }
    figures = [
        [
            {key: output[key] for key in ("reference_mean", "reference_std", "noise_floor")}
            for output in report["stages"][-1]["report"]["check"]["outputs"]
        ]
        for report in (first, second)
    ]
    assert figures[0] == figures[1]
    assert any(f"reference is that of {OLD}" in note for note in second["notes"])
    assert f"as the toolchain {OLD} made them" in (side / NEW / "report.html").read_text()
    record = json.loads((side / NEW / "provenance.json").read_text())
    build = record["predicate"]["buildDefinition"]
    assert build["externalParameters"]["check"]["reference"] == OLD
    (reference,) = (d for d in build["resolvedDependencies"] if d["name"] == "reference")
    assert reference["digest"]["sha256"] == compute_tree_digest(kept)


def test_artifacts_are_those_of_each_toolchain_alone(side: Path, convert: Convert) -> None:
    for name, options in ((OLD, ()), (NEW, ("--toolchain", NEW))):
        alone = convert("script", *options)
        assert alone.code == PASSED, alone.stdout + alone.stderr
        for artifact in alone.report["artifacts"]:
            assert sha256(side / name / artifact["path"]) == artifact["sha256"]


def test_the_comparison_is_valid_and_its_page_is_sound(side: Path) -> None:
    text = (side / "comparison.json").read_text()
    schema = json.loads((ROOT / "docs/schemas/comparison.schema.json").read_text())
    jsonschema.validate(json.loads(text), schema)
    found = Comparison.model_validate_json(text)
    assert [result.toolchain for result in found.toolchains] == [OLD, NEW]
    assert found.reference is not None and found.reference.toolchain == OLD
    assert found.take in (OLD, NEW) and found.exit_code == 0
    assert all(result.latency and result.outcome == "passed" for result in found.toolchains)
    homes = {result.home for result in found.toolchains}
    assert {cell.image for cell in found.matrix} >= homes
    assert {cell.state for cell in found.matrix if cell.home} == {"right"}
    page = check((side / "comparison.html").read_text())
    links = [link.attributes["href"] for link in page.all("a")]
    assert {f"{OLD}/report.html", f"{NEW}/report.html"} <= set(links)


def test_it_is_reproduced_with_a_reference_of_its_own(side: Path, tmp_path: Path) -> None:
    done = run_cli(
        *("reproduce", side / NEW, "--output", tmp_path / "again", "--engine", "process"),
        cwd=tmp_path,
    )
    assert done.returncode == PASSED, done.stdout + done.stderr
    assert f"judged by the reference of {OLD}; this one makes its own" in done.stdout
    found = json.loads((tmp_path / "again/reproduction.json").read_text())
    assert found["verdict"] == "identical" and len(found["notes"]) == 1
    assert read(tmp_path / "again")["given_reference"] is None


def test_all_of_it_is_taken_from_the_cache(models: Path, tmp_path: Path) -> None:
    """The second time no stage runs: the first one's inputs, which no cache keeps, come again."""
    for number in (1, 2):
        done = run_cli(
            *("convert", "--model", models / "script.pt", "--toolchain", f"{OLD},{NEW}"),
            *("--seed", "7", "--output", tmp_path / f"{number}", *FAST),
            cwd=tmp_path,
            environment={"RUNNER_STAGE_CACHE": "1"},
        )
        assert done.returncode == PASSED, done.stdout + done.stderr
    for name in (OLD, NEW):
        assert all(stage["cached"] for stage in read(tmp_path / "2" / name)["stages"])
    kept = [sorted((tmp_path / f"{number}/reference").iterdir()) for number in (1, 2)]
    assert [list(map(sha256, paths)) for paths in kept][0] == list(map(sha256, kept[1]))
    assert [path.name for path in kept[0]] == ["input-0.npy", "output-0.npy", "samples.json"]


def test_a_toolchain_that_refuses_the_file_stops_no_other(models: Path, tmp_path: Path) -> None:
    done = run_cli(
        *("convert", "--model", models / "zip_module.pt", "--toolchain", f"{OLD},{NEW}"),
        *("--arch", USER_CODE, "--input", "1x3x16x16", "--output", tmp_path / "out", *FAST),
        cwd=tmp_path,
    )
    assert done.returncode == BAD_INPUT, done.stdout + done.stderr
    found = Comparison.model_validate_json((tmp_path / "out/comparison.json").read_text())
    refused, converted = found.toolchains
    assert (refused.outcome, converted.outcome) == ("refused", "passed")
    assert "zip checkpoint" in refused.why and "zip checkpoint" in " ".join(done.stdout.split())
    assert found.reference is not None and found.reference.toolchain == NEW
    assert read(tmp_path / "out" / NEW)["given_reference"] is None
    assert not (tmp_path / "out" / OLD).exists()


@pytest.fixture
def own_toolchains(tmp_path: Path) -> Path:
    """Three toolchains of the user's: one whose first stage fails, and two that work."""
    folder = tmp_path / "own" / "mine"
    folder.mkdir(parents=True)
    source = (ROOT / "stages/toolchains/2026-onnx2tf.toml").read_text()
    for name in ("one", "two"):
        text = source.replace(f'short = "{NEW}"', f'short = "{name}"')
        (folder / f"{name}.toml").write_text(text)
    broken = text.replace('short = "two"', 'short = "broken"')
    (folder / "broken.toml").write_text(broken.replace("plain.torch_to_onnx", "plain.nothing"))
    return folder.parent


def test_runs_at_the_same_time_and_one_that_fails_first(
    models: Path, own_toolchains: Path, tmp_path: Path
) -> None:
    """The next one makes the reference; two more run side by side, and nothing is garbled."""
    done = run_cli(
        *("convert", "--model", models / "script.pt", "--toolchain", f"broken,{NEW},one,two"),
        *("--jobs", "2", "--output", tmp_path / "out", *FAST),
        cwd=tmp_path,
        environment={"RUNNER_TOOLCHAINS": str(own_toolchains)},
    )
    assert done.returncode == STAGE_FAILED, done.stdout + done.stderr
    found = Comparison.model_validate_json((tmp_path / "out/comparison.json").read_text())
    assert [r.outcome for r in found.toolchains] == ["failed", *["passed"] * 3]
    assert found.toolchains[0].stage == "torch"
    assert [
        (read(tmp_path / "out" / name)["given_reference"] or {}).get("toolchain")
        for name in (NEW, "one", "two")
    ] == [None, NEW, NEW]
    assert len({r.sha256 for r in found.toolchains[1:]}) == 1
    lines = done.stdout.splitlines()
    for name in ("one", "two"):
        assert sum(line.startswith(f"{name}: onnx2tf: ok after ") for line in lines) == 1
    assert not leftovers(tmp_path / "out")


@pytest.mark.parametrize(
    ("toolchain", "options", "said"),
    [
        ("2020-09,nothing", (), "no toolchain 'nothing'"),
        (
            f"{OLD},{NEW}",
            ("--option", "torch.nothing=1"),
            "has the option",
        ),
        (f"{OLD},{NEW}", ("--samples", "0"), "--samples must be at least 1"),
    ],
)
def test_bad_input_of_all_ends_at_once(
    models: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    toolchain: str,
    options: tuple[str, ...],
    said: str,
) -> None:
    done = run_here(
        capsys,
        *("convert", "--model", models / "script.pt", "--toolchain", toolchain, *options),
        cwd=tmp_path,
    )
    assert done.returncode == BAD_INPUT and said in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_benchmark_of_two_files(side: Path, tmp_path: Path) -> None:
    files = [side / name / "model.tflite" for name in (OLD, NEW)]
    options = ("--rounds", "2", "--seconds", "0.01", "--threads", "1,2", "--engine", "process")
    done = run_cli(
        *("benchmark", *files, *options, "--reference", side / "reference", "--json"),
        *("--runtime", "litert", "--runtime", "tflite"),
        cwd=tmp_path,
    )
    assert done.returncode == PASSED, done.stdout + done.stderr
    found = json.loads(done.stdout)
    schema = json.loads((ROOT / "docs/schemas/benchmark.schema.json").read_text())
    jsonschema.validate(found, schema)
    assert [runtime["image"] for runtime in found["runtimes"]] == ["litert", "tflite"]
    for runtime in found["runtimes"]:
        assert [row["file"] for row in runtime["files"]] == [str(path) for path in files]
        for row in runtime["files"]:
            assert [latency["threads"] for latency in row["latency"]] == [1, 2]
            assert row["error"]["samples"] == 8 and row["error"]["mean_abs"] < 1e-5
    shown = run_cli("benchmark", files[0], *options, cwd=tmp_path)
    assert shown.returncode == PASSED and "2 threads" in shown.stdout


def test_what_does_not_run_is_named(side: Path, tmp_path: Path) -> None:
    """A file that an interpreter refuses; one that is none; an image without an interpreter."""
    content = bytearray((side / OLD / "model.tflite").read_bytes())
    place = content.index(b"TFL3")
    (tmp_path / "cut.tflite").write_bytes(content[: place + 400])
    (tmp_path / "none.tflite").write_text("nothing")
    for file in ("cut.tflite", "none.tflite"):
        done = run_cli("benchmark", file, "--engine", "process", cwd=tmp_path)
        assert done.returncode in (BAD_INPUT, STAGE_FAILED), done.stdout
    model = side / OLD / "model.tflite"
    done = run_cli("benchmark", model, "--runtime", "torch", cwd=tmp_path)
    assert done.returncode == BAD_INPUT and "runs .tflite files" in done.stderr


@pytest.fixture(scope="module")
def newest_torch() -> Path:
    image = load_image("torch-2.13")
    ProcessEngine().prepare([image], Observer())
    return locate_environment(image) / "bin" / "python"


def test_a_given_reference_stays_byte_for_byte(
    models: Path,
    newest_torch: Path,
    in_environment: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
) -> None:
    """The samples are the first stage's, which another release of torch writes nothing over."""
    first, second = tmp_path / "first", tmp_path / "second"
    for volume in (first, second):
        (volume / "requests").mkdir(parents=True)
        shutil.copyfile(models / "script.pt", volume / "model.pt")
    asked = {"check": {"samples": 5, "seed": 3}}
    (first / "requests/torch.json").write_text(json.dumps(asked))
    made = in_environment("torch", "-m", "stages.convert.torch_to_onnx", "--volume", first)
    assert made.returncode == 0, made.stdout
    (second / "samples").mkdir()
    for name in ("samples.json", "output-0.npy", "input-0.npy"):
        shutil.copyfile(first / "samples" / name, second / "samples" / name)
    asked["check"]["reference"] = "the first"  # type: ignore[assignment]
    (second / "requests/torch.json").write_text(json.dumps(asked))
    done = subprocess.run(
        [newest_torch, "-s", "-m", "stages.plain.torch_to_onnx", "--volume", second],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("samples.json", "output-0.npy", "input-0.npy"):
        assert sha256(first / "samples" / name) == sha256(second / "samples" / name)
    report = json.loads((second / "reports/torch.json").read_text())
    assert report["check"]["verdict"] == "passed"
    assert any("The reference is that of the first" in note for note in report["notes"])
    # With another model's outputs, nothing is made.
    np.save(second / "samples/output-0.npy", np.zeros((5, 1, 3), "float32"))
    index = json.loads((second / "samples/samples.json").read_text())
    index["outputs"][0]["shape"] = [1, 3]
    (second / "samples/samples.json").write_text(json.dumps(index))
    done = subprocess.run(
        [newest_torch, "-s", "-m", "stages.plain.torch_to_onnx", "--volume", second],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
        text=True,
        capture_output=True,
        check=False,
    )
    report = json.loads((second / "reports/torch.json").read_text())
    assert done.returncode == 1 and "those of the reference" in report["error"]["message"]
