"""LSTM, GRU and RNN as unrolled steps: FULLY_CONNECTED and elementwise operators."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np
import tensorflow as tf

from stages.fixes.onnx_tf.emitter import Decline, Emitter, Inputs, Node, handles, require_constant
from stages.fixes.onnx_tf.handlers.products import fully_connected
from stages.fixes.onnx_tf.layout import Value

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_ACTIVATIONS: Dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "sigmoid": tf.sigmoid,
    "tanh": tf.tanh,
    "relu": tf.nn.relu,
}
_DEFAULTS = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"], "RNN": ["tanh"]}

# More steps than this make the graph too large: they get onnx-tf's loop, which GRU lacks.
_MOST_STEPS = 512


@handles("recurrent", "LSTM", "GRU", "RNN")
def recurrent(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    inputs = inputs + [None] * (8 - len(inputs))
    x, lengths = inputs[0], inputs[4]
    assert x is not None
    if None in x.shape or inputs[7] is not None or node.get("clip") is not None:
        raise Decline
    steps, batch, size = (int(d or 0) for d in x.shape)
    if steps > _MOST_STEPS and node.op_type != "GRU":
        raise Decline
    if lengths is not None and not (require_constant(lengths) == steps).all():
        raise Decline
    kind = node.op_type
    direction = node.get("direction", "forward")
    hidden = node.get("hidden_size")
    # A sequence that lies batch first stays so, in the result too.
    batch_first = x.order == (1, 0, 2)
    tensor = x.tensor((1, 0, 2) if batch_first else (0, 1, 2))
    directions = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[direction]
    names = [name.lower() for name in node.get("activations", [])]
    names = names or _DEFAULTS[kind] * len(directions)
    each = len(_DEFAULTS[kind])
    sequences, finals, cells = [], [], []
    for index, backwards in enumerate(directions):
        weight, recurrence = require_constant(inputs[1])[index], require_constant(inputs[2])[index]
        bias = np.zeros(2 * _GATES[kind] * hidden, np.float32)
        if inputs[3] is not None:
            bias = require_constant(inputs[3])[index]
        functions = [_ACTIVATIONS.get(n) for n in names[index * each : (index + 1) * each]]
        if None in functions:
            raise Decline
        cell = _CELLS[kind](node, weight, recurrence, bias, hidden, functions)
        rows = _split_rows(cell.project(tensor), 1 if batch_first else 0)
        state = tuple(
            _get_initial_state(inputs[5 + i], index) for i in range(2 if kind == "LSTM" else 1)
        )
        outputs = []
        for row in rows[::-1] if backwards else rows:
            state = cell.step(row, state)
            outputs.append(state[0])
        sequences.append(outputs[::-1] if backwards else outputs)
        finals.append(state[0])
        cells.append(state[-1])
    values = [_make_sequence(emitter, sequences, (steps, batch, hidden), batch_first)]
    values.append(_stack_states(emitter, finals))
    if kind == "LSTM":
        values.append(_stack_states(emitter, cells))
    return values


def _split_rows(tensor: tf.Tensor, axis: int) -> List[tf.Tensor]:
    if tensor.shape.as_list()[axis] == 1:
        return [tf.squeeze(tensor, axis)]
    return list(tf.unstack(tensor, axis=axis))


def _get_initial_state(value: Optional[Value], index: int) -> Optional[tf.Tensor]:
    """Return the initial state of one direction; None for zeros."""
    if value is None or (value.const is not None and not value.const.any()):
        return None
    if value.const is not None:
        return tf.constant(value.const[index])
    tensor = value.tensor()
    return tf.reshape(tensor[index : index + 1], tensor.shape.as_list()[1:])


def _make_sequence(
    emitter: Emitter,
    sequences: Sequence[Sequence[tf.Tensor]],
    sizes: Tuple[int, int, int],
    batch_first: bool,
) -> Value:
    """Return Y of shape (steps, directions, batch, hidden), stacked only if something reads it."""
    steps, batch, hidden = sizes
    count = len(sequences)

    def build(wanted: Any) -> Tuple[tf.Tensor, Tuple[int, ...]]:
        rows = [row[0] if count == 1 else tf.concat(list(row), 1) for row in zip(*sequences)]
        if "layout" not in emitter.fixes:
            stacked = tf.reshape(tf.stack(rows, 0), [steps, batch, count, hidden])
            return tf.transpose(stacked, [0, 2, 1, 3]), (0, 1, 2, 3)
        if batch_first:
            stacked = tf.stack(rows, 1)
            return tf.reshape(stacked, [batch, steps, count, hidden]), (2, 0, 1, 3)
        stacked = tf.stack(rows, 0)
        return tf.reshape(stacked, [steps, batch, count, hidden]), (0, 2, 1, 3)

    return Value((steps, count, batch, hidden), tf.float32, build=build)


def _stack_states(emitter: Emitter, states: Sequence[tf.Tensor]) -> Value:
    """Return Y_h or Y_c of shape (directions, batch, hidden)."""
    if len(states) == 1:
        return emitter.wrap(tf.expand_dims(states[0], 0))
    return emitter.wrap(tf.stack(list(states), 0))


class _Cell:
    """The weights of one direction; `project` applies those of the input to all steps at once."""

    def __init__(
        self,
        node: Node,
        weight: np.ndarray,
        recurrence: np.ndarray,
        bias: np.ndarray,
        hidden: int,
        functions: Sequence[Any],
    ) -> None:
        self.node = node
        self.weight = weight.T
        self.recurrence = recurrence.T
        self.input_bias, self.state_bias = np.split(bias, 2)
        self.hidden = hidden
        self.functions = functions

    def project(self, x: tf.Tensor) -> tf.Tensor:
        return fully_connected(x, self.weight, self.input_bias + self.state_bias)

    def _add_state(self, row: tf.Tensor, state: Optional[tf.Tensor]) -> tf.Tensor:
        if state is None:
            return row
        return row + fully_connected(state, self.recurrence, None)


class _Rnn(_Cell):
    def step(self, row: tf.Tensor, state: Sequence[Any]) -> Tuple[Any, ...]:
        return (self.functions[0](self._add_state(row, state[0])),)


class _Lstm(_Cell):
    def step(self, row: tf.Tensor, state: Sequence[Any]) -> Tuple[Any, ...]:
        """Compute one step; ONNX orders the gates input, output, forget, cell."""
        gate, squash, out = self.functions
        i, o, f, c = tf.split(self._add_state(row, state[0]), 4, 1)
        fresh = gate(i) * squash(c)
        cell = fresh if state[1] is None else gate(f) * state[1] + fresh
        return gate(o) * out(cell), cell


class _Gru(_Cell):
    """A GRU cell; ONNX orders the gates update, reset, hidden."""

    def project(self, x: tf.Tensor) -> tf.Tensor:
        bias = self.input_bias.copy()
        # `step` adds the state bias of the last gate if the reset gate scales it.
        shared = 2 if self.node.get("linear_before_reset", 0) else 3
        bias[: shared * self.hidden] += self.state_bias[: shared * self.hidden]
        return fully_connected(x, self.weight, bias)

    def step(self, row: tf.Tensor, state: Sequence[Any]) -> Tuple[Any, ...]:
        gate, squash = self.functions
        h, size = state[0], self.hidden
        z, r, n = tf.split(row, 3, 1)
        last = self.recurrence[:, 2 * size :]
        late = bool(self.node.get("linear_before_reset", 0))
        if h is None:
            update = gate(z)
            fresh = squash(n + gate(r) * self.state_bias[2 * size :]) if late else squash(n)
            return (fresh - update * fresh,)
        if late:
            bias = self.state_bias.copy()
            bias[: 2 * size] = 0
            hz, hr, hn = tf.split(fully_connected(h, self.recurrence, bias), 3, 1)
            update = gate(z + hz)
            fresh = squash(n + gate(r + hr) * hn)
        else:
            both = fully_connected(h, self.recurrence[:, : 2 * size], None)
            hz, hr = tf.split(both, 2, 1)
            update = gate(z + hz)
            fresh = squash(n + fully_connected(gate(r + hr) * h, last, None))
        return (fresh + update * (h - fresh),)


_CELLS: Dict[str, Any] = {"LSTM": _Lstm, "GRU": _Gru, "RNN": _Rnn}
