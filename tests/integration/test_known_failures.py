"""Every entry of the catalogue of known failures is provoked here, on the real tools.

What onnx-tf and the exporter fail with by themselves (`--fixes none`) is provoked by small nets, in
batches; what a machine fails with, by a machine that lacks something: a full disk, an index that
serves other files, a container without memory.
"""

from __future__ import annotations

import datetime
import http.server
import io
import json
import os
import re
import ssl
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from harness import (
    BAD_INPUT,
    DOCKER,
    ENVIRONMENT,
    OUT_OF_TOLERANCE,
    ROOT,
    SHOW_A_GPU,
    STAGE_FAILED,
    SUPPORT,
    Convert,
    run_cli,
)
from uv import find_uv_bin

from runner.known_failures.catalogue import load_catalogue
from runner.known_failures.match import explain_stage
from runner.packages.cpython import find_cpython
from runner.packages.pip_settings import make_uv_environment
from runner.schemas.report import StageRecord, StageReport
from runner.toolchains.load import load_image

RunIn = Callable[..., "subprocess.CompletedProcess[str]"]
STAGES = ("torch", "onnx-tf", "tflite")
DEAD = "unix:///nowhere/docker.sock"

# A net of nets.py that the tools alone fail on: the stage that does, and what is known of it.
NETS = {
    "sizes_pool": ("torch", "size-that-is-not-constant"),
    "sizes_text_cnn": ("torch", "size-that-is-not-constant"),
    "functions": ("torch", "autograd-function"),
    "mask_assigned": ("torch", "mask-of-booleans"),
    "mask_counted": ("torch", "mask-of-booleans"),
    "refused_stft": ("torch", "fourier-transform"),
    "refused_deform": ("torch", "deformable-convolution"),
    "refused_suppress": ("onnx-tf", "suppressed-boxes"),
    "act_celu": ("torch", "onnx-operator-missing"),
    "pool_adaptive_any": ("torch", "adaptive-pooling"),
    "act_threshold": ("torch", "onnx-operator-not-exportable"),
    "scripted_batchnorm": ("torch", "scripted-attribute-written"),
    "scripted_chooser": ("torch", "scripted-attribute-type"),
    "scripted_control": ("torch", "mixed-types"),
    "cosine_similarity": ("torch", "aten-operator"),
    "norm_l2": ("torch", "clip-attribute"),
    "upsample_linear1d": ("torch", "linear-resize-of-other-ranks"),
    "passed_through": ("torch", "input-lost-its-name"),
    "gru": ("onnx-tf", "gru-linear-before-reset"),
    "unet_bilinear": ("onnx-tf", "resize-half-pixel"),
    "unet_bicubic_corners": ("onnx-tf", "resize-cubic"),
    "upsample1d": ("onnx-tf", "resize-rank"),
    "unet_nearest": ("onnx-tf", "resize-dynamic-sizes"),
    "pool_avg_bn": ("onnx-tf", "unknown-dimension-in-constant"),
    "conv_transpose_dilated": ("onnx-tf", "conv-transpose-dilation"),
    "chunk_outputs": ("onnx-tf", "output-lost-its-name"),
    "interior_outputs": ("onnx-tf", "output-lost-its-name"),
    "one_hot_free": ("onnx-tf", "one-hot-depth"),
    "pad_negative": ("onnx-tf", "negative-padding"),
    "pad_replicate": ("onnx-tf", "padding-shape-lost"),
    "scripted_loop": ("onnx-tf", "loop-body"),
    "unused_input": ("onnx-tf", "unused-input"),
    "prelu_shared": ("tflite", "does-not-dominate"),
    "pool_avg_ceil": ("tflite", "py-function"),
    "tcn": ("tflite", "element-shape"),
    "norm_layer_2d": ("tflite", "broadcast-in-the-interpreter"),
    "pool_adaptive_max_1": ("tflite", "pool-through-flex"),
    "wavenet": ("tflite", "shapes-differ-in-the-interpreter"),
    "flip_roll": ("tflite", "shapes-differ-in-the-interpreter"),
    "pool_adaptive_output": ("tflite", "output-of-another-shape"),
    # Converted without Flex, as `requests` says below.
    "pixel_shuffle_bare": ("tflite", "no-builtin-operator"),
}

FIX = {entry.id: entry.fix for entry in load_catalogue()}
ONE_FIX = [net for net, (_, identity) in NETS.items() if FIX[identity] not in ("", "all")]


def recorded(volume: Path, stage: str, fixes: str) -> StageRecord:
    """A stage's record as the pipeline completes it, from what the stage left in its volume."""
    report = StageReport.model_validate_json((volume / "reports" / f"{stage}.json").read_text())
    record = StageRecord(
        name=stage, title="", status=report.status, log=f"{stage}.log", report=report
    )
    if report.error is not None:
        record.failure, record.remedy = report.error.message, report.error.remedy
        record.blame = report.error.blame
    explain_stage(record, volume, fixes)
    return record


@pytest.fixture(scope="module")
def volumes(in_environment: RunIn, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The nets' volumes after the three stages have run on them, without fixes."""
    folder = tmp_path_factory.mktemp("known")
    for stage in STAGES:
        if stage == "tflite":
            request = folder / "pixel_shuffle_bare" / "requests" / "tflite.json"
            request.write_text(json.dumps({"options": {"flex": False}}))
        nets = [n for n, (last, _) in NETS.items() if STAGES.index(last) >= STAGES.index(stage)]
        done = in_environment(stage, SUPPORT / "batch.py", stage, folder, "none", *nets)
        assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("net", NETS)
def test_what_the_tools_alone_fail_on(net: str, volumes: Path) -> None:
    stage, identity = NETS[net]
    for earlier in STAGES[: STAGES.index(stage)]:
        report = json.loads((volumes / net / "reports" / f"{earlier}.json").read_text())
        assert report["status"] == "ok", report["error"]
    record = recorded(volumes / net, stage, "none")
    assert record.known is not None, record.failure
    assert record.known.id == identity, record.failure
    assert record.remedy and record.last_lines == []
    if record.known.fix:
        assert record.known.remedy.startswith("Convert with ")


@pytest.fixture(scope="module")
def mended(in_environment: RunIn, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The nets' volumes after the three stages with all fixes."""
    return run_batches(in_environment, tmp_path_factory.mktemp("mended"), "all", list(NETS))


@pytest.fixture(scope="module")
def without(in_environment: RunIn, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The volumes of those that one fix handles, with all fixes but that one."""
    folder = tmp_path_factory.mktemp("without")
    return run_batches(in_environment, folder, "requested", ONE_FIX, "all,-{}")


@pytest.fixture(scope="module")
def alone(without: Path, in_environment: RunIn, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The volumes of those that do without it, since others handle them too: with it alone.

    What is known at conversion is computed in any case, as loops of a known length need.
    """
    nets = [net for net in ONE_FIX if outcome(without / net) == ""]
    return run_batches(
        in_environment, tmp_path_factory.mktemp("alone"), "requested", nets, "constants,{}"
    )


def run_batches(
    in_environment: RunIn, folder: Path, fixes: str, nets: list[str], requested: str = ""
) -> Path:
    """Run the three stages on nets. `requested` is the option `fixes`, with {} for a net's fix."""
    for net in nets if requested else ():
        (folder / net / "requests").mkdir(parents=True)
        request = {"options": {"fixes": requested.format(FIX[NETS[net][1]])}}
        for stage in ("torch", "onnx-tf"):
            (folder / net / "requests" / f"{stage}.json").write_text(json.dumps(request))
    for stage in STAGES:
        done = in_environment(stage, SUPPORT / "batch.py", stage, folder, fixes, *nets)
        assert done.returncode == 0, done.stderr[-3000:]
    return folder


def outcome(volume: Path) -> str:
    """Where and how a net failed; '' if it passed with builtin operators."""
    for stage in STAGES:
        report = json.loads((volume / "reports" / f"{stage}.json").read_text())
        if report["status"] != "ok":
            return f"{stage}: {report['error']['message']}"
        if report["check"]["verdict"] in ("shape", "nonfinite"):
            return f"{stage}: {report['check']['verdict']}"
    return " ".join(name for name in report["operators"] if name.startswith("Flex"))


@pytest.mark.parametrize("net", [net for net, (_, known) in NETS.items() if FIX[known]])
def test_all_fixes_handle_what_they_are_said_to(net: str, mended: Path) -> None:
    assert outcome(mended / net) == ""


@pytest.mark.years  # each net twice more
@pytest.mark.parametrize("net", ONE_FIX)
def test_the_fix_that_is_named_handles_it(net: str, without: Path, alone: Path) -> None:
    """Without it the net fails though all others are on, or with it alone the net converts."""
    if outcome(without / net) == "":
        assert outcome(alone / net) == "", f"{FIX[NETS[net][1]]} is not what handles {net}"


SAVE = """
import sys
import torch, nets
for name in sys.argv[2:]:
    torch.save(nets.build(name), sys.argv[1] + "/" + name + ".pt")
"""


@pytest.fixture(scope="module")
def pickled(in_environment: RunIn, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pickled")
    program = f"import sys; sys.path.insert(0, {str(SUPPORT)!r})\n{SAVE}"
    names = ("gru", "conv_depthwise_dilated", "pool_adaptive_output")
    done = in_environment("torch", "-c", program, folder, *names)
    assert done.returncode == 0, done.stderr
    return folder


def known_of(folder: Path, stage: str) -> dict[str, Any]:
    report = json.loads((folder / "report.json").read_text())
    found: dict[str, Any] = next(s for s in report["stages"] if s["name"] == stage)["known"]
    return found


class TestByTheCommand:
    """What a user sees of it, and finds in report.json."""

    def convert(
        self, pickled: Path, folder: Path, net: str, shape: str, *more: str | Path
    ) -> subprocess.CompletedProcess[str]:
        return run_cli(
            *("convert", "--model", pickled / f"{net}.pt", "--input", shape, "--engine", "process"),
            *("--samples", "4", "--output", folder, *more),
            cwd=folder.parent,
        )

    def test_a_known_failure(self, pickled: Path, tmp_path: Path) -> None:
        done = self.convert(pickled, tmp_path / "run", "gru", "1x7x6", "--faithful")
        assert done.returncode == STAGE_FAILED
        known = known_of(tmp_path / "run", "onnx-tf")
        assert known["id"] == "gru-linear-before-reset" and known["fix"] == "recurrent"
        said = " ".join(done.stdout.split())
        for text in (known["cause"], known["remedy"], known["source"]):
            assert " ".join(text.split()) in said
        assert "→ Convert with the fix 'recurrent' (--fixes all" in said
        assert "report bundle" not in said, "a failure with a fix is nothing to report"

    def test_quiet_says_it_too(self, pickled: Path, tmp_path: Path) -> None:
        done = self.convert(pickled, tmp_path / "run", "gru", "1x7x6", "--faithful", "--quiet")
        assert done.stdout == "" and "Convert with the fix 'recurrent'" in done.stderr

    def test_a_converter_that_crashes(self, pickled: Path, tmp_path: Path) -> None:
        """A dilated depthwise convolution as onnx-tf writes it ends TensorFlow's converter."""
        shape = "1x4x9x9"
        folder = tmp_path / "run"
        done = self.convert(pickled, folder, "conv_depthwise_dilated", shape, "--faithful")
        assert done.returncode == STAGE_FAILED, done.stdout
        assert known_of(folder, "tflite")["id"] == "converter-crash"

    def test_a_check_that_fails_in_a_known_way(self, pickled: Path, tmp_path: Path) -> None:
        done = self.convert(
            pickled, tmp_path / "run", "pool_adaptive_output", "1x3x8x8", "--faithful"
        )
        assert done.returncode == OUT_OF_TOLERANCE, done.stdout
        known = known_of(tmp_path / "run", "tflite")
        assert known["id"] == "output-of-another-shape"
        assert known["source"] in " ".join(done.stdout.split())

    def test_an_operator_that_nothing_implements(self, convert: Convert) -> None:
        run = convert("roi")
        assert run.stage("onnx-tf")["known"]["id"] == "operator-not-implemented"
        # The stage's own remedy names the operator, so it is kept.
        assert "RoiAlign" in run.stage("onnx-tf")["remedy"]
        assert "runner report bundle" in " ".join(run.stdout.split())

    @pytest.mark.parametrize("engine", ["process", DOCKER])
    def test_a_stage_that_is_killed(self, convert: Convert, engine: str) -> None:
        assert convert("dies", engine=engine).stage("torch")["known"]["id"] == "killed"

    def test_a_run_that_passes_knows_of_no_failure(self, convert: Convert) -> None:
        run = convert("cnn")
        assert [stage["known"] for stage in run.report["stages"]] == [None] * 3
        assert "Why:" not in run.stdout


def test_a_checkpoint_of_a_newer_torch(models: Path, tmp_path: Path) -> None:
    done = run_cli("convert", "--model", models / "zip_module.pt", cwd=tmp_path)
    assert done.returncode == BAD_INPUT
    assert names(done) == "checkpoint-of-newer-torch"
    newer_file = tmp_path / "newer.pt"
    with zipfile.ZipFile(models / "script.pt") as old, zipfile.ZipFile(newer_file, "w") as new:
        for name in old.namelist():
            newer = b"9\n" if name.endswith("/version") else old.read(name)
            new.writestr(zipfile.ZipInfo(name), newer)
    done = run_cli("convert", "--model", tmp_path / "newer.pt", cwd=tmp_path)
    assert done.returncode == BAD_INPUT
    assert names(done) == "checkpoint-of-newer-torch"


HUNGRY = """
import torch

class Hungry(torch.nn.Linear):
    def forward(self, x):
        return super().forward(x) + torch.zeros(1 << 44).sum()

def build():
    return Hungry(8, 8)
"""


class TestTheMachine:
    def test_memory_that_is_refused(
        self, models: Path, in_environment: RunIn, tmp_path: Path
    ) -> None:
        """64 terabytes are more than any machine that runs this test has."""
        (tmp_path / "hungry.py").write_text(HUNGRY)
        save = "import sys, torch; torch.save(torch.nn.Linear(8, 8).state_dict(), sys.argv[1])"
        assert in_environment("torch", "-c", save, tmp_path / "w.pt").returncode == 0
        done = run_cli(
            *("convert", "--model", "w.pt", "--arch", "hungry.py:build", "--input", "1x8"),
            *("--samples", "2", "--engine", "process", "--output", "run"),
            cwd=tmp_path,
        )
        assert done.returncode == STAGE_FAILED, done.stdout
        assert known_of(tmp_path / "run", "torch")["id"] == "out-of-memory-refused"

    @pytest.mark.docker
    def test_a_container_without_memory(self, models: Path, tmp_path: Path) -> None:
        done = run_cli(
            *("convert", "--model", models / "cnn.pt", "--engine", "docker"),
            *("--samples", "2", "--limit", "memory=60m", "--output", "run"),
            cwd=tmp_path,
        )
        assert done.returncode == STAGE_FAILED, done.stdout
        assert known_of(tmp_path / "run", "torch")["id"] == "out-of-memory-container"

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small disk")
    def test_a_full_disk(self, models: Path, tmp_path: Path) -> None:
        disk = tmp_path / "disk"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=88k", "tmpfs", str(disk)]
        if subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("this machine mounts nothing")
        try:
            done = run_cli(
                *("convert", "--model", models / "cnn.pt", "--engine", "process"),
                *("--output", disk / "out", "--samples", "2"),
                cwd=tmp_path,
            )
        finally:
            subprocess.run(["umount", str(disk)], check=True)
        assert done.returncode in (STAGE_FAILED, ENVIRONMENT)
        assert names(done) == "disk-full"

    def test_no_docker_engine(self, models: Path, tmp_path: Path) -> None:
        done = run_cli(
            *("convert", "--model", models / "cnn.pt", "--engine", "docker"),
            cwd=tmp_path,
            environment={"DOCKER_HOST": DEAD},
        )
        assert done.returncode == ENVIRONMENT
        assert names(done) == "docker-not-answering"

    def test_no_interpreter(self, models: Path, tmp_path: Path) -> None:
        done = set_up(
            models,
            tmp_path,
            "http://127.0.0.1:9/simple",
            PATH="/nowhere",
            PYENV_ROOT=str(tmp_path / "pyenv"),
            UV_PYTHON_INSTALL_DIR=str(tmp_path / "pythons"),
            UV_PYTHON_INSTALL_MIRROR="http://127.0.0.1:9",
        )
        assert names(done) == "interpreter-missing"


def names(done: subprocess.CompletedProcess[str]) -> str:
    """The known failure that an error names."""
    said = " ".join((done.stdout + done.stderr).split())
    found = re.search(r"\(known failure: ([\w-]+)\)", said)
    return found[1] if found else said


def set_up(
    models: Path, folder: Path, index: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Convert on a machine that has nothing yet, whose package index is `index`."""
    return run_cli(
        *("convert", "--model", models / "cnn.pt", "--engine", "process"),
        *("--output", folder / "out"),
        cwd=folder,
        environment={
            "RUNNER_CACHE_DIR": str(folder / "cache"),
            "UV_CACHE_DIR": str(folder / "uv"),
            "UV_HTTP_RETRIES": "0",
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": index,
            "PIP_FIND_LINKS": "",
            "PIP_EXTRA_INDEX_URL": "",
            "DOCKER_HOST": DEAD,
            **environment,
        },
    )


@contextmanager
def index_of(answer: Callable[[str], bytes], certificate: Path | None = None) -> Iterator[str]:
    """A package index on loopback; `answer` gives a page or a file for a path."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = answer(self.path)
            self.send_response(200)
            kind = "text/html" if self.path.endswith("/") else "application/octet-stream"
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, format: str, *values: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    scheme = "https" if certificate else "http"
    try:
        yield f"{scheme}://127.0.0.1:{server.server_port}/simple"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class TestTheIndex:
    def test_none_answers(self, models: Path, tmp_path: Path) -> None:
        assert names(set_up(models, tmp_path, "http://127.0.0.1:9/simple")) == "index-unreachable"

    def test_without_the_packages(self, models: Path, tmp_path: Path) -> None:
        with index_of(lambda path: b"<!DOCTYPE html><html><body></body></html>") as url:
            assert names(set_up(models, tmp_path, url)) == "distribution-not-found"

    def test_with_other_files_than_were_locked(self, models: Path, tmp_path: Path) -> None:
        """A wheel of the right name and version, whose bytes are others."""

        def answer(path: str) -> bytes:
            name, version = wanted(path.rstrip("/").rpartition("/")[2])
            wheel = f"{name}-{version}-py3-none-any.whl"
            if path.endswith("/"):
                return f'<html><a href="/files/{wheel}">{wheel}</a></html>'.encode()
            return fake_wheel(*path.rpartition("/")[2].split("-")[:2])

        with index_of(answer) as url:
            assert names(set_up(models, tmp_path, url)) == "hash-mismatch"

    def test_with_a_certificate_that_nobody_knows(self, models: Path, tmp_path: Path) -> None:
        with index_of(lambda path: b"", self_signed(tmp_path)) as url:
            assert names(set_up(models, tmp_path, url)) == "certificate-untrusted"


def wanted(project: str) -> tuple[str, str]:
    """What wheels call a project, and the version that the locks want."""
    for image in ("torch", "onnx-tf", "tflite"):
        text = load_image(image).lock.read_text()
        for name, version in re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE):
            if re.sub(r"[-_.]+", "-", name).lower() == project:
                return re.sub(r"[-_.]+", "_", name), version
    return project, "0"


def fake_wheel(name: str, version: str) -> bytes:
    target = io.BytesIO()
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return target.getvalue()


def self_signed(folder: Path) -> Path:
    """A key and a certificate for 127.0.0.1 that no authority has signed."""
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "nobody")])
    now = datetime.datetime.now(datetime.timezone.utc)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "nobody.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.mark.network
@pytest.mark.parametrize(
    ("requirement", "identity"),
    [("protobuf==4.21.12", "protobuf-too-new"), ("numpy==1.24.4", "numpy-too-new")],
)
def test_a_package_that_is_too_new(
    requirement: str, identity: str, volumes: Path, pythons: dict[str, Path], tmp_path: Path
) -> None:
    """Somebody's PYTHONPATH puts it before the locked one."""
    target = tmp_path / "newer"
    install = ("pip", "install", "--quiet", "--no-deps", "--target", target)
    python = ("--python", find_cpython("3.8").path)
    subprocess.run(
        [find_uv_bin(), *map(str, (*install, *python, requirement))],
        env=make_uv_environment(),
        check=True,
    )
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "model.pt").write_bytes((volumes / "gru" / "model.pt").read_bytes())
    with open(volume / "torch.log", "w") as log:
        subprocess.run(
            [pythons["torch"], "-s", "-m", "stages.convert.torch_to_onnx", "--volume", volume],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{target}:{ROOT}:{SUPPORT}"},
            stdout=log,
            stderr=log,
            check=False,
        )
    known = recorded(volume, "torch", "all").known
    assert known is not None and known.id == identity


def test_onnx_tf_that_is_shown_a_gpu(volumes: Path, in_environment: RunIn, tmp_path: Path) -> None:

    volume = tmp_path / "volume"
    made = in_environment("torch", SUPPORT / "batch.py", "torch", tmp_path, "none", "conv_bn_relu")
    assert made.returncode == 0, made.stderr
    (tmp_path / "conv_bn_relu").rename(volume)
    arguments = ("--prepare-sees-gpu", "true", "--fixes", "none", "--volume", volume)
    done = in_environment("onnx-tf", "-c", SHOW_A_GPU, *arguments)
    assert done.returncode == 1, done.stdout
    known = recorded(volume, "onnx-tf", "none").known
    assert known is not None and known.id == "nchw-on-cpu"


OLD_CONVERTER = """
import sys, tensorflow as tf
converter = tf.compat.v1.lite.TFLiteConverter.from_frozen_graph(
    sys.argv[1], ["input_0"], ["output"])
converter.experimental_new_converter = False
converter.convert()
"""


def explained(text: str, folder: Path) -> str:
    """What `runner report explain` says to the output of some other program."""
    (folder / "log").write_text(text)
    done = run_cli("report", "explain", "log", cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout.partition("\n")[0]


def test_the_old_converter_without_its_program(
    volumes: Path, pythons: dict[str, Path], tmp_path: Path
) -> None:
    """The environment's Python by its path, its bin folder not on PATH: as cron runs a script."""
    done = subprocess.run(
        [pythons["tflite"], "-s", "-c", OLD_CONVERTER, volumes / "tcn" / "model.pb"],
        env={"PATH": "/usr/bin:/bin"},
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode, done.stdout
    assert explained(done.stderr, tmp_path) == "toco-from-protos-not-found"


@pytest.fixture(scope="module")
def image(convert: Convert) -> str:
    """The id of the torch image, built first if need be."""
    run = convert("dies", engine="docker")
    identity: str = run.stage("torch")["environment"]["identity"]
    return identity


@pytest.mark.docker
class TestContainers:
    """What happens to those who run the images by hand."""

    def run(self, *arguments: str | Path) -> str:
        command = ["docker", "run", "--rm", "--network", "none", *map(str, arguments)]
        done = subprocess.run(command, text=True, capture_output=True, check=False)
        assert done.returncode, done.stdout
        return done.stdout + done.stderr

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root, whose folder it is")
    def test_a_folder_of_another_user(self, image: str, tmp_path: Path) -> None:
        folder = tmp_path / "theirs"
        folder.mkdir(mode=0o755)
        text = self.run("--volume", f"{folder}:/artifacts", image)
        assert explained(text, tmp_path) == "volume-not-writable"

    def test_a_user_without_a_name(self, image: str, tmp_path: Path) -> None:
        program = ("-c", "import getpass; getpass.getuser()")
        text = self.run("--user", "4242", "--entrypoint", "python", image, *program)
        assert explained(text, tmp_path) == "user-without-passwd-entry"

    def test_a_gpu_that_docker_has_no_driver_for(self, image: str, tmp_path: Path) -> None:
        if Path("/dev/nvidiactl").exists():
            pytest.skip("this machine has a GPU")
        text = self.run("--gpus", "all", image)
        assert explained(text, tmp_path) == "gpu-driver-missing"


class TestUnknown:
    def test_its_last_words_and_what_to_do_are_shown(
        self, in_environment: RunIn, tmp_path: Path
    ) -> None:
        """A stage that ends by itself, with no report and in no known way."""
        (tmp_path / "leaves.py").write_text(
            "import os, sys, torch\n"
            "class Leaves(torch.nn.Linear):\n"
            "    def forward(self, x):\n"
            "        print('WARNING:tensorflow:chat', file=sys.stderr)\n"
            "        print('the reactor is cold', file=sys.stderr, flush=True)\n"
            "        os._exit(7)\n"
            "def build():\n"
            "    return Leaves(8, 8)\n"
        )
        save = "import sys, torch; torch.save(torch.nn.Linear(8, 8).state_dict(), sys.argv[1])"
        assert in_environment("torch", "-c", save, tmp_path / "w.pt").returncode == 0
        done = run_cli(
            *("convert", "--model", "w.pt", "--arch", "leaves.py:build", "--input", "1x8"),
            *("--samples", "2", "--engine", "process", "--output", "run"),
            cwd=tmp_path,
        )
        assert done.returncode == STAGE_FAILED
        said = " ".join(done.stdout.split())
        assert "Not a known failure. The last lines of its log: the reactor is cold" in said
        assert "WARNING" not in said
        assert "run/logs/torch.log holds the whole log" in said
        assert "runner report bundle run" in said
        report = json.loads((tmp_path / "run" / "report.json").read_text())
        assert report["stages"][0]["known"] is None
        assert report["stages"][0]["last_lines"] == ["the reactor is cold"]

    def test_explain_says_that_it_knows_nothing(self, tmp_path: Path) -> None:
        assert "Not a known failure" in explained("the reactor is cold", tmp_path)

    def test_explain_reads_standard_input(self, tmp_path: Path) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "runner", "report", "explain"],
            input="RuntimeError: GRU with linear_before_reset is not supported in Tensorflow.",
            text=True,
            capture_output=True,
            check=True,
            cwd=tmp_path,
        )
        assert done.stdout.startswith("gru-linear-before-reset")


@pytest.mark.parametrize(
    ("net", "operator", "line"),
    [
        ("refused_stft", "stft", "return torch.stft("),
        ("refused_deform", "deform_conv2d", "return self.deformed("),
        ("functions", "Swish", "return Swish.apply(self.linear("),
        ("sizes_pool", "avg_pool2d", "F.avg_pool2d("),
    ],
)
def test_a_refusal_names_the_line_of_the_users(
    net: str, operator: str, line: str, volumes: Path
) -> None:
    error = json.loads((volumes / net / "reports/torch.json").read_text())["error"]
    assert error["message"].startswith(f"The operator '{operator}' (")
    (number,) = re.findall(r"nets\.py on line (\d+)", error["message"])
    assert line in (SUPPORT / "nets.py").read_text().splitlines()[int(number) - 1]
    assert len(error["message"]) < 600 and "\n" not in error["message"]
