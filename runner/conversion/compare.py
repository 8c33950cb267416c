"""Comparison of two models on the same inputs: a plan, which is run as a conversion's is."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

from runner.conversion.convert import run_plan
from runner.conversion.settings import RunSettings
from runner.engines.select import prepare_engine
from runner.planning.check import Check
from runner.planning.plan import make_file_plan
from runner.planning.source import ModelFile, Source, identify_source, summarize
from runner.schemas.inspection import Inspection
from runner.schemas.report import Report
from runner.toolchains.load import load_toolchain
from runner.toolchains.model import Toolchain
from runner.toolchains.tools import FileFormat, load_tool, make_volume_path, require_format
from runner.trust.scan import make_trust_check


def compare(
    reference: Source,
    other: Path,
    check: Check = Check(),
    settings: RunSettings = RunSettings(),
) -> Report:
    """Run two models of any formats on the same inputs; the first one's outputs count as right.

    The reference's `arch` also builds the other model, if its file needs one. The returned report,
    which is in the run folder too, is that of a conversion with two stages, `reference` and
    `compared`. Raises `BadInput` or `EnvironmentUnavailable` if the run cannot be started.
    """
    started = time.time()
    first, second = (_identify(path, reference.arch) for path in (reference.path, other))
    tool = load_tool("compare")
    stages = (
        tool.stage(0, first.opened, first.model.path, f"{first.name}, the reference"),
        tool.stage(1, second.opened, second.model.path, second.name),
    )
    file = make_volume_path("compared", second.model.path)
    options = {
        "reference.kind": first.opened.kind,
        "reference.other_inputs": _format_hints(second.found),
        "compared.kind": second.opened.kind,
        "compared.file": file,
        "compared.sha256": second.model.sha256,
    }
    plan = make_file_plan(
        first.model,
        Toolchain(tool.name, tool.description, stages, "", first.name),
        reference,
        check,
        options=options,
        output=settings.output,
        extras={file: second.model.path},
    )
    run = plan.run if settings.output else f"compare-{plan.run}"
    shown = {k: v for k, v in plan.options.items() if "." not in k}
    plan = replace(
        plan,
        run=run,
        output=plan.output if settings.output else plan.output.with_name(run),
        recorded=False,
        options={**shown, "compared_with": second.name, "sha256": second.model.sha256},
    )
    with settings.observer:
        models = {side.model.path: side.model.format for side in (first, second)}
        may_run_code = make_trust_check(models, plan.arch_file, trusted=settings.trust_model)
        images = list(plan.images.values())
        choice = prepare_engine(
            settings.engine, images, settings.observer, settings.limits, may_run_code
        )
        return run_plan(plan, choice, replace(settings, cache=False, diagnose=False), started)


@dataclass(frozen=True)
class _Side:
    """One of the two files: what it is, and how it is opened."""

    found: Inspection
    opened: FileFormat
    model: ModelFile

    @property
    def name(self) -> str:
        return Path(self.found.path).name


def _identify(path: Path, arch: str) -> _Side:
    found = summarize(path)
    opened = require_format(found)
    if opened.kind == "torch":
        return _Side(found, opened, identify_source(load_toolchain(), path, arch))
    assert found.sha256 is not None
    return _Side(found, opened, ModelFile(path, found.format, found.sha256, found.bytes))


def _format_hints(found: Inspection) -> str:
    """Format as JSON what a file says of its inputs, for a model whose own file does not."""
    hints = [
        {
            "name": tensor.name,
            "shape": tensor.shape,
            # Quantised inputs are fed float32.
            "dtype": "float32" if tensor.quantization else tensor.dtype,
        }
        for tensor in found.inputs or ()
    ]
    return json.dumps(hints) if hints else ""
