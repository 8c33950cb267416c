"""How the code is laid out: which package may import which, and how much one holds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from harness import ROOT

# About a dozen; a reader takes in no more at a glance.
MOST_MODULES = 14


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--config", ROOT / ".importlinter"],
        cwd=folder,
        text=True,
        capture_output=True,
        check=False,
    )


def test_no_import_runs_upwards_and_there_is_no_cycle() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("module", "planted"),
    [
        ("runner/host/text.py", "from runner.report import wording"),
        ("stages/kit/layers.py", "from stages.convert import flex"),
        ("runner/formats/pickle.py", "from runner.formats import torch"),
        ("runner/host/text.py", "from stages.kit import layers"),
    ],
)
def test_a_planted_import_is_found(tmp_path: Path, module: str, planted: str) -> None:
    """Upwards in the host and in the stages, in a circle, and from one to the other."""
    for name in ("runner", "stages"):
        for source in (ROOT / name).rglob("*.py"):
            copy = tmp_path / source.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(source.read_bytes())
    with open(tmp_path / module, "a") as file:
        file.write(f"\n{planted}\n")
    done = lint(tmp_path)
    assert done.returncode == 1 and "BROKEN" in done.stdout, done.stdout


@pytest.mark.parametrize(
    "package",
    sorted({path.parent for name in ("runner", "stages") for path in (ROOT / name).rglob("*.py")}),
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_a_package_holds_about_a_dozen_modules(package: Path) -> None:
    modules = [path.name for path in package.glob("*.py") if path.name != "__init__.py"]
    assert len(modules) <= MOST_MODULES, modules
