"""Write every page and schema that is generated: python docs/generate.py [--check]

With --check nothing is written; the exit status is 1 if anything is not as it should be.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from runner.host.paths import ROOT
from runner.known_failures.catalogue import Entry, load_families
from runner.schemas import list_schema_models
from runner.toolchains.fixes import load_fixes

_FIXES = """\
# The fixes

Written by `python docs/generate.py` from `stages/fixes/catalogue.json`.

What was wrong in the tools of 2020 is repaired by named fixes: better handlers registered at run
time, or rewritten graphs. The packages themselves are never edited. All are applied by default, and
each report names those that did something. `--fixes NAME,...` applies these alone,
`--fixes=-NAME,...` all but these, and `--faithful` (`--fixes none`) none: then the result is, byte
for byte, that of the pinned tools alone.

"""
_FAILURES = """\
# Known failures

Written by `python docs/generate.py` from `runner/known_failures/data`.

What these tools fail with, why, and what to do. The runner recognises each of them: `convert` shows
cause, remedy and source where a stage fails, and `report.json` has them under `known`.
`runner report explain LOG` looks up a log of any other program. Each is provoked by a test on the
real tools (`tests/integration/test_known_failures.py`).

A *fix* is what the runner repairs by itself ([all of them](fixes.md)): such a failure is seen with
`--faithful` only, or outside of the runner.
"""
_FAMILIES = {
    "1-environment": "The machine and the environments",
    "2-torch": "PyTorch 1.5.1 and its ONNX export",
    "3-onnx-tf": "onnx-tf 1.6.0 and TensorFlow 2.2.0",
    "4-tflite": "TensorFlow 2.4's TFLite converter and interpreter",
    "5-other-years": "Toolchains of other years",
}


def fixes_page() -> str:
    """docs/fixes.md: a row for each fix."""
    lines = [_FIXES, "| name | what it does | the defect | repaired upstream |\n"]
    lines.append("|---|---|---|---|\n")
    for fix in load_fixes().values():
        link = f" ([thread]({fix.issue}))" if fix.issue else ""
        row = (f"`{fix.name}`", fix.title, f"{fix.stage}: {fix.defect}{link}", fix.repaired_in)
        lines.append("| " + " | ".join(row) + " |\n")
    return "".join(lines)


def failures_page() -> str:
    """docs/failures.md: a section for each known failure."""
    parts = [_FAILURES]
    for family, entries in load_families():
        parts.append(f"\n## {_FAMILIES[family]}\n")
        parts += [_failure(entry) for entry in entries]
    return "".join(parts)


def _failure(entry: Entry) -> str:
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


def generated() -> Iterator[tuple[Path, str]]:
    """Every generated file, with what it should hold."""
    yield ROOT / "docs/fixes.md", fixes_page()
    yield ROOT / "docs/failures.md", failures_page()
    for name, model in list_schema_models().items():
        schema = json.dumps(model.model_json_schema(by_alias=True), indent=1) + "\n"
        yield ROOT / f"docs/schemas/{name}.schema.json", schema


def main(check: bool) -> int:
    stale = [(path, text) for path, text in generated() if not _is(path, text)]
    for path, text in stale:
        print(f"{path.relative_to(ROOT)}: {'stale' if check else 'written'}")
        if not check:
            path.write_text(text, encoding="utf-8")
    return int(check and bool(stale))


def _is(path: Path, text: str) -> bool:
    return path.exists() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
