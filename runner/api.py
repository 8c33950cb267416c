"""The Python API of the runner; its keywords are the options of the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.conversion.convert import convert as convert_source
from runner.conversion.diagnose import diagnose as diagnose_folder
from runner.conversion.observer import Observer
from runner.conversion.settings import DEFAULT_SAMPLES, RunSettings
from runner.engines.limits import DEFAULTS, Limits
from runner.notebook import NotebookView, ShownReport, is_notebook, make_shown
from runner.planning.check import Check
from runner.planning.plan import choose_run_folder, make_run_name
from runner.planning.source import Source
from runner.schemas.diagnosis import Diagnosis
from runner.toolchains.load import aim


def convert(
    model: str | Path,
    *,
    output: str | Path | None = None,
    engine: str = "auto",
    inputs: Sequence[str] = (),
    samples: int = 1000,
    seed: int = 0,
    inputs_file: str | Path | None = None,
    tolerance: float = 1e-6,
    metric: str = "mean",
    strict: bool = False,
    arch: str = "",
    arch_args: Mapping[str, Any] | None = None,
    embed_preprocessing: bool = False,
    options: Mapping[str, Any] | None = None,
    wheels: Sequence[str] = (),
    gpu: bool = False,
    toolchain: str = "",
    target: str = "",
    trust_model: bool = False,
    limits: Limits = DEFAULTS,
    sign: str | Path | None = None,
    diagnose: bool = True,
    use_cache: bool = True,
    observer: Observer | None = None,
) -> ShownReport:
    """Convert a model, check every stage against its reference, and leave a run folder.

    The keywords are the command line's options; `runner.planning` and `runner.conversion.settings`
    explain them. `options` are stage options by name (`opset`), or by stage and name
    (`tflite.flex`). A notebook shows the progress in the cell, and the report that is returned as a
    table. Raises `BadInput` or `EnvironmentUnavailable` if the run cannot be started.
    """
    folder = choose_run_folder(Path(output) if output else None, make_run_name(Path(model)))
    if observer is None:
        observer = NotebookView() if is_notebook() else Observer()
    report = convert_source(
        Source(Path(model), arch, arch_args or {}, embed_preprocessing),
        Check(
            inputs,
            Path(inputs_file) if inputs_file else None,
            samples,
            seed,
            tolerance,
            metric,
            strict,
        ),
        RunSettings(
            output=folder,
            engine=engine,
            wheels=wheels,
            gpu=gpu,
            trust_model=trust_model,
            limits=limits,
            cache=use_cache,
            sign=Path(sign) if sign else None,
            diagnose=diagnose,
            observer=observer,
        ),
        toolchain=aim(toolchain, target),
        options=options,
    )
    return make_shown(report, folder)


def diagnose(
    run: str | Path,
    *,
    model: str | Path | None = None,
    samples: int = DEFAULT_SAMPLES,
    engine: str = "auto",
    trust_model: bool = False,
    limits: Limits = DEFAULTS,
    observer: Observer | None = None,
) -> Diagnosis:
    """Trace a run folder's artifacts against each other, and write `diagnosis.json` there.

    `model` is the path of the model, if it has moved since the run. Raises `BadInput` or
    `EnvironmentUnavailable` if nothing can be traced.
    """
    settings = RunSettings(
        engine=engine,
        trust_model=trust_model,
        limits=limits,
        observer=observer or (NotebookView() if is_notebook() else Observer()),
    )
    return diagnose_folder(
        Path(run), model=Path(model) if model else None, samples=samples, settings=settings
    )
