"""Graphs and clouds of points."""

from __future__ import annotations

from typing import List, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F

from architectures.registry import field, numbers

architecture = field("graphs and points")


class GraphConvolution(nn.Module):
    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(i, o) / i**0.5)
        self.bias = nn.Parameter(torch.randn(o) * 0.1)

    def forward(self, x: torch.Tensor, adj: torch.Tensor) -> torch.Tensor:
        support = torch.mm(x, self.weight)
        return torch.mm(adj, support) + self.bias


@architecture(
    "GCN",
    2017,
    "Semi-Supervised Classification with Graph Convolutional Networks",
    numbers(10, 8),
    numbers(10, 10),
)
class GCN(nn.Module):
    """The adjacency is normalised by its degrees in forward()."""

    def __init__(self) -> None:
        super().__init__()
        self.gc1 = GraphConvolution(8, 12)
        self.gc2 = GraphConvolution(12, 4)

    def forward(self, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        adj = (weights + weights.t() > 0.5).float()
        n = adj.size(0)
        adj = torch.max(adj, torch.eye(n, device=adj.device))
        degree = adj.sum(1)
        inv = degree.pow(-0.5)
        inv.masked_fill_(torch.isinf(inv), 0.0)
        adj = torch.diag(inv).mm(adj).mm(torch.diag(inv))
        x = F.relu(self.gc1(x, adj))
        x = F.dropout(x, 0.5, self.training)
        return F.log_softmax(self.gc2(x, adj), dim=1)


class GraphAttention(nn.Module):
    def __init__(self, i: int, o: int, alpha: float = 0.2, concat: bool = True) -> None:
        super().__init__()
        self.o = o
        self.concat = concat
        self.w = nn.Parameter(torch.randn(i, o) / i**0.5)
        self.a = nn.Parameter(torch.randn(2 * o, 1))
        self.leakyrelu = nn.LeakyReLU(alpha)

    def forward(self, x: torch.Tensor, adj: torch.Tensor) -> torch.Tensor:
        h = torch.mm(x, self.w)
        n = h.size(0)
        a_input = torch.cat([h.repeat(1, n).view(n * n, -1), h.repeat(n, 1)], dim=1)
        a_input = a_input.view(n, -1, 2 * self.o)
        e = self.leakyrelu(torch.matmul(a_input, self.a).squeeze(2))
        zero_vec = -9e15 * torch.ones_like(e)
        attention = torch.where(adj > 0, e, zero_vec)
        attention = F.softmax(attention, dim=1)
        h_prime = torch.matmul(attention, h)
        if self.concat:
            return F.elu(h_prime)
        return h_prime


@architecture("GAT", 2018, "Graph Attention Networks", numbers(10, 8), numbers(10, 10))
class GAT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([GraphAttention(8, 6) for _ in range(3)])
        self.out_att = GraphAttention(18, 4, concat=False)

    def forward(self, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        adj = weights + torch.eye(weights.size(0)) * 10
        heads: List[torch.Tensor] = []
        for att in self.attentions:
            heads.append(att(x, adj))
        x = torch.cat(heads, dim=1)
        x = F.elu(self.out_att(x, adj))
        return F.log_softmax(x, dim=1)


class STGCNBlock(nn.Module):
    def __init__(self, i: int, o: int, parts: int, joints: int, stride: int) -> None:
        super().__init__()
        self.parts = parts
        self.gcn = nn.Conv2d(i, o * parts, 1)
        self.tcn = nn.Sequential(
            nn.BatchNorm2d(o),
            nn.ReLU(inplace=True),
            nn.Conv2d(o, o, (5, 1), (stride, 1), (2, 0)),
            nn.BatchNorm2d(o),
        )
        self.residual = nn.Sequential(nn.Conv2d(i, o, 1, (stride, 1)), nn.BatchNorm2d(o))
        self.importance = nn.Parameter(torch.rand(parts, joints, joints) + 0.5)

    def forward(self, x: torch.Tensor, A: torch.Tensor) -> torch.Tensor:
        res = self.residual(x)
        x = self.gcn(x)
        n, kc, t, v = x.size()
        x = x.view(n, self.parts, kc // self.parts, t, v)
        x = torch.einsum("nkctv,kvw->nctw", [x, A * self.importance])
        return F.relu(self.tcn(x.contiguous()) + res, inplace=True)


@architecture(
    "ST-GCN",
    2018,
    "Spatial Temporal Graph Convolutional Networks for Skeletons",
    numbers(1, 3, 12, 7, 2),
)
class STGCN(nn.Module):
    """Skeletons of several people, (N, C, T, V, M)."""

    def __init__(self, joints: int = 7) -> None:
        super().__init__()
        A = torch.rand(3, joints, joints)
        self.register_buffer("A", A / A.sum(1, keepdim=True))
        self.data_bn = nn.BatchNorm1d(3 * joints)
        self.blocks = nn.ModuleList(
            [STGCNBlock(3, 8, 3, joints, 1), STGCNBlock(8, 12, 3, joints, 2)]
        )
        self.fcn = nn.Conv2d(12, 6, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        N, C, T, V, M = x.size()
        x = x.permute(0, 4, 3, 1, 2).contiguous()
        x = x.view(N * M, V * C, T)
        x = self.data_bn(x)
        x = x.view(N, M, V, C, T)
        x = x.permute(0, 1, 3, 4, 2).contiguous()
        x = x.view(N * M, C, T, V)
        for block in self.blocks:
            x = block(x, self.A)
        x = F.avg_pool2d(x, x.size()[2:])
        x = x.view(N, M, -1, 1, 1).mean(dim=1)
        x = self.fcn(x)
        return x.view(x.size(0), -1)


class TNet(nn.Module):
    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k
        self.conv1 = nn.Conv1d(k, 16, 1)
        self.conv2 = nn.Conv1d(16, 24, 1)
        self.fc1 = nn.Linear(24, 16)
        self.fc2 = nn.Linear(16, k * k)
        self.bn1 = nn.BatchNorm1d(16)
        self.bn2 = nn.BatchNorm1d(24)
        self.bn3 = nn.BatchNorm1d(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batchsize = x.size()[0]
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = torch.max(x, 2, keepdim=True)[0]
        x = x.view(-1, 24)
        x = self.fc2(F.relu(self.bn3(self.fc1(x))))
        iden = torch.eye(self.k).view(1, self.k * self.k).repeat(batchsize, 1)
        x = x + iden
        return x.view(-1, self.k, self.k)


@architecture("PointNet", 2017, "PointNet: Deep Learning on Point Sets", numbers(1, 3, 32))
class PointNet(nn.Module):
    def __init__(self, classes: int = 6) -> None:
        super().__init__()
        self.stn = TNet(3)
        self.conv1 = nn.Conv1d(3, 16, 1)
        self.bn1 = nn.BatchNorm1d(16)
        self.fstn = TNet(16)
        self.conv2 = nn.Conv1d(16, 24, 1)
        self.bn2 = nn.BatchNorm1d(24)
        self.seg = nn.Conv1d(40, classes, 1)

    def forward(self, x: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        n_pts = x.size()[2]
        trans = self.stn(x)
        x = torch.bmm(x.transpose(2, 1), trans).transpose(2, 1)
        x = F.relu(self.bn1(self.conv1(x)))
        trans_feat = self.fstn(x)
        x = torch.bmm(x.transpose(2, 1), trans_feat).transpose(2, 1)
        pointfeat = x
        x = self.bn2(self.conv2(x))
        x = torch.max(x, 2, keepdim=True)[0].view(-1, 24)
        x = x.view(-1, 24, 1).repeat(1, 1, n_pts)
        x = self.seg(torch.cat([x, pointfeat], 1))
        x = F.log_softmax(x.transpose(2, 1).contiguous(), dim=-1)
        return x, trans


def square_distance(src: torch.Tensor, dst: torch.Tensor) -> torch.Tensor:
    B, N, _ = src.shape
    _, M, _ = dst.shape
    dist = -2 * torch.matmul(src, dst.permute(0, 2, 1))
    dist += torch.sum(src**2, -1).view(B, N, 1)
    dist += torch.sum(dst**2, -1).view(B, 1, M)
    return dist


def index_points(points: torch.Tensor, idx: torch.Tensor) -> torch.Tensor:
    B, M, K = idx.shape
    batch = torch.arange(B, dtype=torch.long).view(B, 1, 1).repeat(1, M, K)
    return points[batch, idx, :]


def farthest_point_sample(xyz: torch.Tensor, npoint: int) -> torch.Tensor:
    """Choose points one by one, each the farthest from those that were chosen."""
    B, N, C = xyz.shape
    centroids = torch.zeros([B, npoint], dtype=torch.long)
    distance = torch.ones([B, N]) * 1e10
    farthest = torch.zeros([B], dtype=torch.long)
    batch_indices = torch.arange(B, dtype=torch.long)
    for i in range(npoint):
        centroids[:, i] = farthest
        centroid = xyz[batch_indices, farthest, :].view(B, 1, C)
        dist = torch.sum((xyz - centroid) ** 2, -1)
        distance = torch.min(distance, dist)
        farthest = torch.max(distance, -1)[1]
    return centroids


@architecture(
    "PointNet++", 2017, "PointNet++: Deep Hierarchical Feature Learning", numbers(1, 24, 3)
)
class PointNet2(nn.Module):
    """A set abstraction by farthest points and balls, and its features interpolated back."""

    def __init__(self) -> None:
        super().__init__()
        self.npoint = 6
        self.nsample = 5
        self.radius = 1.5
        self.mlp_convs = nn.ModuleList([nn.Conv2d(3, 12, 1), nn.Conv2d(12, 16, 1)])
        self.mlp_bns = nn.ModuleList([nn.BatchNorm2d(12), nn.BatchNorm2d(16)])
        self.up = nn.Conv1d(19, 12, 1)
        self.head = nn.Conv1d(12, 4, 1)

    def query_ball_point(self, xyz: torch.Tensor, new_xyz: torch.Tensor) -> torch.Tensor:
        B, N, C = xyz.shape
        _, S, _ = new_xyz.shape
        group_idx = torch.arange(N, dtype=torch.long).view(1, 1, N).repeat([B, S, 1])
        sqrdists = square_distance(new_xyz, xyz)
        group_idx[sqrdists > self.radius**2] = torch.tensor(N)
        group_idx = group_idx.sort(dim=-1)[0][:, :, : self.nsample]
        group_first = group_idx[:, :, 0].view(B, S, 1).repeat([1, 1, self.nsample])
        mask = group_idx == N
        group_idx[mask] = group_first[mask]
        return group_idx

    def forward(self, xyz: torch.Tensor) -> torch.Tensor:
        B, N, C = xyz.shape
        fps = farthest_point_sample(xyz, self.npoint)
        new_xyz = index_points(xyz, fps.unsqueeze(2)).squeeze(2)
        idx = self.query_ball_point(xyz, new_xyz)
        grouped = index_points(xyz, idx) - new_xyz.view(B, self.npoint, 1, C)
        x = grouped.permute(0, 3, 2, 1)
        for conv, bn in zip(self.mlp_convs, self.mlp_bns):
            x = F.relu(bn(conv(x)))
        x = torch.max(x, 2)[0].permute(0, 2, 1)
        dists, near = square_distance(xyz, new_xyz).sort(dim=-1)
        dists, near = dists[:, :, :3], near[:, :, :3]
        dist_recip = 1.0 / (dists.clamp(min=0.0) + 1e-2)
        weight = dist_recip / torch.sum(dist_recip, dim=2, keepdim=True)
        interpolated = torch.sum(index_points(x, near) * weight.view(B, N, 3, 1), dim=2)
        y = torch.cat([xyz, interpolated], dim=-1).permute(0, 2, 1)
        return self.head(F.relu(self.up(y)))


class EdgeConv(nn.Module):
    """Features of the edges to the nearest neighbours, found in the space of the features."""

    def __init__(self, i: int, o: int, k: int) -> None:
        super().__init__()
        self.k = k
        self.conv = nn.Sequential(
            nn.Conv2d(2 * i, o, 1, bias=False), nn.BatchNorm2d(o), nn.LeakyReLU(0.2)
        )

    def knn(self, x: torch.Tensor) -> torch.Tensor:
        inner = -2 * torch.matmul(x.transpose(2, 1), x)
        xx = torch.sum(x**2, dim=1, keepdim=True)
        pairwise = -xx - inner - xx.transpose(2, 1)
        return pairwise.topk(k=self.k, dim=-1)[1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch_size, dims, num_points = x.size()
        idx = self.knn(x)
        idx_base = torch.arange(0, batch_size, device=x.device).view(-1, 1, 1) * num_points
        idx = (idx + idx_base).view(-1)
        x = x.transpose(2, 1).contiguous()
        feature = x.view(batch_size * num_points, -1)[idx, :]
        feature = feature.view(batch_size, num_points, self.k, dims)
        x = x.view(batch_size, num_points, 1, dims).repeat(1, 1, self.k, 1)
        feature = torch.cat((feature - x, x), dim=3).permute(0, 3, 1, 2).contiguous()
        return self.conv(feature).max(dim=-1, keepdim=False)[0]


@architecture("DGCNN", 2019, "Dynamic Graph CNN for Learning on Point Clouds", numbers(1, 3, 24))
class DGCNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.edge1 = EdgeConv(3, 12, 5)
        self.edge2 = EdgeConv(12, 16, 5)
        self.conv = nn.Sequential(
            nn.Conv1d(28, 24, 1, bias=False), nn.BatchNorm1d(24), nn.LeakyReLU(0.2)
        )
        self.linear = nn.Linear(48, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch_size = x.size(0)
        x1 = self.edge1(x)
        x2 = self.edge2(x1)
        x = self.conv(torch.cat((x1, x2), dim=1))
        y1 = F.adaptive_max_pool1d(x, 1).view(batch_size, -1)
        y2 = F.adaptive_avg_pool1d(x, 1).view(batch_size, -1)
        return self.linear(torch.cat((y1, y2), 1))
