"""`runner report bundle`: what an issue needs is in it; weights and home folders are not."""

from __future__ import annotations

import getpass
import json
import shutil
import struct
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
from harness import ARTIFACTS, BAD_INPUT, ROOT, STAGE_FAILED, Convert, Run, run_cli

from runner.formats.blank import BLANK, Unreadable
from runner.report.issue_bundle import write_bundle

RunIn = Callable[..., "subprocess.CompletedProcess[str]"]

# Every constant of more than one element in a model and its artifacts, as bytes, in hexadecimal.
CONSTANTS = {
    "torch": """
import sys
import onnx, torch
from onnx import numpy_helper
for name in sys.argv[1:]:
    if name.endswith(".pt"):
        tensors = [t.detach().numpy() for t in torch.load(name).state_dict().values()]
    else:
        graph = onnx.load(name).graph
        found = list(graph.initializer)
        found += [a.t for n in graph.node for a in n.attribute if a.HasField("t")]
        tensors = [numpy_helper.to_array(tensor) for tensor in found]
    for tensor in tensors:
        if tensor.dtype.kind == "f" and tensor.size > 1:
            print(tensor.tobytes().hex())
""",
    "tflite": """
import sys
import tensorflow as tf
from tensorflow.python.framework import tensor_util
for name in sys.argv[1:]:
    if name.endswith(".pb"):
        graph = tf.compat.v1.GraphDef.FromString(open(name, "rb").read())
        found = [n.attr["value"].tensor for n in graph.node if n.op == "Const"]
        tensors = [tensor_util.MakeNdarray(tensor) for tensor in found]
    else:
        interpreter = tf.lite.Interpreter(model_path=name)
        tensors = []
        for detail in interpreter.get_tensor_details():
            try:
                tensors.append(interpreter.get_tensor(detail["index"]))
            except ValueError:
                pass  # not a constant: it has no value before a run
    for tensor in tensors:
        if tensor.dtype.kind == "f" and tensor.size > 1:
            print(tensor.tobytes().hex())
""",
}
# The structure of an artifact: operators, names, shapes and types; that it loads is a test as well.
STRUCTURE = {
    "torch": """
import sys
import onnx
model = onnx.load(sys.argv[1])
onnx.checker.check_model(model)
for node in model.graph.node:
    print(node.op_type, list(node.input), list(node.output), [a.name for a in node.attribute])
for tensor in model.graph.initializer:
    print(tensor.name, list(tensor.dims), tensor.data_type)
print(model.graph.input, model.graph.output)
""",
    "tflite": """
import sys
import tensorflow as tf
if sys.argv[1].endswith(".pb"):
    graph = tf.compat.v1.GraphDef.FromString(open(sys.argv[1], "rb").read())
    tf.import_graph_def(graph, name="")
    for node in graph.node:
        print(node.name, node.op, list(node.input), sorted(node.attr))
        if node.op == "Const":
            print(node.attr["value"].tensor.tensor_shape, node.attr["value"].tensor.dtype)
else:
    interpreter = tf.lite.Interpreter(model_path=sys.argv[1])
    interpreter.allocate_tensors()
    interpreter.invoke()
    for operator in interpreter._get_ops_details():
        print(operator["op_name"], operator["inputs"], operator["outputs"])
    for detail in interpreter.get_tensor_details():
        print(detail["name"], list(detail["shape"]), detail["dtype"])
""",
}
ENVIRONMENTS = {".pt": "torch", ".onnx": "torch", ".pb": "tflite", ".tflite": "tflite"}


def members(archive: Path) -> dict[str, bytes]:
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as opened:
            return {name: opened.read(name) for name in opened.namelist()}
    with tarfile.open(archive) as opened:
        found = {}
        for member in opened:
            file = opened.extractfile(member)
            assert file is not None
            found[member.name] = file.read()
        return found


def weights_in(in_environment: RunIn, *files: Path) -> set[bytes]:
    """Each pair of neighbours among the numbers of the constants in these files."""
    pairs = set()
    for image, program in CONSTANTS.items():
        chosen = [file for file in files if ENVIRONMENTS[file.suffix] == image]
        if not chosen:
            continue
        done = in_environment(image, "-c", program, *chosen)
        assert done.returncode == 0, done.stderr
        for line in done.stdout.split():
            data = bytes.fromhex(line)
            pairs |= {data[i : i + 8] for i in range(0, len(data) - 7, 4)}
    # Zeros, ones and whole numbers are in every file.
    return {pair for pair in pairs if any(v * 16 % 1 for v in struct.unpack("<2f", pair))}


@pytest.fixture(scope="module")
def run(convert: Convert) -> Run:
    done = convert("cnn")
    assert done.code == 0, done.stdout
    return done


@pytest.fixture(scope="module")
def archive(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    done = run_cli("report", "bundle", run.folder, "--output", "b.zip", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "b.zip" in done.stdout and "graphs/model.tflite" in done.stdout
    return folder / "b.zip"


def test_what_is_in_it(archive: Path, run: Run) -> None:
    found = members(archive)
    logs = {f"logs/{stage}.log" for stage in ("torch", "onnx-tf", "tflite")}
    assert set(found) == {
        "README.txt",
        "report.json",
        *logs,
        *(f"graphs/{name}" for name in ARTIFACTS),
    }
    report = json.loads(found["report.json"])
    schema = json.loads((ROOT / "docs/schemas/report.schema.json").read_text())
    jsonschema.validate(report, schema)
    for kept in ("options", "stages", "gate", "artifacts"):
        versions = json.dumps(run.report[kept])
        assert json.dumps(report[kept]) == versions or str(Path.home()) in versions


def test_no_weight_is_in_it(archive: Path, run: Run, models: Path, in_environment: RunIn) -> None:
    """Neither PyTorch's, nor what the stages made of them: folded, transposed, rearranged."""
    originals = [models / "cnn.pt", *(run.folder / name for name in ARTIFACTS)]
    weights = weights_in(in_environment, *originals)
    assert len(weights) > 2000
    found = members(archive)
    for path in originals[1:]:
        # The search finds them where they are.
        assert any(pair in path.read_bytes() for pair in weights)
        assert len(found[f"graphs/{path.name}"]) == path.stat().st_size
    everything = b"\0".join(found.values())
    windows = {everything[i : i + 8] for i in range(len(everything) - 7)}
    assert not weights & windows


@pytest.mark.parametrize("name", ARTIFACTS)
def test_the_structure_is_as_it_was(
    name: str, archive: Path, run: Run, in_environment: RunIn, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(members(archive)[f"graphs/{name}"])
    image = ENVIRONMENTS[Path(name).suffix]
    before, after = (
        in_environment(image, "-c", STRUCTURE[image], folder / name)
        for folder in (run.folder, tmp_path)
    )
    assert before.returncode == after.returncode == 0, before.stderr + after.stderr
    assert before.stdout == after.stdout != ""


def test_a_failure_shows_on_the_bundle_alone(in_environment: RunIn, tmp_path: Path) -> None:
    """Whoever gets the bundle can provoke the failure again, without the model."""
    save = "import sys, torch; torch.save(torch.nn.GRU(6, 8, batch_first=True), sys.argv[1])"
    assert in_environment("torch", "-c", save, tmp_path / "gru.pt").returncode == 0
    common = ("--faithful", "--engine", "process", "--samples", "2", "--output")
    first = run_cli(
        *("convert", "--model", "gru.pt", "--input", "1x7x6", *common, "first"), cwd=tmp_path
    )
    assert first.returncode == STAGE_FAILED, first.stdout
    assert run_cli("report", "bundle", "first", cwd=tmp_path).returncode == 0
    found = members(tmp_path / "first-report.zip")
    (tmp_path / "theirs.onnx").write_bytes(found["graphs/model.onnx"])
    again = run_cli("convert", "--from-onnx", "theirs.onnx", *common, "again", cwd=tmp_path)
    assert again.returncode == STAGE_FAILED, again.stdout
    stages = [
        json.loads((tmp_path / name / "report.json").read_text())["stages"][1]
        for name in ("first", "again")
    ]
    assert stages[0]["failure"] == stages[1]["failure"]
    assert stages[0]["known"] == stages[1]["known"] is not None


def test_neither_home_nor_name_is_in_it(run: Run, tmp_path: Path) -> None:
    folder = shutil.copytree(run.folder, tmp_path / "run")
    name, home = getpass.getuser(), str(Path.home())
    paths = f"{home}/nets/model.py and /home/somebody/x.py and {tmp_path}/run/model.pb\n"
    (folder / "logs" / "torch.log").write_text(paths)
    report = json.loads((folder / "report.json").read_text())
    report["notes"] = [paths]
    (folder / "report.json").write_text(json.dumps(report))
    found = members(write_bundle(folder, tmp_path / "out.zip").path)
    for member in ("logs/torch.log", "report.json"):
        text = found[member].decode()
        assert "~/nets/model.py and /home/USER/x.py and RUN/model.pb" in text
        for hidden in (home + "/", "somebody", str(tmp_path)):
            assert hidden not in text
        if name != "root":
            assert f"/{name}/" not in text


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz", ".tgz"])
def test_the_same_run_gives_the_same_bytes(suffix: str, run: Run, tmp_path: Path) -> None:
    elsewhere = shutil.copytree(run.folder, tmp_path / "elsewhere")
    for log in elsewhere.glob("logs/*"):
        log.touch()
    one = write_bundle(run.folder, tmp_path / f"one{suffix}")
    two = write_bundle(elsewhere, tmp_path / f"two{suffix}")
    assert one.path.read_bytes() == two.path.read_bytes()
    assert members(one.path).keys() == members(two.path).keys()
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "holds no report.json"),
        (("run", "--output", "x.rar"), "Let it end in .zip"),
        (("broken",), "is not a report of this version"),
    ],
)
def test_what_cannot_be_bundled(
    arguments: tuple[str, ...], message: str, run: Run, tmp_path: Path
) -> None:
    shutil.copytree(run.folder, tmp_path / "run")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "report.json").write_text('{"schema_version": 2}')
    before = set(tmp_path.iterdir())
    done = run_cli("report", "bundle", *arguments, cwd=tmp_path)
    assert done.returncode == BAD_INPUT
    assert message in " ".join(done.stderr.split()) and "Traceback" not in done.stderr
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ARTIFACTS)
def test_a_damaged_graph_is_left_out(name: str, run: Run, tmp_path: Path) -> None:
    """Whatever cannot be read cannot be blanked, and is never handed on as it is."""
    folder = shutil.copytree(run.folder, tmp_path / "run")
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) - len(whole) // 3])
    bundle = write_bundle(folder, tmp_path / "out.zip")
    assert [left for left, _ in bundle.left_out] == [name]
    assert f"graphs/{name}" not in members(bundle.path)


def test_a_link_is_not_followed(run: Run, tmp_path: Path) -> None:
    secret = tmp_path / "secret.pb"
    shutil.copyfile(run.folder / "model.pb", secret)
    folder = shutil.copytree(run.folder, tmp_path / "run")
    (folder / "model.pb").unlink()
    (folder / "model.pb").symlink_to(secret)
    (folder / "logs" / "more.log").symlink_to("/etc/hostname")
    found = members(write_bundle(folder, tmp_path / "out.zip").path)
    assert "graphs/model.pb" not in found and "logs/more.log" not in found


@pytest.mark.parametrize("suffix", BLANK)
@pytest.mark.parametrize("content", [b"", b"\xff" * 99, b"\x08\x80", bytes(64), b"TFL3" * 9])
def test_what_is_no_graph_never_passes_as_one(suffix: str, content: bytes) -> None:
    data = bytearray(content)
    try:
        BLANK[suffix](data)
    except Unreadable:
        return
    assert not any(data) or not content
