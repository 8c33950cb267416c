"""Models that attack, on both engines: none gets through, nothing stays, the report says it.

With RUNNER_WRITE_DOCS=1 the outcomes are written to docs/hostile.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hostile
import pytest
from faulty import processes
from harness import (
    BAD_INPUT,
    DOCKER,
    ENVIRONMENT,
    PASSED,
    ROOT,
    STAGE_FAILED,
    WITH_KEEPER,
    Convert,
    Run,
    docker_leftovers,
    leftovers,
    run_cli,
)

from runner.engines.process.bubblewrap import Sandbox, find_sandbox
from runner.engines.process.seccomp import open_seccomp_filter

SECRET = "the secret of the house"
SANDBOXED = pytest.param("process", marks=pytest.mark.sandbox)
ENGINES = (SANDBOXED, DOCKER)
# The process engine whose stages are forked from warm processes, as in a suite.
WARM = "warm"
WARMED = pytest.param(WARM, marks=pytest.mark.sandbox)
# The process engine where no control group can be made, as for most users that are not root.
WATCHED = "watched"
NO_CONTROL_GROUP = (
    *("unshare", "--mount", "sh", "-c"),
    'mount -t tmpfs -o ro tmpfs /sys/fs/cgroup && exec "$@"',
    "sh",
)
# No isolation at all, on a machine that has one.
BARE = {"RUNNER_BWRAP": "/nonexistent", "RUNNER_TRUST_MODEL": "0", "DOCKER_HOST": "unix:///none"}

OUTCOMES: dict[str, dict[str, str]] = {}


@pytest.fixture(autouse=True)
def need_sandbox(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("sandbox") and not isinstance(find_sandbox(), Sandbox):
        if os.environ.get("CI"):
            pytest.fail(f"CI has to have bubblewrap: {find_sandbox()}")
        pytest.skip(str(find_sandbox()))


@pytest.fixture(scope="module", autouse=True)
def table() -> Iterator[None]:
    """Write what was seen into the documentation, where that is asked for."""
    yield
    if os.environ.get("RUNNER_WRITE_DOCS") != "1":
        return
    lines = [
        "# What hostile models tried",
        "",
        "Written by `RUNNER_WRITE_DOCS=1 pytest tests/integration/test_hostile.py`: what models",
        "of [tests/support/hostile.py](../tests/support/hostile.py) tried, and what came of it.",
        "[security.md](security.md) says what is promised.",
        "",
        "| tried | process engine with bubblewrap | docker engine |",
        "|---|---|---|",
    ]
    for what, by_engine in OUTCOMES.items():
        cells = [by_engine.get(engine, "-").replace("|", "/") for engine in ("process", "docker")]
        lines.append(f"| {what} | {cells[0]} | {cells[1]} |")
    (ROOT / "docs" / "hostile.md").write_text("\n".join(lines) + "\n")


Attack = Callable[..., Run]


@pytest.fixture
def attack(tmp_path: Path) -> Attack:
    """Convert a hostile model, and see that nothing of it is left."""

    def run(engine: str, payload: str, *options: str, **values: Any) -> Run:
        model = hostile.hostile_file(tmp_path / "model.pt", payload, **values)
        folder = tmp_path / "out"
        under = [*(NO_CONTROL_GROUP if WATCHED in engine else ())]
        under += WITH_KEEPER if WARM in engine else ()
        finished = run_cli(
            *("convert", "--model", model, "--output", folder),
            *("--engine", engine if engine in ("process", "docker") else "process"),
            *("--samples", "2", "--input", "1x8", *options),
            cwd=tmp_path,
            environment={"RUNNER_TRUST_MODEL": "0"},
            under=under,
        )
        done = Run(finished.returncode, finished.stdout, finished.stderr, folder)
        assert "through:" not in log_of(done), log_of(done)
        assert "Traceback" not in finished.stderr
        assert ("warm" in done.report["engine"]["details"]) == (WARM in engine)
        assert leftovers(tmp_path) == []
        assert not list(Path("/tmp").glob("runner-home-*/d"))
        if engine == "docker":
            assert docker_leftovers(done.report["run"]) == ""
        everything = b"".join(p.read_bytes() for p in folder.rglob("*") if p.is_file())
        assert SECRET.encode() not in everything
        assert SECRET not in finished.stdout + finished.stderr
        return done

    return run


@pytest.fixture
def secret() -> Iterator[Path]:
    """A file in the home folder that only this user may read."""
    folder = Path(tempfile.mkdtemp(prefix=".runner-test-", dir=Path.home()))
    path = folder / "secret"
    path.write_text(SECRET)
    path.chmod(0o600)
    yield path
    shutil.rmtree(folder)


def log_of(run: Run) -> str:
    return (run.folder / "logs" / "torch.log").read_text()


def said(run: Run) -> str:
    """What the report says of the first stage."""
    stage = run.stage("torch")
    return f"{stage['failure']} {stage['remedy']}".strip()


def record(what: str, engine: str, outcome: str) -> None:
    if engine not in ("process", "docker"):
        return
    shortened = re.sub(r"/\S*/", "", outcome).strip().rstrip(".")
    OUTCOMES.setdefault(what, {})[engine] = shortened[:110]


@pytest.fixture
def listener() -> Iterator[tuple[int, str, list[str]]]:
    """A port and an abstract socket of this machine, and who has called there."""
    calls: list[str] = []
    name = f"\0runner-test-{os.getpid()}"
    servers = []
    for family, address in ((socket.AF_INET, ("127.0.0.1", 0)), (socket.AF_UNIX, name)):
        server = socket.socket(family)
        server.bind(address)
        server.listen()
        servers.append(server)

        def serve(server: socket.socket = server) -> None:
            try:
                while True:
                    server.accept()
                    calls.append("called")
            except OSError:
                pass  # closed

        threading.Thread(target=serve, daemon=True).start()
    yield servers[0].getsockname()[1], name, calls
    for server in servers:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


@pytest.mark.parametrize("engine", [*ENGINES, WARMED])
def test_nothing_can_be_reached(
    attack: Attack,
    engine: str,
    secret: Path,
    tmp_path: Path,
    listener: tuple[int, str, list[str]],
) -> None:
    port, abstract, calls = listener
    outside, home = tmp_path / "outside", Path.home()
    outside.mkdir()
    run = attack(
        engine,
        hostile.REACHES,
        outside=str(outside),
        home=str(home),
        secret=str(secret),
        port=port,
        abstract=abstract,
        pid=os.getpid(),
    )
    held = re.findall(r"^held: ([^:]*): (.*)$", log_of(run), re.MULTILINE)
    assert len(held) == len(re.findall(r"^attempt\(", hostile.REACHES, re.MULTILINE))
    assert list(outside.iterdir()) == [] and calls == []
    assert not (home / ".runner-hostile-test").exists()
    assert not Path("/etc/runner-hostile-test").exists()
    assert not list((ROOT / "stages").glob("hostile*"))
    for what, outcome in held:
        record(what, engine, outcome)


# A payload, the limits that it runs into, and what the report then says.
EXHAUSTS: dict[str, tuple[str, list[str], str]] = {
    "fork without end": (hostile.FORKS, ["processes=64"], "unavailable|more than 64 processes"),
    "fill the memory": (hostile.MEMORY, ["memory=1500m"], "[Mm]emory"),
    "fill the disk": (hostile.DISK, ["disk=60m"], "wrote more than 60.0 MB"),
    "fill the disk with one file": (hostile.ONE_FILE, ["disk=60m"], "File too large|more than 60"),
    "make files without end": (hostile.FILES, ["files=2000"], "more than 2000 files"),
    "run for ever": (hostile.FOREVER, ["timeout=8"], "more than 8 seconds.*--timeout"),
    "print without end": (hostile.PRINTS, ["output=8m", "log=1m"], "printed more than 8.0 MB"),
    "print one line without end": (hostile.ONE_LINE, ["output=8m", "log=1m"], "printed more than"),
    "move folders about": (hostile.MOVES, ["disk=40m", "timeout=60"], "more than 40|renamed"),
    "hide in folders": (hostile.CLOSED, ["files=1000", "timeout=60"], "folder|more than 1000"),
}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be kept from making control groups")
@pytest.mark.parametrize(
    "what", ["fork without end", "fill the memory", "fill the disk", "make files without end"]
)
@pytest.mark.parametrize("engine", [WATCHED, f"{WATCHED} {WARM}"])
@pytest.mark.sandbox
def test_watching_is_enough(attack: Attack, engine: str, what: str) -> None:
    test_nothing_can_be_used_up(attack, engine, what)


@pytest.mark.parametrize("engine", [*ENGINES, WARMED])
@pytest.mark.parametrize("what", EXHAUSTS)
def test_nothing_can_be_used_up(attack: Attack, engine: str, what: str) -> None:
    payload, limits, words = EXHAUSTS[what]
    options = [item for limit in limits for item in ("--limit", limit)]
    run = attack(engine, payload, *options)
    assert run.code in (STAGE_FAILED, BAD_INPUT), run.stdout + run.stderr
    outcome = said(run)
    if what == "fork without end" and "held: fork" in log_of(run):
        outcome = log_of(run).partition("held: ")[2].splitlines()[0]
    assert re.search(words, outcome), outcome
    log = run.folder / "logs" / "torch.log"
    assert log.stat().st_size < 2 << 20
    if "print" in what:
        assert "left out here" in log.read_text()
        assert "→" in run.stdout
    shown = outcome if what == "fork without end" else run.stage("torch")["failure"]
    record(what, engine, shown.partition(". ")[0])


# A payload that answers in a way of its own, and what the report says of it.
ANSWERS: dict[str, tuple[str, str]] = {
    "a link to a secret in the artifact's place": (hostile.LINK, "no regular file"),
    "a FIFO in the artifact's place": (hostile.FIFO, "no regular file"),
    "a link to a secret in the report's place": (hostile.REPORT_LINK, "left no report"),
    "a FIFO in the report's place": (hostile.REPORT_FIFO, "left no report"),
    "a report that lies about its hash": (hostile.LIES, "sha256 is not the one"),
    "a report that names another file": (hostile.NAMES, "report is not valid"),
    "a report nested without end": (hostile.NESTED, "report is not valid"),
    "a report of an input without elements": (hostile.EMPTY, "report is not valid"),
    "a report of samples below none": (hostile.FLOOR, "report is not valid"),
    "a report with terminal escapes": (hostile.ESCAPES, "owned"),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("what", ANSWERS)
def test_no_answer_is_believed(attack: Attack, engine: str, what: str, secret: Path) -> None:
    payload, words = ANSWERS[what]
    digest = hashlib.sha256(SECRET.encode()).hexdigest()
    values = {"secret": str(secret), "digest": digest} if "{" in payload.split("dict")[0] else {}
    run = attack(engine, payload, **values)
    assert run.code == STAGE_FAILED, run.stdout + run.stderr
    assert re.search(words, said(run)), said(run)
    assert not (run.folder / "model.onnx").exists()
    assert run.report["artifacts"] == []
    everything = run.stdout + run.stderr + log_of(run) + json.dumps(run.report)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]|\\u001b|\\u0007", everything)
    failure = run.stage("torch")["failure"].partition(". ")[0]
    record(what, engine, failure.replace("\N{REPLACEMENT CHARACTER}", "?"))


@pytest.mark.sandbox
@pytest.mark.parametrize(
    ("call", "answer"),
    [
        ("319, my $name = 'hidden', 0", "-1 Operation not permitted"),
        ("447, 0", "-1 Operation not permitted"),
        ("56, 0x10000011, 0, 0, 0, 0", "-1 Operation not permitted"),
        ("56, 0x40000011, 0, 0, 0, 0", "-1 Operation not permitted"),
        ("56, 0x8011, 0, 0, 0, 0", "-1 Operation not permitted"),
        ("29, 0, 9, 0", "-1 Operation not permitted"),
        ("41, 40, 1, 0", "-1 Address family not supported by protocol"),
        ("41, 38, 5, 0", "-1 Address family not supported by protocol"),
        ("53, 40, 1, 0, 0", "-1 Address family not supported by protocol"),
        ("41, 1, 1, 0", "3 "),
        ("41, 2, 1, 0", "3 "),
    ],
    ids=[
        *("memfd_create", "memfd_secret", "clone a user namespace", "clone a network namespace"),
        "clone for the parent",
        *("shmget", "vsock", "kernel ciphers", "vsock pair", "unix", "internet"),
    ],
)
def test_the_filter(call: str, answer: str) -> None:
    sandbox = find_sandbox()
    assert isinstance(sandbox, Sandbox)
    filter_ = open_seccomp_filter()
    done = subprocess.run(
        sandbox.command(
            ["/usr/bin/perl", "-e", f'print syscall({call}), " $!"'],
            environment={},
            read_only=[],
            writable={},
            seccomp=filter_,
        ),
        pass_fds=[filter_],
        capture_output=True,
        text=True,
    )
    os.close(filter_)
    assert done.stdout == answer, done.stderr


@pytest.mark.parametrize("engine", ENGINES)
def test_a_folder_that_became_a_link(attack: Attack, engine: str, tmp_path: Path) -> None:
    """The runner writes the next stage's request: not through the link."""
    outside = tmp_path / "outside"
    outside.mkdir()
    run = attack(engine, hostile.FOLDER_LINK, outside=str(outside))
    assert run.code in (STAGE_FAILED, ENVIRONMENT, BAD_INPUT)
    assert list(outside.iterdir()) == []
    record("a link in a folder's place", engine, run.stage("onnx-tf")["failure"])


@pytest.mark.parametrize("engine", [*ENGINES, WARMED])
def test_no_daemon_is_left(attack: Attack, engine: str, tmp_path: Path) -> None:
    mark = f"daemon-of-{tmp_path.name}-{os.getpid()}"
    run = attack(engine, hostile.DAEMON, mark=mark)
    assert "left a daemon" in log_of(run)
    assert processes(mark) == []
    record("leave a daemon behind", engine, "ended with its stage")


class TestWithoutIsolation:
    """Neither docker nor bubblewrap: what could run code needs --trust-model."""

    @pytest.mark.parametrize(
        ("model", "options", "words"),
        [
            ("cnn", (), "cnn.pt is a pickled module"),
            (
                "weights",
                ("--arch", str(ROOT / "tests/support/user_code.py:OwnNet")),
                "is a program",
            ),
        ],
    )
    @pytest.mark.parametrize("engine", ["process", "auto"])
    def test_refused(
        self, models: Path, tmp_path: Path, model: str, options: Any, words: str, engine: str
    ) -> None:
        finished = run_cli(
            *("convert", "--model", models / f"{model}.pt", "--engine", engine, *options),
            cwd=tmp_path,
            environment=BARE,
        )
        assert finished.returncode == BAD_INPUT, finished.stdout
        message = " ".join(finished.stderr.split())
        assert re.search(words, message) and "bubblewrap is not installed" in message
        for way in ("Install bubblewrap", "--engine docker", "--trust-model"):
            assert way in message
        assert list(tmp_path.iterdir()) == []

    def test_the_example_converts(self, tmp_path: Path) -> None:
        finished = run_cli(
            *("convert", "--model", ROOT / "examples/mbv2.pt", "--samples", "4"),
            *("--output", tmp_path / "out"),
            cwd=tmp_path,
            environment=BARE,
        )
        assert finished.returncode == PASSED, finished.stdout + finished.stderr
        engine = json.loads((tmp_path / "out/report.json").read_text())["engine"]
        assert (engine["name"], engine["details"]["sandbox"]) == ("process", "none")

    @pytest.mark.parametrize("command", ["diagnose", "compare", "reproduce", "inspect"])
    def test_other_commands(self, convert: Convert, tmp_path: Path, command: str) -> None:
        """Whatever loads the model asks, and runs it where it is told to."""
        run = convert("cnn")
        model = run.report["model"]["path"]
        arguments: list[str | Path] = [command, "--engine", "process"]
        match command:
            case "diagnose":
                folder = tmp_path / "run"
                shutil.copytree(run.folder, folder)
                arguments += [folder, "--samples", "1"]
            case "compare":
                # Not the reference alone.
                arguments += [run.folder / "model.onnx", model, "--samples", "2"]
            case "reproduce":
                arguments += [run.folder, "--output", tmp_path / "again"]
            case "inspect":
                arguments += [model]
        before = sorted(tmp_path.iterdir())
        finished = run_cli(*arguments, cwd=tmp_path, environment=BARE)
        assert finished.returncode == BAD_INPUT, finished.stdout + finished.stderr
        message = " ".join(finished.stderr.split())
        assert "cnn.pt is a pickled module" in message and "--trust-model" in message
        assert sorted(tmp_path.iterdir()) == before
        finished = run_cli(*arguments, "--trust-model", cwd=tmp_path, environment=BARE)
        assert finished.returncode == PASSED, finished.stdout + finished.stderr

    def test_a_folder_of_a_strangers(self, convert: Convert, tmp_path: Path) -> None:
        """What its report, its record and its artifacts say is not the user's own wish."""
        run = convert("script")

        def copied() -> Path:
            folder = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
            shutil.copytree(run.folder, folder)
            return folder

        def refused(*arguments: str | Path) -> str:
            finished = run_cli(*arguments, "--engine", "process", cwd=tmp_path, environment=BARE)
            assert finished.returncode == BAD_INPUT, finished.stdout + finished.stderr
            return " ".join(finished.stderr.split())

        def change(folder: Path, name: str, change: Callable[[Any], None]) -> Path:
            content = json.loads((folder / name).read_text())
            change(content)
            (folder / name).write_text(json.dumps(content))
            return folder

        def build(report: Any) -> None:
            report["options"]["arch"] = "os:system"

        def build_in_a_stage(report: Any) -> None:
            report["stages"][0]["report"]["options"]["arch"] = "os:system"

        for way in (build, build_in_a_stage):
            folder = change(copied(), "report.json", way)
            assert "may do anything" in refused("diagnose", folder, "--samples", "1")

        def build_by_record(record: Any) -> None:
            parameters = record["predicate"]["buildDefinition"]["externalParameters"]
            parameters["options"]["torch"]["arch"] = "os:system"

        folder = change(copied(), "provenance.json", build_by_record)
        assert "may do anything" in refused("reproduce", folder, "--output", tmp_path / "again")

        evil = tmp_path / "evil"
        evil.mkdir()
        shutil.copyfile(ROOT / "stages/toolchains/pytorch-tflite-2020.toml", evil / "chain.toml")

        def chain_of_its_own(report: Any) -> None:
            report["toolchain"] = str(evil / "chain")

        folder = change(copied(), "report.json", chain_of_its_own)
        assert "is not a report" in refused("diagnose", folder, "--samples", "1")

        def step_out(report: Any) -> None:
            report["stages"][0]["name"] = "../../outside"

        folder = change(copied(), "report.json", step_out)
        assert "is not a report" in refused("diagnose", folder, "--samples", "1")
        for command in ("diagnose", "reproduce"):
            folder = copied()
            before = hashlib.sha256((folder / "model.pb").read_bytes()).hexdigest()
            with open(folder / "model.pb", "ab") as file:
                file.write(b"WriteFile")
            after = hashlib.sha256((folder / "model.pb").read_bytes()).hexdigest()
            record = (folder / "provenance.json").read_text()
            (folder / "provenance.json").write_text(record.replace(before, after))
            said = refused(command, folder)
            assert "model.pb may read or write files" in said

    def test_links_in_a_folder_of_a_strangers(self, convert: Convert, tmp_path: Path) -> None:
        folder, target = tmp_path / "run", tmp_path / "target"
        shutil.copytree(convert("script").folder, folder)
        target.write_text("the user's own")
        for name in (".diagnosis.json.part", "diagnosis.json", "logs/.torch-trace.log.part"):
            (folder / name).symlink_to(target)
        arguments = ("diagnose", folder, "--engine", "process", "--samples", "1")
        finished = run_cli(*arguments, cwd=tmp_path, environment=BARE)
        assert finished.returncode == PASSED, finished.stdout + finished.stderr
        assert target.read_text() == "the user's own"
        assert not (folder / "diagnosis.json").is_symlink()
        # A file of the user's own, as an artifact.
        content = (folder / "model.onnx").read_bytes()
        (tmp_path / "other.onnx").write_bytes(content)
        (folder / "model.onnx").unlink()
        (folder / "model.onnx").symlink_to(tmp_path / "other.onnx")
        finished = run_cli(*arguments, cwd=tmp_path, environment=BARE)
        assert finished.returncode == BAD_INPUT and "no artifact to trace" in finished.stderr
        (folder / "model.onnx").unlink()
        (folder / "model.onnx").write_bytes(content)
        (folder / "logs").rename(folder / "elsewhere")
        (folder / "logs").symlink_to(tmp_path)
        finished = run_cli(*arguments, cwd=tmp_path, environment=BARE)
        assert finished.returncode == BAD_INPUT and "is a link" in finished.stderr

    @pytest.mark.parametrize("command", ["diagnose", "report page", "report table"])
    def test_a_report_that_never_ends(self, tmp_path: Path, command: str) -> None:
        folder = tmp_path / "run"
        folder.mkdir()
        for make in (os.mkfifo, lambda path: Path(path).symlink_to("/dev/zero")):
            make(folder / "report.json")
            finished = run_cli(*command.split(), folder, cwd=tmp_path, environment=BARE)
            assert finished.returncode == BAD_INPUT, finished.stdout
            assert "no regular file" in " ".join(finished.stderr.split())
            (folder / "report.json").unlink()

    def test_inspect_goes_without(self, models: Path, tmp_path: Path) -> None:
        """With no engine asked for, it says what the bytes tell, and why no more."""
        finished = run_cli("inspect", models / "cnn.pt", "--json", cwd=tmp_path, environment=BARE)
        assert finished.returncode == PASSED, finished.stderr
        found = json.loads(finished.stdout)
        assert found["loaded"] is None and "--trust-model" in found["not_loaded"]

    def test_trusted(self, models: Path, tmp_path: Path) -> None:
        """Without isolation there are limits still, and what is left running is ended."""
        mark = f"daemon-of-{tmp_path.name}-{os.getpid()}"
        model = hostile.hostile_file(
            tmp_path / "model.pt", hostile.DAEMON + hostile.FOREVER, mark=mark
        )
        finished = run_cli(
            *("convert", "--model", model, "--engine", "process", "--trust-model"),
            *("--timeout", "8", "--output", tmp_path / "out", "--input", "1x8"),
            cwd=tmp_path,
            environment=BARE,
        )
        left = processes(mark)
        for number in left:
            os.kill(number, signal.SIGKILL)
        assert finished.returncode == STAGE_FAILED
        assert "ran for more than 8 seconds" in finished.stdout
        assert "left a daemon" in (tmp_path / "out/logs/torch.log").read_text()
        if os.geteuid() == 0:  # who can make a control group
            assert left == []
        assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--limit", "memory"), "NAME=NUMBER"),
        (("--limit", "memory=much"), "NAME=NUMBER"),
        (("--limit", "colour=3"), "the names are"),
        (("--limit", "processes=0"), "out of range"),
        (("--timeout", "-1"), "out of range"),
    ],
)
def test_limits_that_are_none(models: Path, tmp_path: Path, options: Any, words: str) -> None:
    finished = run_cli("convert", "--model", models / "cnn.pt", *options, cwd=tmp_path)
    assert finished.returncode == BAD_INPUT
    assert words in " ".join(finished.stderr.split())
    assert list(tmp_path.iterdir()) == []


def test_doctor_shows_the_limits(tmp_path: Path) -> None:
    findings = json.loads(run_cli("doctor", "--json", cwd=tmp_path, environment=BARE).stdout)
    shown = {finding["topic"]: finding for finding in findings}
    assert "21600 s" in shown["limits"]["message"] and "64.0 GB" in shown["limits"]["message"]
    assert shown["sandbox"]["level"] == "warning"
    assert "bubblewrap" in shown["sandbox"]["remedy"]
