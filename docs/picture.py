"""Draw a finished run's table as docs/report.svg: python docs/picture.py runs/mbv2-..."""

import io
import sys
from pathlib import Path

from rich.console import Console

from runner.report import Report
from runner.view import summary

folder = Path(sys.argv[1])
report = Report.model_validate_json((folder / "report.json").read_text())
console = Console(record=True, width=86, file=io.StringIO(), force_terminal=True)
console.print("$ runner convert --model examples/mbv2.pt", highlight=False)
console.print(f"Engine: {report.engine.name} ({report.engine.reason})", highlight=False)
console.print(summary(report, Path("runs") / folder.name))
picture = Path(__file__).with_name("report.svg")
console.save_svg(str(picture), title="runner", unique_id="report")
# The theme names fonts on a host of their own; a viewer's monospace serves.
lines = picture.read_text().splitlines(keepends=True)
picture.write_text("".join(line for line in lines if "https://" not in line or "xmlns" in line))
