"""`runner toolchain check`: what a toolchain converts of a few small models."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from runner.conversion.convert import convert
from runner.conversion.observer import Observer
from runner.conversion.settings import RunSettings
from runner.errors import BadInput, ExitCode
from runner.host.compat import tomllib
from runner.host.paths import ROOT
from runner.planning.check import Check
from runner.planning.source import Source
from runner.schemas.report import Report
from runner.toolchains.model import Toolchain

_SAMPLES = 20
_MOST_WORDS = 100
# How each kind of model lies in the folder of the probes.
_SUFFIXES: Mapping[str, str] = {"pytorch": ".pt", "onnx": ".onnx"}


@dataclass(frozen=True)
class Probe:
    """A small model; without an `essential` one, a toolchain is of no use."""

    name: str
    title: str
    arch: str
    input: str
    essential: bool = False


@dataclass(frozen=True)
class Result:
    """What became of a probe: `detail` says where it failed, or how far off it is."""

    probe: Probe
    outcome: str
    detail: str
    seconds: float
    exit_code: int

    @property
    def passed(self) -> bool:
        return self.exit_code == ExitCode.PASSED

    def as_row(self) -> dict[str, str]:
        return {
            "model": self.probe.title,
            "result": self.outcome,
            "detail": self.detail,
            "seconds": f"{self.seconds:.0f}",
        }


def load_probes(root: Path = ROOT) -> tuple[Probe, ...]:
    data = tomllib.loads((root / "stages" / "probes" / "probes.toml").read_text(encoding="utf-8"))
    return tuple(Probe(**entry) for entry in data["probe"])


def check_toolchain(
    chain: Toolchain,
    *,
    engine: str,
    observer: Observer,
    tell: Callable[[Result], None] = lambda result: None,
) -> list[Result]:
    """Convert each probe, and return what became of it; `tell` is called after each.

    Raises `BadInput` for a toolchain that starts from something else, `EnvironmentUnavailable` if
    its environments are unavailable.
    """
    suffix = _SUFFIXES.get(chain.accepts)
    if suffix is None:
        raise BadInput(
            f"There is nothing to try '{chain.name}' with: it starts from a {chain.accepts}.",
            "Convert a model of your own with it.",
        )
    results = []
    with tempfile.TemporaryDirectory(prefix="runner-check-") as folder:
        for probe in load_probes():
            started = time.monotonic()
            report = _convert(chain, probe, suffix, Path(folder) / probe.name, engine, observer)
            seconds = time.monotonic() - started
            result = Result(probe, report.outcome, _describe(report), seconds, report.exit_code)
            results.append(result)
            tell(result)
    return results


def _convert(
    chain: Toolchain, probe: Probe, suffix: str, output: Path, engine: str, observer: Observer
) -> Report:
    place = ROOT / "stages" / "probes"
    takes_arch = bool(chain.find_takers("arch"))
    return convert(
        Source(place / f"{probe.name}{suffix}", f"{place / 'nets.py'}:{probe.arch}")
        if takes_arch
        else Source(place / f"{probe.name}{suffix}"),
        Check(inputs=(f"input={probe.input}",), samples=_SAMPLES),
        # The models are the runner's own, and it is the tools that are on trial.
        RunSettings(
            output=output,
            engine=engine,
            trust_model=True,
            cache=False,
            diagnose=False,
            observer=observer,
        ),
        toolchain=chain.name,
    )


def _describe(report: Report) -> str:
    failed = next((record for record in report.stages if record.status == "failed"), None)
    if failed is not None:
        words = " ".join(failed.failure.split())
        if len(words) > 2 * _MOST_WORDS:  # what was tried, and what came of it
            words = f"{words[:_MOST_WORDS]} ... {words[-_MOST_WORDS:]}"
        return f"{failed.name}: {words}"
    value = report.gate.value
    return f"error {value:.1e}" if value is not None else ""
