"""Segmentation of images."""

from __future__ import annotations

from typing import List, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F

from architectures.registry import field, image

architecture = field("segmentation")


class ConvBNReLU(nn.Module):
    def __init__(self, i: int, o: int, k: int = 3, s: int = 1, d: int = 1, g: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(i, o, k, s, d * (k // 2), dilation=d, groups=g, bias=False)
        self.bn = nn.BatchNorm2d(o)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(self.bn(self.conv(x)))


class DoubleConv(nn.Module):
    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.double_conv = nn.Sequential(ConvBNReLU(i, o), ConvBNReLU(o, o))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.double_conv(x)


class Up(nn.Module):
    """Double the size, and pad to what is joined, which may be of an odd size."""

    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(i, i // 2, 2, stride=2)
        self.conv = DoubleConv(i, o)

    def forward(self, x1: torch.Tensor, x2: torch.Tensor) -> torch.Tensor:
        x1 = self.up(x1)
        dy = x2.size()[2] - x1.size()[2]
        dx = x2.size()[3] - x1.size()[3]
        x1 = F.pad(x1, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])
        return self.conv(torch.cat([x2, x1], dim=1))


@architecture("U-Net", 2015, "U-Net: Convolutional Networks for Biomedical Images", image(38))
class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inc = DoubleConv(3, 8)
        self.down1 = nn.Sequential(nn.MaxPool2d(2), DoubleConv(8, 16))
        self.down2 = nn.Sequential(nn.MaxPool2d(2), DoubleConv(16, 32))
        self.up1 = Up(32, 16)
        self.up2 = Up(16, 8)
        self.outc = nn.Conv2d(8, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x1 = self.inc(x)
        x2 = self.down1(x1)
        x3 = self.down2(x2)
        x = self.up1(x3, x2)
        x = self.up2(x, x1)
        return self.outc(x)


@architecture("UNet++", 2018, "UNet++: A Nested U-Net Architecture", image(32))
class NestedUNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        w = [6, 8, 12]
        self.pool = nn.MaxPool2d(2, 2)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.conv0_0 = DoubleConv(3, w[0])
        self.conv1_0 = DoubleConv(w[0], w[1])
        self.conv2_0 = DoubleConv(w[1], w[2])
        self.conv0_1 = DoubleConv(w[0] + w[1], w[0])
        self.conv1_1 = DoubleConv(w[1] + w[2], w[1])
        self.conv0_2 = DoubleConv(w[0] * 2 + w[1], w[0])
        self.final1 = nn.Conv2d(w[0], 1, 1)
        self.final2 = nn.Conv2d(w[0], 1, 1)

    def forward(self, x: torch.Tensor) -> List[torch.Tensor]:
        x0_0 = self.conv0_0(x)
        x1_0 = self.conv1_0(self.pool(x0_0))
        x0_1 = self.conv0_1(torch.cat([x0_0, self.up(x1_0)], 1))
        x2_0 = self.conv2_0(self.pool(x1_0))
        x1_1 = self.conv1_1(torch.cat([x1_0, self.up(x2_0)], 1))
        x0_2 = self.conv0_2(torch.cat([x0_0, x0_1, self.up(x1_1)], 1))
        return [self.final1(x0_1), self.final2(x0_2)]


class AttentionGate(nn.Module):
    def __init__(self, gate: int, skip: int, mid: int) -> None:
        super().__init__()
        self.theta = nn.Conv2d(skip, mid, 2, stride=2, bias=False)
        self.phi = nn.Conv2d(gate, mid, 1)
        self.psi = nn.Conv2d(mid, 1, 1)
        self.bn = nn.BatchNorm2d(skip)

    def forward(self, skip: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        theta = self.theta(skip)
        phi = F.interpolate(
            self.phi(gate), size=theta.size()[2:], mode="bilinear", align_corners=False
        )
        a = torch.sigmoid(self.psi(F.relu(theta + phi, inplace=True)))
        a = F.interpolate(a, size=skip.size()[2:], mode="bilinear", align_corners=False)
        return self.bn(a.expand_as(skip) * skip)


@architecture("Attention U-Net", 2018, "Attention U-Net: Where to Look for the Pancreas", image(32))
class AttentionUNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enc1 = DoubleConv(3, 8)
        self.enc2 = DoubleConv(8, 16)
        self.enc3 = DoubleConv(16, 16)
        self.att2 = AttentionGate(16, 16, 8)
        self.dec2 = DoubleConv(32, 8)
        self.att1 = AttentionGate(8, 8, 8)
        self.dec1 = DoubleConv(16, 8)
        self.out = nn.Conv2d(8, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        e1 = self.enc1(x)
        e2 = self.enc2(F.max_pool2d(e1, 2))
        e3 = self.enc3(F.max_pool2d(e2, 2))
        up = F.interpolate(e3, scale_factor=2.0, mode="bilinear", align_corners=True)
        d2 = self.dec2(torch.cat([self.att2(e2, e3), up], 1))
        up = F.interpolate(d2, scale_factor=2.0, mode="bilinear", align_corners=True)
        d1 = self.dec1(torch.cat([self.att1(e1, d2), up], 1))
        return F.log_softmax(self.out(d1), dim=1)


@architecture(
    "SegNet", 2017, "SegNet: A Deep Convolutional Encoder-Decoder Architecture", image(32)
)
class SegNet(nn.Module):
    """Unpooling to the places that the pools took their maxima from."""

    def __init__(self) -> None:
        super().__init__()
        self.enc1 = ConvBNReLU(3, 8)
        self.enc2 = ConvBNReLU(8, 12)
        self.enc3 = ConvBNReLU(12, 12)
        self.dec3 = ConvBNReLU(12, 12)
        self.dec2 = ConvBNReLU(12, 8)
        self.dec1 = nn.Conv2d(8, 4, 3, padding=1)
        self.unpool = nn.MaxUnpool2d(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.enc1(x)
        size1 = x.size()
        x, i1 = F.max_pool2d(x, 2, 2, return_indices=True)
        x = self.enc2(x)
        size2 = x.size()
        x, i2 = F.max_pool2d(x, 2, 2, return_indices=True)
        x = self.enc3(x)
        size3 = x.size()
        x, i3 = F.max_pool2d(x, 2, 2, return_indices=True)
        x = self.dec3(self.unpool(x, i3, output_size=size3))
        x = self.dec2(self.unpool(x, i2, output_size=size2))
        return self.dec1(self.unpool(x, i1, output_size=size1))


@architecture("FPN", 2017, "Feature Pyramid Networks (with a head for segmentation)", image(36))
class FPN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c1 = ConvBNReLU(3, 8, 3, 2)
        self.c2 = ConvBNReLU(8, 12, 3, 2)
        self.c3 = ConvBNReLU(12, 16, 3, 2)
        self.top = nn.Conv2d(16, 12, 1)
        self.lat2 = nn.Conv2d(12, 12, 1)
        self.lat1 = nn.Conv2d(8, 12, 1)
        self.semantic = nn.Conv2d(12, 8, 3, padding=1)
        self.gn = nn.GroupNorm(4, 8)
        self.head = nn.Conv2d(8, 5, 1)

    def upsample_add(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        _, _, h, w = y.size()
        return F.interpolate(x, size=(h, w), mode="bilinear", align_corners=False) + y

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        c1 = self.c1(x)
        c2 = self.c2(c1)
        c3 = self.c3(c2)
        p3 = self.top(c3)
        p2 = self.upsample_add(p3, self.lat2(c2))
        p1 = self.upsample_add(p2, self.lat1(c1))
        _, _, h, w = p1.size()
        s3 = F.relu(self.gn(self.semantic(p3)))
        s3 = F.interpolate(s3, size=(h, w), mode="bilinear", align_corners=True)
        s2 = F.relu(self.gn(self.semantic(p2)))
        s2 = F.interpolate(s2, size=(h, w), mode="bilinear", align_corners=True)
        s1 = F.relu(self.gn(self.semantic(p1)))
        out = self.head(s1 + s2 + s3)
        return F.interpolate(out, size=x.size()[2:], mode="bilinear", align_corners=False)


class PyramidPooling(nn.Module):
    def __init__(self, i: int, sizes: Tuple[int, ...] = (1, 2, 3, 6)) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            [nn.Sequential(nn.AdaptiveAvgPool2d((s, s)), ConvBNReLU(i, i // 4, 1)) for s in sizes]
        )
        self.bottleneck = ConvBNReLU(i + i // 4 * len(sizes), i)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, w = x.size(2), x.size(3)
        pyramids = [x]
        for stage in self.stages:
            pyramids.append(
                F.interpolate(stage(x), size=(h, w), mode="bilinear", align_corners=True)
            )
        return self.bottleneck(torch.cat(pyramids, dim=1))


@architecture("PSPNet", 2017, "Pyramid Scene Parsing Network", image(40))
class PSPNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(ConvBNReLU(3, 8, 3, 2), ConvBNReLU(8, 16, 3, 2))
        self.dilated = nn.Sequential(ConvBNReLU(16, 16, 3, 1, 2), ConvBNReLU(16, 16, 3, 1, 4))
        self.psp = PyramidPooling(16)
        self.final = nn.Conv2d(16, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = x.shape[-2:]
        y = self.final(self.psp(self.dilated(self.stem(x))))
        return F.interpolate(y, size=size, mode="bilinear", align_corners=True)


class ASPP(nn.Module):
    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.aspp1 = ConvBNReLU(i, o, 1)
        self.aspp2 = ConvBNReLU(i, o, 3, 1, 2)
        self.aspp3 = ConvBNReLU(i, o, 3, 1, 4)
        self.global_avg_pool = nn.Sequential(nn.AdaptiveAvgPool2d((1, 1)), ConvBNReLU(i, o, 1))
        self.project = nn.Sequential(ConvBNReLU(4 * o, o, 1), nn.Dropout(0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x1 = self.aspp1(x)
        x2 = self.aspp2(x)
        x3 = self.aspp3(x)
        x4 = self.global_avg_pool(x)
        x4 = F.interpolate(x4, size=x3.size()[2:], mode="bilinear", align_corners=True)
        return self.project(torch.cat((x1, x2, x3, x4), dim=1))


@architecture("DeepLabV3+", 2018, "Encoder-Decoder with Atrous Separable Convolution", image(40))
class DeepLabV3Plus(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.low = nn.Sequential(ConvBNReLU(3, 8, 3, 2), ConvBNReLU(8, 12, 3, 2))
        self.high = nn.Sequential(
            ConvBNReLU(12, 12, 3, 2, 1, 12), ConvBNReLU(12, 16, 1), ConvBNReLU(16, 16, 3, 1, 2, 16)
        )
        self.aspp = ASPP(16, 12)
        self.reduce = ConvBNReLU(12, 6, 1)
        self.last = nn.Sequential(ConvBNReLU(18, 12), nn.Dropout(0.1), nn.Conv2d(12, 4, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        low = self.low(x)
        y = self.aspp(self.high(low))
        y = F.interpolate(y, size=low.size()[2:], mode="bilinear", align_corners=True)
        y = self.last(torch.cat((y, self.reduce(low)), dim=1))
        return F.interpolate(y, size=x.size()[2:], mode="bilinear", align_corners=True)


class AttentionRefinement(nn.Module):
    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.conv = ConvBNReLU(i, o)
        self.conv_atten = nn.Conv2d(o, o, 1, bias=False)
        self.bn_atten = nn.BatchNorm2d(o)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        feat = self.conv(x)
        atten = F.avg_pool2d(feat, feat.size()[2:])
        atten = torch.sigmoid(self.bn_atten(self.conv_atten(atten)))
        return torch.mul(feat, atten)


@architecture("BiSeNet", 2018, "BiSeNet: Bilateral Segmentation Network", image(64))
class BiSeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.spatial = nn.Sequential(
            ConvBNReLU(3, 8, 7, 2), ConvBNReLU(8, 8, 3, 2), ConvBNReLU(8, 12, 3, 2)
        )
        self.context8 = nn.Sequential(
            ConvBNReLU(3, 8, 3, 2), nn.MaxPool2d(3, 2, 1), ConvBNReLU(8, 12, 3, 2)
        )
        self.context16 = ConvBNReLU(12, 16, 3, 2)
        self.context32 = ConvBNReLU(16, 16, 3, 2)
        self.arm16 = AttentionRefinement(16, 12)
        self.arm32 = AttentionRefinement(16, 12)
        self.conv_avg = ConvBNReLU(16, 12, 1)
        self.fuse = ConvBNReLU(24, 12, 1)
        self.conv1 = nn.Conv2d(12, 4, 1, bias=False)
        self.conv2 = nn.Conv2d(4, 12, 1, bias=False)
        self.out = nn.Conv2d(12, 5, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        H, W = x.size()[2:]
        sp = self.spatial(x)
        f8 = self.context8(x)
        f16 = self.context16(f8)
        f32 = self.context32(f16)
        avg = self.conv_avg(F.avg_pool2d(f32, f32.size()[2:]))
        avg_up = F.interpolate(avg, f32.size()[2:], mode="nearest")
        f32_sum = self.arm32(f32) + avg_up
        f16_sum = self.arm16(f16) + F.interpolate(f32_sum, f16.size()[2:], mode="nearest")
        f8_up = F.interpolate(f16_sum, f8.size()[2:], mode="nearest")
        feat = self.fuse(torch.cat([sp, f8_up], dim=1))
        atten = F.avg_pool2d(feat, feat.size()[2:])
        atten = torch.sigmoid(self.conv2(F.relu(self.conv1(atten))))
        feat = feat * atten + feat
        return F.interpolate(self.out(feat), (H, W), mode="bilinear", align_corners=True)


class DSConv(nn.Module):
    def __init__(self, i: int, o: int, s: int = 1) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(i, i, 3, s, 1, groups=i, bias=False),
            nn.BatchNorm2d(i),
            nn.ReLU(True),
            nn.Conv2d(i, o, 1, bias=False),
            nn.BatchNorm2d(o),
            nn.ReLU(True),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class LinearBottleneck(nn.Module):
    def __init__(self, i: int, o: int, t: int = 2, s: int = 2) -> None:
        super().__init__()
        self.use_shortcut = s == 1 and i == o
        self.block = nn.Sequential(
            ConvBNReLU(i, i * t, 1),
            ConvBNReLU(i * t, i * t, 3, s, 1, i * t),
            nn.Conv2d(i * t, o, 1, bias=False),
            nn.BatchNorm2d(o),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.block(x)
        if self.use_shortcut:
            out = x + out
        return out


@architecture("Fast-SCNN", 2019, "Fast-SCNN: Fast Semantic Segmentation Network", image(64))
class FastSCNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(ConvBNReLU(3, 8, 3, 2), DSConv(8, 12, 2), DSConv(12, 16, 2))
        self.extract = nn.Sequential(
            LinearBottleneck(16, 16, 2, 2), LinearBottleneck(16, 16, 2, 1), PyramidPooling(16)
        )
        self.dwconv = ConvBNReLU(16, 16, 3, 1, 1, 16)
        self.conv_lower = nn.Sequential(nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16))
        self.conv_higher = nn.Sequential(nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16))
        self.classifier = nn.Sequential(DSConv(16, 16), nn.Dropout(0.1), nn.Conv2d(16, 4, 1))

    def forward(self, x: torch.Tensor) -> Tuple[torch.Tensor]:
        size = x.size()[2:]
        higher = self.down(x)
        lower = self.extract(higher)
        _, _, h, w = higher.size()
        lower = F.interpolate(lower, size=(h, w), mode="bilinear", align_corners=True)
        lower = self.conv_lower(self.dwconv(lower))
        y = F.relu(self.conv_higher(higher) + lower)
        y = F.interpolate(self.classifier(y), size, mode="bilinear", align_corners=True)
        outputs: List[torch.Tensor] = []
        outputs.append(y)
        return (outputs[0],)


class HRModule(nn.Module):
    """Branches of two sizes, each of which becomes the sum of both."""

    def __init__(self, high: int, low: int) -> None:
        super().__init__()
        self.branch0 = ConvBNReLU(high, high)
        self.branch1 = ConvBNReLU(low, low)
        self.up = nn.Sequential(nn.Conv2d(low, high, 1, bias=False), nn.BatchNorm2d(high))
        self.down = nn.Sequential(nn.Conv2d(high, low, 3, 2, 1, bias=False), nn.BatchNorm2d(low))

    def forward(self, x: List[torch.Tensor]) -> List[torch.Tensor]:
        a, b = self.branch0(x[0]), self.branch1(x[1])
        height, width = a.shape[-2], a.shape[-1]
        up = F.interpolate(self.up(b), size=[height, width], mode="bilinear", align_corners=True)
        return [F.relu(a + up), F.relu(b + self.down(a))]


@architecture("HRNet-OCR", 2020, "Object-Contextual Representations", image(40))
class HRNetOCR(nn.Module):
    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.stem = nn.Sequential(ConvBNReLU(3, 8, 3, 2), ConvBNReLU(8, 8, 3, 2))
        self.transition = ConvBNReLU(8, 12, 3, 2)
        self.modules_ = nn.ModuleList([HRModule(8, 12), HRModule(8, 12)])
        self.aux = nn.Conv2d(20, classes, 1)
        self.pixel = ConvBNReLU(20, 16)
        self.query = nn.Sequential(ConvBNReLU(16, 8, 1), ConvBNReLU(8, 8, 1))
        self.key = nn.Sequential(ConvBNReLU(16, 8, 1), ConvBNReLU(8, 8, 1))
        self.value = ConvBNReLU(16, 8, 1)
        self.up = ConvBNReLU(8, 16, 1)
        self.head = nn.Conv2d(32, classes, 1)

    def forward(self, x: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        y0 = self.stem(x)
        ys = [y0, self.transition(y0)]
        for module in self.modules_:
            ys = module(ys)
        h, w = ys[0].size(2), ys[0].size(3)
        low = F.interpolate(ys[1], size=(h, w), mode="bilinear", align_corners=True)
        feats = torch.cat([ys[0], low], 1)
        aux = self.aux(feats)
        feats = self.pixel(feats)
        batch, c, _, _ = aux.size()
        probs = F.softmax(1.0 * aux.view(batch, c, -1), dim=2)
        flat = feats.view(batch, feats.size(1), -1).permute(0, 2, 1)
        regions = torch.matmul(probs, flat).permute(0, 2, 1).unsqueeze(3)
        query = self.query(feats).view(batch, 8, -1).permute(0, 2, 1)
        key = self.key(regions).view(batch, 8, -1)
        value = self.value(regions).view(batch, 8, -1).permute(0, 2, 1)
        sim = torch.matmul(query, key) * (8**-0.5)
        sim = F.softmax(sim, dim=-1)
        context = torch.matmul(sim, value).permute(0, 2, 1).contiguous()
        context = self.up(context.view(batch, 8, h, w))
        return aux, self.head(torch.cat([context, feats], 1))


@architecture("PointRend", 2020, "PointRend: Image Segmentation as Rendering", image(32))
class PointRend(nn.Module):
    """The most uncertain points of a coarse mask, predicted anew from finer features."""

    def __init__(self, classes: int = 3, points: int = 20) -> None:
        super().__init__()
        self.points = points
        self.fine = ConvBNReLU(3, 8, 3, 2)
        self.deep = ConvBNReLU(8, 12, 3, 2)
        self.coarse = nn.Conv2d(12, classes, 1)
        self.mlp = nn.Sequential(
            nn.Conv1d(8 + classes, 16, 1), nn.ReLU(), nn.Conv1d(16, classes, 1)
        )

    def sample(self, features: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        grid = 2.0 * points.unsqueeze(2) - 1.0
        return F.grid_sample(features, grid, align_corners=False).squeeze(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        fine = self.fine(x)
        coarse = self.coarse(self.deep(fine))
        mask = F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
        B, C, H, W = mask.shape
        best, _ = torch.topk(mask, 2, dim=1)
        uncertainty = -1 * (best[:, 0] - best[:, 1])
        _, idx = uncertainty.view(B, -1).topk(self.points, dim=1)
        px = 0.5 / W + (idx % W).float() / W
        py = 0.5 / H + (idx // W).float() / H
        points = torch.stack([px, py], dim=2)
        feats = torch.cat([self.sample(coarse, points), self.sample(fine, points)], dim=1)
        rend = self.mlp(feats)
        expanded = idx.unsqueeze(1).expand(-1, C, -1)
        mask = mask.reshape(B, C, -1).scatter(2, expanded, rend)
        return mask.view(B, C, H, W)
