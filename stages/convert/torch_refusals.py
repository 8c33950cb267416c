"""What the exporter refuses, in one error: the operator, its layer, the line of the user's code.

torch 1.5.1 raises whatever the function of an operator stumbled over, mostly without a place, or
with the whole graph (hundreds of lines).
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import Any, Iterator
from unittest import mock

from torch.onnx import utils

from stages.kit.contract import StageError

_LONGEST = 300
# A frame of a traced operator: the file, its line, and the function.
_FRAME = re.compile(r"^\s*(\S+\.py)\((\d+)\): (\S+)", re.MULTILINE)
# Packages whose own lines say nothing to a user.
_PACKAGES = re.compile(r"/site-packages/(torch|torchvision)/|/stages/(convert|fixes|kit)/")
_REFUSED = re.compile(r"export (?:the )?(?:Python )?operator (?:\w+::)?(\w+)", re.IGNORECASE)


@contextmanager
def explain_refusals() -> Iterator[None]:
    """Raise a `StageError` for an operator that the export in the block refuses."""
    call = utils._run_symbolic_function

    def explain(graph: Any, node: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return call(graph, node, *args, **kwargs)
        except StageError:
            raise
        except Exception as error:  # an operator's function may stumble over anything
            name = node.kind().partition("::")[2]
            place = _find_place(str(node.sourceRange()), node.scopeName())
            raise _refuse(name, place, str(error)) from error

    try:
        with mock.patch.object(utils, "_run_symbolic_function", explain):
            yield
    except RuntimeError as error:  # the exporter's own, raised after the last operator
        match = _REFUSED.search(str(error))
        if match is None:
            raise
        raise _refuse(match.group(1), _find_place(str(error), ""), str(error)) from error


def _refuse(operator: str, place: str, reason: str) -> StageError:
    lines = reason.strip().splitlines() or ["no reason given"]
    # The rest of it asks to report a bug that its authors have known for years.
    first = lines[0].partition(" Please open a bug")[0][:_LONGEST]
    return StageError(
        f"The operator '{operator}'{place} cannot be exported by PyTorch 1.5.1 to this ONNX "
        f"operator set: {first}"
    )


def _find_place(source: str, scope: str) -> str:
    """Say where an operator was called: in which layer, and on which line of the user's."""
    frames = _FRAME.findall(source)
    own = [frame for frame in frames if not _PACKAGES.search(frame[0])]
    layer = scope.rpartition("/")[2]
    parts = [f"of the layer '{layer}'"] if layer and layer != "__module" else []
    if own:
        file, line, function = own[0]
        parts.append(f"called in {file} on line {line}, in {function}()")
    elif source.strip() and not frames:
        # A script's own text: the line, with the part underlined.
        parts.append(f"in '{source.strip().splitlines()[0].strip()[:_LONGEST]}'")
    return f" ({', '.join(parts)})" if parts else ""
