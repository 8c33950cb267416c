"""Plants faults in the artifacts of a run: `python faults.py RUN FAULT...`, in an artifact's image.

`FAULT@LAYER` plants one at another layer than its own.

Each fault is what a converter could have done, at one layer of `diagnosed.Planted`. Which operator
of an artifact belongs to a layer is read from the run's report, or from names of weights.
"""

import json
import sys
from pathlib import Path

import numpy as np

FAULTS = {}


def fault(artifact, layer):
    """Register a fault at a layer; the function gets the artifact as `KINDS` loads it."""

    def register(function):
        FAULTS[function.__name__] = (artifact, layer, function)
        return function

    return register


def half(array):
    return array.astype(np.float16).astype(np.float32)


# --- model.onnx


class Onnx:
    def __init__(self, path):
        import onnx
        import onnx.numpy_helper

        self.onnx, self.path = onnx, path
        self.graph = onnx.load(str(path))

    def save(self):
        self.onnx.save(self.graph, str(self.path))

    def node(self, layer, kind):
        layers = report(self.path.parent)["stages"][0]["report"]["layers"]
        nodes = self.graph.graph.node
        return next(n for n in nodes if n.op_type == kind and layers.get(n.output[0]) == layer)

    def edit(self, name, change):
        for tensor in self.graph.graph.initializer:
            if tensor.name == name:
                array = change(self.onnx.numpy_helper.to_array(tensor).copy())
                tensor.CopyFrom(self.onnx.numpy_helper.from_array(array, name))
                return
        raise KeyError(name)

    def attribute(self, node, name):
        return next(a for a in node.attribute if a.name == name)


@fault("model.onnx", "features.1.conv.1.1")
def onnx_epsilon(model, layer):
    model.attribute(model.node(layer, "BatchNormalization"), "epsilon").f = 1e-3


@fault("model.onnx", "features.3.right")
def onnx_swapped_axes(model, layer):
    model.edit(f"{layer}.weight", lambda w: np.ascontiguousarray(w.transpose(0, 1, 3, 2)))


@fault("model.onnx", "features.2.conv.0.0")
def onnx_rounded_weight(model, layer):
    model.edit(f"{layer}.weight", half)


@fault("model.onnx", "head")
def onnx_no_bias(model, layer):
    model.edit(f"{layer}.bias", np.zeros_like)


@fault("model.onnx", "features.0.2")
def onnx_relu_for_relu6(model, layer):
    node = model.node(layer, "Clip")
    node.op_type = "Relu"
    del node.input[1:]


@fault("model.onnx", "features.3")
def onnx_concat_order(model, layer):
    node = model.node(layer, "Concat")
    node.input[:] = list(node.input)[::-1]


@fault("model.onnx", "features.4.0")
def onnx_padding(model, layer):
    """The same size, from other pixels: TensorFlow's SAME for a stride of 2."""
    model.attribute(model.node(layer, "Conv"), "pads").ints[:] = [0, 0, 2, 2]


@fault("model.onnx", "features.4.0")
def onnx_stride(model, layer):
    """Nothing after it fits: the model as a whole does not run any more."""
    model.attribute(model.node(layer, "Conv"), "strides").ints[:] = [1, 1]
    node = model.node("head", "Gemm")
    model.attribute(node, "transB").i = 0


# --- model.pb


class Graph:
    def __init__(self, path):
        import tensorflow as tf

        self.tf, self.path = tf, path
        self.graph = tf.compat.v1.GraphDef.FromString(path.read_bytes())
        self.nodes = {node.name: node for node in self.graph.node}
        stages = report(path.parent)["stages"]
        self.layers, self.places = stages[0]["report"]["layers"], stages[1]["report"]["tensors"]

    def save(self):
        self.path.write_bytes(self.graph.SerializeToString(deterministic=True))

    def node(self, layer, kind):
        """The operation of this type that the layer's result comes from."""
        pending = [
            place["node"] for name, place in self.places.items() if self.layers.get(name) == layer
        ]
        while pending:
            node = self.nodes[pending.pop(0).partition(":")[0]]
            if node.op == kind:
                return node
            pending += list(node.input)[:1]
        raise KeyError((layer, kind))

    def edit(self, node, index, change):
        const = self.nodes[node.input[index]]
        array = change(self.tf.make_ndarray(const.attr["value"].tensor).copy())
        # A constant may be shared with other layers, which keep theirs.
        own = self.graph.node.add()
        own.CopyFrom(const)
        own.name = f"{node.name}_planted_{index}"
        own.attr["value"].tensor.CopyFrom(self.tf.make_tensor_proto(array))
        node.input[index] = own.name


@fault("model.pb", "features.1.conv.2")
def graph_rounded_weight(graph, layer):
    graph.edit(graph.node(f"{layer[:-1]}3", "Conv2D"), 1, half)


@fault("model.pb", "features.2.conv.1.0")
def graph_swapped_axes(graph, layer):
    node = graph.node("features.2.conv.1.1", "DepthwiseConv2dNative")
    graph.edit(node, 1, lambda w: np.ascontiguousarray(w.swapaxes(0, 1)))


@fault("model.pb", "features.0.2")
def graph_relu_for_relu6(graph, layer):
    graph.node(layer, "Relu6").op = "Relu"


@fault("model.pb", "features.3.left")
def graph_scaled_channel(graph, layer):
    def change(weight):
        weight[..., 5] *= 1.001
        return weight

    graph.edit(graph.node(layer, "Conv2D"), 1, change)


@fault("model.pb", "features.4.0")
def graph_stride_phase(graph, layer):
    node = graph.node(layer, "Conv2D")
    moved = np.array([[0, 0], [-1, 1], [-1, 1], [0, 0]], np.int32)
    graph.edit(graph.nodes[node.input[0]], 1, lambda pads: pads + moved)


@fault("model.pb", "classifier")
def graph_no_bias(graph, layer):
    graph.edit(graph.node(layer, "BiasAdd"), 1, np.zeros_like)


# --- model.tflite


class Lite:
    def __init__(self, path):
        from tensorflow.lite.python import schema_py_generated as schema

        self.schema, self.path = schema, path
        self.model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(path.read_bytes(), 0))
        self.graph = self.model.subgraphs[0]
        self.places = Graph(path.with_name("model.pb"))

    def save(self):
        import flatbuffers

        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        self.path.write_bytes(bytes(builder.Output()))

    def operator(self, layer):
        """The operator whose result is the layer's."""
        names = {
            place["node"].partition(":")[0]
            for name, place in self.places.places.items()
            if self.places.layers.get(name) == layer
        }
        for operator in self.graph.operators:
            name = self.graph.tensors[operator.outputs[0]].name.decode()
            if names & set(name.split(";")[:2]):
                return operator
        raise KeyError(layer)

    def edit(self, operator, index, change):
        tensor = self.graph.tensors[operator.inputs[index]]
        shape = [int(size) for size in tensor.shape]
        data = np.array(self.model.buffers[tensor.buffer].data, np.uint8).tobytes()
        array = change(np.frombuffer(data, np.float32).reshape(shape).copy())
        buffer = self.schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        tensor.buffer = len(self.model.buffers) - 1


@fault("model.tflite", "features.1.conv.0.2")
def lite_no_activation(model, layer):
    model.operator(layer).builtinOptions.fusedActivationFunction = 0


@fault("model.tflite", "features.2.conv.1.2")
def lite_scaled_channel(model, layer):
    def change(weight):
        weight[..., 3] *= 1.001
        return weight

    model.edit(model.operator(layer), 1, change)


@fault("model.tflite", "features.3.right")
def lite_valid_padding(model, layer):
    model.operator(layer).builtinOptions.padding = 1


@fault("model.tflite", "features.2.conv.3")
def lite_no_bias(model, layer):
    model.edit(model.operator(layer), 2, np.zeros_like)


@fault("model.tflite", "head")
def lite_rounded_weight(model, layer):
    model.edit(model.operator(layer), 1, half)


@fault("model.tflite", "features.4.1")
def lite_flipped_kernel(model, layer):
    model.edit(model.operator(layer), 1, lambda w: w[:, ::-1])


def report(folder):
    return json.loads((folder / "report.json").read_text())


KINDS = {"model.onnx": Onnx, "model.pb": Graph, "model.tflite": Lite}


def plant(folder, names):
    chosen = [(*FAULTS[name.partition("@")[0]], name.partition("@")[2]) for name in names]
    for artifact in sorted({at for at, *_ in chosen}):
        loaded = KINDS[artifact](folder / artifact)
        for at, layer, function, other in chosen:
            if at == artifact:
                function(loaded, other or layer)
        loaded.save()


if __name__ == "__main__":
    plant(Path(sys.argv[1]), sys.argv[2:])
