"""PyTorch to TFLite by litert-torch: python convert.py WEIGHTS.pt OUT.tflite NAME.

NAME is one of peers/nets.py; the weights are a state_dict.
"""

import sys
from pathlib import Path

import litert_torch
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import nets


def main() -> None:
    weights, target, name = sys.argv[1:]
    model = nets.build(name)
    model.load_state_dict(torch.load(weights))
    shape = nets.NETS[name][1]
    litert_torch.convert(model.eval(), (torch.zeros(shape),)).export(target)


if __name__ == "__main__":
    main()
