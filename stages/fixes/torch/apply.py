"""The entry point of the stage `torch`: an export with fixes."""

from __future__ import annotations

import traceback
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, Sequence, Set, Tuple
from unittest import mock

import onnx
import torch
from torch.onnx import symbolic_registry, utils

from stages.fixes.torch import onnx_repairs
from stages.fixes.torch.constants import fold_constants
from stages.fixes.torch.functions import inline_functions, keep_functions
from stages.fixes.torch.operators import rewrite_operators
from stages.fixes.torch.script import SpecialisedScript, needs_specialising
from stages.fixes.torch.sizes import concrete_sizes, needs_concrete_sizes
from stages.fixes.torch.symbolics import (
    core,
    grid,
    math,
    moves,
    numerics,
    pool,
    quantization,
)
from stages.fixes.torch.views import unshare_writes
from stages.kit.contract import StageError

_SYMBOLICS: Dict[str, Dict[str, core.Symbolic]] = {
    "adaptive-pool": pool.SYMBOLICS,
    "stable-formulas": numerics.SYMBOLICS,
    "missing-symbolics": {
        **core.SYMBOLICS,
        **grid.SYMBOLICS,
        **math.SYMBOLICS,
        **moves.SYMBOLICS,
        **quantization.SYMBOLICS,
    },
}


class Repairs:
    """The fixes of one export, those of them that changed something (`used`), and `notes`."""

    def __init__(self, fixes: Iterable[str]) -> None:
        self.fixes = set(fixes)
        self.used: Set[str] = set()
        self.notes: List[str] = []

    def export(self, model: Any, inputs: Sequence[Any], write: Callable[[Any], None]) -> None:
        """Export a model by `write`; a scripted one specialised to its shapes.

        Raises `ScriptError` where that cannot be, and what `write` raises.
        """
        if not isinstance(model, torch.jit.ScriptModule):
            if "concrete-sizes" not in self.fixes or not needs_concrete_sizes(model, inputs):
                write(model)
                return
            with concrete_sizes():
                write(model)
            self.used.add("concrete-sizes")
        elif "specialised-scripts" in self.fixes and needs_specialising(model):
            specialised = SpecialisedScript(model)
            with concrete_sizes():
                write(specialised)
            self.used.add("specialised-scripts")
            self.notes += dict.fromkeys(specialised.notes)
        else:
            write(model)

    def finish(self, path: Path, input_names: Sequence[str], inputs: Sequence[Any]) -> None:
        """Repair the exported file in place."""
        model = onnx.load(str(path))
        changed = set()
        if "input-names" in self.fixes and onnx_repairs.restore_input_names(
            model, input_names, inputs
        ):
            changed.add("input-names")
        if changed:
            onnx.checker.check_model(model)
            onnx.save(model, str(path))
            self.used |= changed


@contextmanager
def apply_fixes(fixes: Iterable[str], opset: int) -> Iterator[Repairs]:
    """Register the fixes' symbolic functions for as long as the context lasts."""
    repairs = Repairs(fixes)
    symbolic_registry.register_version("", opset)
    saved: List[Tuple[str, Any]] = []
    try:
        # The functions are written for opset 11, where Clip and Slice take their bounds as inputs.
        for fix in sorted(repairs.fixes & set(_SYMBOLICS) if opset >= 11 else ()):
            for name, function in _SYMBOLICS[fix].items():
                known = symbolic_registry.is_registered_op(name, "", opset)
                old = symbolic_registry.get_registered_op(name, "", opset) if known else None
                saved.append((name, old))
                recorded = _record_use(name, function, old, fix, repairs.used)
                symbolic_registry.register_op(name, recorded, "", opset)
        with _repair_traces(repairs, opset):
            yield repairs
    finally:
        for name, old in reversed(saved):
            if old is not None:
                symbolic_registry.register_op(name, old, "", opset)
            else:
                del symbolic_registry._registry[("", opset)][name]


# Repairs of a graph, the last inputs of which have the given values.
_GRAPH_REPAIRS: Sequence[Tuple[str, Callable[[Any, Sequence[Any]], bool]]] = (
    ("traced-functions", lambda graph, _: inline_functions(graph)),
    ("shared-memory", lambda graph, _: unshare_writes(graph)),
    ("operator-forms", rewrite_operators),
)


@contextmanager
def _repair_traces(repairs: Repairs, opset: int) -> Iterator[None]:
    """Repair each graph that is traced in the block, before the exporter works on it."""
    trace = utils._trace_and_get_graph_from_model

    def trace_and_repair(model: Any, *args: Any) -> Any:
        with keep_functions() if "traced-functions" in repairs.fixes else nullcontext():
            graph, outputs = trace(model, *args)
        parameters = list(utils._unique_state_dict(model).values())
        for fix, repair in (*_GRAPH_REPAIRS, ("constant-weights", fold)):
            if fix not in repairs.fixes:
                continue
            before = graph.copy()
            try:
                if repair(graph, parameters):
                    repairs.used.add(fix)
            except StageError:
                raise
            except Exception as error:  # a defect of ours must not cost the conversion
                traceback.print_exc()
                repairs.notes.append(f"The fix '{fix}' failed, and was left out: {error!r:.200}.")
                graph = before
        return graph, outputs

    def fold(graph: Any, parameters: Sequence[Any]) -> bool:
        # Weights that are quantised on the way become what they are rounded to.
        return fold_constants(
            graph,
            parameters,
            lambda name: (
                not name.startswith("fake_quantize")
                and symbolic_registry.is_registered_op(name, "", opset)
            ),
        )

    with mock.patch.object(utils, "_trace_and_get_graph_from_model", trace_and_repair):
        yield


def _record_use(name: str, function: Any, old: Any, fix: str, used: Set[str]) -> Any:
    """Wrap a symbolic function to note its use; where it returns None, call the exporter's own."""

    def symbolic(g: Any, *args: Any, **kwargs: Any) -> Any:
        result = function(g, *args, **kwargs)
        if result is None:
            if old is None:
                raise RuntimeError(f"Couldn't export operator aten::{name} in this form")
            return old(g, *args, **kwargs)
        used.add(fix)
        return result

    return symbolic
