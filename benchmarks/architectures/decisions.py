"""Games, time series, and images compared with each other."""

from __future__ import annotations

import math
from typing import List, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F

from architectures.registry import Input, enliven, field, image, indices, numbers

games = field("reinforcement learning")
series = field("time series")
metric = field("metric learning and tracking")


@games(
    "Dueling DQN",
    2016,
    "Dueling Network Architectures for Deep Reinforcement Learning",
    image(36, 4),
)
class DuelingDQN(nn.Module):
    """Frames of 0 to 255, scaled in forward()."""

    def __init__(self, actions: int = 5) -> None:
        super().__init__()
        self.actions = actions
        self.conv1 = nn.Conv2d(4, 8, 8, stride=4)
        self.conv2 = nn.Conv2d(8, 12, 4, stride=2)
        self.conv3 = nn.Conv2d(12, 12, 2)
        self.fc_adv = nn.Linear(12 * 4, 16)
        self.fc_val = nn.Linear(12 * 4, 16)
        self.adv = nn.Linear(16, actions)
        self.val = nn.Linear(16, 1)
        enliven(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch_size = x.size(0)
        x = x.float() * 60 / 256
        x = F.relu(self.conv1(x))
        x = F.relu(self.conv2(x))
        x = F.relu(self.conv3(x))
        x = x.view(x.size(0), -1)
        adv = self.adv(F.relu(self.fc_adv(x)))
        val = self.val(F.relu(self.fc_val(x))).expand(batch_size, self.actions)
        return val + adv - adv.mean(1).unsqueeze(1).expand(batch_size, self.actions)


class ImpalaBlock(nn.Module):
    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(i, o, 3, padding=1)
        self.res = nn.Sequential(
            nn.ReLU(), nn.Conv2d(o, o, 3, padding=1), nn.ReLU(), nn.Conv2d(o, o, 3, padding=1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(self.conv(x), kernel_size=3, stride=2, padding=1)
        return x + self.res(x)


@games(
    "IMPALA",
    2018,
    "IMPALA: Scalable Distributed Deep-RL",
    Input((4, 1, 3, 24, 24)),
    indices(4, 1, below=5),
    indices(4, 1, below=2),
    numbers(1, 1, 16),
    numbers(1, 1, 16),
)
class Impala(nn.Module):
    """Steps of a game (T, B, ...); the state is reset where a game has ended."""

    def __init__(self, actions: int = 5) -> None:
        super().__init__()
        self.num_actions = actions
        self.block1 = ImpalaBlock(3, 8)
        self.block2 = ImpalaBlock(8, 12)
        self.fc = nn.Linear(12 * 36, 20)
        self.core = nn.LSTM(20 + actions, 16, 1)
        self.policy = nn.Linear(16, actions)
        self.baseline = nn.Linear(16, 1)

    def forward(
        self,
        frame: torch.Tensor,
        last_action: torch.Tensor,
        done: torch.Tensor,
        h: torch.Tensor,
        c: torch.Tensor,
    ) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        T, B = frame.size(0), frame.size(1)
        x = torch.flatten(frame, 0, 1).float()
        x = F.relu(self.block2(self.block1(x)))
        x = F.relu(self.fc(x.view(T * B, -1)))
        one_hot = F.one_hot(last_action.view(T * B), self.num_actions).float()
        core_input = torch.cat([x, one_hot], dim=-1).view(T, B, -1)
        notdone = (~(done > 0)).float()
        outputs: List[torch.Tensor] = []
        for t in range(T):
            nd = notdone[t].view(1, -1, 1)
            h = nd * h
            c = nd * c
            output, (h, c) = self.core(core_input[t].unsqueeze(0), (h, c))
            outputs.append(output)
        y = torch.flatten(torch.cat(outputs), 0, 1)
        logits = self.policy(y)
        action = torch.argmax(logits, dim=1)
        baseline = self.baseline(y).view(T, B)
        chosen = F.log_softmax(logits, -1).gather(1, action.unsqueeze(1)).squeeze(1)
        return logits.view(T, B, self.num_actions), baseline, chosen.view(T, B), h


class Chomp1d(nn.Module):
    def __init__(self, chomp_size: int) -> None:
        super().__init__()
        self.chomp_size = chomp_size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :, : -self.chomp_size].contiguous()


class TCNBlock(nn.Module):
    """Two weight-normalised causal convolutions."""

    def __init__(self, i: int, o: int, dilation: int) -> None:
        super().__init__()
        pad = 2 * dilation
        self.net = nn.Sequential(
            nn.utils.weight_norm(nn.Conv1d(i, o, 3, padding=pad, dilation=dilation)),
            Chomp1d(pad),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.utils.weight_norm(nn.Conv1d(o, o, 3, padding=pad, dilation=dilation)),
            Chomp1d(pad),
            nn.ReLU(),
            nn.Dropout(0.2),
        )
        self.downsample = nn.Conv1d(i, o, 1) if i != o else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.net(x)
        if self.downsample is not None:
            x = self.downsample(x)
        return F.relu(out + x)


@series(
    "TCN",
    2018,
    "An Empirical Evaluation of Generic Convolutional and Recurrent Networks",
    numbers(1, 4, 40),
)
class TCN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(TCNBlock(4, 12, 1), TCNBlock(12, 12, 2), TCNBlock(12, 16, 4))
        self.linear = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.network(x)[:, :, -1])


class NBeatsBlock(nn.Module):
    def __init__(self, kind: str, back: int, fore: int, theta: int, width: int = 16) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(back, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
        )
        self.theta_b = nn.Linear(width, theta, bias=False)
        self.theta_f = nn.Linear(width, theta, bias=False)
        self.kind = kind
        self.back = back
        self.fore = fore

    def basis(self, theta: torch.Tensor, length: int, future: bool) -> torch.Tensor:
        if future:
            t = torch.arange(0, length).float() / length
        else:
            t = torch.arange(-length, 0).float() / length
        rows: List[torch.Tensor] = []
        p = theta.size(1)
        if self.kind == "trend":
            for i in range(p):
                rows.append(t**i)
        else:
            for i in range(p // 2):
                rows.append(torch.cos(2 * math.pi * i * t))
            for i in range(p - p // 2):
                rows.append(torch.sin(2 * math.pi * (i + 1) * t))
        return theta.mm(torch.stack(rows))

    def forward(self, x: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        x = self.fc(x)
        backcast = self.basis(self.theta_b(x), self.back, False)
        forecast = self.basis(self.theta_f(x), self.fore, True)
        return backcast, forecast


@series("N-BEATS", 2020, "N-BEATS: Neural Basis Expansion Analysis", numbers(1, 24))
class NBeats(nn.Module):
    def __init__(self, back: int = 24, fore: int = 8) -> None:
        super().__init__()
        self.fore = fore
        self.blocks = nn.ModuleList(
            [
                NBeatsBlock("trend", back, fore, 3),
                NBeatsBlock("trend", back, fore, 3),
                NBeatsBlock("seasonality", back, fore, 6),
            ]
        )

    def forward(self, backcast: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        forecast = torch.zeros([backcast.size(0), self.fore])
        for block in self.blocks:
            b, f = block(backcast)
            backcast = backcast - b
            forecast = forecast + f
        return backcast, forecast


class ProbAttention(nn.Module):
    """Only the queries that differ most from the mean attend; the rest take the values' mean."""

    def __init__(self, dim: int, heads: int, length: int, top: int, sampled: int) -> None:
        super().__init__()
        self.heads = heads
        self.top = top
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        self.register_buffer("index_sample", torch.randint(0, length, (length, sampled)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, L, D = x.shape
        H = self.heads
        E = D // H
        Q = self.q(x).view(B, L, H, -1).transpose(2, 1)
        K = self.k(x).view(B, L, H, -1).transpose(2, 1)
        V = self.v(x).view(B, L, H, -1).transpose(2, 1)
        K_expand = K.unsqueeze(-3).expand(B, H, L, L, E)
        K_sample = K_expand[:, :, torch.arange(L).unsqueeze(1), self.index_sample, :]
        QK = torch.matmul(Q.unsqueeze(-2), K_sample.transpose(-2, -1)).squeeze(-2)
        M = QK.max(-1)[0] - torch.div(QK.sum(-1), L)
        M_top = M.topk(self.top, sorted=False)[1]
        rows = torch.arange(B)[:, None, None]
        columns = torch.arange(H)[None, :, None]
        Q_reduce = Q[rows, columns, M_top, :]
        scores = torch.matmul(Q_reduce, K.transpose(-2, -1)) * (1.0 / math.sqrt(E))
        context = V.mean(dim=-2).unsqueeze(-2).expand(B, H, L, E).clone()
        attn = torch.softmax(scores, dim=-1)
        context[rows, columns, M_top, :] = torch.matmul(attn, V).type_as(context)
        return self.out(context.transpose(2, 1).contiguous().view(B, L, -1))


@series(
    "Informer", 2021, "Informer: Beyond Efficient Transformer for Long Sequences", numbers(1, 24, 5)
)
class Informer(nn.Module):
    def __init__(self, dim: int = 16) -> None:
        super().__init__()
        self.token = nn.Conv1d(5, dim, 3, padding=1, padding_mode="circular", bias=False)
        self.attn1 = ProbAttention(dim, 4, 24, 8, 10)
        self.attn2 = ProbAttention(dim, 4, 12, 6, 6)
        self.down_conv = nn.Conv1d(dim, dim, 3, padding=2, padding_mode="circular")
        self.norm = nn.BatchNorm1d(dim)
        self.pool = nn.MaxPool1d(3, 2, 1)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.project = nn.Linear(12 * dim, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.token(x.permute(0, 2, 1)).transpose(1, 2)
        x = self.norm1(x + self.attn1(x))
        y = self.norm(self.down_conv(x.permute(0, 2, 1)))
        x = self.pool(F.elu(y)).transpose(1, 2)[:, :12]
        x = self.norm2(x + self.attn2(x))
        return self.project(x.reshape(x.size(0), -1))


@metric(
    "SiamFC", 2016, "Fully-Convolutional Siamese Networks for Object Tracking", image(20), image(36)
)
class SiamFC(nn.Module):
    """One image's features are the kernels that the other's are convolved with."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 12, 5, 2),
            nn.BatchNorm2d(12),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(12, 16, 3, groups=2),
        )

    def forward(self, z: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        z = self.features(z)
        x = self.features(x)
        nz, nx = z.size(0), x.size(0)
        c, h, w = x.size(1), x.size(2), x.size(3)
        x = x.view(-1, nz * c, h, w)
        out = F.conv2d(x, z, groups=nz)
        out = out.view(nx, -1, out.size(-2), out.size(-1))
        return out * 0.1


@metric("ArcFace", 2019, "ArcFace: Additive Angular Margin Loss", image(24), indices(1, below=8))
class ArcFace(nn.Module):
    def __init__(self, classes: int = 8, s: float = 8.0, m: float = 0.5) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False),
            nn.BatchNorm2d(8),
            nn.PReLU(8),
            nn.Conv2d(8, 16, 3, 2, 1, bias=False),
            nn.BatchNorm2d(16),
            nn.PReLU(16),
            nn.Conv2d(16, 16, 6, groups=16, bias=False),
            nn.BatchNorm2d(16),
        )
        self.weight = nn.Parameter(torch.randn(classes, 16))
        self.s = s
        self.cos_m = math.cos(m)
        self.sin_m = math.sin(m)
        self.th = math.cos(math.pi - m)
        self.mm = math.sin(math.pi - m) * m

    def forward(self, x: torch.Tensor, label: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        embedding = self.features(x).view(x.size(0), -1)
        cosine = F.linear(F.normalize(embedding), F.normalize(self.weight))
        sine = torch.sqrt((1.0 - torch.pow(cosine, 2)).clamp(0, 1))
        phi = cosine * self.cos_m - sine * self.sin_m
        phi = torch.where(cosine > self.th, phi, cosine - self.mm)
        one_hot = torch.zeros([x.size(0), self.weight.size(0)], device=x.device)
        one_hot.scatter_(1, label.view(-1, 1).long(), 1)
        output = (one_hot * phi) + ((1.0 - one_hot) * cosine)
        output *= self.s
        return output, embedding


@metric("GeM", 2018, "Fine-tuning CNN Image Retrieval with No Human Annotation", image(24))
class GeM(nn.Module):
    """Generalised-mean pooling with a learned power, and whitened descriptors."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 12, 3, 2, 1),
            nn.BatchNorm2d(12),
            nn.ReLU(inplace=True),
            nn.Conv2d(12, 16, 3, 2, 1),
            nn.ReLU(inplace=True),
        )
        self.p = nn.Parameter(torch.ones(1) * 3)
        self.whiten = nn.Linear(16, 12)

    def gem(self, x: torch.Tensor) -> torch.Tensor:
        x = x.clamp(min=1e-6).pow(self.p)
        return F.avg_pool2d(x, (x.size(-2), x.size(-1))).pow(1.0 / self.p)

    def l2n(self, x: torch.Tensor) -> torch.Tensor:
        return x / (torch.norm(x, p=2, dim=1, keepdim=True) + 1e-6).expand_as(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        o = self.l2n(self.gem(self.features(x))).squeeze(-1).squeeze(-1)
        return self.l2n(self.whiten(o))
