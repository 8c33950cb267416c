"""Networks to quantise, sound and with faults: `python quantized.py FOLDER`, under torch 1.5.1.

Each is pickled with its weights; the samples are beside them. BatchNorm is calibrated, so that
activations have sound sizes where no fault is planted.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

# What the images are normalised with, which the fault `swapped` puts in the wrong order.
MEAN, DEVIATION = (0.25, 0.55, 0.85), 0.1


def unit(i, o, kernel=3, stride=1, groups=1):
    layers = [nn.Conv2d(i, o, kernel, stride, kernel // 2, groups=groups, bias=False)]
    return nn.Sequential(*layers, nn.BatchNorm2d(o), nn.ReLU6())


class Block(nn.Module):
    """MobileNetV2's block."""

    def __init__(self, width):
        super().__init__()
        inner = 2 * width
        parts = [unit(width, inner, 1), unit(inner, inner, 3, groups=inner)]
        parts += [nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width)]
        self.conv = nn.Sequential(*parts)

    def forward(self, x):
        return x + self.conv(x)


class Fork(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.left = nn.Conv2d(width, width, 1)
        self.right = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        return torch.cat([self.left(x), self.right(x)], 1)


class Net(nn.Module):
    """Something of everything that a fault can be planted in."""

    def __init__(self):
        super().__init__()
        self.stem, self.block, self.fork = unit(3, 16, 3, 2), Block(16), Fork(16)
        self.mid = nn.Conv2d(32, 32, 3, padding=1)
        self.gate, self.sigmoid = nn.Linear(32, 32), nn.Sigmoid()
        self.squeeze, self.tanh = nn.Linear(32, 24), nn.Tanh()
        # Most of the weights, far from all faults.
        self.wide, self.head = nn.Linear(24, 6144), nn.Linear(6144, 10)

    def forward(self, x):
        x = torch.relu(self.mid(self.fork(self.block(self.stem(x))))).mean([2, 3])
        x = self.tanh(self.squeeze(x * self.sigmoid(self.gate(x))))
        return self.head(torch.relu(self.wide(x)))


class Pooled(nn.Module):
    """What every ResNet begins with."""

    def __init__(self):
        super().__init__()
        self.stem, self.pool = nn.Conv2d(3, 8, 3, padding=1), nn.MaxPool2d(3, 2, 1)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        return self.head(self.pool(torch.relu(self.stem(x))).mean([2, 3]))


class Recurrent(nn.Module):
    """An LSTM over the rows of an image."""

    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(32, 8, batch_first=True), nn.Linear(8, 10)

    def forward(self, x):
        return self.head(self.lstm(x.mean(1)[:, ::8])[0][:, -1])


def draw(seed, count, mean=MEAN):
    """Draw coarse images of shape (count, 3, 32, 32), whose channels have levels of their own."""
    generator = np.random.default_rng(seed)
    coarse = generator.uniform(0, 0.3, (count, 3, 4, 4))
    images = np.kron(coarse, np.ones((8, 8))) + np.array([0.1, 0.4, 0.7])[None, :, None, None]
    return ((images - np.array(mean)[None, :, None, None]) / DEVIATION).astype("f4")


def make():
    """Make the sound net, of unit-sized activations throughout."""
    torch.manual_seed(1)
    net = Net().train()
    with torch.no_grad():
        for layer in (net.gate, net.squeeze, net.wide, net.mid):
            layer.weight *= 4
        for seed in range(10):
            net(torch.from_numpy(draw(seed, 32)))
    return net.eval()


def outlier(net):
    net.mid.weight[5] *= 80


def outlier_norm(net):
    net.block.conv[3].weight[3] *= 40


def sigmoid(net):
    net.gate.weight *= 100


def tanh(net):
    net.squeeze.weight *= 100


def concat(net):
    net.fork.left.weight *= 0.004
    net.fork.left.bias *= 0.004
    net.mid.weight[:, :16] *= 250


FAULTS = (outlier, outlier_norm, sigmoid, tanh, concat)


def main(folder):
    torch.save(make(), folder / "sound.pt")
    torch.save(Pooled().eval(), folder / "pooled.pt")
    torch.save(Recurrent().eval(), folder / "recurrent.pt")
    with torch.no_grad():
        for fault in FAULTS:
            net = make()
            fault(net)
            torch.save(net, folder / f"{fault.__name__}.pt")
    np.savez(folder / "seen.npz", image=draw(100, 100))
    np.savez(folder / "held.npz", image=draw(200, 40))
    np.savez(folder / "narrow.npz", image=draw(100, 100) / 10)
    np.savez(folder / "wide.npz", image=draw(100, 100) * 20)
    np.savez(folder / "swapped.npz", image=draw(100, 100, MEAN[::-1]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
