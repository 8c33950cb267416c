"""Small nets with seeded weights, for suites: `python nets.py FOLDER COUNT`, under torch 1.5.1."""

import sys
from pathlib import Path

import torch
from torch import nn


class Residual(nn.Module):
    """A convolution around which its input is led."""

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return torch.relu(x + self.conv(x))


def build(number):
    """Build the net of this number: four families, each with other sizes and weights."""
    torch.manual_seed(number)
    width = 4 + number % 7
    first = [nn.Conv2d(3, width, 3, padding=1), nn.ReLU()]
    last = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5)]
    families = (
        [nn.Conv2d(width, width, 3, stride=2), nn.ReLU6()],
        [nn.Conv2d(width, width, 3, padding=1, groups=width), nn.Conv2d(width, width, 1)],
        [Residual(width), nn.MaxPool2d(2)],
        [nn.Conv2d(width, width, 1), nn.Sigmoid(), nn.AvgPool2d(2)],
    )
    return nn.Sequential(*first, *families[number % 4], *last).eval()


def main():
    folder, count = Path(sys.argv[1]), int(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        example = torch.randn(1, 3, 16, 16)
        torch.jit.save(torch.jit.trace(build(number), example), str(folder / f"net{number:02d}.pt"))
        (folder / f"net{number:02d}.toml").write_text("[[input]]\nshape = [1, 3, 16, 16]\n")


if __name__ == "__main__":
    main()
