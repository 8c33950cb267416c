"""Train the example model mbv2.pt: a small MobileNetV2 that reads handwritten digits.

From the repository's root, on a CPU, in a few minutes (uv fetches Python 3.8 if there is none):

    uv run --no-project --python 3.8 --with-requirements examples/train-requirements.txt \
        examples/train_mbv2.py

The data come with scikit-learn (load_digits: 1797 images of 8x8 pixels), so nothing else is
downloaded. What is written is a TorchScript archive: loading it needs neither this file nor
torchvision, and runs no pickled Python. It takes float32 (N, 3, 32, 32), as `to_input`
makes it, and gives float32 (N, 10) logits, with no softmax.
"""

from __future__ import annotations

import argparse
import io
import math
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.mobilenet import MobileNetV2

MIN_ACCURACY = 0.97  # on the held-out fifth; below this nothing is written
SIDE = 32  # pixels
GREY_LEVELS = 16.0  # load_digits counts ink from 0 to 16
# Of the data's pixels scaled to 0..1, rounded: inputs then have about mean 0 and deviation 1.
PIXEL_MEAN, PIXEL_STD = 0.31, 0.35
# Smoothed labels hold the logits within about 4: float32's rounding error grows with them.
LABEL_SMOOTHING = 0.2
# MobileNetV2's own table of (expansion, channels, repeats, stride). Only strides differ: they
# take 32x32 down to 4x4, where the published ones would leave one pixel and nothing to pool.
BLOCKS = [
    [1, 16, 1, 1],
    [6, 24, 2, 1],
    [6, 32, 3, 2],
    [6, 64, 4, 2],
    [6, 96, 3, 1],
    [6, 160, 3, 1],
    [6, 320, 1, 1],
]
WIDTH = 0.35  # the narrowest width in the MobileNetV2 paper


class DigitNet(MobileNetV2):
    """MobileNetV2 at width 0.35 for ten classes."""

    def __init__(self) -> None:
        super().__init__(num_classes=10, width_mult=WIDTH, inverted_residual_setting=BLOCKS)
        for module in self.modules():
            if isinstance(module, nn.ReLU6):
                # torch 1.5.1 cannot export the in-place form from an archive.
                module.inplace = False

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images (N, 3, 32, 32) to logits (N, 10)."""
        # torchvision pools and then reshapes by x.shape; a mean says the same in one operator,
        # and leaves no shape arithmetic in the traced graph.
        return self.classifier(self.features(x).mean([2, 3]))


def to_input(grey: np.ndarray) -> Tensor:
    """Make model input (N, 3, 32, 32), unitless, from grey images (N, 8, 8) of 0 to 16."""
    ink = torch.from_numpy(grey / GREY_LEVELS).float().unsqueeze(1)
    ink = F.interpolate(ink, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    return ((ink - PIXEL_MEAN) / PIXEL_STD).repeat(1, 3, 1, 1)


def load_split() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Give images (N, 3, 32, 32) and labels (N,) to train on, then those held out.

    The split does not follow --seed, so that accuracies of different seeds can be compared.
    """
    digits = load_digits()
    seen_x, held_x, seen_y, held_y = train_test_split(
        digits.images, digits.target, test_size=0.2, stratify=digits.target, random_state=0
    )
    return to_input(seen_x), torch.from_numpy(seen_y), to_input(held_x), torch.from_numpy(held_y)


def jitter(x: Tensor) -> Tensor:
    """Turn, scale and shift each image (N, 3, 32, 32) a little: 1437 are few to learn from."""
    n = x.shape[0]
    angle = torch.empty(n).uniform_(-12, 12) * (math.pi / 180)  # degrees to radians
    scale = torch.empty(n).uniform_(0.9, 1.1)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = scale * angle.cos()
    theta[:, 1, 0] = scale * angle.sin()
    theta[:, 0, 1] = -theta[:, 1, 0]
    theta[:, :, 2].uniform_(-0.12, 0.12)  # in half image widths: two pixels at most
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def smoothed_loss(logits: Tensor, y: Tensor) -> Tensor:
    """Give the mean cross-entropy (nats) of logits (N, 10) against smoothed labels (N,)."""
    log_p = F.log_softmax(logits, dim=1)
    return (1 - LABEL_SMOOTHING) * F.nll_loss(log_p, y) - LABEL_SMOOTHING * log_p.mean()


def train(model: nn.Module, x: Tensor, y: Tensor, epochs: int, batch: int = 64) -> None:
    """Fit the model to images (N, 3, 32, 32) and labels (N,), in place; it ends in eval mode."""
    steps = len(x) // batch  # the last, short batch is dropped: too few for BatchNorm's statistics
    optimiser = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, weight_decay=2e-3, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=0.1, total_steps=epochs * steps, cycle_momentum=False
    )
    model.train()
    for epoch in range(epochs):
        order, total = torch.randperm(len(x)), 0.0
        for chosen in order[: steps * batch].split(batch):
            loss = smoothed_loss(model(jitter(x[chosen])), y[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1:3d}/{epochs}  loss {total / steps:.4f}", flush=True)
    model.eval()


def without_locations(traced: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    """Give the module without the locations in source files that tracing recorded.

    They are full paths on this machine: they would be published, and would make the file's bytes
    depend on where it was made. torch 1.5.1 cannot leave them out, but loads without them.
    """
    full, bare = io.BytesIO(), io.BytesIO()
    torch.jit.save(traced, full)
    with zipfile.ZipFile(full) as source, zipfile.ZipFile(bare, "w") as target:
        for name in source.namelist():
            if not name.endswith(".debug_pkl"):
                target.writestr(name, source.read(name))
    bare.seek(0)
    return torch.jit.load(bare)


def main() -> None:
    """Train, measure, and write the archive if the model is good enough."""
    parser = argparse.ArgumentParser(description="Train the example model mbv2.pt.")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("mbv2.pt"))
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)  # all that is random here is drawn by torch
    torch.set_num_threads(1)  # the order of float sums, so the weights, depends on the threads

    seen_x, seen_y, held_x, held_y = load_split()
    model = DigitNet()
    started = time.monotonic()
    train(model, seen_x, seen_y, args.epochs)
    count = sum(p.numel() for p in model.parameters())
    print(f"trained {count} parameters in {time.monotonic() - started:.0f} s")

    # What is measured is what is written: the traced module, not the Python one.
    traced = without_locations(torch.jit.trace(model, held_x[:1]))
    with torch.no_grad():
        accuracy = (traced(held_x).argmax(1) == held_y).float().mean().item()
    print(f"held-out accuracy {accuracy:.4f} ({len(held_y)} images)")
    if accuracy < MIN_ACCURACY:
        sys.exit(f"accuracy is below {MIN_ACCURACY}: {args.output} is not written")
    torch.jit.save(traced, str(args.output))
    print(f"wrote {args.output} ({args.output.stat().st_size} bytes)")


if __name__ == "__main__":
    main()
