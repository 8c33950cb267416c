"""The journey of the model: its stages, their operators, and the fixes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from runner.report.html import figures
from runner.report.html.marks import Pair, compute_share, make_link
from runner.report.wording import STATUSES, VERDICTS, Mark
from runner.schemas.report import CheckRecord, Report, StageRecord, TensorRecord
from runner.toolchains.fixes import load_fixes

_OUTER_PHASES = ("convert", "check")
# Limits, so that no report makes a page of megabytes.
_MOST_KINDS, _MOST_FIXES, _MOST_TENSORS = 24, 60, 10

_CONSTANTS, _INPUTS = ("Const", "Constant"), ("Placeholder",)
_ARTIFACTS = {"onnx": "ONNX model", "pb": "frozen graph", "tflite": "TensorFlow Lite model"}


@dataclass(frozen=True)
class Model:
    """The given file, with its inputs and outputs as far as they are known."""

    name: str
    kind: str
    size: str
    parameters: str
    inputs: tuple[Pair, ...]
    outputs: tuple[Pair, ...]


def describe_model(report: Report) -> Model:
    first = report.stages[0].report if report.stages else None
    signature = first.signature if first else None
    return Model(
        name=figures.clip(report.model.name, 80),
        kind=figures.clip(report.model.kind, 80),
        size=figures.size(report.model.bytes),
        parameters=figures.count(first.parameters) if first and first.parameters else "",
        inputs=_list_tensors(signature.inputs) if signature else (),
        outputs=_list_tensors(signature.outputs) if signature else (),
    )


def _list_tensors(tensors: Sequence[TensorRecord]) -> tuple[Pair, ...]:
    shown = [
        Pair(
            figures.clip(tensor.name, 60),
            f"{figures.shape(tensor.shape)} {figures.clip(tensor.dtype, 20)}",
        )
        for tensor in tensors[:_MOST_TENSORS]
    ]
    left = len(tensors) - len(shown)
    return (*shown, *([Pair("…", f"and {left} more")] if left else []))


@dataclass(frozen=True)
class Step:
    """A stage of the journey. `begin` and `width` are its place in the run's time, in per cent."""

    name: str
    title: str
    mark: Mark
    seconds: str
    begin: float
    width: float
    tools: str
    made: str
    size: str
    phases: str
    memory: str
    checked: str
    check_mark: Mark | None
    fixes: int
    stand_ins: tuple[str, ...]
    log: str


def list_steps(report: Report) -> list[Step]:
    steps, elapsed, whole = [], report.setup_seconds, report.seconds
    for record in report.stages:
        own, check = record.report, record.report.check if record.report else None
        begin = compute_share(elapsed, whole)
        elapsed += record.seconds
        artifact = own.artifact if own else None
        steps.append(
            Step(
                name=figures.clip(record.name, 40),
                title=figures.clip(record.title, 60),
                mark=_choose_mark(record, check),
                seconds=figures.duration(record.seconds) if record.seconds else "",
                begin=begin,
                width=min(compute_share(record.seconds, whole), 100 - begin),
                tools=_join([f"{k} {v}" for k, v in own.versions.items()]) if own else "",
                made=make_link(artifact.path) if artifact else "",
                size=figures.size(artifact.bytes) if artifact else "",
                phases=_format_phases(own.phases) if own else "",
                memory=figures.size(own.peak_memory_bytes) if own else "",
                checked=_describe_check(check),
                check_mark=VERDICTS[check.verdict] if check else None,
                fixes=len(own.fixes) if own else 0,
                stand_ins=tuple(
                    figures.clip(text, 160)
                    for text in (record.environment.stand_ins if record.environment else [])
                ),
                log=make_link(record.log or ""),
            )
        )
    return steps


def _join(items: Sequence[str], length: int = 60) -> str:
    shown = [figures.clip(item, length) for item in items[:12]]
    return ", ".join(shown) + (f" and {len(items) - 12} more" if len(items) > 12 else "")


def _choose_mark(record: StageRecord, check: CheckRecord | None) -> Mark:
    """Choose a stage's mark, which has the check's sign if only the check did not pass."""
    mark = STATUSES[record.status]
    if record.status != "ok" or check is None or check.verdict == "passed":
        return mark
    return replace(VERDICTS[check.verdict], word=mark.word)


def _format_phases(phases: dict[str, float]) -> str:
    """Put phases into words. They are listed as they end, so inner ones precede outer ones."""
    parts, inside = [], []
    for name, seconds in phases.items():
        text = f"{figures.clip(name, 40)} {figures.duration(seconds)}"
        if name not in _OUTER_PHASES:
            inside.append(text)
            continue
        parts.append(text + (f" (of which {_join(inside)})" if inside else ""))
        inside = []
    return _join([*parts, *inside], 400)


def _describe_check(check: CheckRecord | None) -> str:
    if check is None:
        return ""
    samples = figures.count(check.samples)
    time = figures.duration(check.seconds)
    return f"{figures.clip(check.framework, 60)}, {samples} samples in {time}"


@dataclass(frozen=True)
class Kind:
    name: str
    count: str
    width: float
    flex: bool


@dataclass(frozen=True)
class Operators:
    """The operators of an artifact, the most frequent first."""

    artifact: str
    path: str
    computing: str
    constants: str
    kinds: tuple[Kind, ...]
    more: str


def name_artifact_kind(path: str) -> str:
    """Name an artifact in words, by its file's extension."""
    return _ARTIFACTS.get(path.rpartition(".")[2], "artifact")


def list_operators(report: Report) -> list[Operators]:
    found = []
    for record in report.stages:
        own = record.report
        if own is None or not own.operators:
            continue
        ordered = sorted(own.operators.items(), key=lambda item: (-item[1], item[0]))
        shown, rest = ordered[:_MOST_KINDS], ordered[_MOST_KINDS:]
        most = max(1, ordered[0][1])
        constants = sum(own.operators.get(name, 0) for name in _CONSTANTS)
        inputs = sum(own.operators.get(name, 0) for name in _INPUTS)
        path = own.artifact.path if own.artifact else record.name
        found.append(
            Operators(
                artifact=name_artifact_kind(path),
                path=figures.clip(path, 60),
                computing=figures.count(sum(own.operators.values()) - constants - inputs),
                constants=figures.count(constants) if constants else "",
                kinds=tuple(
                    Kind(
                        figures.clip(name, 60),
                        figures.count(count),
                        compute_share(count, most),
                        name.startswith("Flex"),
                    )
                    for name, count in shown
                ),
                more=_describe_rest(rest),
            )
        )
    return found


def _describe_rest(left_out: Sequence[tuple[str, int]]) -> str:
    total = figures.count(sum(count for _, count in left_out))
    return f"{figures.count(len(left_out))} more kinds, {total} operators" if left_out else ""


@dataclass(frozen=True)
class AppliedFix:
    name: str
    title: str
    defect: str
    link: str


def list_applied_fixes(report: Report) -> list[AppliedFix]:
    """List the fixes that had an effect, in the order of the stages."""
    names = [name for r in report.stages if r.report for name in r.report.fixes]
    known, found = load_fixes(), []
    for name in dict.fromkeys(names[:_MOST_FIXES]):
        text = known.get(name)
        issue = text.issue if text and text.issue.startswith("https://") else ""
        title, defect = (text.title, text.defect) if text else ("", "")
        found.append(AppliedFix(figures.clip(name, 60), title, defect, issue))
    return found
