"""The entry point of the stage `graph`: repairs of a frozen graph made by another tool."""

from __future__ import annotations

from typing import Any, List, Sequence, Set, Tuple

from stages.fixes.graph import handlers, patterns
from stages.fixes.graph.folding import fold_constants, get_node_name, prune


def repair(
    graph_def: Any,
    inputs: Sequence[str],
    outputs: Sequence[str],
    fixes: Set[str],
    channels_last_io: bool = False,
) -> Tuple[Any, List[str], Set[str], Set[str]]:
    """Apply these fixes to a frozen graph, whose inputs must have static shapes.

    `inputs` and `outputs` are tensor names. Return the graph, its outputs' names there, the fixes
    that changed something, and those of the inputs and outputs whose channels are last in the
    result: images, with `channels_last_io`.
    """
    turned: Set[str] = set()
    used: Set[str] = set()
    names = list(outputs)
    if "graph-constants" in fixes:
        given = graph_def
        graph_def = fold_constants(graph_def, [*inputs, *names])
        used |= {"graph-constants"} if graph_def is not given else set()
    if "graph-depthwise" in fixes:
        graph_def, changed = patterns.merge_depthwise(graph_def)
        graph_def = prune(graph_def, [*inputs, *names])
        used |= {"graph-depthwise"} if changed else set()
    if "graph-constants" in fixes:  # only now, when fewer operators are left
        graph_def = patterns.drop_neutral(graph_def, {get_node_name(name) for name in names})
        graph_def = prune(graph_def, [*inputs, *names])
    if "graph-layout" in fixes:
        before = graph_def.SerializeToString(deterministic=True)
        graph_def, names, turned = handlers.convert_to_channels_last(
            graph_def, names, channels_last_io
        )
        graph_def = prune(graph_def, [*inputs, *names])
        used |= (
            {"graph-layout"} if graph_def.SerializeToString(deterministic=True) != before else set()
        )
    if "graph-operators" in fixes:
        for merge in (
            patterns.merge_batchnorm,
            patterns.merge_clips,
            patterns.merge_padding,
        ):
            graph_def, changed = merge(graph_def, {get_node_name(name) for name in names})
            graph_def = prune(graph_def, [*inputs, *names])
            used |= {"graph-operators"} if changed else set()
    return graph_def, names, used, turned
