"""The import of TensorFlow, and frozen graphs, for the TensorFlow stages."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any, Dict, List, Optional, Set

from stages.kit.contract import InputError, Job, Option, flag
from stages.kit.samples import compare, open_samples

FLEX = Option("flex", flag, True, "use TensorFlow's own kernels where there is no builtin")

# No log lines on CPU features and missing CUDA libraries: TensorFlow reads this when imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# Operations that are no outputs of a graph although nothing consumes them.
_NOT_OUTPUTS = ("Const", "Placeholder", "NoOp", "Assert", "Assign")


def import_tensorflow() -> Any:
    """Import TensorFlow late, so that a stage can say what is wrong with its input without it."""
    import tensorflow

    return tensorflow


def load_graph(path: Path) -> Any:
    """Load a frozen graph's file as a tf.Graph. Raises `InputError` for anything else."""
    tf = import_tensorflow()
    try:
        graph_def = tf.compat.v1.GraphDef.FromString(path.read_bytes())
        if not graph_def.node:
            raise ValueError("it holds no node")
        graph = tf.Graph()
        with graph.as_default():
            tf.import_graph_def(graph_def, name="")
    except Exception as error:  # protobuf's DecodeError has no public base class
        raise InputError(
            f"'{path.name}' is not a frozen graph that TensorFlow {tf.__version__} reads: {error}",
            "Freeze the graph (convert_variables_to_constants) and write it as binary protobuf.",
        ) from None
    return graph


def list_placeholders(graph: Any) -> List[Any]:
    """Return the graph's inputs, in the graph's order."""
    return [op.outputs[0] for op in graph.get_operations() if op.type == "Placeholder"]


def list_sinks(graph: Any) -> List[Any]:
    """Return the graph's outputs as far as it shows them: tensors that nothing consumes.

    What lies within a branch is none, since it has no value when the other branch is taken.
    """
    within = find_conditional_tensors(graph)
    return [
        tensor
        for op in graph.get_operations()
        if op.type not in _NOT_OUTPUTS and not any(t.consumers() for t in op.outputs)
        for tensor in op.outputs[:1]
        if tensor.name not in within
    ]


# Operators of branches and loops that TensorFlow 1 wrote among all others, in the graph itself.
_LOWERED = {"Switch", "RefSwitch", "Merge", "RefMerge", "Enter", "RefEnter", "Exit", "RefExit"}
_LOWERED |= {"NextIteration", "RefNextIteration", "LoopCond"}
# Operators that call functions of the graph, or of which some wait for others of a loop.
_CONTROL_FLOW = {"While", "StatelessWhile", "If", "StatelessIf", "Case", "StatelessCase"}
_CONTROL_FLOW |= {"PartitionedCall", "StatefulPartitionedCall", *_LOWERED}


def has_lowered_control_flow(graph_def: Any) -> bool:
    """Tell whether branches or loops lie in the graph itself, with cycles and dead tensors."""
    return any(node.op in _LOWERED for node in graph_def.node)


def find_conditional_tensors(graph: Any) -> Set[str]:
    """Return the names of tensors between a Switch and the Merge or Exit that ends its branch."""
    pending = [op for op in graph.get_operations() if op.type in ("Switch", "RefSwitch")]
    found: Set[str] = set()
    while pending:
        for tensor in pending.pop().outputs:
            if tensor.name not in found:
                found.add(tensor.name)
                pending += [
                    op
                    for op in tensor.consumers()
                    if op.type not in ("Merge", "RefMerge", "Exit", "RefExit")
                ]
    return found


def make_session_config(tf: Any, graph_def: Any) -> Any:
    """Return a session's settings, under which each of our threads has a core.

    A negative number of threads runs operators in the calling thread; but a loop's operator waits
    there for ever for a thread that runs its body. No optimizer: on the thousands of operators
    that a grouped convolution becomes, it takes longer than running them on all samples, and
    gains nothing.
    """
    waits = any(node.op in _CONTROL_FLOW for node in graph_def.node)
    config = tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=1, inter_op_parallelism_threads=1 if waits else -1
    )
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    return config


def check_graph(job: Job) -> Optional[Dict[str, Any]]:
    """Run the job's frozen graph on every sample and compare its outputs; None without samples."""
    tf = import_tensorflow()
    samples = open_samples(job.volume)
    graph = load_graph(job.artifact)
    job.report["operators"] = dict(Counter(node.type for node in graph.get_operations()))
    if samples is None:
        job.note("The volume holds no samples, so the graph was not checked.")
        return None
    # One session and one callable for all samples: TensorflowRep.run opens a session at each call.
    config = make_session_config(tf, graph.as_graph_def())
    with tf.compat.v1.Session(graph=graph, config=config) as session:
        assert job.signature is not None
        call = session.make_callable(
            [tensor.node for tensor in job.signature.outputs],
            feed_list=[tensor.node for tensor in job.signature.inputs],
        )
        return compare(
            job, samples, f"TensorFlow {tf.__version__}", lambda: lambda values: call(*values)
        )


def strip_output_index(name: str) -> str:
    """Return a tensor's name without its `:0`, as the v1 converter wants it."""
    return name[:-2] if name.endswith(":0") else name


def find_tensors(graph: Any, names: str) -> List[Any]:
    """Find tensors by comma-separated names. Raises `InputError` for one that is not there."""
    found = []
    for name in filter(None, names.split(",")):
        try:
            tensor = graph.get_tensor_by_name(name if ":" in name else f"{name}:0")
        except (KeyError, ValueError):
            raise InputError(f"The graph has no tensor '{name}'.") from None
        found.append(tensor)
    return found
