"""Random ONNX graphs of operator set 12, and ONNX Runtime's outputs for them.

    python onnx_fuzz.py FOLDER SEED [GRAPHS]

Run in the environment of the stage `onnx`. Each graph is a few random operators in a row, of
random shapes and attributes, some of them on constants alone; a few graphs are joined to a model,
FOLDER/SEED-NUMBER, which is a volume of the stage `onnx`. One seed gives the same graphs each time.
"""

import random
import sys
from pathlib import Path

import numpy as np
import onnx_cases
from onnx import helper, numpy_helper

# So many graphs are joined to one model.
MOST = 25
OPERATORS = {}
REDUCTIONS = ["L1", "L2", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare", "LogSumExp"]


def operator(function):
    OPERATORS[function.__name__.strip("_")] = function
    return function


class Impossible(Exception):
    """Raised where an operator does not take the shape at hand."""


class Graph:
    """A chain of nodes; `shape` is the last one's, computed by running it."""

    def __init__(self, seed):
        self.choice = random.Random(seed)
        self.normal = np.random.RandomState(seed)
        self.nodes, self.tensors = [], []
        rank = self.choice.choice([1, 2, 3, 3, 4, 4, 4, 5])
        self.shape = tuple(self.choice.randint(1, 5) for _ in range(rank))
        self.input = onnx_cases.x(*self.shape)
        self.last = "x"

    @property
    def rank(self):
        return len(self.shape)

    def axis(self):
        """An axis, from the front or from the end."""
        if not self.rank:
            raise Impossible
        return self.choice.randrange(-self.rank, self.rank)

    def constant(self, array):
        name = f"c{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def floats(self, *shape):
        return self.constant(np.asarray(self.normal.randn(*shape), "f4"))

    def ints(self, values):
        return self.constant(np.array(values, "i8"))

    def add(self, op_type, *inputs, count=1, **attributes):
        names = [f"t{len(self.nodes)}_{i}" for i in range(count)]
        self.nodes.append(helper.make_node(op_type, inputs, names, names[0], **attributes))
        return names[0] if count == 1 else names

    def other(self):
        """A constant that broadcasts with the last tensor, or the last one's own square."""
        if self.choice.random() < 0.2:
            return self.add("Mul", self.last, self.last)
        sizes = [d if self.choice.random() < 0.6 else 1 for d in self.shape]
        return self.floats(*sizes[self.choice.randint(0, self.rank) :])


@operator
def _unary(g):
    kinds = "Abs Neg Relu Sigmoid Tanh Elu Selu LeakyRelu Softplus Softsign Sign Floor Ceil Round "
    kinds += "Erf HardSigmoid ThresholdedRelu Celu Sin Cos Atan Asinh Exp Identity Shrink Not"
    kind = g.choice.choice(kinds.split())
    if kind == "Not":
        flag = g.add("Greater", g.last, g.floats())
        return g.add("Cast", g.add("Not", flag), to=1)
    return g.add(kind, g.add("Tanh", g.last) if kind == "Exp" else g.last)


@operator
def _binary(g):
    kind = g.choice.choice(["Add", "Sub", "Mul", "Max", "Min", "Mean", "Sum"])
    pair = [g.last, g.other()]
    return g.add(kind, *(pair if g.choice.random() < 0.5 else pair[::-1]))


@operator
def _divide(g):
    return g.add("Div", g.last, g.add("Add", g.add("Abs", g.other()), g.constant(np.float32(0.5))))


@operator
def _compare(g):
    kind = g.choice.choice(["Greater", "Less", "GreaterOrEqual", "LessOrEqual"])
    flag = g.add(kind, g.last, g.other())
    return g.add("Where", flag, g.last, g.other())


@operator
def _integers(g):
    kind = g.choice.choice(["Add", "Sub", "Mul", "Div", "Mod", "Max", "Equal"])
    whole = g.add("Cast", g.add("Mul", g.last, g.constant(np.float32(3))), to=7)
    other = g.constant(np.array(g.choice.choice([-3, -2, 2, 3]), "i8"))
    result = g.add(kind, whole, other)
    return g.add("Cast", result, to=1)


@operator
def _power(g):
    exponent = g.choice.choice([2.0, 3.0, 0.5, 1.0, -1.0, 1.7])
    base = g.add("Add", g.add("Abs", g.last), g.constant(np.float32(0.3)))
    return g.add("Pow", base, g.constant(np.float32(exponent)))


@operator
def _clip(g):
    low, high = sorted(g.normal.randn(2).astype("f4"))
    bounds = [g.constant(np.float32(low)), g.constant(np.float32(high))]
    return g.add("Clip", g.last, *g.choice.choice([bounds, bounds[:1], ["", bounds[1]]]))


@operator
def _reshape(g):
    total = int(np.prod(g.shape))
    parts = [d for d in range(1, total + 1) if total % d == 0]
    first = g.choice.choice(parts)
    shape = g.choice.choice(
        [[first, -1], [-1], [first, 1, -1], [0, -1], [1, first, total // first]]
    )
    if shape[0] == 0 and not g.rank:
        raise Impossible
    return g.add("Reshape", g.last, g.ints(shape))


@operator
def _transpose(g):
    order = list(range(g.rank))
    g.choice.shuffle(order)
    if not order:
        raise Impossible
    return g.add("Transpose", g.last, **({"perm": order} if g.choice.random() < 0.8 else {}))


@operator
def _squeeze(g):
    ones = [i for i, d in enumerate(g.shape) if d == 1]
    if ones and g.choice.random() < 0.6:
        axes = g.choice.sample(ones, g.choice.randint(1, len(ones)))
        return g.add("Squeeze", g.last, axes=[a - g.rank * g.choice.randint(0, 1) for a in axes])
    if g.rank > 4:
        raise Impossible
    return g.add("Unsqueeze", g.last, axes=[g.choice.randrange(-g.rank - 1, g.rank + 1)])


@operator
def _flatten(g):
    return g.add("Flatten", g.last, axis=g.choice.randint(0, g.rank))


@operator
def _slice(g):
    axis = g.axis()
    size = g.shape[axis]
    step = g.choice.choice([1, 1, 2, -1, -2])
    ends = sorted(g.choice.sample(range(size + 1), 2)) if size > 1 else [0, 1]
    start, end = ends if step > 0 else (ends[1] - 1, ends[0] - 1)
    end = -(2**31) if end < 0 else end
    if g.choice.random() < 0.3 and start:
        start -= size
    return g.add("Slice", g.last, *(g.ints([v]) for v in (start, end, axis, step)))


@operator
def _concat(g):
    axis = g.axis()
    shape = list(g.shape)
    shape[axis] = g.choice.randint(1, 3)
    parts = [g.last, g.floats(*shape)]
    g.choice.shuffle(parts)
    return g.add("Concat", *parts, axis=axis)


@operator
def _split(g):
    axis = g.axis()
    size = g.shape[axis]
    if size < 2:
        raise Impossible
    cut = g.choice.randint(1, size - 1)
    parts = g.add("Split", g.last, count=2, axis=axis, split=[cut, size - cut])
    return g.add("Concat", parts[1], g.add("Neg", parts[0]), axis=axis)


@operator
def _pad(g):
    mode = g.choice.choice(["constant", "reflect", "edge"])
    most = [min(2, d - 1) if mode == "reflect" else 2 for d in g.shape]
    if not g.rank or (mode != "constant" and g.rank > 4):
        raise Impossible
    amounts = [g.choice.randint(0, n) for n in most + most]
    value = [g.constant(np.float32(0.5))] if mode == "constant" and g.choice.random() < 0.5 else []
    return g.add("Pad", g.last, g.ints(amounts), *value, mode=mode)


@operator
def _reduce(g):
    kind = g.choice.choice(REDUCTIONS)
    if not g.rank:
        raise Impossible
    axes = g.choice.sample(range(g.rank), g.choice.randint(1, g.rank))
    axes = [a - g.rank * g.choice.randint(0, 1) for a in axes]
    given = {"axes": axes} if g.choice.random() < 0.8 else {}
    return g.add(f"Reduce{kind}", g.last, keepdims=g.choice.randint(0, 1), **given)


@operator
def _softmax(g):
    return g.add(g.choice.choice(["Softmax", "LogSoftmax"]), g.last, axis=g.axis())


@operator
def _gather(g):
    axis = g.axis()
    shape = g.choice.choice([(), (2,), (3,), (2, 2)])
    size = g.shape[axis]
    return g.add("Gather", g.last, g.ints(g.normal.randint(-size, size, shape)), axis=axis)


@operator
def _gather_elements(g):
    axis = g.axis()
    index = g.normal.randint(-g.shape[axis], g.shape[axis], g.shape)
    return g.add("GatherElements", g.last, g.ints(index), axis=axis)


@operator
def _gather_nd(g):
    if not g.rank:
        raise Impossible
    depth = g.choice.randint(1, g.rank)
    index = [[g.choice.randrange(-d, d) for d in g.shape[:depth]] for _ in range(2)]
    return g.add("GatherND", g.last, g.ints(index))


@operator
def _scatter(g):
    axis = g.axis()
    size = g.shape[axis]
    index = np.argsort(g.normal.rand(*g.shape), axis)
    if g.choice.random() < 0.3:
        index = index - size
    return g.add("ScatterElements", g.last, g.ints(index), g.floats(*g.shape), axis=axis)


@operator
def _expand(g):
    shape = [g.choice.randint(1, 3) if d == 1 else d for d in g.shape]
    lead = [2] if g.rank < 4 and g.choice.random() < 0.3 else []
    return g.add("Expand", g.last, g.ints(lead + shape))


@operator
def _tile(g):
    if not g.rank:
        raise Impossible
    return g.add("Tile", g.last, g.ints([g.choice.randint(1, 2) for _ in g.shape]))


@operator
def _arg(g):
    kind = g.choice.choice(["ArgMax", "ArgMin"])
    given = {"axis": g.axis(), "keepdims": g.choice.randint(0, 1)}
    return g.add("Cast", g.add(kind, g.last, **given), to=1)


@operator
def _top_k(g):
    axis = g.axis()
    k = g.ints([g.choice.randint(1, g.shape[axis])])
    given = {"axis": axis, "largest": g.choice.randint(0, 1)}
    return g.add("TopK", g.last, k, count=2, **given)[0]


@operator
def _cumulate(g):
    axis = g.axis()
    given = {name: g.choice.randint(0, 1) for name in ("exclusive", "reverse")}
    if g.shape[axis] == 1:  # ONNX Runtime writes beyond its memory
        given["exclusive"] = 0
    return g.add("CumSum", g.last, g.constant(np.array(axis, "i4")), **given)


@operator
def _product(g):
    if not g.rank:
        raise Impossible
    size = g.shape[-1]
    other = g.choice.choice([(size, 3), (size, 3), (size,), (2, size, 3)])
    if g.rank > 3 and len(other) == 3:
        raise Impossible
    product = g.add("MatMul", g.last, g.floats(*other))
    if g.choice.random() < 0.5 and other == (size, 3):
        product = g.add("Add", product, g.floats(3))
    return product


@operator
def _gemm(g):
    if g.rank != 2:
        raise Impossible
    turned = g.choice.randint(0, 1)
    size = g.shape[0 if turned else 1]
    weight, other = ((3, size), 1) if g.choice.random() < 0.5 else ((size, 3), 0)
    bias = g.choice.choice([[], [g.floats(3)], [g.floats(1)]])
    given = {"alpha": 0.5, "beta": 2.0} if g.choice.random() < 0.5 else {}
    return g.add("Gemm", g.last, g.floats(*weight), *bias, transA=turned, transB=other, **given)


def _draw_window(g):
    space = g.shape[2:]
    if len(space) not in (1, 2, 3):
        raise Impossible
    kernel = [g.choice.randint(1, min(3, d)) for d in space]
    pads = [g.choice.randint(0, k - 1) for k in kernel + kernel]
    return kernel, [g.choice.randint(1, 2) for _ in space], pads


@operator
def _convolution(g):
    kernel, strides, pads = _draw_window(g)
    channels = g.shape[1]
    group = g.choice.choice([n for n in range(1, channels + 1) if channels % n == 0])
    bias = [g.floats(2 * group)] if g.choice.random() < 0.5 else []
    weight = g.floats(2 * group, channels // group, *kernel)
    given = {"kernel_shape": kernel, "strides": strides, "pads": pads, "group": group}
    result = g.add("Conv", g.last, weight, *bias, **given)
    if g.choice.random() < 0.4:
        scale, shift, mean = (g.floats(2 * group) for _ in range(3))
        spread = g.constant(np.abs(g.normal.randn(2 * group)).astype("f4") + 0.5)
        result = g.add("BatchNormalization", result, scale, shift, mean, spread)
    return result


@operator
def _transposed(g):
    kernel, strides, pads = _draw_window(g)
    if len(kernel) != 2:
        raise Impossible
    weight = g.floats(g.shape[1], 2, *kernel)
    return g.add("ConvTranspose", g.last, weight, kernel_shape=kernel, strides=strides)


@operator
def _pool(g):
    kernel, strides, pads = _draw_window(g)
    kind = g.choice.choice(["MaxPool", "AveragePool"])
    given = {"count_include_pad": g.choice.randint(0, 1)} if kind == "AveragePool" else {}
    # Where a window may begin beyond the end, PyTorch and ONNX Runtime disagree.
    if g.choice.random() < 0.3 and min(kernel) >= max(strides):
        pads = [0] * len(pads)
        given.update(ceil_mode=1, **({"count_include_pad": 0} if given else {}))
    return g.add(kind, g.last, kernel_shape=kernel, strides=strides, pads=pads, **given)


@operator
def _global_pool(g):
    if g.rank not in (3, 4, 5):
        raise Impossible
    return g.add(g.choice.choice(["GlobalAveragePool", "GlobalMaxPool"]), g.last)


@operator
def _instance_norm(g):
    if g.rank not in (3, 4) or min(g.shape[2:]) < 2:
        raise Impossible
    return g.add("InstanceNormalization", g.last, g.floats(g.shape[1]), g.floats(g.shape[1]))


@operator
def _resize(g):
    if g.rank != 4:
        raise Impossible
    modes = ["asymmetric", "half_pixel", "align_corners", "pytorch_half_pixel"]
    mode = g.choice.choice(["nearest", "linear"])
    given = {"coordinate_transformation_mode": g.choice.choice(modes), "mode": mode}
    if mode == "nearest":
        rounding = ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"]
        given["nearest_mode"] = g.choice.choice(rounding)
    scales = np.array([1, 1, g.choice.choice([1, 2, 3]), g.choice.choice([1, 2, 0.5])], "f4")
    if int(g.shape[3] * scales[3]) < 1:
        raise Impossible
    return g.add("Resize", g.last, g.floats(0), g.constant(scales), **given)


@operator
def _depth(g):
    if g.rank != 4 or g.shape[2] % 2 or g.shape[3] % 2:
        raise Impossible
    deep = g.add("SpaceToDepth", g.last, blocksize=2)
    mode = g.choice.choice(["DCR", "CRD"])
    return g.add("DepthToSpace", g.add("Neg", deep), blocksize=2, mode=mode)


@operator
def _one_hot(g):
    flat = g.add(
        "Cast", g.add("Clip", g.last, g.constant(np.float32(-3)), g.constant(np.float32(2))), to=7
    )
    if g.rank > 3:
        raise Impossible
    axis = g.choice.randrange(-g.rank - 1, g.rank + 1)
    return g.add("OneHot", flat, g.ints([3]), g.constant(np.array([0.5, 2], "f4")), axis=axis)


@operator
def _constants(g):
    """Operators on constants alone, which are computed at conversion."""
    inner = Graph(g.choice.randrange(2**31))
    inner.shape = tuple(d if g.choice.random() < 0.6 else 1 for d in g.shape)
    inner.nodes, inner.tensors = g.nodes, g.tensors
    inner.last = g.floats(*inner.shape)
    kind = g.choice.choice(
        [_unary, _binary, _integers, _softmax, _power, _clip, _cumulate, _divide]
    )
    return g.add("Add", g.last, kind(inner))


def make_graph(seed):
    """Return a case of onnx_cases.py: the operators that took the shapes of those before them."""
    graph = Graph(seed)
    steps = graph.choice.randint(2, 6)
    tried = 0
    while steps and tried < 60:
        tried += 1
        before = len(graph.nodes), len(graph.tensors), graph.last, graph.shape
        name = graph.choice.choice(sorted(OPERATORS))
        try:
            graph.last = OPERATORS[name](graph)
            graph.shape = find_shape(graph)
            if 0 in graph.shape or int(np.prod(graph.shape)) > 4000 or len(graph.shape) > 5:
                raise Impossible
            steps -= 1
        except Impossible:
            del graph.nodes[before[0] :], graph.tensors[before[1] :]
            graph.last, graph.shape = before[2:]
    if not graph.nodes:
        graph.last = graph.add("Tanh", graph.last)
    drop_unread(graph)
    return 12, graph.nodes, {"x": graph.input}, graph.tensors


def leave(model):
    """Infer no shapes: every output is of floats, and onnx 1.7 ends the process for some axes."""
    return model


def find_shape(graph):
    """Run the nodes so far; where they do not run, the last operator is not possible."""
    drop = list(graph.nodes)
    onnx_cases.CASES["trial"] = (12, drop, {"x": graph.input}, graph.tensors)
    try:
        model, feeds = onnx_cases.join(["trial"], infer=leave)
        session = onnx_cases.open_session(model)
        name = f"trial.{graph.last}"
        if name not in [output.name for output in session.get_outputs()]:
            raise Impossible
        value = session.run([name], {key: array[0] for key, array in feeds.items()})[0]
    except Exception as error:
        raise Impossible from error
    if not np.isfinite(value).all() or np.abs(value).max(initial=0) > 1e4:
        raise Impossible
    return value.shape


def drop_unread(graph):
    """Remove nodes that do not lead to the last tensor."""
    wanted = {graph.last}
    for node in reversed(list(graph.nodes)):
        if wanted & set(node.output):
            wanted |= set(node.input)
        else:
            graph.nodes.remove(node)


def main():
    folder, seed = Path(sys.argv[1]), int(sys.argv[2])
    count = int(sys.argv[3]) if len(sys.argv) > 3 else 50
    onnx_cases.CASES.clear()
    names = []
    for number in range(count):
        case = make_graph(seed * 100_000 + number)
        onnx_cases.CASES[f"g{number}"] = case
        names.append(f"g{number}")
    for first in range(0, count, MOST):
        onnx_cases.write(folder / f"{seed}-{first}", names[first : first + MOST], infer=leave)


if __name__ == "__main__":
    main()
