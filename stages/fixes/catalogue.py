"""What the fixes are: names, defects, issues and the releases that repaired them. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Tuple

from stages.kit.contract import InputError


@dataclass(frozen=True)
class Fix:
    """One repair of one upstream defect, applied in one stage.

    `issue` is where upstream discusses the defect, '' if no thread is known; `repaired_in` is the
    release that repaired it upstream, or 'never'.
    """

    name: str
    title: str
    defect: str
    issue: str
    repaired_in: str
    stage: str


def _onnx_tf(name: str, title: str, defect: str, issue: str, repaired_in: str) -> Fix:
    return Fix(name, title, defect, issue, repaired_in, "onnx-tf")


def _torch(name: str, title: str, defect: str, issue: str, repaired_in: str) -> Fix:
    return Fix(name, title, defect, issue, repaired_in, "torch")


def _graph(name: str, title: str, defect: str, issue: str, repaired_in: str) -> Fix:
    return Fix(name, title, defect, issue, repaired_in, "graph")


FIXES: Tuple[Fix, ...] = (
    _torch(
        "adaptive-pool",
        "Adaptive average pooling of any output size",
        "adaptive_avg_pool2d is exported only where the output size divides the input size.",
        "",
        "never",
    ),
    _torch(
        "missing-symbolics",
        "hardsigmoid, CELU, einsum, grid_sample, roll, var, cdist and many others can be exported",
        "torch 1.5.1 has no symbolic function for these operators at opset 11, or a wrong one.",
        "",
        "1.6 to 1.8 for hardsigmoid, celu and einsum; 1.13 for grid_sample",
    ),
    _torch(
        "frozen-scripts",
        "Scripted networks with BatchNorm or plain attributes can be exported",
        "num_batches_tracked is written inside forward(), and the exporter refuses the SetAttr of "
        "the training branch even in eval mode; it knows no attribute that is a bool or a number.",
        "",
        "1.6",
    ),
    _torch(
        "input-names",
        "An output that is an input keeps both names",
        "Outputs are named after inputs, so an input that is returned loses its name.",
        "",
        "never",
    ),
    _torch(
        "mixed-types",
        "Operators of scripted code get operands of one type",
        "Python's numbers in scripted code are exported as integers beside float tensors, which "
        "ONNX does not promote.",
        "",
        "1.6 (partly)",
    ),
    _onnx_tf(
        "static-batch",
        "An unknown batch size is one",
        "With an unknown size static shapes are lost everywhere, although TensorFlow Lite fixes "
        "them in the end.",
        "",
        "never",
    ),
    _onnx_tf(
        "constants",
        "Initialisers stay arrays, and what is known at conversion is computed then",
        "Initialisers pass through Python lists (minutes and gigabytes for VGG), and shape "
        "arithmetic stays in the graph, where TensorFlow loses static shapes.",
        "",
        "never",
    ),
    _onnx_tf(
        "batchnorm",
        "BatchNormalization is folded into the convolution before it",
        "Each BatchNormalization becomes Sub, Mul, Rsqrt and Add with unfolded constants.",
        "",
        "never",
    ),
    _onnx_tf(
        "layout",
        "Channels last from end to end",
        "A transpose is emitted around every convolution and pool, and TensorFlow 2.4's layout "
        "pass moves some of them wrongly ('operand #0 does not dominate this use').",
        "https://github.com/onnx/onnx-tensorflow/issues/782",
        "never",
    ),
    _onnx_tf(
        "convolution",
        "Depthwise and grouped convolutions, padding merged into SAME, additions into the bias",
        "A grouped convolution becomes one Conv2D a group.",
        "https://github.com/onnx/onnx-tensorflow/issues/470",
        "onnx-tf 1.8.0 (depthwise only)",
    ),
    _onnx_tf(
        "transposed-convolution",
        "ConvTranspose as one operator a group",
        "Padding and output_padding become slices around an NCHW operator.",
        "",
        "never",
    ),
    _onnx_tf(
        "convolution-3d",
        "Conv3d from two-dimensional convolutions",
        "TensorFlow Lite 2.4 has no CONV_3D.",
        "",
        "TensorFlow 2.5 (CONV_3D)",
    ),
    _onnx_tf(
        "clip",
        "Clip(0, 6) as RELU6",
        "Clip becomes Minimum and Maximum, which no operator can fuse.",
        "",
        "never",
    ),
    _onnx_tf(
        "pooling",
        "Pools of any padding, rounding and dilation with builtin operators",
        "Pools with ceil_mode, asymmetric padding or dilation become a tf.py_function.",
        "",
        "never",
    ),
    _onnx_tf(
        "padding",
        "Pad of every mode with static amounts",
        "Pad becomes a tf.cond with a loop for mode 'edge'.",
        "",
        "never",
    ),
    _onnx_tf(
        "resize",
        "Resize with half_pixel, align_corners and cubic",
        "Resize refuses pytorch_half_pixel, and scales other modes by a dynamic shape.",
        "",
        "onnx-tf 1.7.0 (pytorch_half_pixel, as tf.image.crop_and_resize)",
    ),
    _onnx_tf(
        "activations",
        "Selu, Erf, Softplus, HardSigmoid and others with builtin operators",
        "They are emitted as TensorFlow operators that TensorFlow Lite has no builtin for.",
        "",
        "never",
    ),
    _onnx_tf(
        "normalization",
        "InstanceNormalization, GroupNorm and LRN with builtin operators",
        "tf.nn.moments in NCHW is converted into operands that do not broadcast.",
        "",
        "never",
    ),
    _onnx_tf(
        "recurrent",
        "LSTM, GRU and RNN as unrolled steps",
        "GRU refuses linear_before_reset, which is all that PyTorch exports; the others become "
        "loops with randomly named variables.",
        "",
        "never",
    ),
    _onnx_tf(
        "depth-to-space",
        "PixelShuffle as DEPTH_TO_SPACE",
        "It becomes a transpose of six dimensions, which TensorFlow Lite has not.",
        "",
        "never",
    ),
    _onnx_tf(
        "selection",
        "Slices, gathers, scatters, top-k, tiles and one-hot with static arguments",
        "Indices and sizes are computed in the graph, partly by Flex operators.",
        "",
        "never",
    ),
    _onnx_tf(
        "matmul",
        "Gemm and MatMul as FULLY_CONNECTED with their bias",
        "Gemm multiplies by alpha and beta in the graph and transposes its constant weight there.",
        "",
        "never",
    ),
    _onnx_tf(
        "control-flow",
        "If as a choice, Loop unrolled",
        "Both become functional operators without static shapes.",
        "",
        "never",
    ),
    _onnx_tf(
        "outputs",
        "Outputs keep their names, the rest is pruned, the bytes are the same each time",
        "Outputs that are inputs or interior tensors of others lose their names; unused nodes "
        "stay; some names are random.",
        "",
        "never",
    ),
    _graph(
        "graph-constants",
        "What needs no input is computed, in a frozen graph made elsewhere",
        "onnx-tf 1.6.0 transposes weights and computes BatchNormalization's factors in the graph.",
        "",
        "never",
    ),
    _graph(
        "graph-depthwise",
        "A Conv2D a channel becomes DepthwiseConv2dNative",
        "onnx-tf 1.6.0 splits a grouped convolution into one Conv2D a group.",
        "https://github.com/onnx/onnx-tensorflow/issues/470",
        "onnx-tf 1.8.0",
    ),
    _graph(
        "graph-layout",
        "A graph made on a GPU machine (NCHW), and transposes around every operator, run anywhere",
        "onnx-tf 1.6.0 lays a graph out for the machine that it is made on; no CPU runs NCHW, and "
        "TensorFlow Lite has no such convolutions.",
        "https://github.com/onnx/onnx-tensorflow/issues/782",
        "never",
    ),
    _graph(
        "graph-operators",
        "BatchNormalization folded, Clip(0, 6) as Relu6, a padding before a convolution as SAME",
        "onnx-tf 1.6.0 writes Mul and Add, Minimum and Maximum, and a Pad, an operator each.",
        "",
        "never",
    ),
)


def select(text: str, stage: str) -> List[Fix]:
    """The fixes of a stage that `text` asks for: 'all', 'none', 'A,B', or '-A,-B' for all but.

    Raises `InputError` for a name that is no fix of any stage.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    known = [fix.name for fix in FIXES]
    unknown = [w for w in words if w.lstrip("-") not in known and w not in ("all", "none")]
    if unknown or not words:
        raise InputError(
            f"There is no fix named {', '.join(unknown) or 'nothing'}.",
            f"The fixes are: {', '.join(known)}; or say 'all' or 'none'.",
        )
    # A list that only takes away starts from all.
    chosen = set(known) if all(word.startswith("-") for word in words) else set()
    for word in words:
        if word == "all":
            chosen = set(known)
        elif word == "none":
            chosen = set()
        elif word.startswith("-"):
            chosen.discard(word[1:])
        else:
            chosen.add(word)
    return [fix for fix in FIXES if fix.name in chosen and fix.stage == stage]


def resolve(options: Dict[str, Any], stage: str) -> List[str]:
    """The names of the stage's fixes that the option `fixes` asks for.

    They replace what the option says: so the report names each, and a run made from it is the same
    when the catalogue has grown.
    """
    names = [fix.name for fix in select(options["fixes"], stage)]
    options["fixes"] = ",".join(names) or "none"
    return names
