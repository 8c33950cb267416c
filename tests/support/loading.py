"""Write models as people keep them: wrapped, with prefixes, with more or less beside the weights.

    python loading.py FOLDER

Runs in the environment of the stage torch; `--arch loading.py:NAME` builds the modules.
"""

import sys
from pathlib import Path

import torch
import torchvision
from torch import nn


def make_net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3))


def make_empty():
    return nn.Sequential(nn.AvgPool2d(2), nn.Softmax(1))


class Bytes(nn.Module):
    """An image of bytes, as a camera gives it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, image):
        return self.conv(image.float() / 255)


class Words(nn.Module):
    """Two indices into tables of different sizes."""

    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(50, 4), nn.Embedding(7, 4)

    def forward(self, word, place):
        return self.words(word) * self.places(place)


def main(folder):
    torch.manual_seed(0)
    net = make_net().eval()
    state = net.state_dict()
    torch.save(nn.DataParallel(net), folder / "parallel.pt")
    parts = nn.Sequential(nn.DataParallel(net[0]), net[1], nn.DataParallel(nn.Sequential(net[3])))
    torch.save(parts.eval(), folder / "parallel_parts.pt")
    torch.save(state, folder / "plain.pt")
    lightning = {"model." + name: value for name, value in state.items()}
    lightning["loss.weight"] = torch.ones(2)
    torch.save({"epoch": 1, "state_dict": lightning, "lr_schedulers": []}, folder / "lightning.pt")
    profiled = dict(state)
    profiled.update(total_ops=torch.zeros(1), total_params=torch.zeros(1))
    profiled["0.total_ops"] = torch.zeros(1)
    torch.save(profiled, folder / "profiled.pt")
    torch.save({name: v for name, v in state.items() if name != "3.bias"}, folder / "missing.pt")
    torch.save(make_empty().state_dict(), folder / "empty.pt")
    # Its first version lacks a layer, and is told by the state_dict's versions alone.
    versions = torchvision.models.mnasnet0_5(num_classes=5)
    for module in versions.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.5  # or its outputs hardly vary
    for _ in range(5):
        versions(torch.randn(4, 3, 32, 32))
    torch.save(versions.state_dict(), folder / "versions.pt")
    torch.save(Bytes().eval(), folder / "bytes.pt")
    torch.save(Words().eval(), folder / "words.pt")


if __name__ == "__main__":
    # Pickled classes are those of this file as a module, not of a script.
    import loading

    loading.main(Path(sys.argv[1]))
