"""Networks to diagnose: `python diagnosed.py FOLDER` pickles them, under torch 1.5.1."""

import sys
from pathlib import Path

import torch
from torch import nn
from torchvision.ops import RoIAlign

# Height and width differ, and from the channels: no axis can be taken for another.
SHAPES = {
    "planted": ((1, 4, 12, 14),),
    "residual": ((1, 4, 12, 14),),
    "shuffled": ((1, 4, 12, 14),),
    "large": ((1, 4, 12, 14),),
    "attention": ((1, 7, 16),),
    "recurrent": ((1, 6, 8),),
    "two": ((1, 4, 12, 14), (1, 6)),
    "pooled": ((1, 4, 12, 14),),
    "moved": ((1, 4, 32),),
    "refused": ((1, 3, 16, 16), (2, 5)),
}


def unit(i, o, kernel=3, stride=1, groups=1):
    layers = [nn.Conv2d(i, o, kernel, stride, kernel // 2, groups=groups, bias=False)]
    return nn.Sequential(*layers, nn.BatchNorm2d(o), nn.ReLU6(inplace=True))


class Inverted(nn.Module):
    """MobileNetV2's block."""

    def __init__(self, width):
        super().__init__()
        inner = 2 * width
        parts = [unit(width, inner, 1), unit(inner, inner, 3, groups=inner)]
        parts += [nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width)]
        self.conv = nn.Sequential(*parts)

    def forward(self, x):
        return x + self.conv(x)


class Shuffled(nn.Module):
    """ShuffleNetV2's unit, three times."""

    def __init__(self, width):
        super().__init__()
        half = width // 2
        self.first = unit(4, width)
        self.units = nn.ModuleList(
            nn.Sequential(unit(half, half, 1), unit(half, half, groups=half), unit(half, half, 1))
            for _ in range(3)
        )
        self.last = nn.Conv2d(width, 5, 1)

    def forward(self, x):
        x = self.first(x)
        for block in self.units:
            left, right = x.chunk(2, 1)
            x = torch.cat([left, block(right)], 1)
            n, c, h, w = x.shape
            x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.last(x)


class Fork(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.left = nn.Conv2d(width, width, 1)
        self.right = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        return torch.cat([self.left(x), self.right(x)], 1)


class Planted(nn.Module):
    """Something of everything that a fault can be planted in."""

    def __init__(self):
        super().__init__()
        last = nn.Sequential(nn.Conv2d(16, 12, 3, 2, 1), nn.ReLU())
        self.features = nn.Sequential(unit(4, 8), Inverted(8), Inverted(8), Fork(8), last)
        self.classifier = nn.Linear(12, 12)
        self.act = nn.Tanh()
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        return self.head(self.act(self.classifier(self.features(x).mean([2, 3]))))


class Residual(nn.Module):
    """ResNet's way of adding: in place, after BatchNorm, before a ReLU that is used twice."""

    def __init__(self, width=8, scale=1.0):
        super().__init__()
        self.stem = nn.Conv2d(4, width, 3, 2, 1)
        for i in range(4):
            self.add_module(f"conv{i}", nn.Conv2d(width, width, 3, 1, 1, bias=False))
            self.add_module(f"bn{i}", nn.BatchNorm2d(width))
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(width, 3)
        self.scale = scale

    def forward(self, x):
        x = self.stem(x)
        for i in (0, 2):
            y = self.relu(getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x)))
            y = getattr(self, f"bn{i + 1}")(getattr(self, f"conv{i + 1}")(y))
            y += x
            x = self.relu(y)
        return self.fc(x.mean([2, 3])) * self.scale


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.qkv = nn.Linear(16, 48)
        self.out = nn.Linear(16, 16)

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        weights = torch.softmax(q.matmul(k.transpose(1, 2)) / 4, -1)
        return x + nn.functional.gelu(self.out(weights.matmul(v)))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(8, 12, batch_first=True, bidirectional=True)
        self.head = nn.Linear(24, 4)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.image = unit(4, 6)
        self.numbers = nn.Linear(6, 6)

    def forward(self, image, numbers):
        scale = torch.sigmoid(self.numbers(numbers))[:, :, None, None]
        return self.image(image) * scale


class Pooled(nn.Module):
    """Its output has the wrong shape after the tools alone, which say nothing."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 3)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x):
        return self.pool(self.conv(x))


def moved():
    """TensorFlow's converter moves a transpose of it over two operators, under its old name."""
    layers = [nn.Conv1d(4, 8, 3, padding=1), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(2)]
    return nn.Sequential(*layers, nn.Conv1d(8, 6, 5, padding=2), nn.ReLU(), nn.AvgPool1d(2))


class Refused(nn.Module):
    """RoiAlign is in ONNX, and onnx-tf 1.6.0 does not implement it."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 3, 3, padding=1)
        self.head = nn.ModuleDict({"crop": RoIAlign((3, 3), 1.0, 2)})

    def forward(self, image, boxes):
        return self.head["crop"](self.stem(image), boxes)


def make(name):
    makers = {
        "moved": moved,
        "refused": Refused,
        "planted": Planted,
        "residual": Residual,
        "shuffled": lambda: Shuffled(16),
        "large": lambda: Residual(16, 60.0),
        "attention": Attention,
        "recurrent": Recurrent,
        "two": Two,
        "pooled": Pooled,
    }
    torch.manual_seed(0)
    model = makers[name]()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()
            # Wide enough for ReLU6 to cut both ways.
            nn.init.uniform_(module.weight, 2.0, 5.0)
            nn.init.normal_(module.bias, 1.0, 1.0)
    model.train()
    with torch.no_grad():
        for _ in range(4 if name != "refused" else 0):
            model(*(torch.randn(8, *shape[1:]) for shape in SHAPES[name]))
    return model.eval()


if __name__ == "__main__":
    for each in SHAPES:
        torch.save(make(each), str(Path(sys.argv[1]) / f"{each}.pt"))
