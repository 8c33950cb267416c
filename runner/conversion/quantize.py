"""Quantised models of a float .tflite file, judged against that file itself."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from runner.conversion.convert import run_plan
from runner.conversion.settings import RunSettings
from runner.engines.select import prepare_engine
from runner.errors import BadInput
from runner.formats.identify import read_file
from runner.planning.check import Check
from runner.planning.plan import make_file_plan
from runner.planning.quantization import Quantization, plan_quantization
from runner.planning.samples import prepare_samples
from runner.planning.source import ModelFile, Source
from runner.schemas.report import Report
from runner.toolchains.load import load_image
from runner.toolchains.tools import load_quantize_chain
from runner.trust.scan import make_trust_check


def quantize(
    path: Path,
    quantization: Quantization,
    check: Check = Check(),
    settings: RunSettings = RunSettings(),
) -> Report:
    """Make quantised models of a float .tflite file of any origin.

    The reference is the file's own outputs, in its interpreter. The returned report, which is in
    the run folder too, is that of a conversion with one stage. Raises `BadInput` or
    `EnvironmentUnavailable` if the run cannot be started.
    """
    started = time.time()
    with prepare_samples(Source(path), check, quantization, settings.observer.say) as prepared:
        return _quantize(path, *prepared, settings, started)


def _quantize(
    path: Path, check: Check, quantization: Quantization, settings: RunSettings, started: float
) -> Report:
    chain = load_quantize_chain()
    quantized = plan_quantization(quantization, chain, check.inputs_file)
    if not quantized.stages:
        known = ", ".join(stage.name for stage in chain.quantizers)
        raise BadInput("No mode is named.", f"Say --to with one of, or several: {known}.")
    plan = make_file_plan(
        _identify(path),
        chain,
        Source(path),
        check,
        options={},
        output=settings.output,
        images={name: load_image(name) for name in chain.images},
    )
    told = {
        "quantized_file": path.name,
        "quantize": ",".join(stage.name for stage in quantized.stages),
    }
    run = plan.run if settings.output else f"quantize-{plan.run}"
    plan = replace(
        plan,
        run=run,
        output=plan.output if settings.output else plan.output.with_name(run),
        recorded=False,
        quantization=quantized,
        options={**plan.options, **told},
    )
    with settings.observer:
        may_run_code = make_trust_check({path: "tflite"}, None, trusted=settings.trust_model)
        choice = prepare_engine(
            settings.engine,
            [*plan.images.values(), *quantized.wanted],
            settings.observer,
            settings.limits,
            may_run_code,
        )
        return run_plan(plan, choice, replace(settings, diagnose=False), started)


def _identify(path: Path) -> ModelFile:
    """Raise `BadInput` for anything but a whole TensorFlow Lite model."""
    found = read_file(path)
    if found.format != "tflite" or found.damaged:
        raise BadInput(
            f"{path} is no TensorFlow Lite model: {found.what}.",
            "Name a float .tflite file; `runner convert --quantize` takes other models.",
        )
    assert found.sha256 is not None
    return ModelFile(path, found.format, found.sha256, found.bytes)
