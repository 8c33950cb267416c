"""A PyTorch model, opened by PyTorch 1.5.1."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, Dict, List, Sequence

from stages.compare.opened import MakePredict, Opened, OpenEnd
from stages.convert import torch_to_onnx as torch_stage
from stages.kit.contract import Job, Tensor


def open_file(job: Job, file: Path) -> Opened:
    """Load what `--model` may be. A pickle in it runs."""
    import torch

    from stages.convert import load_torch

    arch = job.options["arch"]
    if arch.partition(":")[0].endswith(".py"):
        arch = str(job.volume / arch)
    arguments = json.loads(job.options["arch_args"] or "{}")
    model = load_torch.load_model(file, arch, arguments, job.note)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    names = list(load_torch.forward_names(model))
    required = load_torch.required_inputs(model)
    rows = load_torch.embedding_rows(model)

    def prepare(inputs: Sequence[Tensor]) -> MakePredict:
        return lambda: torch_stage._predictor(torch, torch_stage._replica(torch, model))

    def runs(inputs: Sequence[Tensor]) -> bool:
        values = [torch.zeros(*t.shape, dtype=getattr(torch, t.dtype)) for t in inputs]
        try:
            with torch.no_grad():
                model(*values)
        except Exception:  # any failure means that these shapes do not fit
            return False
        return True

    def infer(job: Job) -> List[Tensor]:
        return torch_stage._inputs(job, model)

    def noise_floor(reference: Any, samples: int) -> Dict[str, Any]:
        return torch_stage._noise_floor(torch, model, reference, samples)

    return Opened(
        framework=f"PyTorch {torch.__version__}",
        inputs=[OpenEnd(n, None, None, 0, rows or 10) for n in (names or ["input"])[:required]],
        prepare=prepare,
        runs=runs,
        infer=infer,
        noise_floor=noise_floor,
        operators=_operators(torch, model),
        parameters=load_torch.parameter_count(model),
        facts=_facts(torch, model),
    )


def _operators(torch: Any, model: Any) -> Dict[str, int]:
    """Operators of a TorchScript graph; of a module in Python, its layers."""
    if isinstance(model, torch.jit.ScriptModule):
        found: Counter = Counter()
        graph = model.inlined_graph  # a copy, and its nodes live as long as it does
        _count(graph.nodes(), found)
        return dict(found.most_common())
    leaves = [m for m in model.modules() if not any(True for _ in m.children())]
    return dict(Counter(type(m).__name__ for m in leaves).most_common())


def _count(nodes: Any, found: Counter) -> None:
    """Count operators, in the blocks of loops and branches too; constants and types are none."""
    for node in nodes:
        if not node.kind().startswith(("prim::Constant", "prim::GetAttr", "prim::ListConstruct")):
            found[node.kind()] += 1
        for block in node.blocks():
            _count(block.nodes(), found)


def _facts(torch: Any, model: Any) -> Dict[str, str]:
    from stages.convert.load_torch import infer_inputs
    from stages.kit.contract import InputError

    facts = {
        "module": getattr(model, "original_name", type(model).__name__),
        "buffers": str(sum(int(buffer.numel()) for buffer in model.buffers())),
        "forward": ", ".join(_arguments(model)) or "(no arguments)",
    }
    try:
        (shape, dtype), _ = infer_inputs(model)
        facts["input that fits"] = f"{'x'.join(map(str, shape))}:{dtype}"
    except InputError:
        pass  # the file does not tell
    return facts


def _arguments(model: Any) -> List[str]:
    from stages.convert.load_torch import forward_names

    return list(forward_names(model))
