"""Two models on the same inputs: the plan, which the pipeline runs as it runs a conversion's."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runner.conversion.convert import run_plan
from runner.conversion.observer import SilentView, View
from runner.engines.limits import DEFAULTS, Limits
from runner.engines.select import prepare_engine
from runner.planning.plan import plan_for
from runner.planning.source import Source, identify_source, summarize
from runner.schemas.inspection import Inspection
from runner.schemas.report import Report
from runner.toolchains.load import load_toolchain
from runner.toolchains.model import Toolchain
from runner.toolchains.tools import FileFormat, format_to_run, load_tool, name_in_volume
from runner.trust.scan import make_trust_check


def compare(
    reference: str | Path,
    other: str | Path,
    *,
    output: str | Path | None = None,
    engine: str = "auto",
    inputs: Sequence[str] = (),
    samples: int = 1000,
    seed: int = 0,
    inputs_file: str | Path | None = None,
    tolerance: float = 1e-6,
    metric: str = "mean",
    arch: str = "",
    arch_args: Mapping[str, Any] | None = None,
    trust_model: bool = False,
    limits: Limits = DEFAULTS,
    view: View | None = None,
) -> Report:
    """Run two models of any formats on the same inputs; the first one's outputs count as right.

    The returned report is that of a conversion with two stages, `reference` and `compared`; it is
    in the run folder too. Raises `BadInput` or `EnvironmentUnavailable` where nothing could be
    started.
    """
    started = time.time()
    view = view or SilentView()
    first, second = (_identified(Path(path), arch) for path in (reference, other))
    tool = load_tool("compare")
    stages = (
        tool.stage(0, first.opened, first.model.path, f"{first.name}, the reference"),
        tool.stage(1, second.opened, second.model.path, second.name),
    )
    file = name_in_volume("compared", second.model.path)
    options = {
        "reference.kind": first.opened.kind,
        "reference.other_inputs": _as_hints(second.found),
        "compared.kind": second.opened.kind,
        "compared.file": file,
        "compared.sha256": second.model.sha256,
    }
    options |= {"arch": arch, "arch_args": json.dumps(arch_args) if arch_args else ""}
    plan = plan_for(
        first.model,
        Toolchain(tool.name, tool.description, stages, "", first.name),
        output=output,
        inputs=inputs,
        samples=samples,
        seed=seed,
        inputs_file=inputs_file,
        tolerance=tolerance,
        metric=metric,
        options=options,
        extras={file: second.model.path},
    )
    run = plan.run if output else f"compare-{plan.run}"
    shown = {k: v for k, v in plan.options.items() if "." not in k}
    plan = replace(
        plan,
        run=run,
        output=plan.output if output else plan.output.with_name(run),
        recorded=False,
        options={**shown, "compared_with": second.name, "sha256": second.model.sha256},
    )
    with view:
        models = {side.model.path: side.model.format for side in (first, second)}
        asked = make_trust_check(models, plan.arch_file, trusted=trust_model)
        choice = prepare_engine(engine, list(plan.images.values()), view, limits, asked)
        return run_plan(plan, choice, view, started)


@dataclass(frozen=True)
class _Side:
    """One of the two files: what it is, and how it is opened."""

    found: Inspection
    opened: FileFormat
    model: Source

    @property
    def name(self) -> str:
        return Path(self.found.path).name


def _identified(path: Path, arch: str) -> _Side:
    found = summarize(path)
    opened = format_to_run(found)
    if opened.kind == "torch":
        return _Side(found, opened, identify_source(load_toolchain(), path, arch))
    assert found.sha256 is not None
    return _Side(found, opened, Source(path, found.format, found.sha256, found.bytes))


def _as_hints(found: Inspection) -> str:
    """The inputs as far as the file says, for a model that does not say its own."""
    hints = [
        {
            "name": tensor.name,
            "shape": tensor.shape,
            # Quantised ones are given float32.
            "dtype": "float32" if tensor.quantization else tensor.dtype,
        }
        for tensor in found.inputs or ()
    ]
    return json.dumps(hints) if hints else ""
