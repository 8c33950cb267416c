"""LSTM, GRU and RNN as unrolled steps: FULLY_CONNECTED and elementwise operators."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np
import tensorflow as tf

from stages.fixes.onnx_tf.emitter import Decline, Emitter, Inputs, Node, handles, require_constant
from stages.fixes.onnx_tf.handlers.elementwise import (
    make_elu,
    make_hard_sigmoid,
    make_thresholded_relu,
    softplus,
    softsign,
)
from stages.fixes.onnx_tf.handlers.products import fully_connected
from stages.fixes.onnx_tf.layout import Value

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
Function = Callable[[tf.Tensor], tf.Tensor]
# Each activation by its alpha and beta, and their defaults; None if it has none.
_ACTIVATIONS: Dict[str, Tuple[Callable[..., Function], Optional[float], Optional[float]]] = {
    "affine": (lambda a, b: lambda x: a * x + b, 1.0, 0.0),
    "elu": (lambda a, b: make_elu(a), 1.0, None),
    "hardsigmoid": (make_hard_sigmoid, 0.2, 0.5),
    "leakyrelu": (lambda a, b: lambda x: tf.nn.leaky_relu(x, a), 0.01, None),
    "relu": (lambda a, b: tf.nn.relu, None, None),
    "scaledtanh": (lambda a, b: lambda x: a * tf.tanh(b * x), 1.0, 1.0),
    "sigmoid": (lambda a, b: tf.sigmoid, None, None),
    "softplus": (lambda a, b: softplus, None, None),
    "softsign": (lambda a, b: softsign, None, None),
    "tanh": (lambda a, b: tf.tanh, None, None),
    "thresholdedrelu": (lambda a, b: make_thresholded_relu(a), 1.0, None),
}
_DEFAULTS = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"], "RNN": ["tanh"]}

# More steps than this make the graph too large: they get onnx-tf's loop, which GRU lacks.
_MOST_STEPS = 512


@handles("recurrent", "LSTM", "GRU", "RNN")
def recurrent(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    inputs = inputs + [None] * (8 - len(inputs))
    x, lengths = inputs[0], inputs[4]
    assert x is not None
    if None in x.shape:
        raise Decline
    steps, batch, size = (int(d or 0) for d in x.shape)
    kind = node.op_type
    if lengths is not None and lengths.const is not None and (lengths.const == steps).all():
        lengths = None
    if steps > _MOST_STEPS and kind != "GRU" and _is_usual(node, lengths, inputs[7]):
        raise Decline
    direction = node.get("direction", "forward")
    hidden = node.get("hidden_size")
    # A sequence that lies batch first stays so, in the result too.
    batch_first = x.order == (1, 0, 2)
    tensor = x.tensor((1, 0, 2) if batch_first else (0, 1, 2))
    directions = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[direction]
    each = len(_DEFAULTS[kind])
    functions = _read_activations(node, len(directions))
    sequences, finals, cells = [], [], []
    for index, backwards in enumerate(directions):
        weight, recurrence = require_constant(inputs[1])[index], require_constant(inputs[2])[index]
        bias = np.zeros(2 * _GATES[kind] * hidden, np.float32)
        if inputs[3] is not None:
            bias = require_constant(inputs[3])[index]
        peephole = None if inputs[7] is None else require_constant(inputs[7])[index]
        own = functions[index * each : (index + 1) * each]
        cell = _CELLS[kind](node, weight, recurrence, bias, hidden, own, peephole)
        rows = _split_rows(cell.project(tensor), 1 if batch_first else 0)
        state = tuple(
            _get_initial_state(inputs[5 + i], index) for i in range(2 if kind == "LSTM" else 1)
        )
        outputs = []
        numbered = list(enumerate(rows))
        for step, row in numbered[::-1] if backwards else numbered:
            fresh = cell.step(row, state)
            if lengths is None:
                state = fresh
                outputs.append(state[0])
                continue
            # Rows whose sequence has ended keep their state, and their output is zero.
            going = _find_going(lengths, step, (batch, hidden))
            zeros = tf.zeros_like(fresh[0])
            state = tuple(
                tf.where(going, new, zeros if old is None else old)
                for new, old in zip(fresh, state)
            )
            outputs.append(tf.where(going, fresh[0], zeros))
        sequences.append(outputs[::-1] if backwards else outputs)
        finals.append(state[0])
        cells.append(state[-1])
    values = [_make_sequence(emitter, sequences, (steps, batch, hidden), batch_first)]
    values.append(_stack_states(emitter, finals))
    if kind == "LSTM":
        values.append(_stack_states(emitter, cells))
    return values


def _is_usual(node: Node, lengths: Optional[Value], peephole: Optional[Value]) -> bool:
    """Tell whether a layer has none of the options that onnx-tf's loop ignores or refuses."""
    unusual = any(name in node.attrs for name in ("clip", "input_forget", "activations"))
    return not unusual and lengths is None and peephole is None


def _read_activations(node: Node, directions: int) -> List[Function]:
    """Return the functions of all directions; alphas and betas belong to those that have one."""
    names = node.get("activations") or _DEFAULTS[node.op_type] * directions
    alphas, betas = list(node.get("activation_alpha", [])), list(node.get("activation_beta", []))
    functions = []
    for name in names:
        if name.lower() not in _ACTIVATIONS:
            raise Decline
        make, alpha, beta = _ACTIVATIONS[name.lower()]
        alpha = alphas.pop(0) if alpha is not None and alphas else alpha
        beta = betas.pop(0) if beta is not None and betas else beta
        functions.append(make(alpha, beta))
    return functions


def _find_going(lengths: Value, step: int, shape: Tuple[int, int]) -> tf.Tensor:
    """Return which rows' sequences reach this step, for each element of the state."""
    if lengths.const is not None:
        return tf.constant(np.broadcast_to((lengths.const > step)[:, None], shape))
    going = tf.greater(tf.cast(lengths.tensor(), tf.int32), step)
    return tf.tile(tf.reshape(going, [shape[0], 1]), [1, shape[1]])


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


def _clip_before(function: Function, bound: float) -> Function:
    return lambda x: function(tf.minimum(tf.maximum(x, -bound), bound))


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
        peephole: Optional[np.ndarray],
    ) -> None:
        self.node = node
        self.peephole = peephole
        # What goes into an activation is clipped first, if the layer says so.
        given = functions
        bound = node.get("clip")
        if bound:
            functions = [_clip_before(function, float(bound)) for function in functions]
        self.weight = weight.T
        self.recurrence = recurrence.T
        self.input_bias, self.state_bias = np.split(bias, 2)
        self.hidden = hidden
        self.functions = functions
        # The cell itself is not clipped on its way out.
        self.last = given[-1]

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
        gate, squash, _ = self.functions
        i, o, f, c = tf.split(self._add_state(row, state[0]), 4, 1)
        i, f = self._peep(i, 0, state[1]), self._peep(f, 2, state[1])
        entered = gate(i)
        fresh = entered * squash(c)
        kept = 1.0 - entered if self.node.get("input_forget", 0) else gate(f)
        cell = fresh if state[1] is None else kept * state[1] + fresh
        return gate(self._peep(o, 1, cell)) * self.last(cell), cell

    def _peep(self, value: tf.Tensor, gate: int, cell: Optional[tf.Tensor]) -> tf.Tensor:
        """Add a gate's view of the cell."""
        if self.peephole is None or cell is None:
            return value
        part = self.peephole[gate * self.hidden : (gate + 1) * self.hidden]
        return value + cell * tf.constant(part)


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
