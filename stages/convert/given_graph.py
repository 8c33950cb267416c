"""The stage `graph`: a frozen graph made elsewhere, with fixed shapes and channels last.

Where there is no PyTorch model, the given graph itself is the reference. One made for a GPU (NCHW),
which no CPU runs, is run with the layout changed by TensorFlow's own optimizer, Grappler.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any, Dict, List, Optional, Sequence, Set, Tuple

import numpy as np

from stages.convert.io_layout import IO_LAYOUT, channels_last_io, note_layout
from stages.fixes.catalogue import resolve
from stages.kit.contract import InputError, Job, Option, Signature, Stage, Tensor, run_as_program
from stages.kit.given_model import fixed_shape, look_at_run, matched
from stages.kit.tensorflow import import_tensorflow, load_graph, placeholders, sinks

_VARIABLES = ("Variable", "VariableV2", "VarHandleOp", "ReadVariableOp")
_FREEZE = (
    "Freeze it first: tf.compat.v1.graph_util.convert_variables_to_constants, or "
    "convert_variables_to_constants_v2 for a function of TensorFlow 2."
)


def convert(job: Job) -> Signature:
    """Write the repaired graph, the samples, and the given graph's outputs for them."""
    from stages.kit import samples

    tf = import_tensorflow()
    given, inputs, outputs = _load(job)
    folder = job.volume / "samples"
    settings = job.request.get("check", {})
    with job.phase("samples"):
        count = samples.make_inputs(job, inputs)
    names = [_bare(name) for name in outputs]
    with job.phase("reference"), _session(tf, given) as session:
        predict = _predictor(session, inputs, outputs)
        draft = samples.Samples(folder, count, tuple(inputs), ())
        random = look_at_run(predict, draft, job, "graph", names)
        reference = samples.write_reference(folder, inputs, count, names, lambda: predict)
    how = " with its layout changed by Grappler, since no CPU runs NCHW" if _nchw(given) else ""
    job.note(
        f"The reference is the given graph run by TensorFlow {tf.__version__}{how}, not PyTorch."
    )
    ends = [replace(tensor, node=name) for tensor, name in zip(reference.outputs, outputs)]
    with job.phase("repair"):
        graph_def, signature = _repaired(job, given, inputs, ends)
    with job.phase("noise floor"):
        count = settings.get("noise_samples", 16)
        floor = _noise_floor(tf, graph_def, signature, reference, count)
    job.report["noise_floor"] = floor
    samples.save(job, replace(reference, noise_floor=floor, random=random))
    job.output.write_bytes(graph_def.SerializeToString(deterministic=True))
    note_layout(job, signature)
    return signature


def check(job: Job) -> Optional[Dict[str, Any]]:
    """Run the written graph over all samples."""
    from stages.kit.samples import compare, open_samples

    tf = import_tensorflow()
    samples = open_samples(job.volume)
    assert samples is not None and job.signature is not None
    graph_def = tf.compat.v1.GraphDef.FromString(job.artifact.read_bytes())
    job.report["operators"] = dict(Counter(node.op for node in graph_def.node))
    outputs = [tensor.node for tensor in job.signature.outputs]
    with _session(tf, graph_def) as session:
        predict = _predictor(session, job.signature.inputs, outputs)
        return compare(job, samples, f"TensorFlow {tf.__version__}", lambda: predict)


def _load(job: Job) -> Tuple[Any, List[Tensor], List[str]]:
    """The part of the given graph that its outputs need, with fixed shapes of its inputs."""
    from stages.fixes.graph.folding import owner, pruned

    tf = import_tensorflow()
    graph = load_graph(job.input)
    variables = sorted({op.type for op in graph.get_operations()} & set(_VARIABLES))
    if variables:
        raise InputError(
            f"'{job.input.name}' is not frozen: it has variables ({', '.join(variables)}).", _FREEZE
        )
    ends = _named(graph, job.options["outputs"]) or [t for t in sinks(graph) if _depends(t)]
    if not ends:
        raise InputError(
            f"'{job.input.name}' shows no output: every tensor is read by another.",
            "Name them: --option graph.outputs=NAME,...",
        )
    outputs = [tensor.name for tensor in ends]
    starts = _named(graph, job.options["inputs"])
    graph_def = graph.as_graph_def()
    _cut(graph_def, [tensor.op.name for tensor in starts])
    graph_def = pruned(graph_def, outputs)
    left = {node.name for node in graph_def.node if node.op == "Placeholder"}
    starts = starts or [tensor for tensor in placeholders(graph) if tensor.op.name in left]
    extra = sorted(left - {tensor.op.name for tensor in starts})
    if extra or not starts:
        raise InputError(
            f"The outputs also need the input {extra[0]}." if extra else "The graph has no input.",
            "Name all of them: --option graph.inputs=NAME,...",
        )
    inputs = _shaped(job, starts)
    shapes = {owner(tensor.node): tensor for tensor in inputs}
    missing = [tensor.name for tensor in inputs if owner(tensor.node) not in left]
    for node in graph_def.node:
        if node.name in shapes:
            tensor = shapes[node.name]
            node.attr["shape"].shape.CopyFrom(tf.TensorShape(tensor.shape).as_proto())
            node.attr["dtype"].type = tf.as_dtype(tensor.dtype).as_datatype_enum
        if "_output_shapes" in node.attr:
            del node.attr["_output_shapes"]
    if missing:
        raise InputError(f"No output needs the input {missing[0]}.", "Leave it out.")
    names = ", ".join(tensor.name for tensor in inputs)
    job.note(f"Inputs: {names}; outputs: {', '.join(_bare(name) for name in outputs)}.")
    return graph_def, inputs, outputs


def _named(graph: Any, text: str) -> List[Any]:
    found = []
    for name in filter(None, text.split(",")):
        try:
            found.append(graph.get_tensor_by_name(name if ":" in name else f"{name}:0"))
        except (KeyError, ValueError):
            raise InputError(f"The graph has no tensor '{name}'.") from None
    return found


def _depends(tensor: Any) -> bool:
    """Whether a tensor is computed from an input's values: no check of shapes, no constant."""
    if tensor.dtype.name == "bool" and "Assert" in tensor.op.name:
        return False
    seen, pending = {tensor.op.name}, [tensor.op]
    while pending:
        operation = pending.pop()
        if operation.type in ("Placeholder", "PlaceholderWithDefault"):
            return True
        if operation.type not in ("Shape", "Size", "Rank"):
            sources = [t.op for t in operation.inputs if t.op.name not in seen]
            seen.update(source.name for source in sources)
            pending += sources
    return False


def _cut(graph_def: Any, names: Sequence[str]) -> None:
    """Make inputs of these nodes; and of inputs with a default, that default."""
    for node in graph_def.node:
        if node.name in names and node.op != "Placeholder":
            node.op = "Placeholder"
            del node.input[:]
            node.attr.clear()
        elif node.op == "PlaceholderWithDefault":
            node.op = "Identity"
            kind = node.attr["dtype"].type
            node.attr.clear()
            node.attr["T"].type = kind


def _shaped(job: Job, starts: Sequence[Any]) -> List[Tensor]:
    """The inputs, with the shapes asked for where the graph leaves them open."""
    names = [_bare(tensor.name) for tensor in starts]
    by_name = matched(job, "graph", names)
    inputs = []
    for name, tensor in zip(names, starts):
        spec = by_name.get(name, {})
        own = tensor.shape.as_list() if tensor.shape.rank is not None else None
        sizes = None if own is None else ["?" if size is None else size for size in own]
        shape = fixed_shape(job, "graph", name, sizes, spec)
        dtype = tensor.dtype.name
        if np.dtype(dtype).kind not in "fiub":
            raise InputError(f"The graph's input '{name}' is not a tensor of numbers ({dtype}).")
        found = Tensor(name, shape, dtype, tensor.name, spec.get("low"), spec.get("high"))
        if np.dtype(dtype).kind in "iu" and found.high is None:
            found = replace(found, low=0, high=10)
            job.note(
                f"Values of '{name}' are drawn from 0 to 9 (for want of a range); a model's .toml "
                "can give a range."
            )
        inputs.append(found)
    return inputs


def _session(tf: Any, graph_def: Any) -> Any:
    """A session that runs the graph as it is; one with NCHW, with its layout changed."""
    graph = tf.Graph()
    with graph.as_default():
        tf.import_graph_def(graph_def, name="")
    # Negative: operators run in the thread that calls, so each of our threads has a core.
    config = tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=1, inter_op_parallelism_threads=-1
    )
    rewriter = config.graph_options.rewrite_options
    if _nchw(graph_def):
        rewriter.cpu_layout_conversion = rewriter.NCHW_TO_NHWC
        rewriter.optimizers.append("layout")  # and no other
        rewriter.min_graph_nodes = -1
        rewriter.meta_optimizer_timeout_ms = -1
    else:
        rewriter.disable_meta_optimizer = True
    return tf.compat.v1.Session(graph=graph, config=config)


def _nchw(graph_def: Any) -> Set[str]:
    """The types of the operators that say NCHW, apart from those that a CPU runs."""
    return {
        node.op
        for node in graph_def.node
        if "data_format" in node.attr and node.attr["data_format"].s == b"NCHW"
    } - {"BiasAdd"}


def _predictor(session: Any, inputs: Sequence[Tensor], outputs: Sequence[str]) -> Any:
    call = session.make_callable(list(outputs), feed_list=[tensor.node for tensor in inputs])
    return lambda values: call(*values)


def _repaired(
    job: Job, graph_def: Any, inputs: Sequence[Tensor], outputs: Sequence[Tensor]
) -> Tuple[Any, Signature]:
    """The graph with the fixes that the option allows, and its inputs and outputs."""
    chosen = set(resolve(job.options, "graph"))
    job.report["fixes"] = []
    io = channels_last_io(job, sorted(chosen))
    if not chosen:
        return graph_def, Signature(tuple(inputs), tuple(outputs))
    from stages.fixes.graph.apply import repair
    from stages.fixes.graph.layout import TO_LAST

    starts, ends = ([tensor.node for tensor in side] for side in (inputs, outputs))
    graph_def, made, used, turned = repair(graph_def, starts, ends, chosen, io)
    job.report["fixes"] = sorted(used)

    def laid_out(tensor: Tensor) -> Tensor:
        return replace(tensor, axes=TO_LAST) if tensor.node in turned else tensor

    results = [replace(laid_out(tensor), node=name) for tensor, name in zip(outputs, made)]
    return graph_def, Signature(tuple(laid_out(tensor) for tensor in inputs), tuple(results))


def _noise_floor(
    tf: Any, graph_def: Any, signature: Signature, reference: Any, wanted: int
) -> Dict[str, Any]:
    """The given graph's float32 outputs against float64 ones, on the first samples.

    It is the repaired graph that runs in float64, since it has the layout of CPUs.
    """
    from stages.kit.samples import in_own_layout, run_all
    from stages.kit.statistics import OutputStatistics

    count = min(wanted, reference.count)
    statistics = [OutputStatistics(t.name, t.shape, np.dtype(t.dtype)) for t in reference.outputs]
    try:
        double = _in_double(tf, graph_def)
        with _session(tf, double) as session:
            outputs = [tensor.node for tensor in signature.outputs]
            call = _predictor(session, signature.inputs, outputs)

            def predict(values: Sequence[np.ndarray]) -> Any:
                floats = np.float32
                return call([v.astype(np.float64) if v.dtype == floats else v for v in values])

            arrays = reference.output_arrays
            first = replace(reference, count=count)
            make_predict = in_own_layout(lambda: predict, signature)
            for sample, values in enumerate(run_all(make_predict, first)):
                for output, array, value in zip(statistics, arrays, values):
                    output.add(value[None], array[sample][None])
    except Exception as error:  # not every operator has a float64 kernel, and none has to
        reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        return {"samples": 0, "outputs": None, "reason": reason}
    results = [output.result() for output in statistics]
    keys = ("name", "mean_abs", "max_abs", "rms_abs", "p99_abs")
    return {
        "samples": count,
        "outputs": [{key: result[key] for key in keys} for result in results],
        "reason": "",
    }


def _in_double(tf: Any, graph_def: Any) -> Any:
    """The graph with every float32 a float64."""
    from stages.fixes.graph.folding import constant_node, with_nodes

    single, double = tf.float32.as_datatype_enum, tf.float64.as_datatype_enum
    nodes = []
    for given in graph_def.node:
        node = type(given)()
        node.CopyFrom(given)
        if node.op == "Const" and node.attr["dtype"].type == single:
            array = tf.make_ndarray(node.attr["value"].tensor).astype(np.float64)
            node.CopyFrom(constant_node(node.name, array))
        for value in node.attr.values():
            if value.type == single:
                value.type = double
            for index, kind in enumerate(value.list.type):
                value.list.type[index] = double if kind == single else kind
        nodes.append(node)
    return with_nodes(graph_def, nodes)


def _bare(name: str) -> str:
    return name[:-2] if name.endswith(":0") else name


STAGE = Stage(
    name="graph",
    summary=__doc__ or "",
    consumes="given.pb",
    produces="model.pb",
    packages=("tensorflow", "numpy"),
    convert=convert,
    check=check,
    options=(
        Option("fixes", str, "all", "repairs to apply: all, none, NAME,... or -NAME,..."),
        IO_LAYOUT,
        Option("inputs", str, "", "input tensors, comma-separated (default: the placeholders)"),
        Option("outputs", str, "", "output tensors (default: those that nothing reads)"),
    ),
)

if __name__ == "__main__":
    run_as_program(STAGE)
