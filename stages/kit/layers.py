"""What earlier stages' reports say of a tensor: its layer in the user's model, its node."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Set

# Operators of a frozen graph that converters fuse into the one before.
FUSED = ("Add", "AddV2", "BiasAdd", "Maximum", "Minimum", "Mul", "Relu", "Relu6", "Sub")


def read_earlier_reports(volume: Path) -> Iterator[Dict[str, Any]]:
    """Yield each valid report in the volume."""
    for path in sorted((volume / "reports").glob("*.json")):
        try:
            report = json.loads(path.read_text())
        except ValueError:
            continue  # a stage that has not run yet
        if isinstance(report, dict):
            yield report


def read_layers(volume: Path) -> Dict[str, str]:
    """Return the module path of each ONNX tensor, as reported by the stage `torch`; else {}."""
    for report in read_earlier_reports(volume):
        if report.get("layers"):
            return dict(report["layers"])
    return {}


def read_places(volume: Path) -> Dict[str, Dict[str, Any]]:
    """Return the `node` and the `axes` of each ONNX tensor in the frozen graph; {} if unreported.

    `axes[i]` is the ONNX axis at position i there; where channels lie in another order, `channels`
    has the ONNX channel at each place.
    """
    for report in read_earlier_reports(volume):
        if report.get("tensors"):
            return dict(report["tensors"])
    return {}


class LayerFinder:
    """Finds the module path behind an operation of the frozen graph; '' if it is not known.

    The fixes name operations after their ONNX node, which onnx-tf alone does not: an operation that
    has no namesake belongs with the first one downstream that holds an ONNX tensor.
    """

    def __init__(self, volume: Path, graph_def: Any = None) -> None:
        layers = read_layers(volume)
        self._owners = {
            place["node"].partition(":")[0]: layers.get(tensor, "")
            for tensor, place in read_places(volume).items()
        }
        self._readers: Dict[str, List[str]] = {}
        self._nodes = {
            node.name: node for node in (graph_def.node if graph_def is not None else ())
        }
        for node in self._nodes.values():
            for name in node.input:
                producer = name.partition(":")[0].lstrip("^")
                self._readers.setdefault(producer, []).append(node.name)

    def find(self, operation: str) -> str:
        """Return the module path of an operation."""
        scope = operation.partition("/")[0] + "/"
        for node, layer in self._owners.items():
            if node == operation or node.startswith(scope):
                return layer
        pending, seen = [operation], {operation}
        while pending:
            for name in self._readers.get(pending.pop(0), []):
                if name in self._owners:
                    return self._owners[name]
                if name not in seen:
                    seen.add(name)
                    pending.append(name)
        return ""

    def find_all(self, name: str) -> List[str]:
        """Return the modules of a tensor that a converter has named after all that it fused.

        The names are joined by `;`, and those of other layers, with which it shares a constant, are
        among them: only operators around the first one count, up to the one that all are fused to.
        """
        first, *others = name.partition("#")[0].split(";")
        around = self._list_fused(first)
        return deduplicate([self.find(part) for part in (first, *others) if part in around])

    def _list_fused(self, name: str) -> Set[str]:
        """Return an operation and those that may be fused with it, before it and after it."""
        found = {name}
        pending = [name]
        while pending:
            node = self._nodes.get(pending.pop())
            if node is None or node.op not in FUSED:
                continue
            before = [text.partition(":")[0].lstrip("^") for text in node.input]
            pending += [other for other in before if other not in found]
            found.update(before)
        pending = [name]
        while pending:
            for after in self._readers.get(pending.pop(), ()):
                if self._nodes[after].op in FUSED and after not in found:
                    found.add(after)
                    pending.append(after)
        return found


def find_layer(volume: Path, operation: str, graph_def: Any = None) -> str:
    """Return the module path behind one operation of the frozen graph; '' if it is not known."""
    return LayerFinder(volume, graph_def).find(operation)


def deduplicate(names: Sequence[Optional[str]], most: int = 8) -> List[str]:
    """Return the names in order without duplicates and empty ones, at most `most` of them."""
    return list(dict.fromkeys(name for name in names if name))[:most]
