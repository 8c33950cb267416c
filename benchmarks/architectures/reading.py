"""Poses of people, and text in images."""

from __future__ import annotations

import math
from typing import List, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F

from architectures.registry import Input, field, image

pose = field("pose")
text = field("text recognition")


def conv(i: int, o: int, k: int = 3, s: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(i, o, k, s, k // 2)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return nn.Sequential(layer, nn.ReLU(inplace=True))


@pose(
    "OpenPose",
    2017,
    "Realtime Multi-Person 2D Pose Estimation using Part Affinity Fields",
    image(48),
)
class OpenPose(nn.Module):
    def __init__(self, parts: int = 5, limbs: int = 8) -> None:
        super().__init__()
        self.base = nn.Sequential(
            conv(3, 8), nn.MaxPool2d(2, 2), conv(8, 16), nn.MaxPool2d(2, 2), conv(16, 16)
        )
        self.paf1 = nn.Sequential(conv(16, 16), nn.Conv2d(16, limbs, 1))
        self.heat1 = nn.Sequential(conv(16, 16), nn.Conv2d(16, parts, 1))
        joined = 16 + parts + limbs
        self.paf2 = nn.Sequential(conv(joined, 16, 7), nn.Conv2d(16, limbs, 1))
        self.heat2 = nn.Sequential(conv(joined, 16, 7), nn.Conv2d(16, parts, 1))

    def forward(self, x: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        out1 = self.base(x)
        out2 = torch.cat([self.paf1(out1), self.heat1(out1), out1], 1)
        paf, heat = self.paf2(out2), self.heat2(out2)
        size = (x.size(2), x.size(3))
        heat = F.interpolate(heat, size=size, mode="bicubic", align_corners=False)
        peak = F.max_pool2d(heat, kernel_size=3, stride=1, padding=1)
        keep = (heat >= peak) & (heat > 0.05)
        return paf, heat * keep.float()


class Residual(nn.Module):
    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(i)
        self.conv1 = nn.Conv2d(i, o // 2, 1)
        self.bn2 = nn.BatchNorm2d(o // 2)
        self.conv2 = nn.Conv2d(o // 2, o // 2, 3, padding=1)
        self.bn3 = nn.BatchNorm2d(o // 2)
        self.conv3 = nn.Conv2d(o // 2, o, 1)
        self.need_skip = i != o
        self.skip = nn.Conv2d(i, o, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        residual = self.skip(x) if self.need_skip else x
        out = self.conv1(F.relu(self.bn1(x)))
        out = self.conv2(F.relu(self.bn2(out)))
        out = self.conv3(F.relu(self.bn3(out)))
        out += residual
        return out


class HourglassBlock(nn.Module):
    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        self.up1 = Residual(width, width)
        self.low1 = Residual(width, width)
        self.low2: nn.Module
        if depth > 1:
            self.low2 = HourglassBlock(depth - 1, width)
        else:
            self.low2 = Residual(width, width)
        self.low3 = Residual(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        up1 = self.up1(x)
        low = self.low3(self.low2(self.low1(F.max_pool2d(x, 2, stride=2))))
        return up1 + F.interpolate(low, scale_factor=2.0)


@pose("Stacked Hourglass", 2016, "Stacked Hourglass Networks for Human Pose Estimation", image(64))
class StackedHourglass(nn.Module):
    """Joints as the expectation of a softmax over the last stack's heat maps."""

    def __init__(self, width: int = 12, joints: int = 4) -> None:
        super().__init__()
        self.joints = joints
        self.pre = nn.Sequential(
            nn.Conv2d(3, 8, 7, 2, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), Residual(8, width)
        )
        self.hgs = nn.ModuleList([HourglassBlock(2, width) for _ in range(2)])
        self.features = nn.ModuleList([Residual(width, width) for _ in range(2)])
        self.outs = nn.ModuleList([nn.Conv2d(width, joints, 1) for _ in range(2)])
        self.merge_features = nn.ModuleList([nn.Conv2d(width, width, 1) for _ in range(2)])
        self.merge_preds = nn.ModuleList([nn.Conv2d(joints, width, 1) for _ in range(2)])

    def forward(self, x: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        x = F.max_pool2d(self.pre(x), 2, 2)
        combined: List[torch.Tensor] = []
        for hg, features, out, mf, mp in zip(
            self.hgs, self.features, self.outs, self.merge_features, self.merge_preds
        ):
            feature = features(hg(x))
            preds = out(feature)
            combined.append(preds)
            x = x + mp(preds) + mf(feature)
        heat = torch.stack(combined, 1)
        n, _, _, h, w = heat.shape
        probs = F.softmax(heat[:, -1].reshape(n, self.joints, -1), dim=2)
        probs = probs.view(n, self.joints, h, w)
        ys = (probs.sum(3) * torch.arange(h).float()).sum(2)
        xs = (probs.sum(2) * torch.arange(w).float()).sum(2)
        return heat, torch.stack([xs, ys], 2)


class BidirectionalLSTM(nn.Module):
    def __init__(self, i: int, hidden: int, o: int) -> None:
        super().__init__()
        self.rnn = nn.LSTM(i, hidden, bidirectional=True)
        self.embedding = nn.Linear(hidden * 2, o)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        recurrent, _ = self.rnn(x)
        T, b, h = recurrent.size()
        t_rec = recurrent.view(T * b, h)
        output = self.embedding(t_rec)
        return output.view(T, b, -1)


@text(
    "CRNN",
    2015,
    "An End-to-End Trainable Neural Network for Text Recognition",
    Input((1, 1, 32, 64)),
)
class CRNN(nn.Module):
    def __init__(self, classes: int = 12) -> None:
        super().__init__()
        self.cnn = nn.Sequential(
            conv(1, 8),
            nn.MaxPool2d(2, 2),
            conv(8, 16),
            nn.MaxPool2d(2, 2),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(True),
            nn.MaxPool2d((2, 2), (2, 1), (0, 1)),
            conv(16, 16),
            nn.MaxPool2d((2, 2), (2, 1), (0, 1)),
            nn.Conv2d(16, 16, 2),
            nn.ReLU(True),
        )
        self.rnn = nn.Sequential(BidirectionalLSTM(16, 8, 8), BidirectionalLSTM(8, 8, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.cnn(x)
        b, c, h, w = features.size()
        assert h == 1, "the height of the features must be 1"
        features = features.squeeze(2).permute(2, 0, 1)
        return F.log_softmax(self.rnn(features), dim=2)


class TPS(nn.Module):
    """A thin-plate spline through control points, sampled on a grid."""

    def __init__(self, height: int, width: int, points: int) -> None:
        super().__init__()
        self.height = height
        self.width = width
        self.points = points
        self.body = nn.Sequential(conv(1, 8), nn.MaxPool2d(2, 2), conv(8, 8), nn.MaxPool2d(2, 2))
        self.fc = nn.Linear(8, points * 2)
        xs = torch.linspace(-1.0, 1.0, points // 2)
        one = torch.ones(points // 2)
        control = torch.cat([torch.stack([xs, -one], 1), torch.stack([xs, one], 1)], 0)
        nn.init.normal_(self.fc.weight, 0, 0.1)
        self.fc.bias.data = control.view(-1)
        rows = (torch.arange(height).float() * 2 + 1) / height - 1
        columns = (torch.arange(width).float() * 2 + 1) / width - 1
        grid = torch.stack(torch.meshgrid([rows, columns])[::-1], 2).view(-1, 2)
        distance = (control[:, None] - control[None]).norm(dim=2)
        distance += torch.eye(points)
        hat = (distance**2) * torch.log(distance)
        n = points
        delta = torch.zeros(n + 3, n + 3)
        delta[:n, 0] = 1
        delta[:n, 1:3] = control
        delta[:n, 3:] = hat
        delta[n : n + 2, 3:] = control.t()
        delta[n + 2, 3:] = 1
        r = (grid[:, None] - control[None]).norm(dim=2)
        rbf = r**2 * torch.log(r + 1e-6)
        self.register_buffer("inv_delta", delta.inverse())
        self.register_buffer("hat", torch.cat([torch.ones(len(grid), 1), grid, rbf], 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch = x.size(0)
        features = self.body(x)
        c = self.fc(F.adaptive_avg_pool2d(features, 1).view(batch, -1)).view(batch, self.points, 2)
        inv = self.inv_delta.repeat(batch, 1, 1)
        hat = self.hat.repeat(batch, 1, 1)
        c = torch.cat((c, torch.zeros([batch, 3, 2], device=x.device)), dim=1)
        grid = torch.bmm(hat, torch.bmm(inv, c)).reshape(batch, self.height, self.width, 2)
        return F.grid_sample(x, grid, padding_mode="border", align_corners=True)


@text("ASTER", 2018, "ASTER: An Attentional Scene Text Recognizer", Input((1, 1, 16, 48)))
class ASTER(nn.Module):
    """A rectified image, read letter by letter; each letter is the next step's input."""

    def __init__(self, classes: int = 10, steps: int = 4) -> None:
        super().__init__()
        self.classes = classes
        self.steps = steps
        self.tps = TPS(16, 48, 8)
        self.cnn = nn.Sequential(
            conv(1, 8), nn.MaxPool2d((2, 2)), conv(8, 12, 3, 2), nn.AdaptiveAvgPool2d((1, 12))
        )
        self.lstm = nn.LSTM(12, 8, bidirectional=True, batch_first=True)
        self.i2h = nn.Linear(16, 12, bias=False)
        self.h2h = nn.Linear(12, 12)
        self.score = nn.Linear(12, 1, bias=False)
        self.rnn = nn.LSTMCell(16 + classes, 12)
        self.generator = nn.Linear(12, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.cnn(self.tps(x))
        x = x.permute(0, 3, 1, 2).squeeze(3)
        batch_H, _ = self.lstm(x)
        batch = batch_H.size(0)
        h = torch.zeros([batch, 12], device=x.device)
        c = torch.zeros([batch, 12], device=x.device)
        targets = torch.zeros([batch], dtype=torch.long, device=x.device)
        probs = torch.zeros([batch, self.steps, self.classes], device=x.device)
        for i in range(self.steps):
            one_hot = torch.zeros([batch, self.classes], device=x.device)
            one_hot = one_hot.scatter_(1, targets.unsqueeze(1), 1)
            e = self.score(torch.tanh(self.i2h(batch_H) + self.h2h(h).unsqueeze(1)))
            alpha = F.softmax(e, dim=1)
            context = torch.bmm(alpha.permute(0, 2, 1), batch_H).squeeze(1)
            h, c = self.rnn(torch.cat([context, one_hot], 1), (h, c))
            step = self.generator(h)
            probs[:, i, :] = step
            targets = step.max(1)[1]
        return probs


@text("EAST", 2017, "EAST: An Efficient and Accurate Scene Text Detector", image(64))
class EAST(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 8, 3, 2)
        self.c1 = conv(8, 12, 3, 2)
        self.c2 = conv(12, 16, 3, 2)
        self.c3 = conv(16, 24, 3, 2)
        self.conv1 = nn.Conv2d(40, 16, 1)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(28, 12, 1)
        self.bn2 = nn.BatchNorm2d(12)
        self.score = nn.Conv2d(12, 1, 1)
        self.loc = nn.Conv2d(12, 4, 1)
        self.angle = nn.Conv2d(12, 1, 1)
        self.scope = 64

    def forward(self, x: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        c1 = self.c1(self.stem(x))
        c2 = self.c2(c1)
        c3 = self.c3(c2)
        y = F.interpolate(c3, scale_factor=2.0, mode="bilinear", align_corners=True)
        y = F.relu(self.bn1(self.conv1(torch.cat((y, c2), 1))))
        y = F.interpolate(y, scale_factor=2.0, mode="bilinear", align_corners=True)
        y = F.relu(self.bn2(self.conv2(torch.cat((y, c1), 1))))
        score = torch.sigmoid(self.score(y))
        loc = torch.sigmoid(self.loc(y)) * self.scope
        angle = (torch.sigmoid(self.angle(y)) - 0.5) * math.pi
        geo = torch.cat((loc, angle), 1)
        cos, sin = torch.cos(angle[:, 0]), torch.sin(angle[:, 0])
        up, left = geo[:, 0], geo[:, 3]
        corner = torch.stack([-left * cos - up * sin, left * sin - up * cos], 1)
        return score, torch.cat([geo, corner], 1)
