"""Write the probes' files: run it in this folder, with the Python of the torch 1.5.1 environment.

Weights and statistics are drawn so that outputs vary by about one.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Dict, Tuple

import torch

sys.path.insert(0, str(Path(__file__).parent))
import nets

SHAPES: Dict[str, Tuple[int, ...]] = {
    "Example": (1, 3, 32, 32),
    "Convolution": (1, 3, 16, 16),
    "Linear": (1, 3, 4, 4),
    "Softmax": (1, 12),
    "Upsample": (1, 3, 8, 8),
    "Concat": (1, 3, 8, 8),
}


def main() -> None:
    for name, shape in SHAPES.items():
        torch.manual_seed(0)
        model = getattr(nets, name)()
        model.train()
        with torch.no_grad():
            for _ in range(200):  # the statistics of BatchNorm come to be those of the data
                model(torch.randn((16, *shape[1:])))
        model.eval()
        stem = name.lower()
        state = model.state_dict()
        torch.save(state, f"{stem}.pt", _use_new_zipfile_serialization=False)
        torch.onnx.export(
            model,
            torch.randn(shape),
            f"{stem}.onnx",
            opset_version=10,
            input_names=["input"],
            output_names=["output"],
        )


if __name__ == "__main__":
    main()
