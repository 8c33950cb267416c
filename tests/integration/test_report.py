"""`runner report`, and the page that every run leaves: on real runs, through the command line."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import (
    BAD_INPUT,
    INTERRUPTED,
    OUT_OF_TOLERANCE,
    PASSED,
    STAGE_FAILED,
    VACUOUS,
    Convert,
    Run,
    leftovers,
    run_cli,
    run_here,
)
from html_checks import Page, check
from sample_reports import interrupted, report

RUNS = {
    "passed": ("cnn", (), PASSED),
    "failed": ("inverse", (), STAGE_FAILED),
    "exceeded": ("cnn", ("--tolerance", "1e-12", "--strict"), OUT_OF_TOLERANCE),
    "nan": ("nan", (), OUT_OF_TOLERANCE),
    "vacuous": ("vacuous", (), VACUOUS),
    "several": ("two", ("--fixes", "none"), PASSED),
}


@pytest.fixture(scope="module")
def finished(convert: Convert) -> Callable[[str], Run]:
    def run(kind: str) -> Run:
        name, options, code = RUNS[kind]
        done = convert(name, *options)
        assert done.code == code, done.stdout + done.stderr
        return done

    return run


class TestPage:
    @pytest.mark.parametrize("kind", RUNS)
    def test_every_run_leaves_one(self, finished: Callable[[str], Run], kind: str) -> None:
        run = finished(kind)
        page = check((run.folder / "report.html").read_text(encoding="utf-8"))
        assert leftovers(run.folder) == []
        assert "report.html" in run.stdout
        made = run.report
        assert made["model"]["name"] in page.all("h1")[0].words
        # Every link to a file leads to one.
        links = {a.attributes["href"] for a in page.all("a")}
        files = {link for link in links if not link.startswith(("#", "https://"))}
        assert files and all((run.folder / file).is_file() for file in files)
        assert {record["log"] for record in made["stages"] if record["log"]} <= files
        for artifact in made["artifacts"]:
            assert artifact["sha256"] in page.text and artifact["path"] in files

    def test_it_says_what_the_report_says(self, finished: Callable[[str], Run]) -> None:
        run = finished("passed")
        text = Page((run.folder / "report.html").read_text(encoding="utf-8")).text
        for record in run.report["stages"]:
            for package, version in record["report"]["versions"].items():
                assert f"{package} {version}" in text
            for operator, count in record["report"]["operators"].items():
                assert f"{operator} {count}" in text
            (output,) = record["report"]["check"]["outputs"]
            mantissa, _, exponent = f"{output['mean_abs']:.2e}".partition("e")
            assert f"{mantissa}×10⁻{'⁰¹²³⁴⁵⁶⁷⁸⁹'[-int(exponent)]}" in text
            assert all(str(worst["sample"]) in text for worst in output["worst_samples"])
            histogram = output["histogram"]
            values = output["samples"] * 5
            assert histogram["zeros"] + sum(histogram["counts"]) == values
            assert f"Of {values} values" in text
        assert "tf-nightly==2.4.0.dev20200923" in text

    def test_a_failure_comes_with_its_remedy(self, finished: Callable[[str], Run]) -> None:
        run = finished("failed")
        page = Page((run.folder / "report.html").read_text(encoding="utf-8"))
        words = page.with_id("failure").words
        record = run.stage("torch")
        assert " ".join(record["failure"].split()) in words
        assert record["remedy"] and " ".join(record["remedy"].split()) in words

    def test_an_old_run_gets_one(
        self, finished: Callable[[str], Run], tmp_path: Path, capsys: Any
    ) -> None:
        """`report page` writes the very page that the run itself wrote."""
        folder = tmp_path / finished("passed").folder.name
        folder.mkdir()
        shutil.copy(finished("passed").folder / "report.json", folder)
        done = run_here(capsys, "report", "page", folder.name, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (0, f"{folder.name}/report.html\n")
        again = (folder / "report.html").read_bytes()
        assert again == (finished("passed").folder / "report.html").read_bytes()
        # Its report.json may be named as well.
        (folder / "report.html").unlink()
        done = run_here(capsys, "report", "page", folder / "report.json", cwd=tmp_path)
        assert done.returncode == 0 and (folder / "report.html").read_bytes() == again


@pytest.fixture
def batch(finished: Callable[[str], Run], tmp_path: Path) -> Path:
    """A folder of run folders: real ones, and one that was interrupted."""
    for kind in RUNS:
        (tmp_path / "runs" / kind).mkdir(parents=True)
        shutil.copy(finished(kind).folder / "report.json", tmp_path / "runs" / kind)
    write(tmp_path / "runs" / "stopped", interrupted())
    return tmp_path / "runs"


def write(folder: Path, made: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps(made))


class TestTable:
    def test_in_every_form(self, batch: Path, tmp_path: Path, capsys: Any) -> None:
        files = ("--csv", "t.csv", "--html", "t.html")
        done = run_here(capsys, "report", "table", batch, "--json", *files, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        rows = {row["run"]: row for row in json.loads(done.stdout)}
        assert set(rows) == {*RUNS, "stopped"}
        for kind, row in rows.items():
            made = json.loads((batch / kind / "report.json").read_text())
            assert (row["outcome"], row["model"]) == (made["outcome"], made["model"]["name"])
            assert row["tolerance"] == made["gate"]["tolerance"]
            assert row["toolchain"] == made["toolchain"] and row["seconds"] == made["seconds"]
            last = made["stages"][-1]
            if last["status"] == "ok":
                assert row["bytes"] == last["report"]["artifact"]["bytes"]
                assert row["operators"] == sum(last["report"]["operators"].values())
            else:
                assert row["bytes"] is row["operators"] is row["error"] is None
        assert rows["passed"]["error"] == rows["exceeded"]["error"] < 1e-6
        assert rows["passed"]["noise_floor"] > 0
        assert rows["nan"]["error"] is None and "NaN" in rows["nan"]["reason"]
        assert "inverse" in rows["failed"]["reason"]
        assert (rows["several"]["fixes"], rows["passed"]["fixes"]) == ("none", "all")
        # The same in CSV ...
        table = list(csv.DictReader(io.StringIO((tmp_path / "t.csv").read_text())))
        assert [row["run"] for row in table] == list(rows)
        for row in table:
            for name, value in rows[row["run"]].items():
                assert row[name] == ("" if value is None else str(value))
        # ... and as a page, with counts first.
        page = check((tmp_path / "t.html").read_text(encoding="utf-8"))
        assert page.all("h1")[0].words == "7 runs"
        counts = page.all("dl")[0].words
        assert "passed 2" in counts and "out of tolerance 2" in counts
        assert "failed 1" in counts and "interrupted 1" in counts and "proves nothing 1" in counts
        body = page.all("tbody")[0]
        assert len(body.children) == 7
        for row, words in zip(rows.values(), (line.words for line in body.children), strict=True):
            assert row["run"] in words and row["model"] in words

    def test_on_a_console(self, batch: Path, tmp_path: Path, capsys: Any) -> None:
        names = [batch / "passed", batch / "failed", batch / "exceeded"]
        done = run_here(capsys, "report", "table", *names, cwd=tmp_path)
        assert done.returncode == 0
        lines = {line.split()[0]: line for line in done.stdout.splitlines() if line.strip()}
        assert "inverse.pt" in lines["failed"]
        assert "1e-12" in lines["exceeded"] and "out of tolerance" in lines["exceeded"]
        # What is the same everywhere is said once.
        assert "all runs: metric mean_abs, toolchain pytorch-tflite-2020, fixes all" in done.stdout

    def test_flex_operators_are_counted(self, tmp_path: Path, capsys: Any) -> None:
        write(tmp_path / "one", report())
        done = run_here(capsys, "report", "table", "one", "--json", cwd=tmp_path)
        (row,) = json.loads(done.stdout)
        assert (row["operators"], row["flex"]) == (4, 1)

    @pytest.mark.parametrize(
        "name", ["=cmd|' /C calc'!A0.pt", "+1.pt", "-1+2.pt", "@SUM(A1).pt", "\t=1.pt", " =1.pt"]
    )
    def test_csv_is_no_program(self, tmp_path: Path, capsys: Any, name: str) -> None:
        made = report()
        made["model"]["name"] = name
        write(tmp_path / "=run", made)
        done = run_here(capsys, "report", "table", "=run", "--csv", "t.csv", cwd=tmp_path)
        assert done.returncode == 0
        (row,) = csv.DictReader(io.StringIO((tmp_path / "t.csv").read_text()))
        for column in ("run", "model"):
            assert row[column].startswith("'"), row[column]
        assert float(row["error"]) == 1e-7  # figures stay figures

    def test_names_are_escaped_on_the_page(self, tmp_path: Path, capsys: Any) -> None:
        made = report()
        made["model"]["name"] = made["options"]["fixes"] = "<script>alert(1)</script>"
        write(tmp_path / "<b>run", made)
        done = run_here(capsys, "report", "table", "<b>run", "--html", "t.html", cwd=tmp_path)
        assert done.returncode == 0
        page = check((tmp_path / "t.html").read_text(encoding="utf-8"))
        assert page.text.count("<script>alert(1)</script>") == 2 and "<b>run" in page.text


WRONG = {
    "truncated": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "binary": lambda text: "\x00\x01\x02",
    "foreign": lambda text: '{"version": 3, "results": []}',
    "newer": lambda text: text.replace('"schema_version": 1', '"schema_version": 2'),
    "mistyped": lambda text: text.replace('"seconds": 9.5', '"seconds": "soon"'),
    "list": lambda text: "[1, 2]",
}


class TestWrongUse:
    @pytest.mark.parametrize("damage", WRONG.values(), ids=WRONG)
    @pytest.mark.parametrize("command", ["page", "table"])
    def test_a_damaged_report(
        self, tmp_path: Path, capsys: Any, command: str, damage: Callable[[str], str]
    ) -> None:
        write(tmp_path / "run", report())
        path = tmp_path / "run" / "report.json"
        path.write_text(damage(path.read_text()))
        done = run_here(capsys, "report", command, "run", cwd=tmp_path)
        assert done.returncode == BAD_INPUT
        assert "run/report.json is not a report of this version" in done.stderr
        assert "→" in done.stderr and "Traceback" not in done.stderr
        assert [file.name for file in (tmp_path / "run").iterdir()] == ["report.json"]

    def test_one_damaged_run_hides_no_other(self, tmp_path: Path, capsys: Any, batch: Path) -> None:
        (batch / "passed" / "report.json").write_text("{")
        done = run_here(capsys, "report", "table", batch, "--html", "t.html", cwd=tmp_path)
        assert done.returncode == BAD_INPUT
        assert "passed/report.json" in done.stderr and "1 of 7 runs" in done.stderr
        assert "exceeded" in done.stdout
        page = check((tmp_path / "t.html").read_text(encoding="utf-8"))
        assert "Not in the table" in page.text and "passed/report.json" in page.text
        assert page.all("h1")[0].words == "6 runs"

    @pytest.mark.parametrize(
        ("argument", "said"),
        [
            ("nowhere", "nowhere does not exist"),
            ("file", "file is no folder"),
            ("empty", "empty "),
        ],
    )
    @pytest.mark.parametrize("command", ["page", "table"])
    def test_what_is_no_run(
        self, tmp_path: Path, capsys: Any, command: str, argument: str, said: str
    ) -> None:
        (tmp_path / "file").write_text("")
        (tmp_path / "empty").mkdir()
        done = run_here(capsys, "report", command, argument, cwd=tmp_path)
        assert done.returncode == BAD_INPUT
        assert said in done.stderr and "Traceback" not in done.stderr

    def test_a_folder_whose_name_is_not_utf8(self, tmp_path: Path) -> None:
        folder = tmp_path / os.fsdecode(b"a\xffb")
        write(folder, report())
        for command in (("page", folder), ("table", folder, "--csv", "t.csv", "--html", "t.html")):
            done = run_cli("report", *command, cwd=tmp_path, environment={"LC_ALL": "C"})
            assert done.returncode == 0, done.stderr
        assert "a\N{REPLACEMENT CHARACTER}b" in (tmp_path / "t.csv").read_text(encoding="utf-8")
        check((folder / "report.html").read_text(encoding="utf-8"))

    def test_help_names_both(self, tmp_path: Path, capsys: Any) -> None:
        done = run_here(capsys, "report", "--help", cwd=tmp_path)
        assert "table" in done.stdout and "page" in done.stdout


def test_an_interrupted_run_has_a_page(tmp_path: Path, capsys: Any) -> None:
    """A real interruption is in test_interrupt.py; here is what its page says."""
    made = interrupted()
    assert made["exit_code"] == INTERRUPTED
    write(tmp_path / "run", made)
    assert run_here(capsys, "report", "page", "run", cwd=tmp_path).returncode == 0
    page = check((tmp_path / "run" / "report.html").read_text(encoding="utf-8"))
    assert "was interrupted during the stage onnx-tf" in page.all("h1")[0].words
