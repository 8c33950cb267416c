"""A network that is trained for int8: `python trained.py FOLDER`, under torch 1.5.1.

It tells in which quarter of an image a blob is, and has what such networks are made of: fused
convolutions, a depthwise one, an addition, a concatenation, a linear layer.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.quantization as tq
from torch import nn
from torch.nn.quantized import FloatFunctional


def make_block(inputs, outputs, size=3, stride=1, groups=1):
    conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.quant, self.dequant = tq.QuantStub(), tq.DeQuantStub()
        self.stem, self.deep = make_block(1, 8), make_block(8, 8, groups=8)
        self.down, self.side = make_block(8, 12, stride=2), make_block(8, 4, 1, 2)
        self.add, self.cat = FloatFunctional(), FloatFunctional()
        self.scores = nn.Linear(16 * 4, 4)

    def forward(self, x):
        x = self.stem(self.quant(x))
        x = self.add.add(x, self.deep(x))
        x = self.cat.cat([self.down(x), self.side(x)], 1)
        x = nn.functional.adaptive_avg_pool2d(x, 2)
        return self.dequant(self.scores(x.flatten(1)))


def build(backend="fbgemm"):
    net = Net().eval()
    for block in (net.stem, net.deep, net.down, net.side):
        tq.fuse_modules(block, ["0", "1", "2"], inplace=True)
    net.train().qconfig = tq.get_default_qat_qconfig(backend)
    return tq.prepare_qat(net, inplace=True)


def draw(seed, count):
    generator = np.random.RandomState(seed)
    places = generator.uniform(2, 14, (count, 2, 1, 1))
    y, x = np.mgrid[0:16, 0:16]
    squares = (y - places[:, 0]) ** 2 + (x - places[:, 1]) ** 2
    images = np.exp(-squares / 8) + generator.normal(0, 0.05, squares.shape)
    labels = 2 * (places[:, 0, 0, 0] > 8) + (places[:, 1, 0, 0] > 8)
    return images[:, None].astype(np.float32), labels.astype(np.int64)


def write_all(folder):
    torch.manual_seed(0)
    net = build()
    images, labels = map(torch.from_numpy, draw(0, 512))
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(8):
        for rows in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images[rows]), labels[rows]).backward()
            optimizer.step()
    torch.save(net.state_dict(), str(folder / "trained.pt"))
    net.eval().apply(tq.disable_observer)
    integers = tq.convert(net)
    torch.save(integers.state_dict(), str(folder / "integers-state.pt"))
    torch.jit.save(torch.jit.trace(integers, images[:1]), str(folder / "integers.pt"))
    held, labels = draw(1, 200)
    np.savez(str(folder / "held.npz"), x=held)
    np.save(str(folder / "labels.npy"), labels)
    np.savez(str(folder / "seen.npz"), x=draw(2, 100)[0])


if __name__ == "__main__":
    write_all(Path(sys.argv[1]))
