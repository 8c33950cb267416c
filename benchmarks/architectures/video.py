"""Video, and optical flow."""

from __future__ import annotations

from typing import List, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F

from architectures.registry import field, image, numbers

architecture = field("video")
flow = field("optical flow")


class SpatioTemporalConv(nn.Module):
    def __init__(self, i: int, o: int, stride: int = 1) -> None:
        super().__init__()
        mid = (i * o * 27) // (i * 9 + 3 * o)
        self.spatial = nn.Conv3d(i, mid, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False)
        self.bn1 = nn.BatchNorm3d(mid)
        self.temporal = nn.Conv3d(mid, o, (3, 1, 1), (stride, 1, 1), (1, 0, 0), bias=False)
        self.bn2 = nn.BatchNorm3d(o)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.spatial(x)), inplace=True)
        return self.bn2(self.temporal(x))


class R2Plus1DBlock(nn.Module):
    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.conv1 = SpatioTemporalConv(i, o, stride)
        self.conv2 = SpatioTemporalConv(o, o)
        self.downsample = nn.Sequential(nn.Conv3d(i, o, 1, stride, bias=False), nn.BatchNorm3d(o))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.conv2(F.relu(self.conv1(x)))
        return F.relu(out + self.downsample(x))


@architecture(
    "R(2+1)D", 2018, "A Closer Look at Spatiotemporal Convolutions", numbers(1, 3, 4, 16, 16)
)
class R2Plus1D(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = SpatioTemporalConv(3, 8)
        self.layer1 = R2Plus1DBlock(8, 8, 1)
        self.layer2 = R2Plus1DBlock(8, 12, 2)
        self.avgpool = nn.AdaptiveAvgPool3d((1, 1, 1))
        self.fc = nn.Linear(12, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer2(self.layer1(F.relu(self.stem(x))))
        return self.fc(self.avgpool(x).flatten(1))


class TemporalShift(nn.Module):
    def __init__(self, segments: int, fold_div: int = 8) -> None:
        super().__init__()
        self.segments = segments
        self.fold_div = fold_div

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        nt, c, h, w = x.size()
        n_batch = nt // self.segments
        x = x.view(n_batch, self.segments, c, h, w)
        fold = c // self.fold_div
        out = torch.zeros_like(x)
        out[:, :-1, :fold] = x[:, 1:, :fold]
        out[:, 1:, fold : 2 * fold] = x[:, :-1, fold : 2 * fold]
        out[:, :, 2 * fold :] = x[:, :, 2 * fold :]
        return out.view(nt, c, h, w)


class TSMBlock(nn.Module):
    def __init__(self, c: int, segments: int) -> None:
        super().__init__()
        self.shift = TemporalShift(segments)
        self.conv1 = nn.Conv2d(c, c, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(c)
        self.conv2 = nn.Conv2d(c, c, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(c)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1(self.shift(x))))
        return F.relu(self.bn2(self.conv2(y)) + x)


@architecture(
    "TSM",
    2019,
    "TSM: Temporal Shift Module for Efficient Video Understanding",
    numbers(1, 4, 3, 16, 16),
)
class TSM(nn.Module):
    def __init__(self, segments: int = 4) -> None:
        super().__init__()
        self.segments = segments
        self.stem = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
        )
        self.block1 = TSMBlock(16, segments)
        self.block2 = TSMBlock(16, segments)
        self.fc = nn.Linear(16, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.view(-1, 3, x.size(3), x.size(4))
        x = self.block2(self.block1(self.stem(x)))
        x = self.fc(x.mean(3).mean(2))
        x = x.view(-1, self.segments, x.size(1))
        return x.mean(dim=1, keepdim=True).squeeze(1)


class Pathway(nn.Module):
    def __init__(self, i: int, o: int, t: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(i, o, (t, 3, 3), (1, 2, 2), (t // 2, 1, 1), bias=False)
        self.bn = nn.BatchNorm3d(o)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn(self.conv(x)))


@architecture("SlowFast", 2019, "SlowFast Networks for Video Recognition", numbers(1, 3, 8, 16, 16))
class SlowFast(nn.Module):
    """Few frames with many channels beside many frames with few, joined by strided convolutions."""

    def __init__(self, alpha: int = 4) -> None:
        super().__init__()
        self.alpha = alpha
        self.slow1 = Pathway(3, 12, 1)
        self.fast1 = Pathway(3, 4, 5)
        self.lateral = nn.Conv3d(4, 8, (5, 1, 1), (alpha, 1, 1), (2, 0, 0), bias=False)
        self.slow_pool = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
        self.slow2 = Pathway(20, 16, 1)
        self.fast2 = Pathway(4, 8, 3)
        self.fc = nn.Linear(24, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        slow = self.slow1(x[:, :, :: self.alpha])
        fast = self.fast1(x)
        slow = torch.cat([slow, self.lateral(fast)], dim=1)
        slow = self.slow2(self.slow_pool(slow))
        fast = self.fast2(F.max_pool3d(fast, (1, 3, 3), (1, 2, 2), (0, 1, 1)))
        slow = F.adaptive_avg_pool3d(slow, 1).view(x.size(0), -1)
        fast = F.adaptive_avg_pool3d(fast, 1).view(x.size(0), -1)
        return self.fc(F.dropout(torch.cat([slow, fast], dim=1), 0.5, self.training))


def conv(i: int, o: int, k: int = 3, s: int = 1, d: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(i, o, k, s, (k // 2) * d, dilation=d)
    nn.init.kaiming_normal_(layer.weight, 0.1)
    return nn.Sequential(layer, nn.LeakyReLU(0.1, inplace=True))


def crop_like(x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    if x.size()[2:] == target.size()[2:]:
        return x
    return x[:, :, : target.size(2), : target.size(3)]


@flow("FlowNetS", 2015, "FlowNet: Learning Optical Flow with Convolutional Networks", image(36, 6))
class FlowNetS(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = conv(6, 8, 7, 2)
        self.conv2 = conv(8, 12, 5, 2)
        self.conv3 = conv(12, 16, 5, 2)
        self.deconv2 = nn.Sequential(nn.ConvTranspose2d(16, 12, 4, 2, 1), nn.LeakyReLU(0.1, True))
        self.deconv1 = nn.Sequential(nn.ConvTranspose2d(26, 8, 4, 2, 1), nn.LeakyReLU(0.1, True))
        self.predict3 = nn.Conv2d(16, 2, 3, padding=1)
        self.predict2 = nn.Conv2d(26, 2, 3, padding=1)
        self.predict1 = nn.Conv2d(18, 2, 3, padding=1)
        self.up3 = nn.ConvTranspose2d(2, 2, 4, 2, 1)
        self.up2 = nn.ConvTranspose2d(2, 2, 4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        c1 = self.conv1(x)
        c2 = self.conv2(c1)
        c3 = self.conv3(c2)
        flow3 = self.predict3(c3)
        up3 = crop_like(self.up3(flow3), c2)
        cat2 = torch.cat((c2, crop_like(self.deconv2(c3), c2), up3), 1)
        flow2 = self.predict2(cat2)
        up2 = crop_like(self.up2(flow2), c1)
        cat1 = torch.cat((c1, crop_like(self.deconv1(cat2), c1), up2), 1)
        flow1 = self.predict1(cat1)
        size = (x.size(2), x.size(3))
        return F.interpolate(flow1, size=size, mode="bilinear", align_corners=False) * 20.0


def correlate(a: torch.Tensor, b: torch.Tensor, reach: int) -> torch.Tensor:
    """Multiply a map with one moved by every offset within reach."""
    h, w = a.size(2), a.size(3)
    padded = F.pad(b, [reach, reach, reach, reach])
    out: List[torch.Tensor] = []
    for i in range(2 * reach + 1):
        for j in range(2 * reach + 1):
            out.append((a * padded[:, :, i : i + h, j : j + w]).mean(1, keepdim=True))
    return torch.cat(out, 1)


def warp(x: torch.Tensor, flo: torch.Tensor) -> torch.Tensor:
    """Take an image back along a flow, and mask what comes from outside."""
    B, C, H, W = x.size()
    xx = torch.arange(0, W).view(1, -1).repeat(H, 1)
    yy = torch.arange(0, H).view(-1, 1).repeat(1, W)
    xx = xx.view(1, 1, H, W).repeat(B, 1, 1, 1)
    yy = yy.view(1, 1, H, W).repeat(B, 1, 1, 1)
    grid = torch.cat((xx, yy), 1).float()
    vgrid = grid + flo
    vx = 2.0 * vgrid[:, 0, :, :] / max(W - 1, 1) - 1.0
    vy = 2.0 * vgrid[:, 1, :, :] / max(H - 1, 1) - 1.0
    vgrid = torch.stack((vx, vy), 3)
    output = F.grid_sample(x, vgrid, align_corners=True)
    mask = F.grid_sample(torch.ones_like(x), vgrid, align_corners=True)
    return output * (mask > 0.9999).float()


@flow(
    "PWC-Net",
    2018,
    "PWC-Net: CNNs for Optical Flow Using Pyramid, Warping, and Cost Volume",
    image(32),
    image(32),
)
class PWCNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = conv(3, 8, 3, 2)
        self.conv2 = conv(8, 12, 3, 2)
        self.conv3 = conv(12, 16, 3, 2)
        self.flow3 = nn.Sequential(conv(25, 16), nn.Conv2d(16, 2, 3, padding=1))
        self.up = nn.ConvTranspose2d(2, 2, 4, 2, 1)
        self.flow2 = nn.Sequential(conv(25 + 12 + 2, 16), nn.Conv2d(16, 2, 3, padding=1))
        self.context = nn.Sequential(conv(2, 8, 3, 1, 2), nn.Conv2d(8, 2, 3, padding=1))

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        a2 = self.conv2(self.conv1(a))
        b2 = self.conv2(self.conv1(b))
        a3, b3 = self.conv3(a2), self.conv3(b2)
        corr3 = F.leaky_relu(correlate(a3, b3, 2), 0.1)
        flow3 = self.flow3(corr3)
        up3 = self.up(flow3)
        warped = warp(b2, up3 * 0.625)
        corr2 = F.leaky_relu(correlate(a2, warped, 2), 0.1)
        flow2 = self.flow2(torch.cat((corr2, a2, up3), 1))
        return flow2 + self.context(flow2), flow3
