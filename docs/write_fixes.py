"""Write docs/fixes.md from the catalogue of the fixes: python docs/write_fixes.py"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INTRODUCTION = """\
# The fixes

Written by `python docs/write_fixes.py` from `stages/fixes/catalogue.py`.

What was wrong in the tools of 2020 is repaired by named fixes: better handlers registered at run
time, or rewritten graphs. The packages themselves are never edited. All are applied by default, and
each report names those that did something. `--fixes NAME,...` applies these alone,
`--fixes=-NAME,...` all but these, and `--faithful` (`--fixes none`) none: then the result is, byte
for byte, that of the pinned tools alone.

"""


def page() -> str:
    sys.path.insert(0, str(ROOT))
    from stages.fixes import FIXES

    lines = [INTRODUCTION, "| name | what it does | the defect | repaired upstream |\n"]
    lines.append("|---|---|---|---|\n")
    for fix in FIXES:
        link = f" ([thread]({fix.issue}))" if fix.issue else ""
        row = (f"`{fix.name}`", fix.title, f"{fix.stage}: {fix.defect}{link}", fix.repaired_in)
        lines.append("| " + " | ".join(row) + " |\n")
    return "".join(lines)


if __name__ == "__main__":
    (ROOT / "docs" / "fixes.md").write_text(page())
