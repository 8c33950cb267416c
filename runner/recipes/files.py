"""The files of a new toolchain, written into a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.host.paths import ROOT
from runner.recipes.compose import Composition
from runner.recipes.knowledge import Knowledge
from runner.recipes.locking.locker import Locked
from runner.recipes.render import join_words, render_dockerfile, render_image, render_toolchain
from runner.recipes.route import Route
from runner.toolchains.load import list_image_names


def write_files(
    draft: Path,
    name: str,
    composition: Composition,
    locked: Sequence[Locked],
    knowledge: Knowledge,
) -> tuple[str, ...]:
    """Write all files into the draft's folder, and return the names of the toolchains."""
    template = (ROOT / "images" / list_image_names()[0] / "Dockerfile").read_text()
    exporters = frozenset(step.tool for step in knowledge.steps if step.takes == "pytorch")
    opset = _find_opset(locked, knowledge)
    readable = _find_opset(locked, knowledge, exporters)
    for entry in locked:
        image, steps = entry.image, entry.environment.steps
        reads = [r for n, v in entry.pins.items() for r in knowledge.list_reads(n, v)]
        reads += _read_onnx(entry, readable)
        reach: dict[str, Any] = {}
        for package in entry.pins:
            reach.update(knowledge.data["reach"].get(package, {}))
        starts = any(step.takes in ("pytorch", "given-onnx") for step in steps)
        text = render_image(image, reads if starts else (), reach if starts else {})
        (image.folder / "image.toml").write_text(text, encoding="utf-8")
        image.intent.write_text(entry.intent, encoding="utf-8")
        image.lock.write_text(entry.lock, encoding="utf-8")
        module = steps[0].stage["module"]
        (image.folder / "Dockerfile").write_text(render_dockerfile(template, image, module))
    names = []
    for route in composition.routes:
        title = name if route.accepts == "pytorch" else f"{name}-{route.accepts}"
        text = _render_chain(name, composition, route, opset)
        (draft / f"{title}.toml").write_text(text, encoding="utf-8")
        names.append(title)
    return tuple(names)


def _render_chain(
    name: str,
    composition: Composition,
    route: Route,
    opset: int | None,
) -> str:
    tools = {t.family: t.version for t in composition.settled}
    named = dict.fromkeys(step.tool for step in route.steps if step.tool in tools)
    made_by = join_words([f"{tool} {tools[tool].public}" for tool in named])
    what = "PyTorch" if route.accepts == "pytorch" else "An ONNX model made elsewhere"
    head = {
        "description": f"{what} to TensorFlow Lite by {made_by}, as of {composition.as_of[:10]}",
        "short": name,
        "date": composition.as_of[:10],
        "accepts": route.accepts,
        "reference": "PyTorch" if route.accepts == "pytorch" else "ONNX Runtime",
    }
    stages = []
    for step in route.steps:
        entry = dict(step.stage)
        options = entry.pop("options", None)
        entry["image"] = f"{name}-{composition.locate(route, step)}"
        if options:
            entry["options"] = options
        if opset is not None and "opset" in (options or ()):
            entry["defaults"] = {"opset": opset}
        stages.append(entry)
    return render_toolchain(head, stages)


def _find_opset(
    locked: Sequence[Locked], knowledge: Knowledge, without: frozenset[str] = frozenset()
) -> int | None:
    """Find the newest operator set that all tools of the environments write and read."""
    found = [
        opset
        for entry in locked
        for name, version in entry.pins.items()
        if name not in without and (opset := knowledge.find_opset(name, version)) is not None
    ]
    return min(found, default=None)


def _read_onnx(entry: Locked, opset: int | None) -> list[Mapping[str, Any]]:
    """Say which ONNX files the chain takes, for the environment that reads them first."""
    if opset is None or all(step.takes != "given-onnx" for step in entry.environment.steps):
        return []
    reason = "is of operator set {version}; these tools read up to {newest}"
    remedy = f"Export it again for an older one: torch.onnx.export(..., opset_version={opset})."
    return [{"format": "onnx", "newest": opset, "reason": reason, "remedy": remedy}]
