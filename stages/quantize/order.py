"""The same bytes from every conversion to float16.

TensorFlow 2.4 collects the weights to be widened in a hash map whose keys are addresses
(tensorflow/lite/tools/optimize/quantize_weights.cc), so the order of the DEQUANTIZE operators, and
of their outputs among the tensors, differs from process to process. Here both get the order of the
tensors' names. No later release of this converter was tried.
"""

from __future__ import annotations

from typing import Any, Dict, List

from stages.frameworks.tflite_file import get_builtin, pack_model


def sort_dequantized(content: bytes) -> bytes:
    """Return the model with its DEQUANTIZE operators of constants in the order of their names."""
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))
    codes = [
        i
        for i, code in enumerate(model.operatorCodes)
        if get_builtin(code) == schema.BuiltinOperator.DEQUANTIZE
    ]
    for graph in model.subgraphs:
        _sort(graph, codes)
    return pack_model(model)


def _sort(graph: Any, codes: List[int]) -> None:
    made = {output for operator in graph.operators for output in operator.outputs}
    widened = [
        operator
        for operator in graph.operators
        if operator.opcodeIndex in codes and operator.inputs[0] not in made
    ]
    places = sorted(operator.outputs[0] for operator in widened)
    by_name = sorted(places, key=lambda place: graph.tensors[place].name)
    moved: Dict[int, int] = dict(zip(by_name, places))
    tensors = list(graph.tensors)
    for old, new in moved.items():
        graph.tensors[new] = tensors[old]
    for operator in graph.operators:
        operator.inputs = [moved.get(i, i) for i in operator.inputs]
        operator.outputs = [moved.get(i, i) for i in operator.outputs]
    graph.outputs = [moved.get(i, i) for i in graph.outputs]
    # They depend on constants alone, so that all may come first, in any order.
    widened.sort(key=lambda operator: operator.outputs[0])
    chosen = {id(operator) for operator in widened}
    graph.operators = widened + [o for o in graph.operators if id(o) not in chosen]
