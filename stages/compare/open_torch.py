"""PyTorch models, opened in PyTorch 1.5.1."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Dict, List, Sequence

from stages.compare.opened import MakePredict, Opened, OpenEnd
from stages.frameworks import torch_reference
from stages.kit.contract import Job, Tensor


def open_file(job: Job, file: Path) -> Opened:
    """Load any file that `--model` accepts. Code pickled in it is executed."""
    import torch

    from stages.frameworks import load_torch

    model = torch_reference.load_job_model(job, file)
    names = list(load_torch.list_forward_names(model))
    required = load_torch.count_required_inputs(model)
    rows = load_torch.count_embedding_rows(model)

    def prepare(inputs: Sequence[Tensor]) -> MakePredict:
        return lambda: torch_reference.make_predict(torch, torch_reference.copy_model(torch, model))

    def runs(inputs: Sequence[Tensor]) -> bool:
        values = [torch.zeros(*t.shape, dtype=getattr(torch, t.dtype)) for t in inputs]
        try:
            with torch.no_grad():
                model(*values)
        except Exception:  # whatever fails, the shapes do not fit
            return False
        return True

    def infer(job: Job) -> List[Tensor]:
        return torch_reference.resolve_inputs(job, model)

    def measure_noise_floor(reference: Any, samples: int) -> Any:
        return torch_reference.measure_noise_floor(torch, model, reference, samples)

    return Opened(
        framework=f"PyTorch {torch.__version__}",
        inputs=[OpenEnd(n, None, None, 0, rows or 10) for n in (names or ["input"])[:required]],
        prepare=prepare,
        runs=runs,
        infer=infer,
        measure_noise_floor=measure_noise_floor,
        operators=_count_operators(torch, model),
        parameters=load_torch.count_parameters(model),
        facts=_collect_facts(torch, model),
    )


def _count_operators(torch: Any, model: Any) -> Dict[str, int]:
    """Count the operators of a TorchScript graph, or the layers of a Python module."""
    if isinstance(model, torch.jit.ScriptModule):
        found: Counter = Counter()
        graph = model.inlined_graph  # a copy, which must outlive the use of its nodes
        _count_nodes(graph.nodes(), found)
        return dict(found.most_common())
    leaves = [m for m in model.modules() if not any(True for _ in m.children())]
    return dict(Counter(type(m).__name__ for m in leaves).most_common())


def _count_nodes(nodes: Any, found: Counter) -> None:
    """Count operators, those in loops and branches included; skip constants, attributes, lists."""
    for node in nodes:
        if not node.kind().startswith(("prim::Constant", "prim::GetAttr", "prim::ListConstruct")):
            found[node.kind()] += 1
        for block in node.blocks():
            _count_nodes(block.nodes(), found)


def _collect_facts(torch: Any, model: Any) -> Dict[str, str]:
    from stages.frameworks.load_torch import infer_inputs
    from stages.kit.contract import InputError

    facts = {
        "module": getattr(model, "original_name", type(model).__name__),
        "buffers": str(sum(int(buffer.numel()) for buffer in model.buffers())),
        "forward": ", ".join(_list_arguments(model)) or "(no arguments)",
    }
    try:
        (shape, dtype), _ = infer_inputs(model)
        facts["input that fits"] = f"{'x'.join(map(str, shape))}:{dtype}"
    except InputError:
        pass  # the file does not tell which input fits
    return facts


def _list_arguments(model: Any) -> List[str]:
    from stages.frameworks.load_torch import list_forward_names

    return list(list_forward_names(model))
