"""Recommendation."""

from __future__ import annotations

from typing import List

import torch
import torch.nn as nn
import torch.nn.functional as F

from architectures.registry import enliven, field, indices, numbers

architecture = field("recommendation")


@architecture(
    "DLRM",
    2019,
    "Deep Learning Recommendation Model for Personalization",
    numbers(2, 6),
    indices(3, 8, below=20),
)
class DLRM(nn.Module):
    """Bags of one size for each feature, and products of every pair of vectors."""

    def __init__(self, features: int = 3, dim: int = 8) -> None:
        super().__init__()
        self.emb = nn.ModuleList([nn.EmbeddingBag(20, dim, mode="sum") for _ in range(features)])
        self.bottom = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, dim), nn.ReLU())
        self.top = nn.Sequential(nn.Linear(dim + 6, 12), nn.ReLU(), nn.Linear(12, 1), nn.Sigmoid())
        self.register_buffer("offsets", torch.tensor([0, 4]))
        self.register_buffer("li", torch.tensor([1, 2, 2, 3, 3, 3]))
        self.register_buffer("lj", torch.tensor([0, 0, 1, 0, 1, 2]))
        enliven(self)

    def forward(self, dense: torch.Tensor, sparse: torch.Tensor) -> torch.Tensor:
        x = self.bottom(dense)
        ly: List[torch.Tensor] = [x]
        for k, bag in enumerate(self.emb):
            ly.append(bag(sparse[k], self.offsets))
        batch, d = x.shape
        T = torch.cat(ly, dim=1).view((batch, -1, d))
        Z = torch.bmm(T, torch.transpose(T, 1, 2))
        flat = Z[:, self.li, self.lj]
        return self.top(torch.cat([x, flat], dim=1))


class FactorizationMachine(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        square_of_sum = torch.sum(x, dim=1) ** 2
        sum_of_square = torch.sum(x**2, dim=1)
        ix = torch.sum(square_of_sum - sum_of_square, dim=1, keepdim=True)
        return 0.5 * ix


@architecture(
    "DeepFM", 2017, "DeepFM: A Factorization-Machine based Neural Network", indices(4, 5, below=9)
)
class DeepFM(nn.Module):
    """All fields share one table, at offsets."""

    def __init__(self, fields: int = 5, dim: int = 6) -> None:
        super().__init__()
        self.register_buffer("offsets", torch.arange(fields) * 9)
        self.embedding = nn.Embedding(9 * fields, dim)
        self.linear = nn.Embedding(9 * fields, 1)
        self.bias = nn.Parameter(torch.zeros((1,)))
        self.fm = FactorizationMachine()
        self.embed_output_dim = fields * dim
        self.mlp = nn.Sequential(
            nn.Linear(fields * dim, 16),
            nn.BatchNorm1d(16),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(16, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.offsets.unsqueeze(0)
        embed_x = self.embedding(x) * 0.3
        linear = torch.sum(self.linear(x), dim=1) * 0.1 + self.bias
        y = linear + self.fm(embed_x) + self.mlp(embed_x.view(-1, self.embed_output_dim))
        return torch.sigmoid(y.squeeze(1))


@architecture(
    "NCF", 2017, "Neural Collaborative Filtering", indices(6, below=20), indices(6, below=30)
)
class NCF(nn.Module):
    def __init__(self, factors: int = 8) -> None:
        super().__init__()
        self.user_gmf = nn.Embedding(20, factors)
        self.item_gmf = nn.Embedding(30, factors)
        self.user_mlp = nn.Embedding(20, factors * 2)
        self.item_mlp = nn.Embedding(30, factors * 2)
        self.mlp = nn.ModuleList(
            [nn.Linear(factors * 4, factors * 2), nn.Linear(factors * 2, factors)]
        )
        self.predict = nn.Linear(factors * 2, 1)

    def forward(self, user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        gmf = self.user_gmf(user) * self.item_gmf(item)
        x = torch.cat((self.user_mlp(user), self.item_mlp(item)), -1)
        for layer in self.mlp:
            x = F.relu(layer(x))
        return self.predict(torch.cat((gmf, x), -1)).view(-1)
