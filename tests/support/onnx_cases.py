"""ONNX models of single operators, and today's ONNX Runtime's outputs for them.

    python onnx_cases.py FOLDER

Run in an environment with today's onnx and ONNX Runtime. Cases of one operator set are joined to
models of a few dozen nodes, so that they are converted together. FOLDER/GROUP becomes a volume of
the stage `onnx`, with the model, two samples and `expected.npz`, by CASE.OUTPUT.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

CASES = {}
# So many cases are joined to one model.
MOST = 40
NORMAL = np.random.RandomState(0).randn


def x(*shape, dtype="f4", name="x", low=None, high=None):
    """An input of the model: its values are normal, or lie between bounds."""
    return {"name": name, "shape": shape, "dtype": np.dtype(dtype), "low": low, "high": high}


def weights(*shape):
    return NORMAL(*shape).astype("f4") * 0.5


def ints(*values):
    return np.array(values, "i8")


def case(name, opset, op_type, *operands, outputs=1, **attributes):
    """A model of one node: inputs are what `x` returns, arrays initializers, None is left out."""
    names, inputs, tensors = [], {}, []
    for i, operand in enumerate(operands):
        if operand is None:
            names.append("")
        elif isinstance(operand, dict):
            names.append(operand["name"])
            inputs[operand["name"]] = operand
        else:
            names.append(f"c{i}")
            tensors.append(numpy_helper.from_array(np.asarray(operand), f"c{i}"))
    results = outputs if isinstance(outputs, list) else [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op_type, names, results, "node", **attributes)
    CASES[name] = (opset, [node], inputs, tensors)


def join(names, infer=onnx.shape_inference.infer_shapes):
    """One model of several cases of one operator set, whose tensors are named CASE.TENSOR."""
    nodes, ends, tensors, feeds = [], [], [], {}
    for name in names:
        _, own, inputs, constants = CASES[name]
        for node in own:
            copy = onnx.NodeProto.FromString(node.SerializeToString())
            copy.name = f"{name}.{node.name}"
            for side in (copy.input, copy.output):
                side[:] = [f"{name}.{tensor}" if tensor else "" for tensor in side]
            nodes.append(copy)
        for constant in constants:
            tensors.append(onnx.TensorProto.FromString(constant.SerializeToString()))
            tensors[-1].name = f"{name}.{constant.name}"
        for given in inputs.values():
            key = f"{name}.{given['name']}"
            kind = numpy_helper.from_array(np.zeros(1, given["dtype"])).data_type
            ends.append(helper.make_tensor_value_info(key, kind, given["shape"]))
            feeds[key] = draw(key, given)
    made = [name for node in nodes for name in node.output if name]
    read = {name for node in nodes for name in node.input}
    outputs = [helper.make_empty_tensor_value_info(n) for n in made if n not in read]
    graph = helper.make_graph(nodes, "g", ends, outputs, tensors)
    version = CASES[names[0]][0]
    opset = helper.make_opsetid("", version)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8 if version > 12 else 7)
    model = infer(model)
    for value in model.graph.output:
        # Not inferred: operators that are functions, and broadcasts of an Einsum.
        if not value.type.tensor_type.elem_type:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    return model, feeds


def draw(key, given, samples=2):
    shape, dtype = (samples, *given["shape"]), given["dtype"]
    low, high = given["low"], given["high"]
    generator = np.random.RandomState(sum(map(ord, key)))
    if dtype.kind == "f" and low is None:
        return generator.randn(*shape).astype(dtype)
    if dtype.kind == "f":
        return generator.uniform(low, high, shape).astype(dtype)
    most = 2 if dtype.kind == "b" else 5
    return generator.randint(low or 0, high or most, shape).astype(dtype)


def open_session(model):
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), settings)


def put_steps_first(model):
    """The model with recurrent layers of `layout` 0: ONNX Runtime has no others."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for node in nodes:
        layouts = [a for a in node.attribute if a.name == "layout" and a.i == 1]
        after = []
        if layouts:
            node.attribute.remove(layouts[0])
            # X is (batch, step, feature) then, states (batch, direction, feature), and the first
            # output (batch, step, direction, feature).
            for i in [i for i in (0, 5, 6) if i < len(node.input) and node.input[i]]:
                given, node.input[i] = node.input[i], f"{node.name}.in{i}"
                turn = helper.make_node("Transpose", [given], [node.input[i]], perm=[1, 0, 2])
                model.graph.node.append(turn)
            for i in range(len(node.output)):
                order = [1, 0, 2] if i else [2, 0, 1, 3]
                wanted, node.output[i] = node.output[i], f"{node.name}.out{i}"
                after.append(helper.make_node("Transpose", [node.output[i]], [wanted], perm=order))
        model.graph.node.extend([node, *after])
    return model


def write(volume, names, samples=2, **how):
    """Write a volume of the stage `onnx`."""
    model, feeds = join(names, **how)
    (volume / "requests").mkdir(parents=True)
    (volume / "given.onnx").write_bytes(model.SerializeToString())
    session = open_session(put_steps_first(model))
    runs = [
        session.run(None, {key: array[i] for key, array in feeds.items()}) for i in range(samples)
    ]
    single = {k: a.astype("f4") if a.dtype.kind == "f" else a for k, a in feeds.items()}
    np.savez(volume / "inputs.npz", **single)
    outputs = [value.name for value in model.graph.output]
    expected = {name: np.stack([run[i] for run in runs]) for i, name in enumerate(outputs)}
    np.savez(volume / "expected.npz", **expected)
    request = {"check": {"samples": samples, "inputs": "inputs.npz"}}
    (volume / "requests" / "onnx.json").write_text(json.dumps(request))


# Newer operator sets.
for _op in ("Softmax", "LogSoftmax", "Hardmax"):
    for _axis in (-1, 1, 0, 3):
        case(f"{_op}-{_axis}", 13, _op, x(2, 3, 4, 5), axis=_axis)
case("softmax-default", 13, "Softmax", x(2, 3, 4))
case("squeeze", 13, "Squeeze", x(1, 3, 1, 4), ints(0, -2))
case("squeeze-all", 13, "Squeeze", x(1, 3, 1, 4))
case("unsqueeze", 13, "Unsqueeze", x(3, 4), ints(0, -1))
case("reduce-sum", 13, "ReduceSum", x(2, 3, 4), ints(1), keepdims=0)
case("reduce-sum-all", 13, "ReduceSum", x(2, 3, 4))
case("reduce-sum-none", 13, "ReduceSum", x(2, 3, 4), noop_with_empty_axes=1)
for _op in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"):
    _x = x(2, 3, 4, low=0.1, high=2) if _op == "LogSum" else x(2, 3, 4)
    case(f"reduce-{_op}-18", 18, f"Reduce{_op}", _x, ints(-1, 1), keepdims=1)
    case(f"reduce-{_op}-none", 18, f"Reduce{_op}", _x, ints(), noop_with_empty_axes=1)
case("reduce-max-bool", 20, "ReduceMax", x(2, 3, dtype="?"), ints(1), keepdims=0)
case("split-sizes", 13, "Split", x(2, 6), ints(1, 2, 3), outputs=3, axis=1)
case("split-even", 13, "Split", x(2, 6), outputs=2, axis=-1)
case("split-count", 18, "Split", x(7, 2), outputs=3, axis=0, num_outputs=3)
case("shape-part", 15, "Shape", x(2, 3, 4), start=1, end=-1)
case("pad-axes", 18, "Pad", x(2, 3, 4), ints(1, 2, 0, 1), np.float32(0.5), ints(1, -1))
case("pad-wrap", 19, "Pad", x(1, 2, 4, 5), ints(0, 0, 1, 2, 0, 0, 2, 1), mode="wrap")
case("pad-edge", 18, "Pad", x(1, 2, 4), ints(0, 1, 2, 3), None, ints(1, 2), mode="edge")
case("clip-int", 13, "Clip", x(2, 3, dtype="i4", low=-5), np.int32(-2), np.int32(3))
case("relu-int", 14, "Relu", x(2, 3, dtype="i4", low=-5))
case("relu", 14, "Relu", x(2, 3))
_pair = [
    helper.make_node("ReduceMax", ["x"], ["m"], "max", keepdims=0),
    helper.make_node("Relu", ["m"], ["y"], "relu"),
]
CASES["relu-int-scalar"] = (14, _pair, {"x": x(2, 3, dtype="i4", low=-5)}, [])
case(
    *("batch-norm", 15, "BatchNormalization", x(2, 3, 4, 4)),
    *(weights(3), weights(3), weights(3), weights(3) ** 2),
)
case("reshape-allowzero", 14, "Reshape", x(2, 3, 4), ints(6, -1), allowzero=1)
case("hard-swish", 14, "HardSwish", x(2, 8))
case("mish", 18, "Mish", x(2, 8))
case("gelu", 20, "Gelu", x(2, 8))
case("gelu-tanh", 20, "Gelu", x(2, 8), approximate="tanh")
case("trilu", 14, "Trilu", x(2, 4, 5), np.array(-1, "i8"), upper=0)
case("triu", 14, "Trilu", x(2, 4, 5))
case("trilu-int", 14, "Trilu", x(4, 4, dtype="i8"), upper=0)
case("layer-norm", 17, "LayerNormalization", x(2, 3, 8), weights(8), weights(8))
case("layer-norm-1", 17, "LayerNormalization", x(2, 3, 4), weights(3, 4), axis=1, epsilon=0.1)
case("layer-norm-all", 17, "LayerNormalization", x(2, 8), weights(8), weights(8), outputs=3)
case("rms-norm", 23, "RMSNormalization", x(2, 3, 8), weights(8))
case("group-norm-21", 21, "GroupNormalization", x(1, 4, 3, 3), weights(4), weights(4), num_groups=2)
case("attention", 23, "Attention", *(x(1, 2, 5, 4, name=n) for n in "qkv"), is_causal=1)
case(
    *("attention-mask", 23, "Attention", x(1, 5, 8, name="q"), x(1, 6, 4, name="k")),
    *(x(1, 6, 4, name="v"), weights(5, 6)),
    q_num_heads=4,
    kv_num_heads=2,
)
case("cast-like", 15, "CastLike", x(2, 3), np.zeros(1, "i4"))
case("identity", 16, "Identity", x(2, 3))
case("cumsum", 14, "CumSum", x(2, 5), np.array(1, "i8"), reverse=1)
case("where", 16, "Where", x(2, 3, dtype="?", name="b"), x(2, 3), x(2, 3, name="z"))
case("prelu", 16, "PRelu", x(2, 3, 4), weights(3, 1))
case("pow-int", 15, "Pow", x(2, 3), np.array(3, "i8"))
case("less-or-equal", 16, "LessOrEqual", x(2, 3), x(3, name="z"))
case("greater-or-equal", 16, "GreaterOrEqual", x(2, 3), x(3, name="z"))
case("scatter", 18, "ScatterElements", x(3, 3), ints(0, 2).reshape(1, 2), x(1, 2, name="u"))
case("scatter-nd", 18, "ScatterND", x(4, 3), ints(0, 2).reshape(2, 1), x(2, 3, name="u"))
for _mode in ("linear", "nearest"):
    for _edge in ("zeros", "border", "reflection"):
        for _corners in (0, 1):
            case(
                *(f"grid-{_mode}-{_edge}-{_corners}", 20, "GridSample", x(2, 3, 5, 6)),
                x(2, 4, 3, 2, name="g"),
                mode=_mode,
                padding_mode=_edge,
                align_corners=_corners,
            )
case("grid-16", 16, "GridSample", x(1, 2, 4, 4), x(1, 3, 3, 2, name="g", low=-0.9, high=0.9))
for _corners in (0, 1):
    case(
        *(f"affine-grid-{_corners}", 20, "AffineGrid", x(2, 2, 3), ints(2, 3, 4, 5)),
        align_corners=_corners,
    )
_SCALES = np.array([1, 1, 2, 3], "f4")
case("resize-scales", 13, "Resize", x(1, 2, 4, 5), None, _SCALES, mode="linear")
case("resize-sizes", 13, "Resize", x(1, 2, 4, 5), None, None, ints(1, 2, 7, 9), mode="linear")
case("resize-axes", 18, "Resize", x(1, 2, 4, 5), None, _SCALES[2:], axes=[2, 3], mode="nearest")
case("resize-18", 18, "Resize", x(1, 2, 4, 5), None, _SCALES[2:], axes=[2, 3], mode="linear")
case("resize-row", 18, "Resize", x(1, 2, 6), None, np.array([1, 1, 2], "f4"), mode="linear")
for _kind in ("LSTM", "GRU", "RNN"):
    _gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[_kind]
    case(
        *(f"{_kind}-batch-first", 14, _kind, x(2, 5, 3), weights(1, _gates * 4, 3)),
        *(weights(1, _gates * 4, 4), weights(1, _gates * 8), None, x(2, 1, 4, name="h0")),
        outputs=["y", "h", "c"] if _kind == "LSTM" else ["y", "h"],
        hidden_size=4,
        layout=1,
    )
case(
    *("quantize-axis", 13, "QuantizeLinear", x(2, 3, 4), np.array([0.1, 0.2, 0.05], "f4")),
    np.array([3, 0, 128], "u1"),
    axis=1,
)
for _name, _type in (("signed", "i1"), ("unsigned", "u1")):
    _scale = numpy_helper.from_array(np.float32(0.03), "scale")
    _zero = numpy_helper.from_array(np.array(3, _type), "zero")
    _pair = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], "quantize"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"], "dequantize"),
    ]
    CASES[f"quantize-{_name}"] = (13, _pair, {"x": x(2, 3)}, [_scale, _zero])
case(
    *("dequantize-axis", 13, "DequantizeLinear", x(2, 3, dtype="u1", high=200)),
    *(np.array([0.1, 0.2], "f4"), np.array([3, 0], "u1")),
    axis=0,
)
case("dequantize", 13, "DequantizeLinear", x(2, 3, dtype="u1", high=200), np.float32(0.1))
case(
    *("dequantize-23", 23, "DequantizeLinear", x(2, 3, dtype="u1", high=200)),
    *(np.float32(0.1), np.uint8(3)),
    output_dtype=TensorProto.FLOAT,
)
case("dropout", 13, "Dropout", x(2, 3), np.float32(0.5))
case("average-pool", 19, "AveragePool", x(1, 2, 6, 6), kernel_shape=[2, 2], strides=[2, 2])
case("half", 18, "Gemm", x(2, 4, dtype="f2"), weights(4, 3).astype("f2"))
case("half-clip", 13, "Clip", x(2, 4, dtype="f2"), np.float16(-0.5), np.float16(65504))
case("double", 13, "MatMul", x(2, 4, dtype="f8"), weights(4, 3).astype("f8"))
case("half-cast", 13, "Cast", x(2, 4, dtype="i4"), to=TensorProto.FLOAT16)

# Operator set 12: what onnx-tf 1.6.0 has not, or not from builtins.
for _op, _low, _high in (
    *(("Acosh", 1, 30), ("Asinh", -30, 30), ("Atanh", -0.99, 0.99), ("Acos", -1, 1)),
    *(("Asin", -1, 1), ("Atan", -9, 9), ("Celu", -3, 3), ("Cosh", -3, 3), ("Elu", -3, 3)),
    *(("Erf", -3, 3), ("Exp", -3, 3), ("Floor", -3, 3), ("Ceil", -3, 3), ("Round", -3, 3)),
    *(("HardSigmoid", -4, 4), ("LeakyRelu", -3, 3), ("Log", 0.1, 9), ("Neg", -3, 3)),
    *(("Reciprocal", 0.2, 3), ("Selu", -3, 3), ("Shrink", -2, 2), ("Sigmoid", -3, 3)),
    *(("Sign", -3, 3), ("Sin", -3, 3), ("Cos", -3, 3), ("Tan", -1, 1), ("Sinh", -3, 3)),
    *(("Softplus", -9, 9), ("Softsign", -3, 3), ("Sqrt", 0, 9), ("Tanh", -3, 3)),
    *(("ThresholdedRelu", -3, 3), ("IsNaN", -1, 1), ("IsInf", -1, 1), ("Abs", -3, 3)),
):
    case(f"unary-{_op}", 12, _op, x(2, 5, low=_low, high=_high))
for _op in ("GreaterOrEqual", "LessOrEqual", "Greater", "Less", "Equal", "Add", "Sub", "Mul"):
    case(f"binary-{_op}", 12, _op, x(2, 3, dtype="i4"), x(3, dtype="i4", name="z"))
case("div-int", 12, "Div", x(2, 3, dtype="i4", low=-9, high=9), np.array([2, -3, 4], "i4"))
case("mod-int", 12, "Mod", x(2, 3, dtype="i4", low=-9, high=9), np.array([2, -3, 4], "i4"))
case(
    "mod-fmod-int",
    12,
    "Mod",
    x(2, 3, dtype="i4", low=-9, high=9),
    np.array([2, -3, 4], "i4"),
    fmod=1,
)
case("mod-fmod", 12, "Mod", x(2, 3), np.array([2, -3, 4], "f4"), fmod=1)
for _op in ("And", "Or", "Xor"):
    case(f"binary-{_op}", 12, _op, x(2, 3, dtype="?"), x(3, dtype="?", name="z"))
case("not", 12, "Not", x(2, 3, dtype="?"))
case("max-3", 12, "Max", x(2, 3), x(3, name="z"), weights(2, 1))
case("min-int", 12, "Min", x(2, 3, dtype="i4"), x(3, dtype="i4", name="z"))
case("mean-3", 12, "Mean", x(2, 3), x(3, name="z"), weights(2, 1))
case("sum-1", 12, "Sum", x(2, 3))
case("pow-ints", 12, "Pow", x(2, 3, dtype="i4"), x(3, dtype="i4", name="z", high=4))
case("pow-mixed", 12, "Pow", x(2, 3, low=0.1, high=2), x(3, dtype="i4", name="z", high=4))
case("pow", 12, "Pow", x(2, 3, low=0.1, high=2), x(3, name="z"))
for _name, _equation, *_shapes in (
    ("matmul", "bij,bjk->bik", (2, 3, 4), (2, 4, 5)),
    ("outer", "i,j->ij", (3,), (4,)),
    ("implicit", "ij,jk", (3, 4), (4, 5)),
    ("trace", "bii->b", (2, 3, 3)),
    ("diagonal", "ii->i", (3, 3)),
    ("ellipsis", "...ij,...jk->...ik", (2, 3, 4), (2, 4, 5)),
    ("ellipsis-implicit", "...ij->...ji", (2, 3, 4)),
    ("sum", "ijk->", (2, 3, 4)),
    ("turn", "ijk->kij", (2, 3, 4)),
    ("three", "ij,jk,kl->il", (2, 3), (3, 4), (4, 5)),
    ("hadamard", "ij,ij->ij", (2, 3), (2, 3)),
    ("partial", "bhqd,bhkd->bhqk", (1, 2, 3, 4), (1, 2, 5, 4)),
    ("alone", "ij,kj->i", (2, 3), (4, 3)),
):
    case(
        f"einsum-{_name}",
        12,
        "Einsum",
        *(x(*s, name="abc"[i]) for i, s in enumerate(_shapes)),
        equation=_equation,
    )
case("gather-nd", 12, "GatherND", x(3, 4, 5), ints(0, 1, 2, -1).reshape(2, 2))
case(
    "gather-nd-batch", 12, "GatherND", x(2, 4, 5), ints(1, 3, 0, -2).reshape(2, 2, 1), batch_dims=1
)
case(
    *("gather-nd-input", 12, "GatherND", x(3, 4, 5)),
    x(2, 2, dtype="i8", name="i", low=-3, high=3),
)
for _last in (0, 1):
    for _op in ("ArgMax", "ArgMin"):
        case(
            f"{_op}-{_last}",
            12,
            _op,
            x(4, 6, dtype="i4", high=3),
            axis=1,
            select_last_index=_last,
            keepdims=0,
        )
case("cumsum-exclusive", 12, "CumSum", x(2, 5), np.array(1, "i4"), exclusive=1)
case("cumsum-int", 12, "CumSum", x(2, 5, dtype="i4"), np.array(0, "i4"))
for _axis in (0, 1, 2):
    case(f"hardmax-{_axis}", 12, "Hardmax", x(2, 3, 4), axis=_axis)
    case(f"softmax-{_axis}", 12, "Softmax", x(2, 3, 4), axis=_axis)
case("mvn", 12, "MeanVarianceNormalization", x(2, 3, 4, 4))
case("global-lp", 12, "GlobalLpPool", x(1, 2, 4, 5), p=2)
case("global-lp-3", 12, "GlobalLpPool", x(1, 2, 4, 5), p=3)
case("lp-pool", 12, "LpPool", x(1, 2, 6, 6), kernel_shape=[2, 3], strides=[2, 2], p=2)
case("lp-pool-pad", 12, "LpPool", x(1, 2, 6, 6), kernel_shape=[3, 3], pads=[1, 1, 1, 1], p=1)
case("eye-like", 12, "EyeLike", x(3, 4), k=1)
case("compress", 12, "Compress", x(3, 4), np.array([True, False, True]), axis=0)
case("compress-flat", 12, "Compress", x(2, 2), np.array([True, False, True]))
case("reverse-sequence", 12, "ReverseSequence", x(5, 2, 3), ints(3, 5), time_axis=0, batch_axis=1)
case("reverse-sequence-1", 12, "ReverseSequence", x(2, 5), ints(3, 5), time_axis=1, batch_axis=0)
case("one-hot", 12, "OneHot", x(3, dtype="i8", low=-3, high=4), ints(4), np.array([-1, 2], "f4"))
case(
    "one-hot-axis",
    12,
    "OneHot",
    x(2, 3, dtype="i8", high=4),
    ints(4),
    np.array([0, 1], "f4"),
    axis=1,
)
case("lp-norm-1", 12, "LpNormalization", x(2, 3, 4), p=1, axis=1)
case("lrn", 12, "LRN", x(1, 8, 3, 3), size=5, alpha=0.1, bias=2.0)
case("top-k", 12, "TopK", x(3, 5), ints(2), outputs=2, axis=0, largest=0)
case(
    "gemm-trans", 12, "Gemm", x(4, 2), x(3, 4, name="z"), weights(3), transA=1, transB=1, alpha=0.5
)
case("gemm-matrix", 12, "Gemm", x(2, 4), weights(4, 3), weights(2, 3), beta=2.0)
case("matmul-vector", 12, "MatMul", x(3, 4), x(4, name="z"))
case("matmul-broadcast", 12, "MatMul", x(2, 1, 3, 4), x(5, 4, 2, name="z"))
case("max-unpool-free", 12, "MaxPool", x(1, 2, 6, 6), kernel_shape=[2, 2], dilations=[2, 2])
case("space-to-depth", 12, "SpaceToDepth", x(1, 2, 4, 4), blocksize=2)
case("tile", 12, "Tile", x(2, 3), ints(2, 1))
case("expand", 12, "Expand", x(3, 1), ints(2, 1, 4))
case(
    "scatter-negative", 12, "ScatterElements", x(3, 3), ints(-1, 0).reshape(1, 2), x(1, 2, name="u")
)

# Recurrent layers with options that PyTorch has not.
_P = weights(1, 12)
for _kind, _gates, _functions in (
    ("LSTM", 4, ["HardSigmoid", "Softsign", "Elu"]),
    ("GRU", 3, ["HardSigmoid", "Relu"]),
    ("RNN", 1, ["Affine"]),
):
    _w = [weights(1, _gates * 4, 3), weights(1, _gates * 4, 4), weights(1, _gates * 8)]
    _w2 = [np.concatenate([w, w[:, ::-1]]) for w in _w]
    _all = ["y", "h", "c"] if _kind == "LSTM" else ["y", "h"]
    _state = [x(1, 2, 4, name="h0")] + ([x(1, 2, 4, name="c0")] if _kind == "LSTM" else [])
    _in = x(5, 2, 3)
    case(f"{_kind}-clip", 12, _kind, _in, *_w, outputs=_all, hidden_size=4, clip=0.3)
    case(
        f"{_kind}-lengths", 12, _kind, _in, *_w, np.array([3, 5], "i4"), outputs=_all, hidden_size=4
    )
    case(
        *(f"{_kind}-lengths-both", 12, _kind, _in, *_w2, np.array([3, 5], "i4")),
        outputs=_all,
        hidden_size=4,
        direction="bidirectional",
    )
    case(f"{_kind}-state", 12, _kind, _in, *_w, None, *_state, outputs=_all, hidden_size=4)
    case(
        *(f"{_kind}-reverse", 12, _kind, _in, *_w, None, *_state),
        outputs=_all,
        hidden_size=4,
        direction="reverse",
    )
    _extra = {"activation_alpha": [0.3], "activation_beta": [0.1]} if _kind == "RNN" else {}
    case(
        *(f"{_kind}-activations", 12, _kind, _in, *_w),
        outputs=_all,
        hidden_size=4,
        activations=_functions,
        **_extra,
    )
    if _kind == "LSTM":
        case("LSTM-peepholes", 12, _kind, _in, *_w, None, *_state, _P, outputs=_all, hidden_size=4)
        case(
            *("LSTM-peepholes-lengths", 12, _kind, _in, *_w, np.array([2, 5], "i4"), *_state, _P),
            outputs=_all,
            hidden_size=4,
            clip=0.5,
        )
        case("LSTM-input-forget", 12, _kind, _in, *_w, outputs=_all, hidden_size=4, input_forget=1)
    if _kind == "GRU":
        for _late in (0, 1):
            case(
                *(f"GRU-reset-{_late}", 12, _kind, _in, *_w, np.array([5, 2], "i4"), *_state),
                outputs=_all,
                hidden_size=4,
                linear_before_reset=_late,
                clip=1.0,
            )


def main():
    groups = {}
    for name, (opset, _, inputs, _) in CASES.items():
        kinds = {given["dtype"].name for given in inputs.values()}
        other = next((kind for kind in ("float16", "float64") if kind in kinds), "")
        groups.setdefault((opset, other), []).append(name)
    for (opset, other), names in groups.items():
        for number in range(0, len(names), MOST):
            label = f"set{opset}{other}-{number // MOST}"
            write(Path(sys.argv[1]) / label, names[number : number + MOST])


if __name__ == "__main__":
    main()
