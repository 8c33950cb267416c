"""Nets that shuffle channels, for torch 1.5.1: each a function, its modules and its input shapes.

In the `FOLDED` ones convolutions write and read what is shuffled, so no data need move. In the
`KEPT` ones something else reads it in its order. Weights differ by channel, so that a wrong order
shows.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F


def shuffle(x, groups=2):
    n, c, *space = x.shape
    return x.view(n, groups, c // groups, *space).transpose(1, 2).reshape(n, c, *space)


def unit(channels):
    half = channels // 2
    return nn.Sequential(
        nn.Conv2d(half, half, 1),
        nn.ReLU(),
        nn.Conv2d(half, half, 3, padding=1, groups=half),
        nn.Conv2d(half, half, 1),
        nn.ReLU(),
    )


def conv(i, o, k=1, **given):
    return nn.Conv2d(i, o, k, padding=k // 2, **given)


def by_chunks(m, x):
    """ShuffleNetV2 as torchvision writes it: a unit that divides the channels, then those alike."""
    x = m.a(x)
    x = shuffle(torch.cat([m.b(x), m.c(x)], 1))
    for block in (m.d, m.e, m.f):
        rest, taken = x.chunk(2, dim=1)
        x = shuffle(torch.cat([rest, block(taken)], 1))
    return m.g(x)


def by_evens(m, x):
    """ShuffleNetV2 as its authors write it: what goes on are the even channels."""
    x = torch.cat([m.a(x), m.b(x)], 1)
    for block in (m.c, m.d):
        n, c, h, w = x.shape
        split = x.reshape(n * c // 2, 2, h * w).permute(1, 0, 2).reshape(2, -1, c // 2, h, w)
        x = torch.cat([split[0], block(split[1])], 1)
    return m.e(x)


def three_parts(m, x):
    x = shuffle(torch.cat([m.a(x), m.b(x)], 1), 3)
    one, two = x.split([5, 7], 1)
    return m.c(one) + m.d(two)


def four_groups(m, x):
    return m.b(shuffle(m.a(x), 4))


def by_index(m, x):
    return m.b(m.a(x)[:, [4, 2, 7, 0, 6, 1, 3, 5]])


def by_steps(m, x):
    y = m.a(x)
    return m.b(torch.cat([y[:, ::2], y[:, 1::2]], 1))


def hard_swish(m, x):
    y = shuffle(torch.cat([m.a(x), m.b(x)], 1))
    return m.c(y * F.relu6(y + 3) / 6)


def gated(m, x):
    """A squeeze-and-excitation of what was shuffled."""
    y = shuffle(torch.cat([m.a(x), m.b(x)], 1))
    gate = torch.sigmoid(m.d(m.c(F.adaptive_avg_pool2d(y, 1)).relu()))
    return m.e(y * gate)


def mapped(m, x):
    """One factor a pixel, from what has one channel."""
    y = shuffle(m.a(x))
    return m.c(y * torch.sigmoid(m.b(x)))


def residual(m, x):
    return m.c(F.relu(shuffle(m.a(x)) + m.b(x)))


def normalised(m, x):
    return m.d(m.c(F.max_pool2d(m.b(shuffle(m.a(x))), 2)))


def scaled(m, x):
    y = shuffle(m.a(x)) * torch.linspace(0.5, 2, 8).view(1, 8, 1, 1)
    return m.b(y + torch.linspace(-1, 1, 8).view(8, 1, 1))


def upward(m, x):
    return m.c(shuffle(m.b(shuffle(m.a(x)))))


def part_unread(m, x):
    return m.c(shuffle(torch.cat([m.a(x), m.b(x)], 1))[:, :5])


def twice_read(m, x):
    y = m.a(x)
    first, second = shuffle(y).chunk(2, 1)
    return m.b(first) + m.b(second) + m.c(y)


def beside_input(m, x):
    return m.b(shuffle(torch.cat([x, m.a(x)], 1)))


def along_time(m, x):
    return m.c(shuffle(torch.cat([m.a(x), m.b(x)], 1)))


def ends(m, x):
    return shuffle(m.a(x))


def averaged(m, x):
    y = shuffle(m.a(x))
    return m.b(y) + y.max(1, keepdim=True)[0]


def flattened(m, x):
    return m.b(shuffle(m.a(x)).flatten(1))


def grouped(m, x):
    return m.b(shuffle(m.a(x)))


def turned(m, x):
    y = m.a(x)
    return m.b(y.view(1, 2, 4, 6, 6).transpose(1, 2).reshape(1, 8, 6, 6).transpose(2, 3))


def given_too(m, x):
    y = m.a(x)
    return m.b(shuffle(y)), y


def two_orders(m, x):
    return m.c(shuffle(m.a(x)) + shuffle(m.b(x), 4))


def repeated(m, x):
    y = m.a(x)
    return m.b(shuffle(torch.cat([y, y], 1)))


def softmaxed(m, x):
    return m.b(shuffle(F.softmax(m.a(x), 1)))


IMAGE = (1, 4, 6, 6)
FOLDED = {
    "by_chunks": (
        by_chunks,
        lambda: [
            conv(4, 16, 3),
            conv(16, 16),
            conv(16, 16, 3, groups=16),
            *(unit(32) for _ in range(3)),
            conv(32, 3),
        ],
        IMAGE,
    ),
    "by_evens": (
        by_evens,
        lambda: [conv(4, 8), conv(4, 8), unit(16), unit(16), conv(16, 3)],
        IMAGE,
    ),
    "three_parts": (
        three_parts,
        lambda: [conv(4, 6), conv(4, 6), conv(5, 3), conv(7, 3)],
        IMAGE,
    ),
    "four_groups": (four_groups, lambda: [conv(4, 8), conv(8, 3)], IMAGE),
    "by_index": (by_index, lambda: [conv(4, 8), conv(8, 3)], IMAGE),
    "by_steps": (by_steps, lambda: [conv(4, 8), conv(8, 3)], IMAGE),
    "hard_swish": (hard_swish, lambda: [conv(4, 8), conv(4, 8), conv(16, 3)], IMAGE),
    "gated": (
        gated,
        lambda: [conv(4, 8), conv(4, 8), conv(16, 4), conv(4, 16), conv(16, 3)],
        IMAGE,
    ),
    "mapped": (mapped, lambda: [conv(4, 8), conv(4, 1), conv(8, 3)], IMAGE),
    "residual": (residual, lambda: [conv(4, 8), conv(4, 8), conv(8, 3)], IMAGE),
    "normalised": (
        normalised,
        lambda: [conv(4, 8), nn.BatchNorm2d(8), nn.PReLU(8), conv(8, 3)],
        IMAGE,
    ),
    "scaled": (scaled, lambda: [conv(4, 8), conv(8, 3)], IMAGE),
    "upward": (
        upward,
        lambda: [nn.ConvTranspose2d(4, 8, 2, 2), nn.ConvTranspose2d(8, 6, 2, 2), conv(6, 3)],
        IMAGE,
    ),
    "part_unread": (part_unread, lambda: [conv(4, 4), conv(4, 4), conv(5, 3)], IMAGE),
    "twice_read": (twice_read, lambda: [conv(4, 8), conv(4, 3), conv(8, 3)], IMAGE),
    "beside_input": (beside_input, lambda: [conv(4, 4), conv(8, 3)], IMAGE),
    "of_two": (by_chunks, lambda: FOLDED["by_chunks"][1](), (2, *IMAGE[1:])),
    "given_too": (given_too, lambda: [conv(4, 8), conv(8, 3)], IMAGE),
    "along_time": (
        along_time,
        lambda: [nn.Conv1d(4, 4, 3), nn.Conv1d(4, 4, 3), nn.Conv1d(8, 3, 1)],
        (1, 4, 9),
    ),
}
KEPT = {
    "ends": (ends, lambda: [conv(4, 8)], IMAGE),
    "averaged": (averaged, lambda: [conv(4, 8), conv(8, 3)], IMAGE),
    "flattened": (flattened, lambda: [conv(4, 8), nn.Linear(288, 3)], IMAGE),
    "grouped": (grouped, lambda: [conv(4, 8, groups=2), conv(8, 4, groups=2)], IMAGE),
    "turned": (turned, lambda: [conv(4, 8), conv(8, 3)], IMAGE),
    "two_orders": (two_orders, lambda: [conv(4, 8), conv(4, 8), conv(8, 3)], IMAGE),
    "repeated": (repeated, lambda: [conv(4, 8), conv(16, 3)], IMAGE),
    "softmaxed": (softmaxed, lambda: [conv(4, 8), conv(8, 3)], IMAGE),
}
