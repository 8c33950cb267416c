"""The entry point of the stage `tflite`: explanations of the converter's refusals."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Optional

from stages.kit.contract import StageError
from stages.kit.layers import find_layer

_PLACE = r'loc\("([^"]*)"[^)]*\): (?:error: )?'


def explain(error: Exception, volume: Path, graph_def: Any = None) -> Optional[StageError]:
    """Return a refusal that names the layer, the operator, why and what to change; None if unknown.

    The converter locates an operation by its name, which is that of the ONNX node it was made from;
    the reports in the volume and the graph give the layer in the user's model.
    """
    text = str(error)

    found = re.search(_PLACE + r"'(tf\.\w+)' op is neither a custom op nor a flex op", text)
    if found:
        place, operator = found.group(1), found.group(2)[len("tf.") :]
        layer = find_layer(volume, place, graph_def) or place.split("/")[0]
        return StageError(
            f"The layer '{layer}' needs the TensorFlow operator {operator}, which TensorFlow Lite "
            "2.4 has neither as a builtin nor through the Flex delegate.",
            "Convert with all fixes (--fixes all); if they are applied already, compute the layer "
            "from other operators in the PyTorch model, or outside the model.",
        )
    found = re.search(_PLACE + r"operand #\d+ does not dominate", text)
    if found:
        layer = find_layer(volume, found.group(1), graph_def) or found.group(1)
        return StageError(
            f"TensorFlow 2.4's layout pass broke the graph at the layer '{layer}' "
            "('does not dominate this use').",
            "Convert with all fixes (--fixes all), which leave no transpose that the pass would "
            "move; if they are applied already, please report the model.",
        )
    return None
