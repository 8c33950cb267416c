"""`python train.py FOLDER`: train the nets that are quantised, under torch 1.5.1.

The folder has mnist.npz, 28x28 images `x` (0 to 1) and their classes `y`, and digits.npz. Written
are `images.pt`, a MobileNetV2 of width 0.35 on images of 32x32; `rows.pt`, an LSTM that reads an
image row by row; and for each `NAME-seen.npz`, 200 images of the training set, `NAME-held.npz`,
1,000 that were never seen, and `NAME-labels.npy`; and these of the example, 100 and 360.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.mobilenet import MobileNetV2

MEAN, DEVIATION = 0.13, 0.31
HELD, SEEN = 1000, 200
BLOCKS = [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 3, 2], [6, 64, 3, 2], [6, 96, 2, 1]]


class Images(MobileNetV2):
    def __init__(self):
        super().__init__(num_classes=10, width_mult=0.35, inverted_residual_setting=BLOCKS)
        first = self.features[0][0]
        self.features[0][0] = nn.Conv2d(1, first.out_channels, 3, 1, 1, bias=False)


class Rows(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(28, 64, batch_first=True), nn.Linear(64, 10)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


def train(net, x, y, epochs, rate):
    optimizer = torch.optim.Adam(net.parameters(), rate, weight_decay=1e-4)
    batches = len(x) // 64
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, epochs * batches)
    net.train()
    for _ in range(epochs):
        order = torch.randperm(len(x))
        for rows in order[: batches * 64].reshape(batches, 64):
            optimizer.zero_grad()
            F.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
            schedule.step()
    return net.eval()


def write(folder, name, net, x, y):
    with torch.no_grad():
        found = torch.cat([net(part) for part in x[:HELD].split(100)]).argmax(1)
    print(f"{name}: accuracy {float((found == y[:HELD]).float().mean()):.4f}", flush=True)
    shape = (1, *x.shape[1:])
    with torch.no_grad():
        torch.jit.trace(net, torch.zeros(shape)).save(str(folder / f"{name}.pt"))
    np.savez(folder / f"{name}-held.npz", x[:HELD].numpy())
    np.savez(folder / f"{name}-seen.npz", x[HELD : HELD + SEEN].numpy())
    np.save(folder / f"{name}-labels.npy", y[:HELD].numpy())


def write_digits(folder):
    """Write the example's inputs, as examples/train_mbv2.py makes them."""
    arrays = np.load(folder / "digits.npz")
    for name in ("seen", "held"):
        ink = torch.from_numpy(arrays[name] / 16.0).float().unsqueeze(1)
        ink = F.interpolate(ink, size=(32, 32), mode="bilinear", align_corners=False)
        images = ((ink - 0.31) / 0.35).repeat(1, 3, 1, 1)
        np.savez(folder / f"example-{name}.npz", images.numpy())
    np.save(folder / "example-labels.npy", arrays["labels"])


def main(folder):
    write_digits(folder)
    torch.manual_seed(0)
    arrays = np.load(folder / "mnist.npz")
    x = torch.from_numpy((arrays["x"] - MEAN) / DEVIATION).float()
    y = torch.from_numpy(arrays["y"])
    write(folder, "rows", train(Rows(), x[HELD:], y[HELD:], 30, 5e-3), x, y)
    x = F.pad(x[:, None], (2, 2, 2, 2), value=-MEAN / DEVIATION)
    write(folder, "images", train(Images(), x[HELD:], y[HELD:], 5, 5e-3), x, y)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
