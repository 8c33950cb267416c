"""Classification of images."""

from __future__ import annotations

import math
from typing import Any, List

import torch
import torch.nn as nn
import torch.nn.functional as F

from architectures.registry import field, image

architecture = field("classification")


def conv_bn(i: int, o: int, k: int = 3, s: int = 1, g: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(i, o, k, stride=s, padding=k // 2, groups=g, bias=False), nn.BatchNorm2d(o)
    )


class ResNeXtBlock(nn.Module):
    def __init__(self, inplanes: int, planes: int, stride: int = 1, groups: int = 4) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, planes * 2, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * 2)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or inplanes != planes * 2:
            self.downsample = conv_bn(inplanes, planes * 2, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


@architecture("ResNeXt", 2017, "Aggregated Residual Transformations for Deep Networks", image(32))
class ResNeXt(nn.Module):
    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(ResNeXtBlock(16, 16), ResNeXtBlock(32, 16))
        self.layer2 = nn.Sequential(ResNeXtBlock(32, 32, 2), ResNeXtBlock(64, 32))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(64, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(F.relu(self.bn1(self.conv1(x)), inplace=True))
        x = self.layer2(self.layer1(x))
        x = torch.flatten(self.avgpool(x), 1)
        return self.fc(x)


class SELayer(nn.Module):
    def __init__(self, channel: int, reduction: int = 4) -> None:
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(
            nn.Linear(channel, channel // reduction, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(channel // reduction, channel, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, c, _, _ = x.size()
        y = self.avg_pool(x).view(b, c)
        y = self.fc(y).view(b, c, 1, 1)
        return x * y.expand_as(x)


class SEBlock(nn.Module):
    def __init__(self, planes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_bn(planes, planes), nn.ReLU(), conv_bn(planes, planes))
        self.se = SELayer(planes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.se(self.body(x)) + x)


@architecture("SE-ResNet", 2018, "Squeeze-and-Excitation Networks", image(24))
class SEResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 16, 3, 2), nn.ReLU())
        self.blocks = nn.ModuleList([SEBlock(16) for _ in range(3)])
        self.fc = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        x = F.avg_pool2d(x, x.size()[2:])
        return self.fc(x.view(x.size(0), -1))


class GhostModule(nn.Module):
    def __init__(self, inp: int, oup: int, ratio: int = 2, relu: bool = True) -> None:
        super().__init__()
        self.oup = oup
        init = int(math.ceil(oup / ratio))
        self.primary = nn.Sequential(
            nn.Conv2d(inp, init, 1, bias=False),
            nn.BatchNorm2d(init),
            nn.ReLU(inplace=True) if relu else nn.Sequential(),
        )
        self.cheap = nn.Sequential(
            nn.Conv2d(init, init * (ratio - 1), 3, 1, 1, groups=init, bias=False),
            nn.BatchNorm2d(init * (ratio - 1)),
            nn.ReLU(inplace=True) if relu else nn.Sequential(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x1 = self.primary(x)
        x2 = self.cheap(x1)
        out = torch.cat([x1, x2], dim=1)
        return out[:, : self.oup, :, :]


class GhostBottleneck(nn.Module):
    def __init__(self, inp: int, hidden: int, oup: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.ghost1 = GhostModule(inp, hidden)
        if stride > 1:
            self.dw = conv_bn(hidden, hidden, 3, stride, hidden)
        else:
            self.dw = nn.Sequential()
        self.se = SELayer(hidden)
        self.ghost2 = GhostModule(hidden, oup, relu=False)
        if stride == 1 and inp == oup:
            self.shortcut = nn.Sequential()
        else:
            self.shortcut = nn.Sequential(conv_bn(inp, inp, 3, stride, inp), conv_bn(inp, oup, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.ghost2(self.se(self.dw(self.ghost1(x))))
        return y + self.shortcut(x)


@architecture("GhostNet", 2020, "GhostNet: More Features from Cheap Operations", image(32))
class GhostNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 8, 3, 2), nn.ReLU(inplace=True))
        self.blocks = nn.Sequential(
            GhostBottleneck(8, 16, 8, 1),
            GhostBottleneck(8, 24, 13, 2),
            GhostBottleneck(13, 26, 13, 1),
        )
        self.classifier = nn.Linear(13, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(self.stem(x))
        x = F.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1)
        x = F.dropout(x, p=0.2, training=self.training)
        return self.classifier(x)


class SwishFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, i: Any) -> Any:
        result = i * torch.sigmoid(i)
        ctx.save_for_backward(i)
        return result

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        (i,) = ctx.saved_tensors
        s = torch.sigmoid(i)
        return grad * (s * (1 + i * (1 - s)))


class MemoryEfficientSwish(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return SwishFunction.apply(x)


class SamePadConv2d(nn.Conv2d):
    """A convolution padded by the shape that it meets, as TensorFlow's 'SAME' is."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        ih, iw = x.size()[-2:]
        kh, kw = self.weight.size()[-2:]
        sh, sw = self.stride
        oh, ow = math.ceil(ih / sh), math.ceil(iw / sw)
        pad_h = max((oh - 1) * sh + (kh - 1) * self.dilation[0] + 1 - ih, 0)
        pad_w = max((ow - 1) * sw + (kw - 1) * self.dilation[1] + 1 - iw, 0)
        if pad_h > 0 or pad_w > 0:
            x = F.pad(x, [pad_w // 2, pad_w - pad_w // 2, pad_h // 2, pad_h - pad_h // 2])
        return F.conv2d(
            x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )


class MBConv(nn.Module):
    def __init__(self, inp: int, oup: int, expand: int, stride: int, kernel: int) -> None:
        super().__init__()
        mid = inp * expand
        self.skip = stride == 1 and inp == oup
        self.expand = nn.Sequential(SamePadConv2d(inp, mid, 1, bias=False), nn.BatchNorm2d(mid))
        self.depthwise = nn.Sequential(
            SamePadConv2d(mid, mid, kernel, stride, groups=mid, bias=False), nn.BatchNorm2d(mid)
        )
        self.reduce = nn.Conv2d(mid, max(1, inp // 4), 1)
        self.restore = nn.Conv2d(max(1, inp // 4), mid, 1)
        self.project = nn.Sequential(SamePadConv2d(mid, oup, 1, bias=False), nn.BatchNorm2d(oup))
        self.swish = MemoryEfficientSwish()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        x = self.swish(self.expand(inputs))
        x = self.swish(self.depthwise(x))
        s = F.adaptive_avg_pool2d(x, 1)
        s = self.restore(self.swish(self.reduce(s)))
        x = torch.sigmoid(s) * x
        x = self.project(x)
        if self.skip:
            x = x + inputs
        return x


@architecture("EfficientNet", 2019, "EfficientNet: Rethinking Model Scaling", image(33))
class EfficientNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(SamePadConv2d(3, 8, 3, 2, bias=False), nn.BatchNorm2d(8))
        self.blocks = nn.ModuleList([MBConv(8, 12, 3, 2, 5), MBConv(12, 12, 3, 1, 3)])
        self.swish = MemoryEfficientSwish()
        self.fc = nn.Linear(12, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bs = x.size(0)
        x = self.swish(self.stem(x))
        for block in self.blocks:
            x = block(x)
        x = F.adaptive_avg_pool2d(x, 1).view(bs, -1)
        return self.fc(x)


class HSwish(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * F.relu6(x + 3, inplace=True) / 6


class V3Block(nn.Module):
    def __init__(self, inp: int, exp: int, oup: int, k: int, s: int, se: bool, hs: bool) -> None:
        super().__init__()
        act = HSwish() if hs else nn.ReLU(inplace=True)
        self.use_res = s == 1 and inp == oup
        self.use_se = se
        self.pw = nn.Sequential(conv_bn(inp, exp, 1), act)
        self.dw = conv_bn(exp, exp, k, s, exp)
        self.fc1 = nn.Linear(exp, exp // 4)
        self.fc2 = nn.Linear(exp // 4, exp)
        self.act = act
        self.pwl = conv_bn(exp, oup, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.dw(self.pw(x))
        if self.use_se:
            s = y.mean(3).mean(2)
            s = F.relu6(self.fc2(F.relu(self.fc1(s))) + 3.0) / 6.0
            y = y * s.unsqueeze(2).unsqueeze(3)
        y = self.pwl(self.act(y))
        return x + y if self.use_res else y


@architecture("MobileNetV3", 2019, "Searching for MobileNetV3", image(32))
class MobileNetV3(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv_bn(3, 8, 3, 2),
            HSwish(),
            V3Block(8, 16, 8, 3, 2, True, False),
            V3Block(8, 24, 12, 5, 1, True, True),
            V3Block(12, 24, 12, 5, 1, False, True),
        )
        self.classifier = nn.Sequential(
            nn.Linear(12, 24), nn.BatchNorm1d(24), HSwish(), nn.Dropout(0.2), nn.Linear(24, 10)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.features(x)
        x = x.mean([2, 3])
        return self.classifier(x)


def channel_shuffle(x: torch.Tensor, groups: int) -> torch.Tensor:
    n, c, h, w = x.size()
    x = x.view(n, groups, c // groups, h, w)
    x = torch.transpose(x, 1, 2).contiguous()
    return x.view(n, -1, h, w)


class ShuffleUnit(nn.Module):
    def __init__(self, inp: int, oup: int, stride: int) -> None:
        super().__init__()
        half = oup // 2
        self.stride = stride
        if stride == 2:
            self.branch1 = nn.Sequential(
                conv_bn(inp, inp, 3, 2, inp), conv_bn(inp, half, 1), nn.ReLU()
            )
        else:
            self.branch1 = nn.Sequential()
        self.branch2 = nn.Sequential(
            conv_bn(inp if stride == 2 else half, half, 1),
            nn.ReLU(),
            conv_bn(half, half, 3, stride, half),
            conv_bn(half, half, 1),
            nn.ReLU(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.stride == 1:
            x1, x2 = x.chunk(2, dim=1)
            out = torch.cat((x1, self.branch2(x2)), dim=1)
        else:
            out = torch.cat((self.branch1(x), self.branch2(x)), dim=1)
        return channel_shuffle(out, 2)


@architecture("ShuffleNetV2", 2018, "ShuffleNet V2: Practical Guidelines for CNN Design", image(32))
class ShuffleNetV2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(conv_bn(3, 8, 3, 2), nn.ReLU(inplace=True))
        self.stage = nn.Sequential(
            ShuffleUnit(8, 16, 2), ShuffleUnit(16, 16, 1), ShuffleUnit(16, 16, 1)
        )
        self.fc = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stage(self.conv1(x))
        x = x.mean([2, 3])
        return self.fc(x)


class Bottle2neck(nn.Module):
    def __init__(self, inplanes: int, width: int, scale: int = 4) -> None:
        super().__init__()
        self.conv1 = conv_bn(inplanes, width * scale, 1)
        self.convs = nn.ModuleList([conv_bn(width, width) for _ in range(scale - 1)])
        self.conv3 = conv_bn(width * scale, inplanes, 1)
        self.width = width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.conv1(x))
        spx = torch.split(out, self.width, 1)
        sp = spx[0]
        parts: List[torch.Tensor] = []
        for i, conv in enumerate(self.convs):
            sp = spx[i] if i == 0 else sp + spx[i]
            sp = F.relu(conv(sp))
            parts.append(sp)
        parts.append(spx[len(parts)])
        out = self.conv3(torch.cat(parts, 1))
        out += x
        return F.relu(out)


@architecture("Res2Net", 2019, "Res2Net: A New Multi-scale Backbone Architecture", image(32))
class Res2Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            conv_bn(3, 16, 3, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        )
        self.layer = nn.Sequential(Bottle2neck(16, 6), Bottle2neck(16, 6))
        self.fc = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer(self.stem(x))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class ChannelsFirstNorm(nn.Module):
    def __init__(self, size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(size) + 0.5)
        self.bias = nn.Parameter(torch.randn(size) * 0.1)
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        u = x.mean(1, keepdim=True)
        s = (x - u).pow(2).mean(1, keepdim=True)
        x = (x - u) / torch.sqrt(s + self.eps)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class ConvNeXtBlock(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(torch.rand(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x
        x = self.dwconv(x)
        x = x.permute(0, 2, 3, 1)
        x = self.pwconv2(self.act(self.pwconv1(self.norm(x))))
        x = self.gamma * x
        x = x.permute(0, 3, 1, 2)
        return shortcut + x


@architecture("ConvNeXt", 2022, "A ConvNet for the 2020s", image(32))
class ConvNeXt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 12, 4, 4), ChannelsFirstNorm(12))
        self.stage1 = nn.Sequential(ConvNeXtBlock(12), ConvNeXtBlock(12))
        self.down = nn.Sequential(ChannelsFirstNorm(12), nn.Conv2d(12, 24, 2, 2))
        self.stage2 = nn.Sequential(ConvNeXtBlock(24))
        self.norm = nn.LayerNorm(24, eps=1e-6)
        self.head = nn.Linear(24, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stage2(self.down(self.stage1(self.stem(x))))
        return self.head(self.norm(x.mean([-2, -1])))


class RepVGGBlock(nn.Module):
    def __init__(self, i: int, o: int, stride: int = 1) -> None:
        super().__init__()
        self.rbr_dense = conv_bn(i, o, 3, stride)
        self.rbr_1x1 = nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o))
        self.rbr_identity = nn.BatchNorm2d(i) if i == o and stride == 1 else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.rbr_dense(x) + self.rbr_1x1(x)
        if self.rbr_identity is not None:
            out = out + self.rbr_identity(x)
        return F.relu(out)


@architecture("RepVGG", 2021, "RepVGG: Making VGG-style ConvNets Great Again", image(32))
class RepVGG(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.Sequential(
            RepVGGBlock(3, 8, 2), RepVGGBlock(8, 8), RepVGGBlock(8, 16, 2), RepVGGBlock(16, 16)
        )
        self.gap = nn.AdaptiveAvgPool2d(output_size=1)
        self.linear = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.gap(self.stages(x))
        out = out.view(out.size(0), -1)
        return self.linear(out)


class DLARoot(nn.Module):
    def __init__(self, i: int, o: int, residual: bool) -> None:
        super().__init__()
        self.conv = conv_bn(i, o, 1)
        self.residual = residual

    def forward(self, children: List[torch.Tensor]) -> torch.Tensor:
        x = self.conv(torch.cat(children, 1))
        if self.residual:
            x += children[0]
        return F.relu(x)


class DLATree(nn.Module):
    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.block1 = nn.Sequential(conv_bn(i, o, 3, stride), nn.ReLU(), conv_bn(o, o))
        self.block2 = nn.Sequential(conv_bn(o, o), nn.ReLU(), conv_bn(o, o))
        self.downsample = nn.MaxPool2d(stride, stride=stride) if stride > 1 else nn.Sequential()
        self.project = conv_bn(i, o, 1) if i != o else nn.Sequential()
        self.root = DLARoot(2 * o + i, o, True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bottom = self.downsample(x)
        residual = self.project(bottom)
        x1 = F.relu(self.block1(x) + residual)
        x2 = F.relu(self.block2(x1) + x1)
        return self.root([x2, x1, bottom])


@architecture("DLA", 2018, "Deep Layer Aggregation", image(32))
class DLA(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Sequential(conv_bn(3, 8, 7), nn.ReLU(inplace=True))
        self.levels = nn.ModuleList([DLATree(8, 16, 2), DLATree(16, 16, 2), DLATree(16, 24, 2)])
        self.fc = nn.Conv2d(24, 10, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.base(x)
        y: List[torch.Tensor] = []
        for level in self.levels:
            x = level(x)
            y.append(x)
        x = self.fc(F.adaptive_avg_pool2d(y[-1], 1))
        return x.view(x.size(0), -1)


def separable(i: int, o: int, k: int, s: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(i, i, k, s, k // 2, groups=i, bias=False),
        nn.Conv2d(i, o, 1, bias=False),
        nn.BatchNorm2d(o),
        nn.ReLU(),
        nn.Conv2d(o, o, k, 1, k // 2, groups=o, bias=False),
        nn.Conv2d(o, o, 1, bias=False),
        nn.BatchNorm2d(o),
    )


class FactorizedReduction(nn.Module):
    """Halve the size by two strided paths, one of them moved by a pixel."""

    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.path1 = nn.Conv2d(i, o // 2, 1, bias=False)
        self.path2 = nn.Conv2d(i, o // 2, 1, bias=False)
        self.pad = nn.ZeroPad2d((0, 1, 0, 1))
        self.bn = nn.BatchNorm2d(o)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(x)
        one = self.path1(F.avg_pool2d(x, 1, 2, count_include_pad=False))
        other = self.path2(F.avg_pool2d(self.pad(x)[:, :, 1:, 1:], 1, 2, count_include_pad=False))
        return self.bn(torch.cat([one, other], 1))


class NASCell(nn.Module):
    def __init__(self, before: int, i: int, o: int, reduce_before: bool) -> None:
        super().__init__()
        self.prev = (
            FactorizedReduction(before, o)
            if reduce_before
            else nn.Sequential(nn.ReLU(), conv_bn(before, o, 1))
        )
        self.here = nn.Sequential(nn.ReLU(), conv_bn(i, o, 1))
        self.sep5 = separable(o, o, 5, 1)
        self.sep3 = separable(o, o, 3, 1)

    def forward(self, x: torch.Tensor, x_prev: torch.Tensor) -> torch.Tensor:
        left, right = self.prev(x_prev), self.here(x)
        a = self.sep5(right) + self.sep3(left)
        b = F.avg_pool2d(right, 3, 1, 1, count_include_pad=False) + left
        c = F.avg_pool2d(left, 3, 1, 1, count_include_pad=False) + F.max_pool2d(left, 3, 1, 1)
        d = self.sep3(right) + right
        return torch.cat([left, a, b, c, d], 1)


@architecture(
    "NASNet", 2018, "Learning Transferable Architectures for Scalable Recognition", image(24)
)
class NASNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8, 3, 2)
        self.down = nn.Sequential(nn.ReLU(), conv_bn(8, 8, 3, 2))
        self.cell1 = NASCell(8, 8, 8, True)
        self.cell2 = NASCell(8, 40, 8, False)
        self.fc = nn.Linear(40, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x0 = self.stem(x)
        x1 = self.down(x0)
        x2 = self.cell1(x1, x0)
        x3 = F.relu(self.cell2(x2, x1))
        x3 = F.avg_pool2d(x3, kernel_size=x3.size(2))
        return self.fc(x3.view(x3.size(0), -1))


class AddCoords(nn.Module):
    def __init__(self, with_r: bool = False) -> None:
        super().__init__()
        self.with_r = with_r

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, _, x_dim, y_dim = x.size()
        xx = torch.arange(x_dim, dtype=x.dtype, device=x.device).repeat(1, y_dim, 1)
        yy = torch.arange(y_dim, dtype=x.dtype, device=x.device).repeat(1, x_dim, 1).transpose(1, 2)
        xx = xx / (x_dim - 1) * 2 - 1
        yy = yy / (y_dim - 1) * 2 - 1
        xx = xx.repeat(batch, 1, 1, 1).transpose(2, 3)
        yy = yy.repeat(batch, 1, 1, 1).transpose(2, 3)
        ret = torch.cat([x, xx.type_as(x), yy.type_as(x)], dim=1)
        if self.with_r:
            rr = torch.sqrt(torch.pow(xx - 0.5, 2) + torch.pow(yy - 0.5, 2))
            ret = torch.cat([ret, rr], dim=1)
        return ret


@architecture(
    "CoordConv", 2018, "An Intriguing Failing of Convolutional Neural Networks", image(24)
)
class CoordConv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.coords = AddCoords(with_r=True)
        self.conv1 = nn.Conv2d(6, 8, 3, 2, 1)
        self.coords2 = AddCoords()
        self.conv2 = nn.Conv2d(10, 16, 3, 2, 1)
        self.head = nn.Linear(16, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.conv1(self.coords(x)))
        x = F.relu(self.conv2(self.coords2(x)))
        return self.head(F.max_pool2d(x, x.shape[2:]).view(x.shape[0], -1))


class SKConv(nn.Module):
    def __init__(self, features: int, m: int = 2, d: int = 8) -> None:
        super().__init__()
        self.m = m
        self.features = features
        self.convs = nn.ModuleList(
            [
                nn.Sequential(
                    nn.Conv2d(
                        features, features, 3, 1, 1 + i, dilation=1 + i, groups=4, bias=False
                    ),
                    nn.BatchNorm2d(features),
                    nn.ReLU(inplace=True),
                )
                for i in range(m)
            ]
        )
        self.fc = nn.Sequential(nn.Conv2d(features, d, 1, bias=False), nn.BatchNorm2d(d), nn.ReLU())
        self.fcs = nn.ModuleList([nn.Conv2d(d, features, 1) for _ in range(m)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch = x.shape[0]
        feats: List[torch.Tensor] = []
        for conv in self.convs:
            feats.append(conv(x))
        stacked = torch.cat(feats, dim=1)
        stacked = stacked.view(batch, self.m, self.features, stacked.shape[2], stacked.shape[3])
        fused = torch.sum(stacked, dim=1)
        z = self.fc(F.adaptive_avg_pool2d(fused, 1))
        vectors: List[torch.Tensor] = []
        for fc in self.fcs:
            vectors.append(fc(z))
        weights = torch.cat(vectors, dim=1).view(batch, self.m, self.features, 1, 1)
        weights = F.softmax(weights, dim=1)
        return torch.sum(stacked * weights, dim=1)


@architecture("SKNet", 2019, "Selective Kernel Networks", image(24))
class SKNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 16, 3, 2), nn.ReLU(inplace=True))
        self.sk1 = SKConv(16)
        self.sk2 = SKConv(16)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + self.sk1(x)
        x = x + self.sk2(x)
        return self.fc(F.adaptive_avg_pool2d(x, (1, 1)).view(x.size(0), -1))


class ChannelAttention(nn.Module):
    def __init__(self, planes: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Conv2d(planes, planes // 4, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(planes // 4, planes, 1, bias=False),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        avg = F.avg_pool2d(x, (x.size(2), x.size(3)), stride=(x.size(2), x.size(3)))
        most = F.max_pool2d(x, (x.size(2), x.size(3)), stride=(x.size(2), x.size(3)))
        scale = torch.sigmoid(self.mlp(avg) + self.mlp(most)).expand_as(x)
        return x * scale


class SpatialAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        both = torch.cat((torch.max(x, 1)[0].unsqueeze(1), torch.mean(x, 1).unsqueeze(1)), dim=1)
        return x * torch.sigmoid(self.conv(both))


@architecture("CBAM", 2018, "CBAM: Convolutional Block Attention Module", image(24))
class CBAM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 16, 3, 2), nn.ReLU())
        self.conv = conv_bn(16, 16)
        self.channel = ChannelAttention(16)
        self.spatial = SpatialAttention()
        self.fc = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = F.relu(self.spatial(self.channel(self.conv(x))) + x)
        return self.fc(x.mean(-1).mean(-1))


class StdConv2d(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        w = self.weight
        v, m = torch.var_mean(w, dim=[1, 2, 3], keepdim=True, unbiased=False)
        w = (w - m) / torch.sqrt(v + 1e-10)
        return F.conv2d(x, w, self.bias, self.stride, self.padding, self.dilation, self.groups)


class PreActBottleneck(nn.Module):
    def __init__(self, cin: int, cout: int, cmid: int, stride: int = 1) -> None:
        super().__init__()
        self.gn1 = nn.GroupNorm(4, cin)
        self.conv1 = StdConv2d(cin, cmid, 1, bias=False)
        self.gn2 = nn.GroupNorm(4, cmid)
        self.conv2 = StdConv2d(cmid, cmid, 3, stride, 1, bias=False)
        self.gn3 = nn.GroupNorm(4, cmid)
        self.conv3 = StdConv2d(cmid, cout, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.project = stride != 1 or cin != cout
        self.downsample = StdConv2d(cin, cout, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.relu(self.gn1(x))
        residual = x
        if self.project:
            residual = self.downsample(out)
        out = self.conv1(out)
        out = self.conv2(self.relu(self.gn2(out)))
        out = self.conv3(self.relu(self.gn3(out)))
        return out + residual


@architecture("BiT", 2020, "Big Transfer: General Visual Representation Learning", image(32))
class BiT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.root = nn.Sequential(
            StdConv2d(3, 16, 7, 2, 3, bias=False), nn.ConstantPad2d(1, 0.0), nn.MaxPool2d(3, 2)
        )
        self.body = nn.Sequential(PreActBottleneck(16, 32, 8), PreActBottleneck(32, 32, 8, 2))
        self.head = nn.Sequential(
            nn.GroupNorm(4, 32), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(32, 10, 1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.head(self.body(self.root(x)))
        return x[..., 0, 0]


class SelfAttention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.scale = (dim // heads) ** -0.5
        self.qkv = nn.Linear(dim, dim * 3)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, N, C = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.num_heads, C // self.num_heads)
        qkv = qkv.permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        attn = (q @ k.transpose(-2, -1)) * self.scale
        attn = attn.softmax(dim=-1)
        x = (attn @ v).transpose(1, 2).reshape(B, N, C)
        return self.proj(x)


class ViTBlock(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = SelfAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, dim * 2), nn.GELU(), nn.Linear(dim * 2, dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


@architecture("ViT", 2021, "An Image is Worth 16x16 Words", image(32))
class ViT(nn.Module):
    def __init__(self, dim: int = 24) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, dim, 8, 8)
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim) * 0.2)
        self.pos_embed = nn.Parameter(torch.randn(1, 17, dim) * 0.2)
        self.blocks = nn.ModuleList([ViTBlock(dim, 4) for _ in range(3)])
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B = x.shape[0]
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        cls_tokens = self.cls_token.expand(B, -1, -1)
        x = torch.cat((cls_tokens, x), dim=1)
        x = x + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


def window_partition(x: torch.Tensor, size: int) -> torch.Tensor:
    B, H, W, C = x.shape
    x = x.view(B, H // size, size, W // size, size, C)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, size, size, C)


def window_reverse(windows: torch.Tensor, size: int, H: int, W: int) -> torch.Tensor:
    B = int(windows.shape[0] / (H * W / size / size))
    x = windows.view(B, H // size, W // size, size, size, -1)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(B, H, W, -1)


class WindowAttention(nn.Module):
    def __init__(self, dim: int, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (dim // heads) ** -0.5
        self.table = nn.Parameter(torch.randn((2 * size - 1) * (2 * size - 1), heads) * 0.2)
        coords = torch.stack(torch.meshgrid([torch.arange(size), torch.arange(size)])).flatten(1)
        relative = (coords[:, :, None] - coords[:, None, :]).permute(1, 2, 0) + size - 1
        self.register_buffer("index", relative[:, :, 0] * (2 * size - 1) + relative[:, :, 1])
        self.qkv = nn.Linear(dim, dim * 3)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        B_, N, C = x.shape
        qkv = self.qkv(x).reshape(B_, N, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        attn = (q * self.scale) @ k.transpose(-2, -1)
        bias = self.table[self.index.view(-1)].view(N, N, -1).permute(2, 0, 1).contiguous()
        attn = attn + bias.unsqueeze(0)
        nW = mask.shape[0]
        attn = attn.view(B_ // nW, nW, self.heads, N, N) + mask.unsqueeze(1).unsqueeze(0)
        attn = F.softmax(attn.view(-1, self.heads, N, N), dim=-1)
        x = (attn @ v).transpose(1, 2).reshape(B_, N, C)
        return self.proj(x)


class SwinBlock(nn.Module):
    def __init__(self, dim: int, resolution: int, heads: int, size: int, shift: int) -> None:
        super().__init__()
        self.size = size
        self.shift = shift
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, size, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, dim * 2), nn.GELU(), nn.Linear(dim * 2, dim))
        image_mask = torch.zeros(1, resolution, resolution, 1)
        if shift > 0:
            count = 0
            parts = (slice(0, -size), slice(-size, -shift), slice(-shift, None))
            for h in parts:
                for w in parts:
                    image_mask[:, h, w, :] = count
                    count += 1
        windows = window_partition(image_mask, size).view(-1, size * size)
        mask = windows.unsqueeze(1) - windows.unsqueeze(2)
        self.register_buffer(
            "mask", mask.masked_fill(mask != 0, -100.0).masked_fill(mask == 0, 0.0)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, H, W, C = x.shape
        shortcut = x
        x = self.norm1(x)
        if self.shift > 0:
            x = torch.roll(x, shifts=(-self.shift, -self.shift), dims=(1, 2))
        windows = window_partition(x, self.size).view(-1, self.size * self.size, C)
        windows = self.attn(windows, self.mask).view(-1, self.size, self.size, C)
        x = window_reverse(windows, self.size, H, W)
        if self.shift > 0:
            x = torch.roll(x, shifts=(self.shift, self.shift), dims=(1, 2))
        x = shortcut + x
        return x + self.mlp(self.norm2(x))


class PatchMerging(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x0 = x[:, 0::2, 0::2, :]
        x1 = x[:, 1::2, 0::2, :]
        x2 = x[:, 0::2, 1::2, :]
        x3 = x[:, 1::2, 1::2, :]
        return self.reduction(self.norm(torch.cat([x0, x1, x2, x3], -1)))


@architecture("Swin", 2021, "Swin Transformer: Hierarchical Vision Transformer", image(32))
class Swin(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 12, 4, 4)
        self.block1 = SwinBlock(12, 8, 2, 4, 0)
        self.block2 = SwinBlock(12, 8, 2, 4, 2)
        self.merge = PatchMerging(12)
        self.block3 = SwinBlock(24, 4, 3, 2, 1)
        self.norm = nn.LayerNorm(24)
        self.head = nn.Linear(24, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch_embed(x).permute(0, 2, 3, 1)
        x = self.block3(self.merge(self.block2(self.block1(x))))
        x = self.norm(x.flatten(1, 2))
        x = F.adaptive_avg_pool1d(x.transpose(1, 2), 1)
        return self.head(torch.flatten(x, 1))


class MixerBlock(nn.Module):
    def __init__(self, tokens: int, dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.token1 = nn.Linear(tokens, 32)
        self.token2 = nn.Linear(32, tokens)
        self.norm2 = nn.LayerNorm(dim)
        self.channel = nn.Sequential(nn.Linear(dim, dim * 3), nn.GELU(), nn.Linear(dim * 3, dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm1(x).transpose(1, 2)
        y = self.token2(F.gelu(self.token1(y))).transpose(1, 2)
        x = x + y
        return x + self.channel(self.norm2(x))


@architecture("MLP-Mixer", 2021, "MLP-Mixer: An all-MLP Architecture for Vision", image(32))
class MLPMixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 8, 8)
        self.blocks = nn.ModuleList([MixerBlock(16, 16) for _ in range(3)])
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(dim=1))
