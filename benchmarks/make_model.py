"""Write a seeded torchvision model with calibrated BatchNorm: python make_model.py NAME SIZE FILE.

Runs in the torch environment. Without the calibration, outputs are about 1e-9 and anything passes.
"""

import sys

import torch
import torchvision

name, size, file = sys.argv[1], int(sys.argv[2]), sys.argv[3]
torch.manual_seed(0)
model = getattr(torchvision.models, name)()
for module in model.modules():
    if isinstance(module, torch.nn.BatchNorm2d):
        module.momentum = None
        module.reset_running_stats()
model.train()
with torch.no_grad():
    for _ in range(4):
        model(torch.randn(8, 3, size, size))
torch.save(model.eval(), file)
