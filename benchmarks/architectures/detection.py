"""Detection of objects, up to the boxes and scores before non-maximum suppression."""

from __future__ import annotations

import math
from typing import List, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F

from architectures.registry import field, image

architecture = field("detection")


def conv_bn(i: int, o: int, k: int = 3, s: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(i, o, k, s, (k - 1) // 2, bias=False), nn.BatchNorm2d(o), nn.LeakyReLU(0.1)
    )


class YOLOLayer(nn.Module):
    """Decode a grid's predictions into boxes in pixels, scores of an object and of classes."""

    def __init__(self, anchors: List[Tuple[float, float]], classes: int, size: int) -> None:
        super().__init__()
        self.num_anchors = len(anchors)
        self.num_classes = classes
        self.img_dim = size
        self.register_buffer("anchors", torch.tensor(anchors))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch = x.size(0)
        g = x.size(2)
        stride = self.img_dim / g
        prediction = (
            x.view(batch, self.num_anchors, self.num_classes + 5, g, g)
            .permute(0, 1, 3, 4, 2)
            .contiguous()
        )
        px = torch.sigmoid(prediction[..., 0])
        py = torch.sigmoid(prediction[..., 1])
        w = prediction[..., 2]
        h = prediction[..., 3]
        conf = torch.sigmoid(prediction[..., 4])
        cls = torch.sigmoid(prediction[..., 5:])
        grid_x = torch.arange(g, device=x.device).repeat(g, 1).view([1, 1, g, g]).float()
        grid_y = torch.arange(g, device=x.device).repeat(g, 1).t().view([1, 1, g, g]).float()
        scaled = self.anchors / stride
        anchor_w = scaled[:, 0:1].view((1, self.num_anchors, 1, 1))
        anchor_h = scaled[:, 1:2].view((1, self.num_anchors, 1, 1))
        boxes = torch.zeros(prediction[..., :4].shape, device=x.device)
        boxes[..., 0] = px + grid_x
        boxes[..., 1] = py + grid_y
        boxes[..., 2] = torch.exp(w) * anchor_w
        boxes[..., 3] = torch.exp(h) * anchor_h
        return torch.cat(
            (
                boxes.view(batch, -1, 4) * stride,
                conf.view(batch, -1, 1),
                cls.view(batch, -1, self.num_classes),
            ),
            -1,
        )


@architecture("YOLOv3", 2018, "YOLOv3: An Incremental Improvement", image(64))
class YOLOv3(nn.Module):
    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.down = nn.Sequential(conv_bn(3, 8, 3, 2), conv_bn(8, 16, 3, 2), conv_bn(16, 16, 3, 2))
        self.deep = nn.Sequential(conv_bn(16, 24, 3, 2), conv_bn(24, 16, 1))
        self.head1 = nn.Sequential(conv_bn(16, 24), nn.Conv2d(24, 3 * (classes + 5), 1))
        self.lateral = conv_bn(16, 8, 1)
        self.head2 = nn.Sequential(conv_bn(24, 24), nn.Conv2d(24, 3 * (classes + 5), 1))
        self.yolo1 = YOLOLayer([(30.0, 40.0), (20.0, 25.0), (50.0, 45.0)], classes, 64)
        self.yolo2 = YOLOLayer([(6.0, 8.0), (10.0, 7.0), (12.0, 15.0)], classes, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        route = self.down(x)
        y = self.deep(route)
        large = self.yolo1(self.head1(y))
        up = F.interpolate(self.lateral(y), scale_factor=2.0, mode="nearest")
        small = self.yolo2(self.head2(torch.cat([up, route], 1)))
        return torch.cat([large, small], 1)


class Focus(nn.Module):
    def __init__(self, c1: int, c2: int) -> None:
        super().__init__()
        self.conv = conv_bn(c1 * 4, c2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [
            x[..., ::2, ::2],
            x[..., 1::2, ::2],
            x[..., ::2, 1::2],
            x[..., 1::2, 1::2],
        ]
        return self.conv(torch.cat(parts, 1))


class BottleneckCSP(nn.Module):
    def __init__(self, c1: int, c2: int) -> None:
        super().__init__()
        c_ = c2 // 2
        self.cv1 = conv_bn(c1, c_, 1)
        self.cv2 = nn.Conv2d(c1, c_, 1, bias=False)
        self.cv3 = nn.Conv2d(c_, c_, 1, bias=False)
        self.cv4 = conv_bn(2 * c_, c2, 1)
        self.bn = nn.BatchNorm2d(2 * c_)
        self.m = nn.Sequential(conv_bn(c_, c_, 1), conv_bn(c_, c_, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y1 = self.cv1(x)
        y1 = self.cv3(y1 + self.m(y1))
        y2 = self.cv2(x)
        return self.cv4(F.leaky_relu(self.bn(torch.cat((y1, y2), dim=1)), 0.1))


class SPP(nn.Module):
    def __init__(self, c1: int, c2: int) -> None:
        super().__init__()
        self.cv1 = conv_bn(c1, c1 // 2, 1)
        self.cv2 = conv_bn(c1 // 2 * 4, c2, 1)
        self.m = nn.ModuleList([nn.MaxPool2d(k, 1, k // 2) for k in (5, 9, 13)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.cv1(x)
        pooled = [x]
        for pool in self.m:
            pooled.append(pool(x))
        return self.cv2(torch.cat(pooled, 1))


class DetectHead(nn.Module):
    def __init__(self, classes: int, channels: List[int], strides: List[float]) -> None:
        super().__init__()
        self.no = classes + 5
        self.na = 3
        self.strides = strides
        anchors = torch.tensor([[[10.0, 13], [16, 30], [33, 23]], [[30, 61], [62, 45], [59, 50]]])
        self.register_buffer("anchor_grid", anchors.view(2, 1, 3, 1, 1, 2))
        self.m = nn.ModuleList([nn.Conv2d(c, self.no * self.na, 1) for c in channels])

    def forward(self, x: List[torch.Tensor]) -> torch.Tensor:
        z: List[torch.Tensor] = []
        for i, conv in enumerate(self.m):
            p = conv(x[i])
            bs, _, ny, nx = p.shape
            p = p.view(bs, self.na, self.no, ny, nx).permute(0, 1, 3, 4, 2).contiguous()
            grids = torch.meshgrid([torch.arange(ny), torch.arange(nx)])
            grid = torch.stack((grids[1], grids[0]), 2).view((1, 1, ny, nx, 2)).float()
            y = p.sigmoid()
            y[..., 0:2] = (y[..., 0:2] * 2.0 - 0.5 + grid) * self.strides[i]
            y[..., 2:4] = (y[..., 2:4] * 2) ** 2 * self.anchor_grid[i]
            z.append(y.view(bs, -1, self.no))
        return torch.cat(z, 1)


@architecture("YOLOv5", 2020, "YOLOv5 (Ultralytics)", image(64))
class YOLOv5(nn.Module):
    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.focus = Focus(3, 8)
        self.stage1 = nn.Sequential(conv_bn(8, 16, 3, 2), BottleneckCSP(16, 16))
        self.stage2 = nn.Sequential(conv_bn(16, 16, 3, 2), SPP(16, 16), BottleneckCSP(16, 16))
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.merge = BottleneckCSP(32, 16)
        self.detect = DetectHead(classes, [16, 16], [4.0, 8.0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        p1 = self.stage1(self.focus(x))
        p2 = self.stage2(p1)
        p1 = self.merge(torch.cat([self.up(p2), p1], 1))
        return self.detect([p1, p2])


class L2Norm(nn.Module):
    def __init__(self, channels: int, scale: float) -> None:
        super().__init__()
        self.eps = 1e-10
        self.weight = nn.Parameter(torch.full((channels,), scale))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        norm = x.pow(2).sum(dim=1, keepdim=True).sqrt() + self.eps
        x = torch.div(x, norm)
        return self.weight.unsqueeze(0).unsqueeze(2).unsqueeze(3).expand_as(x) * x


@architecture("SSD", 2016, "SSD: Single Shot MultiBox Detector", image(48))
class SSD(nn.Module):
    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.classes = classes
        self.base = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2, 2),
            nn.Conv2d(8, 16, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2, 2, ceil_mode=True),
        )
        self.norm = L2Norm(16, 20.0)
        self.extras = nn.ModuleList(
            [nn.Conv2d(16, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, 2, 1), nn.Conv2d(16, 16, 3)]
        )
        self.loc = nn.ModuleList([nn.Conv2d(16, n * 4, 3, padding=1) for n in (4, 6, 6, 4)])
        self.conf = nn.ModuleList([nn.Conv2d(16, n * classes, 3, padding=1) for n in (4, 6, 6, 4)])
        count = 12 * 12 * 4 + 6 * 6 * 6 + 3 * 3 * 6 + 1 * 4
        self.register_buffer("priors", torch.rand(count, 4) * 0.5 + 0.25)

    def forward(self, x: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        sources: List[torch.Tensor] = []
        x = self.base(x)
        sources.append(self.norm(x))
        for extra in self.extras:
            x = F.relu(extra(x), inplace=True)
            sources.append(x)
        locs: List[torch.Tensor] = []
        confs: List[torch.Tensor] = []
        for i, (loc, conf) in enumerate(zip(self.loc, self.conf)):
            locs.append(loc(sources[i]).permute(0, 2, 3, 1).contiguous())
            confs.append(conf(sources[i]).permute(0, 2, 3, 1).contiguous())
        where = torch.cat([o.view(o.size(0), -1) for o in locs], 1)
        what = torch.cat([o.view(o.size(0), -1) for o in confs], 1)
        where = where.view(where.size(0), -1, 4)
        what = F.softmax(what.view(what.size(0), -1, self.classes), dim=-1)
        centre = self.priors[:, :2] + where[:, :, :2] * 0.1 * self.priors[:, 2:]
        size = self.priors[:, 2:] * torch.exp(where[:, :, 2:] * 0.2)
        boxes = torch.cat((centre - size / 2, size), 2)
        boxes[:, :, 2:] += boxes[:, :, :2]
        return boxes, what


class PyramidFeatures(nn.Module):
    def __init__(self, channels: List[int], width: int) -> None:
        super().__init__()
        self.lateral3 = nn.Conv2d(channels[0], width, 1)
        self.lateral4 = nn.Conv2d(channels[1], width, 1)
        self.lateral5 = nn.Conv2d(channels[2], width, 1)
        self.smooth3 = nn.Conv2d(width, width, 3, padding=1)
        self.smooth4 = nn.Conv2d(width, width, 3, padding=1)
        self.p6 = nn.Conv2d(channels[2], width, 3, 2, 1)

    def forward(self, c3: torch.Tensor, c4: torch.Tensor, c5: torch.Tensor) -> List[torch.Tensor]:
        p5 = self.lateral5(c5)
        p4 = self.lateral4(c4) + F.interpolate(p5, size=c4.shape[-2:], mode="nearest")
        p3 = self.lateral3(c3) + F.interpolate(p4, size=c3.shape[-2:], mode="nearest")
        return [self.smooth3(p3), self.smooth4(p4), p5, self.p6(c5)]


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 8, 3, 2), conv_bn(8, 12, 3, 2))
        self.stage4 = conv_bn(12, 16, 3, 2)
        self.stage5 = conv_bn(16, 24, 3, 2)

    def forward(self, x: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        c3 = self.stem(x)
        c4 = self.stage4(c3)
        return c3, c4, self.stage5(c4)


@architecture("RetinaNet", 2017, "Focal Loss for Dense Object Detection", image(52))
class RetinaNet(nn.Module):
    def __init__(self, classes: int = 4, anchors: int = 3) -> None:
        super().__init__()
        self.num_classes = classes
        self.num_anchors = anchors
        self.strides = [4, 8, 16, 32]
        self.backbone = Backbone()
        self.fpn = PyramidFeatures([12, 16, 24], 16)
        self.cls = nn.Sequential(
            nn.Conv2d(16, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, classes * anchors, 3, padding=1),
        )
        self.reg = nn.Sequential(
            nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 4 * anchors, 3, padding=1)
        )

    def make_anchors(self, height: int, width: int, stride: int) -> torch.Tensor:
        size = stride * 4.0
        ratios = torch.tensor([0.5, 1.0, 2.0])
        w = size / torch.sqrt(ratios)
        h = w * ratios
        base = torch.stack([-w / 2, -h / 2, w / 2, h / 2], dim=1)
        ys = (torch.arange(height).float() + 0.5) * stride
        xs = (torch.arange(width).float() + 0.5) * stride
        grid_y, grid_x = torch.meshgrid([ys, xs])
        shifts = torch.stack((grid_x, grid_y, grid_x, grid_y), dim=2).view(-1, 1, 4)
        return (shifts + base.view(1, -1, 4)).view(-1, 4)

    def forward(self, x: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        c3, c4, c5 = self.backbone(x)
        features = self.fpn(c3, c4, c5)
        scores: List[torch.Tensor] = []
        deltas: List[torch.Tensor] = []
        anchors: List[torch.Tensor] = []
        for i, f in enumerate(features):
            out = self.cls(f).permute(0, 2, 3, 1)
            n, h, w, _ = out.shape
            out = out.view(n, h, w, self.num_anchors, self.num_classes)
            scores.append(torch.sigmoid(out.contiguous().view(n, -1, self.num_classes)))
            deltas.append(self.reg(f).permute(0, 2, 3, 1).contiguous().view(n, -1, 4))
            anchors.append(self.make_anchors(h, w, self.strides[i]))
        box = torch.cat(anchors, 0).unsqueeze(0)
        delta = torch.cat(deltas, 1)
        widths = box[:, :, 2] - box[:, :, 0]
        heights = box[:, :, 3] - box[:, :, 1]
        cx = box[:, :, 0] + 0.5 * widths + delta[:, :, 0] * 0.1 * widths
        cy = box[:, :, 1] + 0.5 * heights + delta[:, :, 1] * 0.1 * heights
        w2 = torch.exp(torch.clamp(delta[:, :, 2] * 0.2, max=4.0)) * widths
        h2 = torch.exp(torch.clamp(delta[:, :, 3] * 0.2, max=4.0)) * heights
        x1 = torch.clamp(cx - 0.5 * w2, min=0)
        y1 = torch.clamp(cy - 0.5 * h2, min=0)
        x2 = torch.clamp(cx + 0.5 * w2, max=float(x.size(3)))
        y2 = torch.clamp(cy + 0.5 * h2, max=float(x.size(2)))
        return torch.stack([x1, y1, x2, y2], dim=2), torch.cat(scores, 1)


class Scale(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([value]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale


@architecture("FCOS", 2019, "FCOS: Fully Convolutional One-Stage Object Detection", image(48))
class FCOS(nn.Module):
    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.fpn = PyramidFeatures([12, 16, 24], 16)
        self.cls_tower = nn.Sequential(
            nn.Conv2d(16, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU()
        )
        self.box_tower = nn.Sequential(
            nn.Conv2d(16, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU()
        )
        self.logits = nn.Conv2d(16, classes, 3, padding=1)
        self.boxes = nn.Conv2d(16, 4, 3, padding=1)
        self.centerness = nn.Conv2d(16, 1, 3, padding=1)
        self.scales = nn.ModuleList([Scale(0.8 + 0.2 * i) for i in range(4)])
        self.strides = [4, 8, 16, 32]

    def forward(self, x: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        c3, c4, c5 = self.backbone(x)
        features = self.fpn(c3, c4, c5)
        scores: List[torch.Tensor] = []
        boxes: List[torch.Tensor] = []
        for i, scale in enumerate(self.scales):
            feature = features[i]
            cls = self.cls_tower(feature)
            box = self.box_tower(feature)
            n, c, h, w = self.logits(cls).shape
            score = torch.sigmoid(self.logits(cls)) * torch.sigmoid(self.centerness(box))
            distance = F.relu(scale(self.boxes(box))) * self.strides[i]
            stride = self.strides[i]
            shifts_x = torch.arange(0, w * stride, step=stride, dtype=torch.float32)
            shifts_y = torch.arange(0, h * stride, step=stride, dtype=torch.float32)
            shift_y, shift_x = torch.meshgrid([shifts_y, shifts_x])
            location = torch.stack((shift_x.reshape(-1), shift_y.reshape(-1)), dim=1) + stride // 2
            d = distance.permute(0, 2, 3, 1).reshape(n, -1, 4)
            boxes.append(torch.cat([location - d[..., :2], location + d[..., 2:]], dim=-1))
            scores.append(score.permute(0, 2, 3, 1).reshape(n, -1, c))
        return torch.cat(boxes, dim=1), torch.cat(scores, dim=1).sqrt()


@architecture("CenterNet", 2019, "Objects as Points", image(48))
class CenterNet(nn.Module):
    """Peaks of a heat map, by a max pool, the best of them and what else is known there."""

    def __init__(self, classes: int = 3, k: int = 5) -> None:
        super().__init__()
        self.k = k
        self.backbone = Backbone()
        self.up1 = nn.Sequential(
            nn.ConvTranspose2d(24, 16, 4, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
        )
        self.up2 = nn.Sequential(
            nn.ConvTranspose2d(16, 16, 4, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
        )
        self.hm = nn.Sequential(
            nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, classes, 1)
        )
        self.wh = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 2, 1))

    def gather_feat(self, feat: torch.Tensor, ind: torch.Tensor) -> torch.Tensor:
        feat = feat.permute(0, 2, 3, 1).contiguous()
        feat = feat.view(feat.size(0), -1, feat.size(3))
        ind = ind.unsqueeze(2).expand(ind.size(0), ind.size(1), feat.size(2))
        return feat.gather(1, ind)

    def forward(self, x: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        c5 = self.backbone(x)[2]
        y = self.up2(self.up1(c5))
        heat = torch.sigmoid(self.hm(y))
        peaks = F.max_pool2d(heat, 3, stride=1, padding=1)
        heat = heat * (peaks == heat).float()
        batch, classes, height, width = heat.size()
        scores, inds = torch.topk(heat.view(batch, classes, -1), self.k)
        inds = inds % (height * width)
        score, ind = torch.topk(scores.view(batch, -1), self.k)
        inds = inds.view(batch, -1).gather(1, ind)
        ys = (inds // width).float()
        xs = (inds % width).float()
        wh = self.gather_feat(self.wh(y), inds)
        xs = xs.view(batch, self.k, 1) + 0.5
        ys = ys.view(batch, self.k, 1) + 0.5
        box = torch.cat(
            [
                xs - wh[..., 0:1] / 2,
                ys - wh[..., 1:2] / 2,
                xs + wh[..., 0:1] / 2,
                ys + wh[..., 1:2] / 2,
            ],
            dim=2,
        )
        return box, score


class BiFPN(nn.Module):
    """Features joined up and down, with weights that are made positive and sum to one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv4_up = conv_bn(width, width)
        self.conv3_up = conv_bn(width, width)
        self.conv4_down = conv_bn(width, width)
        self.conv5_down = conv_bn(width, width)
        self.w4_up = nn.Parameter(torch.rand(2))
        self.w3_up = nn.Parameter(torch.rand(2))
        self.w4_down = nn.Parameter(torch.rand(3))
        self.w5_down = nn.Parameter(torch.rand(2))
        self.epsilon = 1e-4

    def forward(self, features: List[torch.Tensor]) -> List[torch.Tensor]:
        p3, p4, p5 = features[0], features[1], features[2]
        w = F.relu(self.w4_up)
        w = w / (torch.sum(w, dim=0) + self.epsilon)
        up = F.interpolate(p5, scale_factor=2.0, mode="nearest")
        p4_up = self.conv4_up(w[0] * p4 + w[1] * up)
        w = F.relu(self.w3_up)
        w = w / (torch.sum(w, dim=0) + self.epsilon)
        up = F.interpolate(p4_up, scale_factor=2.0, mode="nearest")
        p3_out = self.conv3_up(w[0] * p3 + w[1] * up)
        w = F.relu(self.w4_down)
        w = w / (torch.sum(w, dim=0) + self.epsilon)
        p4_out = self.conv4_down(
            w[0] * p4 + w[1] * p4_up + w[2] * F.max_pool2d(p3_out, 3, 2, padding=1)
        )
        w = F.relu(self.w5_down)
        w = w / (torch.sum(w, dim=0) + self.epsilon)
        p5_out = self.conv5_down(w[0] * p5 + w[1] * F.max_pool2d(p4_out, 3, 2, padding=1))
        return [p3_out, p4_out, p5_out]


@architecture(
    "EfficientDet", 2020, "EfficientDet: Scalable and Efficient Object Detection", image(64)
)
class EfficientDet(nn.Module):
    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.classes = classes
        self.backbone = Backbone()
        self.reduce = nn.ModuleList([nn.Conv2d(c, 16, 1) for c in (12, 16, 24)])
        self.bifpn = nn.ModuleList([BiFPN(16) for _ in range(2)])
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False)
        self.pointwise = nn.Conv2d(16, 16, 1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(16, eps=1e-3) for _ in range(3)])
        self.header = nn.Conv2d(16, 9 * classes, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        c3, c4, c5 = self.backbone(x)
        given = [c3, c4, c5]
        features: List[torch.Tensor] = []
        for i, conv in enumerate(self.reduce):
            features.append(conv(given[i]))
        for bifpn in self.bifpn:
            features = bifpn(features)
        feats: List[torch.Tensor] = []
        for i, bn in enumerate(self.norms):
            f = bn(self.pointwise(self.depthwise(features[i])))
            f = self.header(f * torch.sigmoid(f)).permute(0, 2, 3, 1)
            f = f.contiguous().view(f.shape[0], f.shape[1], f.shape[2], 9, self.classes)
            feats.append(f.contiguous().view(f.shape[0], -1, self.classes))
        return torch.cat(feats, dim=1).sigmoid()


class SinePosition(nn.Module):
    """Positions of an image as sines, counted by cumulative sums of a mask."""

    def __init__(self, features: int, temperature: float = 10000.0) -> None:
        super().__init__()
        self.features = features
        self.temperature = temperature
        self.scale = 2 * math.pi

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        not_mask = torch.ones([x.size(0), x.size(2), x.size(3)], device=x.device)
        y_embed = not_mask.cumsum(1)
        x_embed = not_mask.cumsum(2)
        y_embed = y_embed / (y_embed[:, -1:, :] + 1e-6) * self.scale
        x_embed = x_embed / (x_embed[:, :, -1:] + 1e-6) * self.scale
        dim_t = torch.arange(self.features, dtype=torch.float32, device=x.device)
        dim_t = self.temperature ** (2 * (dim_t // 2) / self.features)
        pos_x = x_embed[:, :, :, None] / dim_t
        pos_y = y_embed[:, :, :, None] / dim_t
        pos_x = torch.stack(
            (pos_x[:, :, :, 0::2].sin(), pos_x[:, :, :, 1::2].cos()), dim=4
        ).flatten(3)
        pos_y = torch.stack(
            (pos_y[:, :, :, 0::2].sin(), pos_y[:, :, :, 1::2].cos()), dim=4
        ).flatten(3)
        return torch.cat((pos_y, pos_x), dim=3).permute(0, 3, 1, 2)


class DETREncoderLayer(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(dim, 4)
        self.linear1 = nn.Linear(dim, dim * 2)
        self.linear2 = nn.Linear(dim * 2, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, src: torch.Tensor, pos: torch.Tensor) -> torch.Tensor:
        q = src + pos
        src = self.norm1(src + self.self_attn(q, q, value=src)[0])
        return self.norm2(src + self.linear2(F.relu(self.linear1(src))))


class DETRDecoderLayer(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(dim, 4)
        self.cross_attn = nn.MultiheadAttention(dim, 4)
        self.linear1 = nn.Linear(dim, dim * 2)
        self.linear2 = nn.Linear(dim * 2, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)

    def forward(
        self, tgt: torch.Tensor, memory: torch.Tensor, pos: torch.Tensor, query: torch.Tensor
    ) -> torch.Tensor:
        q = tgt + query
        tgt = self.norm1(tgt + self.self_attn(q, q, value=tgt)[0])
        tgt2 = self.cross_attn(query=tgt + query, key=memory + pos, value=memory)[0]
        tgt = self.norm2(tgt + tgt2)
        return self.norm3(tgt + self.linear2(F.relu(self.linear1(tgt))))


@architecture("DETR", 2020, "End-to-End Object Detection with Transformers", image(64))
class DETR(nn.Module):
    def __init__(self, dim: int = 16, queries: int = 6, classes: int = 4) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.position = SinePosition(dim // 2)
        self.input_proj = nn.Conv2d(24, dim, 1)
        self.query_embed = nn.Embedding(queries, dim)
        self.encoder = nn.ModuleList([DETREncoderLayer(dim) for _ in range(2)])
        self.decoder = nn.ModuleList([DETRDecoderLayer(dim) for _ in range(2)])
        self.class_embed = nn.Linear(dim, classes + 1)
        self.bbox_embed = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 4))

    def forward(self, x: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        features = self.input_proj(self.backbone(x)[2])
        pos = self.position(features).flatten(2).permute(2, 0, 1)
        src = features.flatten(2).permute(2, 0, 1)
        for layer in self.encoder:
            src = layer(src, pos)
        query = self.query_embed.weight.unsqueeze(1).repeat(1, x.size(0), 1)
        tgt = torch.zeros_like(query)
        for layer in self.decoder:
            tgt = layer(tgt, src, pos, query)
        hs = tgt.transpose(0, 1)
        return self.class_embed(hs), self.bbox_embed(hs).sigmoid()
