"""Pages out of templates: everything is escaped, and a page is one file without a script.

What a page says comes from the modules beside this one; how it looks, from `templates/`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from runner.host.files import write_text
from runner.report.html import errors, failures, figures, records, story, verdict
from runner.report.html.depth import DepthCurve, depth_charts, depth_curves, depth_summary
from runner.report.html.marks import checks, link
from runner.report.wording import Mark
from runner.schemas.report import Report
from runner.version import __version__

PAGE = "report.html"
_TEMPLATES = Path(__file__).with_name("templates")
_MOST_NOTES = 20


def write_page(report: Report, folder: Path) -> Path:
    """Write report.html into a run's folder, whole or not at all; its path."""
    path = folder / PAGE
    write_text(path, render_run(report, folder.name))
    return path


def render_run(report: Report, folder: str = "", curves: Sequence[DepthCurve] | None = None) -> str:
    """The page of one run. `folder` is the run folder's name, which stands before the model's.

    `curves` are those of the report's own diagnosis unless given.
    """
    context = _context(report, folder, depth_curves(report) if curves is None else curves)
    context["sections"] = [(name, title) for name, title, shown in _sections(context) if shown]
    return render("run.html.j2", **context)


def render(template: str, **context: Any) -> str:
    return environment().get_template(template).render(version=__version__, **context)


@cache
def environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_harmless,
    )
    return made


def _harmless(value: Any) -> Any:
    """No control character of a name or a message gets through, whoever forgets to clip it."""
    plain = isinstance(value, str) and not isinstance(value, Markup)
    return figures.printable(value) if plain else value


def _sections(context: dict[str, Any]) -> list[tuple[str, str, bool]]:
    return [
        ("failure", "Failure", bool(context["failures"])),
        ("notes", "Notes", bool(context["notes"])),
        ("journey", "Journey", True),
        ("errors", "Errors", bool(context["rows"])),
        ("depth", "By depth", bool(context["curves"])),
        ("spread", "Histograms", bool(context["spreads"])),
        ("worst", "Worst samples", bool(context["worst"])),
        ("operators", "Operators", bool(context["operators"])),
        ("fixes", "Fixes", True),
        ("records", "Environment", True),
    ]


def _context(report: Report, folder: str, curves: Sequence[DepthCurve]) -> dict[str, Any]:
    """Everything that the template of a run names."""
    spreads = errors.spreads(report)
    last = report.stages[-1] if report.stages else None
    made = last.report.artifact if last and last.status == "ok" and last.report else None
    seed = None if "inputs" in report.options else report.options.get("seed")
    faithful = report.options.get("fixes") == "none"
    return {
        "head": verdict.headline(report),
        "facts": verdict.facts(report),
        "result": link(made.path) if made else "",
        "folder": f"{figures.clip(folder, 80)}/" if folder else "",
        "failures": failures.failures(report),
        "notes": [figures.clip(note, 500) for note in report.notes[:_MOST_NOTES]],
        "model": story.model(report),
        "origin": Mark("idle", "•", "given"),
        "destination": story.artifact_kind(made.path) if made else "TensorFlow Lite",
        "seconds": figures.duration(report.seconds),
        "journey": story.journey(report),
        "rows": errors.error_rows(report),
        "ladder": errors.ladder(report),
        "reference": figures.clip(report.reference, 60),
        "samples": next((figures.count(check.samples) for check in checks(report)), ""),
        "curves": depth_charts(curves),
        "diagnosis": depth_summary(report),
        "spreads": spreads,
        "tolerance_drawn": any(spread.tolerance is not None for spread in spreads),
        "worst": errors.worst_samples(report),
        "seed": seed if isinstance(seed, int) else None,
        "operators": story.operators(report),
        "fixes": story.fixes(report),
        "faithful": faithful,
        "complete": all(record.environment for record in report.stages),
        "stand_ins": records.stand_ins(report),
        "circumstances": records.circumstances(report),
        "files": records.files(report),
        "environments": records.environments(report),
        "options": records.options(report),
        "run": figures.clip(report.run, 80),
        "started": figures.clip(report.started[:16].replace("T", " "), 40),
    }
