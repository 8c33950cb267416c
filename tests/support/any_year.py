"""A small net for every torch from 1.3 on: python any_year.py FOLDER writes what this torch saves.

Two inputs, four outputs, and shapes that look the same with their channels last.
"""

import sys
from pathlib import Path

import torch
from torch import nn


class AnyYear(nn.Module):
    """Convolutions in one and two dimensions, BatchNorm, pooling, a residual."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU6())
        self.mix = nn.Conv2d(8, 8, 1)
        self.line = nn.Conv1d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)
        # Attributes of the user's own, whatever their names.
        self.program, self.example = "any", 3

    def forward(self, image, signal):
        y = self.stem(image)
        y = y + self.mix(y)
        return y, self.line(signal), image * 2, self.head(y.mean((2, 3)))


class Unsqueezed(nn.Module):
    """What onnx-tf has no handler for in operator set 13."""

    def __init__(self):
        super().__init__()
        self.line = nn.Conv1d(4, 4, 3)

    def forward(self, x):
        return self.line(x).unsqueeze(2)


class Recurrent(nn.Module):
    """An LSTM, whose weights onnx-tf keeps as variables."""

    def __init__(self):
        super().__init__()
        self.cells = nn.LSTM(4, 4)

    def forward(self, x):
        return self.cells(x)[0]


def make():
    """Return the net with fresh weights."""
    return AnyYear()


def calibrated():
    """Return the net with seeded weights, its BatchNorm calibrated."""
    torch.manual_seed(0)
    model = make()
    model.stem[1].momentum = None
    with torch.no_grad():
        model(torch.randn(64, 8, 8, 8), torch.randn(64, 8, 8))
    return model.eval()


def main(folder):
    model, inputs = calibrated(), (torch.randn(1, 8, 8, 8), torch.randn(1, 8, 8))
    with torch.no_grad():
        torch.jit.trace(model, inputs).save(str(folder / "script.pt"))
        for other in (Unsqueezed(), Recurrent()):
            torch.save(other.state_dict(), str(folder / f"{type(other).__name__}.pt"))
        torch.save(model.state_dict(), str(folder / "weights.pt"))
        torch.save(model, str(folder / "module.pt"))
        if hasattr(torch, "export"):
            torch.export.save(torch.export.export(model, inputs), str(folder / "program.pt2"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
