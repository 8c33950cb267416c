"""The stage `graph`: a frozen graph made elsewhere, with fixed shapes and channels last.

Where there is no PyTorch model, the given graph itself is the reference. One made for a GPU (NCHW),
which no CPU runs, is run with the layout changed by TensorFlow's own optimizer, Grappler.
"""

from __future__ import annotations

import itertools
import traceback
from collections import Counter
from dataclasses import replace
from functools import lru_cache
from typing import Any, Dict, List, Optional, Sequence, Set, Tuple

import numpy as np

from stages.convert.io_layout import IO_LAYOUT, note_layout, wants_channels_last_io
from stages.fixes.catalogue import resolve
from stages.frameworks.tensorflow import (
    find_conditional_tensors,
    find_tensors,
    has_lowered_control_flow,
    import_tensorflow,
    list_placeholders,
    list_sinks,
    load_graph,
    make_session_config,
    strip_output_index,
)
from stages.kit import open_batch
from stages.kit.contract import InputError, Job, Option, Signature, Stage, Tensor, run_as_program
from stages.kit.given_model import look_at_run, match_requested_inputs, resolve_dims, resolve_shape

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
    settings = job.request.get("check", {})
    with job.phase("samples"):
        draft = samples.make_inputs(job, inputs)
    names = [strip_output_index(name) for name in outputs]
    with job.phase("reference"), open_session(tf, given) as session:
        predict = make_predict(session, inputs, outputs)
        random = look_at_run(predict, draft, job, "graph", names)
        reference = samples.write_reference(draft, names, lambda: predict)
        reference = samples.open_outputs(replace(reference, random=random), predict, "graph")
    how = (
        " with its layout changed by Grappler, since no CPU runs NCHW"
        if find_nchw_types(given)
        else ""
    )
    job.note(
        f"The reference is the given graph run by TensorFlow {tf.__version__}{how}, not PyTorch."
    )
    ends = [replace(tensor, node=name) for tensor, name in zip(reference.outputs, outputs)]
    with job.phase("repair"):
        graph_def, signature = _repair_open_graph(job, given, inputs, ends)
    with job.phase("noise floor"):
        count = settings.get("noise_samples", 16)
        reference = measure_noise_floor(tf, graph_def, signature, reference, count)
    job.report["noise_floor"] = reference.noise_floor
    samples.save(job, reference)
    job.output.write_bytes(graph_def.SerializeToString(deterministic=True))
    note_layout(job, signature)
    return signature


def check(job: Job) -> Optional[Dict[str, Any]]:
    """Run the written graph on every sample and compare its outputs with the reference."""
    from stages.kit.samples import compare, open_samples

    tf = import_tensorflow()
    samples = open_samples(job.volume)
    assert samples is not None and job.signature is not None
    graph_def = tf.compat.v1.GraphDef.FromString(job.artifact.read_bytes())
    job.report["operators"] = dict(Counter(node.op for node in graph_def.node))
    outputs = [tensor.node for tensor in job.signature.outputs]
    with open_session(tf, graph_def) as session:
        predict = make_predict(session, job.signature.inputs, outputs)
        return compare(job, samples, f"TensorFlow {tf.__version__}", lambda: predict)


def _load(job: Job) -> Tuple[Any, List[Tensor], List[str]]:
    """Return the part of the graph that its outputs need, its fixed-shape inputs, its outputs."""
    from stages.fixes.graph.folding import get_node_name, prune

    tf = import_tensorflow()
    graph = load_graph(job.input)
    variables = sorted({op.type for op in graph.get_operations()} & set(_VARIABLES))
    if variables:
        raise InputError(
            f"'{job.input.name}' is not frozen: it has variables ({', '.join(variables)}).", _FREEZE
        )
    ends = find_tensors(graph, job.options["outputs"]) or [
        t for t in list_sinks(graph) if depends_on_input(t)
    ]
    if not ends:
        raise InputError(
            f"'{job.input.name}' shows no output: every tensor is read by another.",
            "Name them: --option graph.outputs=NAME,...",
        )
    outputs = [tensor.name for tensor in ends]
    within = find_conditional_tensors(graph).intersection(outputs)
    if within:
        raise InputError(
            f"The output '{min(within)}' lies within a branch, and has no value when the other is "
            "taken.",
            "Name what comes after the branches (a Merge or a later tensor): "
            "--option graph.outputs=NAME,...",
        )
    starts = find_tensors(graph, job.options["inputs"])
    graph_def = graph.as_graph_def()
    _cut(graph_def, [tensor.op.name for tensor in starts])
    graph_def = prune(graph_def, outputs)
    left = {node.name for node in graph_def.node if node.op == "Placeholder"}
    starts = starts or [tensor for tensor in list_placeholders(graph) if tensor.op.name in left]
    extra = sorted(left - {tensor.op.name for tensor in starts})
    if extra or not starts:
        raise InputError(
            f"The outputs also need the input {extra[0]}." if extra else "The graph has no input.",
            "Name all of them: --option graph.inputs=NAME,...",
        )
    inputs = _fix_input_shapes(job, starts)
    shapes = {get_node_name(tensor.node): tensor for tensor in inputs}
    missing = [tensor.name for tensor in inputs if get_node_name(tensor.node) not in left]
    for node in graph_def.node:
        if node.name in shapes:
            tensor = shapes[node.name]
            _set_shape(tf, node, tensor.open_shape)
            node.attr["dtype"].type = tf.as_dtype(tensor.dtype).as_datatype_enum
        if "_output_shapes" in node.attr:
            del node.attr["_output_shapes"]
    if missing:
        raise InputError(f"No output needs the input {missing[0]}.", "Leave it out.")
    names = ", ".join(tensor.name for tensor in inputs)
    job.note(
        f"Inputs: {names}; outputs: {', '.join(strip_output_index(name) for name in outputs)}."
    )
    return graph_def, inputs, outputs


def depends_on_input(tensor: Any) -> bool:
    """Tell whether a tensor, assertions aside, depends on an input's values, not just its shape."""
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
    """Turn these nodes into placeholders, and placeholders with a default into that default."""
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


def _fix_input_shapes(job: Job, starts: Sequence[Any]) -> List[Tensor]:
    """Return the inputs, with the requested sizes where the graph leaves them open."""
    from stages.kit.samples import bound_integers

    names = [strip_output_index(tensor.name) for tensor in starts]
    by_name = match_requested_inputs(job, "graph", names)
    inputs = []
    for name, tensor in zip(names, starts):
        spec = by_name.get(name, {})
        own = tensor.shape.as_list() if tensor.shape.rank is not None else None
        sizes = None if own is None else ["?" if size is None else size for size in own]
        shape = resolve_shape(job, "graph", name, sizes, spec)
        dtype = tensor.dtype.name
        if np.dtype(dtype).kind not in "fiub":
            raise InputError(f"The graph's input '{name}' is not a tensor of numbers ({dtype}).")
        dims = resolve_dims("graph", name, sizes, spec)
        bounds = spec.get("low"), spec.get("high")
        found = Tensor(name, shape, dtype, tensor.name, *bounds, dims=dims)
        inputs.append(bound_integers(job, found))
    return inputs


def open_session(tf: Any, graph_def: Any) -> Any:
    """Return a session that runs the graph as it is, or with its layout changed if it is NCHW."""
    graph = tf.Graph()
    with graph.as_default():
        tf.import_graph_def(graph_def, name="")
    config = make_session_config(tf, graph_def)
    if find_nchw_types(graph_def):
        rewriter = config.graph_options.rewrite_options
        rewriter.disable_meta_optimizer = False
        rewriter.cpu_layout_conversion = rewriter.NCHW_TO_NHWC
        rewriter.optimizers.append("layout")  # the only one to run
        rewriter.min_graph_nodes = -1
        rewriter.meta_optimizer_timeout_ms = -1
    return tf.compat.v1.Session(graph=graph, config=config)


def find_nchw_types(graph_def: Any) -> Set[str]:
    """Return the types of operators in NCHW that no CPU runs."""
    return {
        node.op
        for node in graph_def.node
        if "data_format" in node.attr and node.attr["data_format"].s == b"NCHW"
    } - {"BiasAdd"}


def make_predict(session: Any, inputs: Sequence[Tensor], outputs: Sequence[str]) -> Any:
    call = session.make_callable(list(outputs), feed_list=[tensor.node for tensor in inputs])
    return lambda values: call(*values)


def _set_shape(tf: Any, node: Any, shape: Sequence[int]) -> None:
    sizes = [None if size < 0 else size for size in shape]
    node.attr["shape"].shape.CopyFrom(tf.TensorShape(sizes).as_proto())


def _repair_open_graph(
    job: Job, graph_def: Any, inputs: Sequence[Tensor], outputs: Sequence[Tensor]
) -> Tuple[Any, Signature]:
    """Repair a graph; one whose batch is open at two sizes, after which it is opened again."""
    opens = open_batch.find_open_axis(inputs) is not None
    if not opens or "open-frozen" not in resolve(job.options, "graph"):
        return _repair_graph(job, graph_def, inputs, outputs)
    from stages.frameworks.open_batch.frozen_graph import open_graph

    tf = import_tensorflow()
    made: List[Any] = []
    notes = list(job.report["notes"])
    for size in open_batch.TRIALS:
        fixed = type(graph_def)()
        fixed.CopyFrom(graph_def)
        shapes = {t.node.partition(":")[0]: open_batch.resize(t, size).shape for t in inputs}
        for node in fixed.node:
            if node.name in shapes:
                _set_shape(tf, node, shapes[node.name])
        job.report["notes"] = list(notes)  # each is said once
        repaired, signature = _repair_graph(job, fixed, inputs, outputs)
        made.append(repaired)
    opened, changed = open_graph(made[0], made[1], signature.inputs, lambda node: "")
    if changed:
        job.report["fixes"] = sorted({*job.report["fixes"], "open-frozen"})
    return opened, signature


def _repair_graph(
    job: Job, graph_def: Any, inputs: Sequence[Tensor], outputs: Sequence[Tensor]
) -> Tuple[Any, Signature]:
    """Apply the fixes that the option allows; return the graph and its signature.

    One that no fix can work on stays as it is, which a note says.
    """
    chosen = set(resolve(job.options, "graph"))
    job.report["fixes"] = []
    io = wants_channels_last_io(job, sorted(chosen))
    unchanged = graph_def, Signature(tuple(inputs), tuple(outputs))
    if not chosen:
        return unchanged
    if has_lowered_control_flow(graph_def):
        job.note("No fix was applied: branches or loops lie in the graph itself (Switch, Enter).")
        return unchanged
    from stages.fixes.graph.apply import repair
    from stages.fixes.graph.layout import TO_LAST

    starts, ends = ([tensor.node for tensor in side] for side in (inputs, outputs))
    try:
        graph_def, made, used, turned = repair(graph_def, starts, ends, chosen, io)
    except Exception as error:  # a defect of ours must not cost the conversion
        traceback.print_exc()
        job.note(f"The fixes failed, and the graph stays as it is: {error!r:.200}; see the log.")
        return unchanged
    job.report["fixes"] = sorted(used)

    def lay_out(tensor: Tensor) -> Tensor:
        return replace(tensor, axes=TO_LAST) if tensor.node in turned else tensor

    results = [replace(lay_out(tensor), node=name) for tensor, name in zip(outputs, made)]
    return graph_def, Signature(tuple(lay_out(tensor) for tensor in inputs), tuple(results))


def measure_noise_floor(
    tf: Any, graph_def: Any, signature: Signature, reference: Any, wanted: int
) -> Any:
    """Compare the given graph's float32 outputs with float64 ones on the first `wanted` samples.

    The float64 run uses the repaired graph, since its layout is one that CPUs run. Return the
    samples with what was measured.
    """
    from stages.kit import samples

    @lru_cache(maxsize=None)  # one session for all threads
    def make_double_predict() -> Any:
        session = open_session(tf, _convert_to_double(tf, graph_def))
        return make_predict(session, signature.inputs, [t.node for t in signature.outputs])

    return samples.measure_noise_floor(
        reference, wanted, samples.adapt_layout(make_double_predict, signature)
    )


def _convert_to_double(tf: Any, graph_def: Any) -> Any:
    """Return the graph with every float32 replaced by float64."""
    single, double = tf.float32.as_datatype_enum, tf.float64.as_datatype_enum
    result = type(graph_def)()
    result.CopyFrom(graph_def)
    for function in result.library.function:
        for argument in (*function.signature.input_arg, *function.signature.output_arg):
            argument.type = double if argument.type == single else argument.type
    functions = [function.node_def for function in result.library.function]
    for node in itertools.chain(result.node, *functions):
        if node.op == "Const" and node.attr["dtype"].type == single:
            array = tf.make_ndarray(node.attr["value"].tensor).astype(np.float64)
            # Its control inputs, if any, say in which loop it is.
            node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(array))
        for value in node.attr.values():
            if value.type == single:
                value.type = double
            for index, kind in enumerate(value.list.type):
                value.list.type[index] = double if kind == single else kind
    return result


STAGE = Stage(
    name="graph",
    summary=__doc__ or "",
    consumes="given.pb",
    produces="model.pb",
    packages=("tensorflow", "numpy"),
    convert=convert,
    check=check,
    imports=("tensorflow",),
    options=(
        Option("fixes", str, "all", "repairs to apply: all, none, NAME,... or -NAME,..."),
        IO_LAYOUT,
        Option("inputs", str, "", "input tensors, comma-separated (default: the placeholders)"),
        Option("outputs", str, "", "output tensors (default: those that nothing reads)"),
    ),
)

if __name__ == "__main__":
    run_as_program(STAGE)
