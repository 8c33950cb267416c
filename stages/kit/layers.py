"""What the reports of earlier stages tell of a tensor: its layer in the user's model, its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence


def earlier_reports(volume: Path) -> Iterator[Dict[str, Any]]:
    """The valid reports in the volume."""
    for path in sorted((volume / "reports").glob("*.json")):
        try:
            report = json.loads(path.read_text())
        except ValueError:
            continue  # of a stage that has not run yet
        if isinstance(report, dict):
            yield report


def layers_of(volume: Path) -> Dict[str, str]:
    """The module path of each ONNX tensor, as the stage `torch` reported it; {} without one."""
    for report in earlier_reports(volume):
        if report.get("layers"):
            return dict(report["layers"])
    return {}


def places_of(volume: Path) -> Dict[str, Dict[str, Any]]:
    """Where each ONNX tensor lies in the frozen graph: `node`, and `axes`, its order of axes.

    `axes[i]` is the ONNX axis that lies at position i there.
    """
    for report in earlier_reports(volume):
        if report.get("tensors"):
            return dict(report["tensors"])
    return {}


def layer_of_operation(volume: Path, operation: str, graph_def: Any = None) -> str:
    """The module path behind an operation of the frozen graph; '' if it is not known.

    The fixes name operations after their ONNX node. onnx-tf alone does not, so without a namesake
    the first operation after it counts that the stage has put an ONNX tensor into.
    """
    layers = layers_of(volume)
    owners = {
        place["node"].partition(":")[0]: layers.get(tensor, "")
        for tensor, place in places_of(volume).items()
    }
    scope = operation.partition("/")[0] + "/"
    for node, layer in owners.items():
        if node == operation or node.startswith(scope):
            return layer
    readers: Dict[str, List[str]] = {}
    for node in graph_def.node if graph_def is not None else ():
        for name in node.input:
            readers.setdefault(name.partition(":")[0].lstrip("^"), []).append(node.name)
    pending, seen = [operation], {operation}
    while pending:
        for name in readers.get(pending.pop(0), []):
            if name in owners:
                return owners[name]
            if name not in seen:
                seen.add(name)
                pending.append(name)
    return ""


def distinct(names: Sequence[Optional[str]], most: int = 8) -> List[str]:
    """The names in order, each once, without empty ones; at most so many."""
    return list(dict.fromkeys(name for name in names if name))[:most]
