"""Unusual machines and files: no traceback, no exit code of a defect, nothing taken or lost."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from harness import BAD_INPUT, ENVIRONMENT, PASSED, RECORD, Convert, leftovers, run_cli


def until_the_first_line(*arguments: str | Path, cwd: Path) -> tuple[int, str]:
    """Run the command line as `head -1` reads it; its exit code, and what it says of errors."""
    with subprocess.Popen(
        [sys.executable, "-m", "runner", *map(str, arguments)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()
        return process.wait(), said


@pytest.mark.parametrize("command", [["doctor"], ["--help"], ["images", "list"], ["stages"]])
def test_a_reader_who_leaves(tmp_path: Path, command: list[str]) -> None:
    code, said = until_the_first_line(*command, cwd=tmp_path)
    assert code == PASSED and said == ""


def test_a_reader_who_leaves_a_conversion(models: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    asked = ("convert", "--model", models / "cnn.pt", "--samples", "2", "--engine", "process")
    code, said = until_the_first_line(*asked, "--output", run, cwd=tmp_path)
    assert code == PASSED and said == ""
    assert {path.name for path in run.iterdir()} > RECORD
    assert json.loads((run / "report.json").read_text())["outcome"] == "passed"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_arrows(tmp_path: Path, encoding: str) -> None:
    environment = {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    for command in (["doctor"], ["stages"], ["convert", "--model", "bad\udcff.pt"]):
        done = run_cli(*command, cwd=tmp_path, environment=environment)
        assert done.returncode in (PASSED, BAD_INPUT) and "Traceback" not in done.stderr
        assert done.stdout + done.stderr


@pytest.mark.parametrize("host", ["tcp://[::bad", "tcp://host:port", "unix:///nothing", "x"])
def test_a_docker_host_that_is_none(tmp_path: Path, host: str) -> None:
    environment = {"DOCKER_HOST": host, "RUNNER_CACHE_DIR": str(tmp_path / "cache")}
    for command in (["clean", "--keep-cache"], ["images", "list"], ["doctor"]):
        done = run_cli(*command, cwd=tmp_path, environment=environment)
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == PASSED, done.stdout + done.stderr
    assert "No Docker engine answers" in done.stdout.replace("\n", " ")


def test_a_cache_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        environment = {"RUNNER_CACHE_DIR": str(place)}
        done = run_cli("doctor", cwd=tmp_path, environment=environment)
        assert done.returncode == ENVIRONMENT
        assert "cannot be made or written" in " ".join(done.stdout.split())


def test_a_bound_that_is_none(tmp_path: Path) -> None:
    for bound in ("abc", "-5", "1e9"):
        done = run_cli("cache", cwd=tmp_path, environment={"RUNNER_CACHE_BYTES": bound})
        assert done.returncode == BAD_INPUT and bound in done.stderr
    shown = run_cli("cache", cwd=tmp_path, environment={"RUNNER_CACHE_BYTES": "3g"})
    assert shown.returncode == PASSED and "3.0 GB" in shown.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--samples", str(1 << 63)], "--samples"),
        (["--arch", "x:y", "--arch-args", '{"a": NaN}'], "--arch-args is not JSON"),
        (["--arch", "x:y", "--arch-args", '{"a": 1e999}'], "--arch-args is not JSON"),
    ],
)
def test_numbers_that_are_none(
    models: Path, tmp_path: Path, options: Sequence[str], words: str
) -> None:
    done = run_cli("convert", "--model", models / "cnn.pt", *options, cwd=tmp_path)
    assert done.returncode == BAD_INPUT and words in done.stderr
    assert "Traceback" not in done.stderr and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", ["NaN", "1e999"])
def test_an_option_that_is_no_number(models: Path, tmp_path: Path, number: str) -> None:
    done = run_cli(
        *("convert", "--model", models / "cnn.pt", "--option", f"torch.opset={number}"),
        *("--output", tmp_path / "run", "--engine", "process"),
        cwd=tmp_path,
    )
    assert done.returncode == BAD_INPUT, done.stdout + done.stderr
    assert "opset" in done.stdout + done.stderr


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for command in (["convert", "--model"], ["reproduce"], ["inspect"], ["archive", "verify"]):
        done = run_cli(*command, "fifo", cwd=tmp_path)
        assert done.returncode == BAD_INPUT, done.stderr
        assert "Traceback" not in done.stderr
        assert "regular" in done.stderr or "There is no archive" in done.stderr


@pytest.mark.parametrize("option", ["--csv", "--html"])
def test_where_a_table_goes(convert: Convert, tmp_path: Path, option: str) -> None:
    """What the user names stays what it is: a device, a pipe, a link."""
    run = convert("cnn").folder
    (tmp_path / "target").write_text("before")
    (tmp_path / "link").symlink_to("target")
    (tmp_path / "null").symlink_to("/dev/null")
    for name in ("link", "null", "new"):
        done = run_cli("report", run, option, name, cwd=tmp_path)
        assert done.returncode == PASSED, done.stderr
    assert (tmp_path / "link").is_symlink() and (tmp_path / "null").is_symlink()
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    assert (tmp_path / "target").read_text() == (tmp_path / "new").read_text() != "before"
    piped = run_cli("report", run, option, "/dev/stdout", cwd=tmp_path)
    assert piped.returncode == PASSED
    assert (tmp_path / "new").read_text().replace("\r\n", "\n") in piped.stdout
    for name in (".", "/", "", "x" * 300):
        refused = run_cli("report", run, option, name, cwd=tmp_path)
        assert refused.returncode == BAD_INPUT, refused.stderr
        assert "Traceback" not in refused.stderr
    assert leftovers(tmp_path) == []


def test_a_bundle_of_a_strangers_run(convert: Convert, tmp_path: Path) -> None:
    run, secret = tmp_path / "run", tmp_path / "secret"
    shutil.copytree(convert("cnn").folder, run)
    shutil.rmtree(run / "logs")
    secret.mkdir()
    (secret / "private.log").write_text("of the user's own")
    (run / "logs").symlink_to(secret)
    done = run_cli("report", "bundle", run, "--output", "b.zip", cwd=tmp_path)
    assert done.returncode == PASSED and "left out: logs: it is a link" in done.stdout
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        assert not [name for name in archive.namelist() if name.endswith(".log")]


@pytest.mark.parametrize("samples", [None, "abc", [1], 0, -1, 1 << 70, True])
def test_a_report_that_does_not_say_how(convert: Convert, tmp_path: Path, samples: object) -> None:
    run = tmp_path / "run"
    shutil.copytree(convert("cnn").folder, run)
    report = json.loads((run / "report.json").read_text())
    report["options"]["samples"] = samples
    (run / "report.json").write_text(json.dumps(report))
    done = run_cli("diagnose", run, "--engine", "process", cwd=tmp_path)
    assert done.returncode == BAD_INPUT, done.stdout + done.stderr
    assert re.search("does not say which samples|is not a report", done.stderr)


def test_a_report_that_names_a_file_of_the_users(convert: Convert, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(convert("cnn").folder, run)
    (tmp_path / "private").write_text("of the user's own")
    report = json.loads((run / "report.json").read_text())
    report["model"]["arch_file"] = str(tmp_path / "private")
    (run / "report.json").write_text(json.dumps(report))
    done = run_cli("diagnose", run, "--engine", "process", "--trust-model", cwd=tmp_path)
    assert done.returncode == BAD_INPUT and "is no Python file" in done.stderr


def test_names_that_steer_a_terminal(tmp_path: Path) -> None:
    """A run folder of a stranger's, of which a killed run has left a note."""
    run, cache = tmp_path / "run", tmp_path / "cache"
    (cache / "active").mkdir(parents=True)
    (run / ".keep-\x1b]0;owned\x07").mkdir(parents=True)
    note = {"owner": f"{os.uname().nodename} 9999999 1 1", "folder": str(run)}
    note["owner"] = note["owner"].rpartition(" ")[0] + f" {_namespace()}"
    (cache / "active" / "1-1-1-0.json").write_text(json.dumps(note))
    done = run_cli("clean", cwd=tmp_path, environment={"RUNNER_CACHE_DIR": str(cache)})
    assert done.returncode == PASSED and "owned" in done.stdout
    assert "\x1b" not in done.stdout and "\x07" not in done.stdout


def _namespace() -> int:
    return Path("/proc/self/ns/pid").stat().st_ino
