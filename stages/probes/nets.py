"""Small models that `runner toolchain check` converts: each is a state_dict of its class here.

They run under any PyTorch from 1.3 on.
"""

from __future__ import annotations

from typing import List

import torch
from torch import nn
from torch.nn import functional


def _unit(channels: int, made: int, size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Make a convolution with BatchNorm and ReLU6."""
    padding = size // 2
    return nn.Sequential(
        nn.Conv2d(channels, made, size, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(made),
        nn.ReLU6(),
    )


class Block(nn.Module):
    """MobileNetV2's inverted residual: wider, by channel, narrower, and added where it fits."""

    def __init__(self, channels: int, made: int, stride: int) -> None:
        super().__init__()
        wide = channels * 6
        self.layers = nn.Sequential(
            _unit(channels, wide, 1),
            _unit(wide, wide, 3, stride, groups=wide),
            nn.Conv2d(wide, made, 1, bias=False),
            nn.BatchNorm2d(made),
        )
        self.adds = stride == 1 and channels == made

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x) if self.adds else self.layers(x)


class Example(nn.Module):
    """A MobileNetV2 as the example's, with fewer blocks and channels."""

    def __init__(self) -> None:
        super().__init__()
        blocks: List[nn.Module] = [Block(8, 8, 1), Block(8, 12, 2), Block(12, 12, 1)]
        blocks += [Block(12, 16, 2), Block(16, 16, 1)]
        self.features = nn.Sequential(_unit(3, 8, 3, 2), *blocks, _unit(16, 64, 1))
        self.classifier = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x).mean([2, 3]))


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(_unit(3, 8, 3, 2), _unit(8, 8, 3, groups=8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(48, 16), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(functional.relu(self.first(x.flatten(1))))


class Softmax(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.softmax(self.layer(x), dim=1)


class Upsample(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.interpolate(self.layer(x), scale_factor=2.0, mode="nearest")


class Concat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.left(x), self.right(x)], 1)
