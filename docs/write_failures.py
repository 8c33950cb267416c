"""Write docs/failures.md from the catalogue of known failures: python docs/write_failures.py"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INTRODUCTION = """\
# Known failures

Written by `python docs/write_failures.py` from `runner/known_failures/data`.

What these tools fail with, why, and what to do. The runner recognises each of them: `convert` shows
cause, remedy and source where a stage fails, and `report.json` has them under `known`.
`runner report explain LOG` looks up a log of any other program. Each is provoked by a test on the
real tools (`tests/integration/test_known_failures.py`).

A *fix* is what the runner repairs by itself ([all of them](fixes.md)): such a failure is seen with
`--faithful` only, or outside of the runner.
"""
TITLES = {
    "1-environment": "The machine and the environments",
    "2-torch": "PyTorch 1.5.1 and its ONNX export",
    "3-onnx-tf": "onnx-tf 1.6.0 and TensorFlow 2.2.0",
    "4-tflite": "TensorFlow 2.4's TFLite converter and interpreter",
}


def page() -> str:
    sys.path.insert(0, str(ROOT))
    from runner.known_failures import load_families

    parts = [INTRODUCTION]
    for family, entries in load_families():
        parts.append(f"\n## {TITLES[family]}\n")
        parts += [_entry(entry) for entry in entries]
    return "".join(parts)


def _entry(entry) -> str:  # type: ignore[no-untyped-def]
    lines = [f"\n### {entry.id}\n\n"]
    lines.append(f"```text\n{entry.example}\n```\n\n")
    if entry.verdict:
        lines.append("No error is raised: the check finds it.\n\n")
    lines.append(f"- **Why:** {entry.cause}\n- **What to do:** {entry.remedy}\n")
    if entry.fix:
        fix = "several together" if entry.fix == "all" else f"`{entry.fix}`"
        lines.append(f"- **Fix:** {fix}, on by default.\n")
    lines.append(f"- **Source:** <{entry.source}>\n")
    return "".join(lines)


if __name__ == "__main__":
    (ROOT / "docs" / "failures.md").write_text(page())
