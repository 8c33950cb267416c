"""Write a network's weights, inputs and PyTorch's outputs: python make_model.py NAME COUNT FOLDER.

Runs in the project's torch environment (torch 1.5.1). BatchNorm is calibrated: without it, outputs
are about 1e-9 and any conversion looks right.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import torchvision

sys.path.insert(0, str(Path(__file__).resolve().parent))
import nets


def calibrated(name):
    """The network with seeded weights, torchvision's own where it has the network."""
    torch.manual_seed(0)
    model, shape = nets.build(name), nets.NETS[name][1]
    if hasattr(torchvision.models, name):
        model.load_state_dict(getattr(torchvision.models, name)().state_dict())
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()
    model.train()
    with torch.no_grad():
        for _ in range(4):
            model(torch.randn(8, *shape[1:]))
    return model.eval()


def main():
    name, count, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)  # two wait for each other on a busy machine
    model, shape = calibrated(name), nets.NETS[name][1]
    generator = np.random.default_rng(0)
    inputs = generator.standard_normal((count, *shape), dtype=np.float32)
    with torch.no_grad():
        reference = np.stack([model(torch.from_numpy(x)).numpy() for x in inputs])
        theirs = getattr(torchvision.models, name, None)
        if theirs is not None:
            twin = theirs().eval()
            twin.load_state_dict(model.state_dict())
            assert np.array_equal(twin(torch.from_numpy(inputs[0])).numpy(), reference[0]), name
    # The form that both torch 1.5.1 and today's torch read.
    torch.save(
        model.state_dict(),
        str(folder / "weights.pt"),
        _use_new_zipfile_serialization=False,
    )
    np.save(folder / "inputs.npy", inputs)
    np.save(folder / "reference.npy", reference)
    print(name, "standard deviation of the outputs:", reference.std())


if __name__ == "__main__":
    main()
