"""One node that is rewritten: its attributes and inputs, and the nodes that take its place."""

from __future__ import annotations

from typing import Any, List, Optional, Sequence, Union

import numpy as np
from onnx import helper, numpy_helper

from stages.fixes.onnx_file.known import Known, Shape
from stages.fixes.onnx_file.refusal import Refused, SizesNeeded

FLOAT, INT64, BOOL = 1, 7, 9
FLOATS = (1, 10, 11)

# A name of a tensor, or a constant to be added.
Operand = Union[str, float, Sequence[int], np.ndarray]


class Rewriter:
    """A node on its way to operator set 12.

    Without a call of `replace`, the node itself stays, as the rule has changed it.
    """

    def __init__(self, node: Any, version: int, known: Known, names: set) -> None:
        self.node = node
        self.version = version
        self.known = known
        self._names = names
        self._nodes: List[Any] = []
        self._replaced = False

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute's value; text as such."""
        for attribute in self.node.attribute:
            if attribute.name == name:
                value = helper.get_attribute_value(attribute)
                return value.decode() if isinstance(value, bytes) else value
        return default

    def drop(self, *names: str) -> None:
        """Remove attributes."""
        kept = [a for a in self.node.attribute if a.name not in names]
        kept = [type(a).FromString(a.SerializeToString()) for a in kept]
        del self.node.attribute[:]
        self.node.attribute.extend(kept)

    def set(self, name: str, value: Any) -> None:
        self.drop(name)
        self.node.attribute.append(helper.make_attribute(name, value))

    def input(self, index: int) -> str:
        """Return the name of an input, '' if it is left out."""
        return str(self.node.input[index]) if index < len(self.node.input) else ""

    def keep_inputs(self, count: int) -> None:
        del self.node.input[count:]

    def keep_outputs(self, count: int) -> None:
        del self.node.output[count:]

    def require_constant(self, index: int, what: str) -> np.ndarray:
        """Return a constant input. Raises `Refused` if it is computed from the model's inputs."""
        value = self.known.get_constant(self.input(index))
        if value is None:
            raise Refused(
                f"its {what} ('{self.input(index)}') depend on the model's inputs.",
                "Make them constants in the model, or give the sizes of its inputs (--input), and "
                "export it again with fixed shapes.",
                SizesNeeded,
            )
        return value

    def require_rank(self, name: str) -> int:
        rank = self.known.get_rank(name)
        if rank is None:
            raise Refused(f"the number of axes of '{name}' is not known.", _FIXED, SizesNeeded)
        return rank

    def require_shape(self, name: str) -> List[int]:
        shape: Optional[Shape] = self.known.get_shape(name)
        if shape is None or None in shape:
            raise Refused(f"the shape of '{name}' is not known.", _FIXED, SizesNeeded)
        return [int(d or 0) for d in shape]

    def add(self, op_type: str, *inputs: Operand, output: str = "", **attributes: Any) -> str:
        """Add a node before this one, and return the name of its result."""
        name = output or self.make_name(op_type.lower())
        names = [self._name(value) for value in inputs]
        given = {key: value for key, value in attributes.items() if value is not None}
        node = helper.make_node(op_type, names, [name], f"{self._label()}/{name}", **given)
        self._append(node)
        return name

    def result(self, op_type: str, *inputs: Operand, index: int = 0, **attributes: Any) -> None:
        """Add the node that gives this node's output in its place."""
        self._replaced = True
        self.add(op_type, *inputs, output=self.node.output[index], **attributes)

    def add_constant(self, value: Any, dtype: Any = None) -> str:
        """Add a constant; integers are int64 and other numbers float32 unless it is an array."""
        if not isinstance(value, np.ndarray):
            integers = isinstance(value, (list, tuple, int))
            value = np.array(value, dtype or (np.int64 if integers else np.float32))
        name = self.make_name("constant")
        tensor = numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)
        self._append(
            helper.make_node("Constant", [], [name], f"{self._label()}/{name}", value=tensor)
        )
        return name

    def keep(self) -> None:
        """Keep this node itself here, after the nodes added so far and before those to come."""
        self._append(self.node)
        self._replaced = True

    def rename_output(self, index: int) -> str:
        """Give an output of this node another name, for a node to come that has its name."""
        name = self.make_name("before")
        self.node.output[index] = name
        return name

    def has_output(self, index: int) -> bool:
        return index < len(self.node.output) and bool(self.node.output[index])

    def finish(self) -> List[Any]:
        return self._nodes if self._replaced else [*self._nodes, self.node]

    def make_name(self, word: str) -> str:
        base = next((name for name in self.node.output if name), self.node.op_type)
        number = 0
        while True:
            name = f"{base}_{word}{number or ''}"
            if name not in self._names:
                self._names.add(name)
                return name
            number += 1

    def _append(self, node: Any) -> None:
        self._nodes.append(node)
        self.known.add_node(node)

    def _name(self, value: Operand) -> str:
        return value if isinstance(value, str) else self.add_constant(value)

    def _label(self) -> str:
        return str(self.node.name or next(iter(self.node.output), self.node.op_type))


_FIXED = "Give the sizes of the model's inputs (--input), or export it again with fixed shapes."
