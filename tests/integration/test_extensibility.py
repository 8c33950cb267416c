"""A stage and a toolchain are files: those of the how-to, in a copy of the repository."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

from runner.host.paths import ROOT

HOW_TO = ROOT / "docs" / "how-to" / "add-a-stage-or-toolchain.md"


def test_the_how_to_of_a_stage_and_a_toolchain(models: Path, tmp_path: Path) -> None:
    """Write the files that the text shows, and run the toolchain as it says."""
    for folder in ("runner", "stages", "images"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    for step in re.split(r"^\d\. ", HOW_TO.read_text(), flags=re.MULTILINE)[1:3]:
        name = re.findall(r"`(stages/\S+)`", step)[0]
        code = "".join(re.findall(r"^ {7}.*\n|^\n", step, re.MULTILINE))
        (tmp_path / name).write_text(textwrap.dedent(code).strip() + "\n")
    finished = subprocess.run(
        [sys.executable, "-m", "runner", "convert", "--toolchain", "pytorch-onnx-2020"]
        + ["--model", str(models / "cnn.pt"), "--samples", "8", "--output", "run"]
        + ["--engine", "process"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert [stage["name"] for stage in report["stages"]] == ["torch", "strip"]
    assert report["outcome"] == "passed"
    content = (tmp_path / "run" / "stripped.onnx").read_bytes()
    before = (tmp_path / "run" / "model.onnx").read_bytes()
    assert 0 < len(content) < len(before)
