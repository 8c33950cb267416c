"""A user's own model code, as `--arch` names it. Runs under torch 1.5.1 and Python 3.8.

As a script, `python user_code.py FILE` pickles a model whose class is then in `__main__`.
"""

import os
import signal
import sys

import torch
from torch import nn


class OwnNet(nn.Module):
    """A small network with arguments."""

    def __init__(self, classes=4, width=8):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(width, classes)

    def forward(self, image):
        return self.head(self.features(image).mean([2, 3]))


class TwoInTwoOut(nn.Module):
    """Two inputs and two outputs, none of which can be taken for another."""

    def __init__(self):
        super().__init__()
        self.left = nn.Linear(4, 3)
        self.right = nn.Linear(6, 3)

    def forward(self, left, right):
        both = self.left(left) + self.right(right)
        return both, torch.cat([left, 2 * right], 1)


class Branches(nn.Module):
    """Half of its inputs take a way that tracing does not see: the conversion is wrong."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        return self.linear(x) if x.sum() > 0 else -self.linear(x)


class Dies(nn.Module):
    """Ends its process, as a crash in native code or the kernel's out-of-memory killer does."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        os.kill(os.getpid(), signal.SIGKILL)


class Broken(nn.Module):
    """Cannot be made."""

    def __init__(self):
        raise RuntimeError("no weights today")


NOT_CALLABLE = 3


def not_a_module():
    return 3


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.save(OwnNet().eval(), sys.argv[1])
