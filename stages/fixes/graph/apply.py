"""The entry of the stage `graph`: a frozen graph made elsewhere, repaired as a graph."""

from __future__ import annotations

from typing import Any, List, Sequence, Set, Tuple

from stages.fixes.graph import handlers, patterns
from stages.fixes.graph.folding import folded, owner, pruned


def repair(
    graph_def: Any,
    inputs: Sequence[str],
    outputs: Sequence[str],
    fixes: Set[str],
    channels_last_io: bool = False,
) -> Tuple[Any, List[str], Set[str], Set[str]]:
    """The graph with these fixes, its outputs' names there, and the fixes that did something.

    `inputs` and `outputs` are tensors' names; the shapes of the inputs must be fixed. Those of them
    that have their channels last in the result are the last set: images, with `channels_last_io`.
    """
    turned: Set[str] = set()
    used: Set[str] = set()
    names = list(outputs)
    if "graph-constants" in fixes:
        given = graph_def
        graph_def = folded(graph_def, [*inputs, *names])
        used |= {"graph-constants"} if graph_def is not given else set()
    if "graph-depthwise" in fixes:
        graph_def, changed = patterns.merge_depthwise(graph_def)
        graph_def = pruned(graph_def, [*inputs, *names])
        used |= {"graph-depthwise"} if changed else set()
    if "graph-constants" in fixes:  # late, since by then there are fewer operators
        graph_def = patterns.drop_neutral(graph_def, {owner(name) for name in names})
        graph_def = pruned(graph_def, [*inputs, *names])
    if "graph-layout" in fixes:
        before = graph_def.SerializeToString(deterministic=True)
        graph_def, names, turned = handlers.channels_last(graph_def, names, channels_last_io)
        graph_def = pruned(graph_def, [*inputs, *names])
        used |= (
            {"graph-layout"} if graph_def.SerializeToString(deterministic=True) != before else set()
        )
    if "graph-operators" in fixes:
        for merge in (
            patterns.merge_batchnorm,
            patterns.merge_clips,
            patterns.merge_padding,
        ):
            graph_def, changed = merge(graph_def, {owner(name) for name in names})
            graph_def = pruned(graph_def, [*inputs, *names])
            used |= {"graph-operators"} if changed else set()
    return graph_def, names, used, turned
