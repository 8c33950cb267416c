"""Pages from templates: everything is escaped, and a page is one file without a script.

What a page says comes from the modules beside this one; how it looks, from `templates/`.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import BytecodeCache, Environment, FileSystemLoader, StrictUndefined
from jinja2.bccache import Bucket
from markupsafe import Markup

from runner.host.files import atomic_write, write_text
from runner.host.paths import cache_folder
from runner.report.html import errors, failures, figures, records, story, verdict
from runner.report.html.drawing.depth import (
    DepthCurve,
    list_culprits,
    make_depth_charts,
    make_depth_curves,
    summarize_depth,
)
from runner.report.html.drawing.neighbourhood import make_drawings
from runner.report.html.marks import list_checks, make_link
from runner.report.html.quantized import list_latencies, list_layer_tables, list_quantized
from runner.report.wording import Mark, explain_accuracy
from runner.schemas.report import Report
from runner.version import __version__

PAGE = "report.html"
_TEMPLATES = Path(__file__).with_name("templates")
_MOST_NOTES = 20


def write_page(report: Report, folder: Path) -> Path:
    """Write report.html into a run's folder, whole or not at all, and return its path."""
    path = folder / PAGE
    write_text(path, render_run(report, folder.name))
    return path


def render_run(report: Report, folder: str = "", curves: Sequence[DepthCurve] | None = None) -> str:
    """Render the page of one run. `folder` is the run folder's name, shown before the model's.

    `curves` default to those of the report's own diagnosis.
    """
    context = _make_context(report, folder, make_depth_curves(report) if curves is None else curves)
    context["sections"] = [(name, title) for name, title, shown in _list_sections(context) if shown]
    return render("run.html.j2", **context)


def render(template: str, **context: Any) -> str:
    return make_environment().get_template(template).render(version=__version__, **context)


@cache
def make_environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_remove_control,
        bytecode_cache=_CompiledTemplates(),
    )
    return made


class _CompiledTemplates(BytecodeCache):
    """The templates as Python's byte code, in the cache folder if that can be written.

    To compile them takes a fifth of a run whose stages are all cached. A bucket knows of which
    text and for which Python its code is, and takes no other.
    """

    def load_bytecode(self, bucket: Bucket) -> None:
        with suppress(OSError, EOFError, ValueError, pickle.UnpicklingError):
            bucket.bytecode_from_string(self._locate(bucket).read_bytes())

    def dump_bytecode(self, bucket: Bucket) -> None:
        with suppress(OSError), atomic_write(self._locate(bucket)) as temporary:
            temporary.write_bytes(bucket.bytecode_to_string())

    def _locate(self, bucket: Bucket) -> Path:
        return cache_folder() / "templates" / bucket.key


def _remove_control(value: Any) -> Any:
    """Remove control characters from any text of a template, in case nobody has clipped it."""
    plain = isinstance(value, str) and not isinstance(value, Markup)
    return figures.printable(value) if plain else value


def _list_sections(context: dict[str, Any]) -> list[tuple[str, str, bool]]:
    return [
        ("failure", "Failure", bool(context["failures"])),
        ("notes", "Notes", bool(context["notes"])),
        ("journey", "Journey", True),
        ("quantized", "Quantised", bool(context["quantized"])),
        ("errors", "Errors", bool(context["rows"])),
        ("depth", "By depth", bool(context["curves"])),
        ("graph", "In the graph", bool(context["drawings"])),
        ("spread", "Histograms", bool(context["spreads"])),
        ("worst", "Worst samples", bool(context["worst"])),
        ("operators", "Operators", bool(context["operators"])),
        ("fixes", "Fixes", True),
        ("records", "Environment", True),
    ]


def _make_context(report: Report, folder: str, curves: Sequence[DepthCurve]) -> dict[str, Any]:
    """Collect everything that the template of a run names."""
    spreads = errors.make_spreads(report)
    drawings = make_drawings(report.diagnosis)
    last = report.stages[-1] if report.stages else None
    made = last.report.artifact if last and last.status == "ok" and last.report else None
    seed = None if "inputs" in report.options else report.options.get("seed")
    faithful = report.options.get("fixes") == "none"
    return {
        "head": verdict.make_headline(report),
        "facts": verdict.list_facts(report),
        "result": make_link(made.path) if made else "",
        "folder": f"{figures.clip(folder, 80)}/" if folder else "",
        "failures": failures.list_failures(report),
        "notes": [figures.clip(note, 500) for note in report.notes[:_MOST_NOTES]],
        "model": story.describe_model(report),
        "origin": Mark("idle", "•", "given"),
        "destination": story.name_artifact_kind(made.path) if made else "TensorFlow Lite",
        "seconds": figures.duration(report.seconds),
        "journey": story.list_steps(report),
        "quantized": list_quantized(report),
        "latencies": list_latencies(report),
        "layers": list_layer_tables(report, drawings),
        "accuracy": explain_accuracy(report),
        "rows": errors.make_error_rows(report),
        "ladder": errors.make_ladder(report),
        "reference": figures.clip(report.reference, 60),
        "samples": next((figures.count(check.samples) for check in list_checks(report)), ""),
        "curves": make_depth_charts(curves),
        "diagnosis": summarize_depth(report),
        "drawings": drawings.all,
        "culprits": list_culprits(report, drawings),
        "spreads": spreads,
        "tolerance_drawn": any(spread.tolerance is not None for spread in spreads),
        "worst": errors.make_worst_tables(report),
        "seed": seed if isinstance(seed, int) else None,
        "operators": story.list_operators(report),
        "fixes": story.list_applied_fixes(report),
        "faithful": faithful,
        "complete": all(record.environment for record in report.stages),
        "stand_ins": records.list_stand_ins(report),
        "circumstances": records.list_circumstances(report),
        "files": records.list_files(report),
        "environments": records.list_environments(report),
        "options": records.list_options(report),
        "run": figures.clip(report.run, 80),
        "started": figures.clip(report.started[:16].replace("T", " "), 40),
    }
