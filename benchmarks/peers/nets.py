"""The benchmark's networks, written to run under torch 1.5.1 and under today's torch.

Those that torchvision has are of its structure and parameter names (make_model.py checks it): peers
get the very weights, and no environment but the project's needs torchvision.
"""

from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional


def conv_bn(inputs, outputs, kernel=3, stride=1, groups=1, act=None):
    """Convolution without bias, BatchNorm and perhaps an activation."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    layers = [conv, nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, *([act] if act is not None else []))


class InvertedResidual(nn.Module):
    """MobileNetV2's block."""

    def __init__(self, inputs, outputs, stride, expansion):
        super().__init__()
        hidden = inputs * expansion
        self.use_res_connect = stride == 1 and inputs == outputs
        layers = [conv_bn(inputs, hidden, 1, act=nn.ReLU6())] if expansion != 1 else []
        layers.append(conv_bn(hidden, hidden, 3, stride, hidden, nn.ReLU6()))
        layers += conv_bn(hidden, outputs, 1)
        self.conv = nn.Sequential(*layers)

    def forward(self, x):
        return x + self.conv(x) if self.use_res_connect else self.conv(x)


class MobileNetV2(nn.Module):
    """mobilenet_v2 of torchvision; `strides` are those of its groups of blocks."""

    def __init__(self, strides=(1, 2, 2, 2, 1, 2, 1), width=1.0, classes=1000):
        super().__init__()
        first = self.scale(32 * width)
        layers, channels = [conv_bn(3, first, 3, 2, act=nn.ReLU6())], first
        table = ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3))
        for (expansion, wide, count), stride in zip((*table, (6, 320, 1)), strides):
            outputs = self.scale(wide * width)
            for index in range(count):
                step = stride if index == 0 else 1
                layers.append(InvertedResidual(channels, outputs, step, expansion))
                channels = outputs
        layers.append(conv_bn(channels, 1280, 1, act=nn.ReLU6()))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))

    @staticmethod
    def scale(channels):
        """Round to a multiple of 8, and down by a tenth at most."""
        rounded = max(8, int(channels + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * channels else rounded

    def forward(self, x):
        x = self.features(x)
        x = functional.adaptive_avg_pool2d(x, 1).reshape(x.shape[0], -1)
        return self.classifier(x)


class DigitNet(MobileNetV2):
    """The architecture of the example, examples/train_mbv2.py."""

    def __init__(self):
        super().__init__(strides=(1, 1, 2, 2, 1, 1, 1), width=0.35, classes=10)


class BasicBlock(nn.Module):
    """ResNet's block of two convolutions."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = conv_bn(inputs, outputs, 1, stride) if stride != 1 else None

    def forward(self, x):
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return functional.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet18(nn.Module):
    """resnet18 of torchvision."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        widths = (64, 64, 128, 256, 512)
        for index in range(1, 5):
            blocks = [
                BasicBlock(widths[index - 1], widths[index], 2 if index > 1 else 1),
                BasicBlock(widths[index], widths[index], 1),
            ]
            self.add_module(f"layer{index}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(512, 1000)

    def forward(self, x):
        x = self.maxpool(functional.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class Bottleneck(nn.Module):
    """ResNeXt's block: the middle convolution has 32 groups."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        width = outputs // 2
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, groups=32, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = conv_bn(inputs, outputs, 1, stride) if inputs != outputs else None

    def forward(self, x):
        y = functional.relu(self.bn1(self.conv1(x)))
        y = functional.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return functional.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNeXt50(nn.Module):
    """resnext50_32x4d of torchvision."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs = 64
        for index, (outputs, count) in enumerate(((256, 3), (512, 4), (1024, 6), (2048, 3))):
            blocks = []
            for number in range(count):
                stride = 2 if index > 0 and number == 0 else 1
                blocks.append(Bottleneck(inputs, outputs, stride))
                inputs = outputs
            self.add_module(f"layer{index + 1}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(2048, 1000)

    def forward(self, x):
        x = self.maxpool(functional.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class ShuffleUnit(nn.Module):
    """ShuffleNetV2's block."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.stride, half = stride, outputs // 2
        self.branch1 = nn.Sequential()
        if stride > 1:
            self.branch1 = nn.Sequential(
                *conv_bn(inputs, inputs, 3, stride, inputs),
                *conv_bn(inputs, half, 1, act=nn.ReLU()),
            )
        self.branch2 = nn.Sequential(
            *conv_bn(inputs if stride > 1 else half, half, 1, act=nn.ReLU()),
            *conv_bn(half, half, 3, stride, half),
            *conv_bn(half, half, 1, act=nn.ReLU()),
        )

    def forward(self, x):
        if self.stride == 1:
            first, second = x.chunk(2, dim=1)
            y = torch.cat((first, self.branch2(second)), dim=1)
        else:
            y = torch.cat((self.branch1(x), self.branch2(x)), dim=1)
        size, channels, height, width = y.shape
        y = y.view(size, 2, channels // 2, height, width)
        return torch.transpose(y, 1, 2).contiguous().view(size, -1, height, width)


class ShuffleNetV2(nn.Module):
    """shufflenet_v2_x1_0 of torchvision."""

    def __init__(self):
        super().__init__()
        self.conv1 = conv_bn(3, 24, 3, 2, act=nn.ReLU())
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        widths, counts = (24, 116, 232, 464), (4, 8, 4)
        for index, count in enumerate(counts):
            width = widths[index + 1]
            units = [ShuffleUnit(widths[index], width, 2)]
            units += [ShuffleUnit(width, width, 1) for _ in range(count - 1)]
            self.add_module(f"stage{index + 2}", nn.Sequential(*units))
        self.conv5 = conv_bn(464, 1024, 1, act=nn.ReLU())
        self.fc = nn.Linear(1024, 1000)

    def forward(self, x):
        x = self.maxpool(self.conv1(x))
        x = self.conv5(self.stage4(self.stage3(self.stage2(x))))
        return self.fc(x.mean([2, 3]))


class HardSwish(nn.Module):
    """x · relu6(x + 3) / 6, as networks of 2020 wrote it."""

    def forward(self, x):
        return x * (functional.relu6(x + 3.0) / 6.0)


class SqueezeExcite(nn.Module):
    """Channels weighed by a hard sigmoid of their pooled values."""

    def __init__(self, channels, squeezed):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x):
        scale = self.expand(functional.relu(self.reduce(self.pool(x))))
        return x * (functional.relu6(scale + 3.0) / 6.0)


class MobileBlock(nn.Module):
    """MobileNetV3's block."""

    def __init__(self, inputs, hidden, outputs, kernel, stride, excite, swish):
        super().__init__()
        act = HardSwish if swish else nn.ReLU
        layers = [conv_bn(inputs, hidden, 1, act=act())] if hidden != inputs else []
        layers.append(conv_bn(hidden, hidden, kernel, stride, hidden, act()))
        if excite:
            layers.append(SqueezeExcite(hidden, max(8, hidden // 32 * 8)))
        layers.append(conv_bn(hidden, outputs, 1))
        self.layers = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x):
        return x + self.layers(x) if self.residual else self.layers(x)


class MobileNetV3(nn.Module):
    """A network like MobileNetV3-Small: 5×5 depthwise, squeeze-excite, hard-swish."""

    def __init__(self):
        super().__init__()
        layers, channels = [conv_bn(3, 16, 3, 2, act=HardSwish())], 16
        for hidden, outputs, kernel, stride, excite, swish in (
            (16, 16, 3, 2, True, False),
            (72, 24, 3, 2, False, False),
            (88, 24, 3, 1, False, False),
            (96, 40, 5, 2, True, True),
            (240, 40, 5, 1, True, True),
            (240, 40, 5, 1, True, True),
            (120, 48, 5, 1, True, True),
            (144, 48, 5, 1, True, True),
            (288, 96, 5, 2, True, True),
            (576, 96, 5, 1, True, True),
            (576, 96, 5, 1, True, True),
        ):
            layers.append(MobileBlock(channels, hidden, outputs, kernel, stride, excite, swish))
            channels = outputs
        layers.append(conv_bn(channels, 576, 1, act=HardSwish()))
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Sequential(nn.Linear(576, 1024), HardSwish(), nn.Linear(1024, 1000))

    def forward(self, x):
        return self.head(torch.flatten(self.pool(self.features(x)), 1))


def double_conv(inputs, outputs):
    """U-Net's pair of convolutions."""
    first = conv_bn(inputs, outputs, act=nn.ReLU())
    return nn.Sequential(first, conv_bn(outputs, outputs, act=nn.ReLU()))


class UNet(nn.Module):
    """A small U-Net whose decoder doubles the size by ConvTranspose2d."""

    def __init__(self, width=16):
        super().__init__()
        self.down1 = double_conv(3, width)
        self.down2 = double_conv(width, 2 * width)
        self.down3 = double_conv(2 * width, 4 * width)
        self.middle = double_conv(4 * width, 8 * width)
        self.up3 = nn.ConvTranspose2d(8 * width, 4 * width, 2, 2)
        self.join3 = double_conv(8 * width, 4 * width)
        self.up2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, 2)
        self.join2 = double_conv(4 * width, 2 * width)
        self.up1 = nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.join1 = double_conv(2 * width, width)
        self.head = nn.Conv2d(width, 2, 1)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x):
        first = self.down1(x)
        second = self.down2(self.pool(first))
        third = self.down3(self.pool(second))
        y = self.middle(self.pool(third))
        y = self.join3(torch.cat([self.up3(y), third], 1))
        y = self.join2(torch.cat([self.up2(y), second], 1))
        y = self.join1(torch.cat([self.up1(y), first], 1))
        return self.head(y)


# What builds a network, and the shape of its input.
NETS = OrderedDict(
    mobilenet_v2=(MobileNetV2, (1, 3, 224, 224)),
    resnet18=(ResNet18, (1, 3, 224, 224)),
    mobilenet_v3=(MobileNetV3, (1, 3, 224, 224)),
    shufflenet_v2_x1_0=(ShuffleNetV2, (1, 3, 224, 224)),
    resnext50_32x4d=(ResNeXt50, (1, 3, 224, 224)),
    unet=(UNet, (1, 3, 128, 128)),
    example=(DigitNet, (1, 3, 32, 32)),
)


def build(name):
    """The network of that name, with fresh weights; `runner convert --arch nets.py:build`."""
    return NETS[name][0]()
