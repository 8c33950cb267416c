"""Small seeded networks of every family that should convert, for torch 1.5.1.

`NETS` maps a name to a function that makes the module, its input shapes and their types; `build`
makes it with calibrated BatchNorm (else outputs are so small that anything passes). `NEEDS` names
a fix for a net that does not convert as it should without it.
"""

from __future__ import annotations

import sys
from typing import Any, Callable, Dict, List, Sequence, Tuple

import shuffles
import sweeps
import torch
import torch.nn as nn
import torch.nn.functional as F
from torchvision.ops import DeformConv2d, nms

# A whole module is pickled by the name of this file's module, however it was imported.
sys.modules.setdefault("nets", sys.modules[__name__])

Shape = Tuple[int, ...]
Net = Tuple[Callable[[], nn.Module], Tuple[Shape, ...], Tuple[str, ...]]
NETS: Dict[str, Net] = {}
# Those that no fix makes convert: each is refused, with its reason.
REFUSED: Dict[str, Net] = {}
FUNCTIONS: Dict[str, Callable[..., Any]] = {}


class Fn(nn.Module):
    """A function of this file's `FUNCTIONS` with modules `a`, `b` ... at its service."""

    def __init__(self, name: str, *modules: nn.Module) -> None:
        super().__init__()
        self.function = name
        for letter, module in zip("abcdefgh", modules):
            setattr(self, letter, module)

    def forward(self, *inputs: torch.Tensor) -> Any:
        return FUNCTIONS[self.function](self, *inputs)


def net(
    name: str, make: Callable[[], nn.Module], *shapes: Shape, dtypes: Sequence[str] = ()
) -> None:
    NETS[name] = (make, tuple(shapes), tuple(dtypes) or ("float32",) * len(shapes))


def fn(
    name: str,
    *shapes: Shape,
    modules: Callable[[], Sequence[nn.Module]] = tuple,
    dtypes: Sequence[str] = (),
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function of (module, *inputs) as a net."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        FUNCTIONS[name] = function
        net(name, lambda: Fn(name, *modules()), *shapes, dtypes=dtypes)
        return function

    return register


def inputs_of(name: str, seed: int = 0, batch: int = 1) -> List[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    result = []
    for shape, dtype in zip(*NETS[name][1:]):
        if dtype == "int64":
            result.append(torch.randint(0, 10, shape, generator=generator))
        elif dtype == "bool":
            result.append(torch.rand(shape, generator=generator) > 0.5)
        else:
            result.append(torch.randn(shape, generator=generator))
    return result


def build(name: str) -> nn.Module:
    """The module in eval mode, its BatchNorm calibrated by a few passes in train mode."""
    torch.manual_seed(0)
    module = {**NETS, **REFUSED}[name][0]()
    if isinstance(module, torch.jit.ScriptModule):
        return module.eval()
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if norms:
        for norm in norms:
            norm.momentum = None
            norm.reset_running_stats()
            if norm.affine:
                nn.init.uniform_(norm.weight, 0.5, 1.5)
                nn.init.normal_(norm.bias, 0, 0.2)
        module.eval()
        for norm in norms:
            norm.train()
        with torch.no_grad():
            for seed in range(4):
                values = inputs_of(name, seed)
                # BatchNorm1d after Linear wants more than one value a channel.
                if values[0].shape[0] == 1:
                    values = [
                        torch.cat([v, inputs_of(name, seed + 9)[i]]) for i, v in enumerate(values)
                    ]
                module(*values)
    return module.eval()


def conv_bn(i: int, o: int, k: int = 3, s: int = 1, g: int = 1, act: Any = None) -> nn.Sequential:
    layers: List[nn.Module] = [
        nn.Conv2d(i, o, k, s, k // 2, groups=g, bias=False),
        nn.BatchNorm2d(o),
    ]
    return nn.Sequential(*layers, *([act] if act is not None else []))


def vision(name: str, size: int, **kwargs: Any) -> None:
    def make() -> nn.Module:
        import torchvision

        family: Any = torchvision.models
        for part in name.split("."):
            family = getattr(family, part)
        return family(pretrained=False, **kwargs)

    net(name.replace("segmentation.", ""), make, (1, 3, size, size))


vision("mobilenet_v2", 64)
vision("resnet18", 64)
vision("squeezenet1_1", 64)
vision("googlenet", 64, aux_logits=False, init_weights=False)
vision("shufflenet_v2_x0_5", 64)
vision("mnasnet0_5", 64)
vision("densenet121", 64)
vision("alexnet", 64)
vision("vgg11_bn", 32)
vision("resnext50_32x4d", 64)
vision("inception_v3", 80, aux_logits=False, init_weights=False)


@fn(
    "fcn_small",
    (1, 3, 32, 32),
    modules=lambda: (conv_bn(3, 8, 3, 2, act=nn.ReLU()), nn.Conv2d(8, 5, 1)),
)
def _fcn(m: Any, x: Any) -> Any:
    y = m.b(m.a(x))
    return F.interpolate(y, size=x.shape[-2:], mode="bilinear", align_corners=False)


def _unet(up: str) -> None:
    def modules() -> Sequence[nn.Module]:
        if up == "transpose":
            upward: nn.Module = nn.ConvTranspose2d(16, 16, 2, 2)
        elif up == "transpose3":
            upward = nn.ConvTranspose2d(16, 16, 3, 2, 1, 1)
        elif up == "transpose4":
            upward = nn.ConvTranspose2d(16, 16, 4, 2, 1)
        elif up == "nearest":
            upward = nn.Upsample(scale_factor=2, mode="nearest")
        else:
            mode, _, corners = up.partition("_")
            upward = nn.Upsample(scale_factor=2, mode=mode, align_corners=corners == "corners")
        return (
            conv_bn(3, 8, act=nn.ReLU()),
            nn.MaxPool2d(2),
            conv_bn(8, 16, act=nn.ReLU()),
            upward,
            conv_bn(24, 8, act=nn.ReLU()),
            nn.Conv2d(8, 2, 1),
        )

    @fn(f"unet_{up}", (1, 3, 16, 16), modules=modules)
    def _forward(m: Any, x: Any) -> Any:
        a = m.a(x)
        b = m.c(m.b(a))
        return m.f(m.e(torch.cat([m.d(b), a], 1)))


for _up in (
    "transpose",
    "transpose3",
    "transpose4",
    "nearest",
    "bilinear",
    "bilinear_corners",
    "bicubic",
    "bicubic_corners",
):
    _unet(_up)


@fn(
    "mobilenet_v3_like",
    (1, 8, 16, 16),
    modules=lambda: (
        conv_bn(8, 16, 1),
        conv_bn(16, 16, 3, 2, 16),
        nn.Linear(16, 4),
        nn.Linear(4, 16),
        conv_bn(16, 8, 1),
    ),
)
def _v3(m: Any, x: Any) -> Any:
    def hswish(t: Any) -> Any:
        return t * F.relu6(t + 3) / 6

    y = hswish(m.a(x))
    y = m.b(y)
    s = F.adaptive_avg_pool2d(y, 1).flatten(1)
    s = F.relu6(m.d(F.relu(m.c(s))) + 3) / 6
    y = y * s[:, :, None, None]
    return m.e(hswish(y))


@fn("squeeze_excite_conv", (1, 8, 9, 9), modules=lambda: (nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)))
def _se(m: Any, x: Any) -> Any:
    return x * torch.sigmoid(m.b(F.relu(m.a(F.adaptive_avg_pool2d(x, 1)))))


net("conv_bn_relu", lambda: conv_bn(3, 8, act=nn.ReLU()), (1, 3, 12, 12))
net(
    "conv_grouped",
    lambda: nn.Sequential(nn.Conv2d(8, 12, 3, padding=1, groups=4), nn.ReLU()),
    (1, 8, 9, 9),
)
net("conv_depthwise_multiplier", lambda: nn.Conv2d(4, 12, 3, padding=1, groups=4), (1, 4, 9, 9))
net(
    "conv_depthwise_dilated",
    lambda: nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4),
    (1, 4, 9, 9),
)
net("conv_depthwise_strides", lambda: nn.Conv2d(4, 4, 3, (2, 1), 1, groups=4), (1, 4, 9, 9))
net(
    "conv_dilated",
    lambda: nn.Sequential(nn.Conv2d(4, 8, 3, padding=2, dilation=2), nn.ReLU()),
    (1, 4, 11, 11),
)
net("conv_dilated_pad", lambda: nn.Conv2d(4, 8, 3, padding=1, dilation=3), (1, 4, 11, 11))
net(
    "conv_asymmetric",
    lambda: nn.Sequential(nn.ZeroPad2d((0, 1, 2, 0)), nn.Conv2d(3, 8, (3, 2), (2, 1))),
    (1, 3, 9, 10),
)
net("conv_strided_even", lambda: nn.Conv2d(3, 8, 4, 2, 1), (1, 3, 16, 16))
net(
    "conv_batch2",
    lambda: nn.Sequential(conv_bn(3, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)),
    (2, 3, 8, 8),
)
net("conv_circular", lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), (1, 3, 8, 8))
net(
    "conv1d",
    lambda: nn.Sequential(
        nn.Conv1d(4, 8, 3, padding=1),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.MaxPool1d(2),
        nn.Conv1d(8, 6, 5, 2, 2, groups=2),
        nn.ReLU(),
        nn.AvgPool1d(2),
    ),
    (1, 4, 32),
)
net(
    "conv1d_dilated",
    lambda: nn.Sequential(
        nn.Conv1d(4, 8, 3, padding=4, dilation=4),
        nn.Tanh(),
        nn.Conv1d(8, 8, 3, padding=1, groups=8),
    ),
    (1, 4, 32),
)
net("conv_transpose1d", lambda: nn.ConvTranspose1d(4, 6, 4, 2, 1), (1, 4, 10))
net("conv_transpose_grouped", lambda: nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2), (1, 4, 7, 7))
net("conv_transpose_dilated", lambda: nn.ConvTranspose2d(4, 6, 3, 1, 2, dilation=2), (1, 4, 7, 7))
net(
    "conv_transpose_bn",
    lambda: nn.Sequential(nn.ConvTranspose2d(4, 6, 3, 2), nn.BatchNorm2d(6), nn.ReLU()),
    (1, 4, 7, 7),
)
net(
    "conv3d",
    lambda: nn.Sequential(
        nn.Conv3d(2, 4, 3, padding=1),
        nn.BatchNorm3d(4),
        nn.ReLU(),
        nn.MaxPool3d(2),
        nn.Conv3d(4, 4, (1, 3, 3), (1, 2, 2)),
    ),
    (1, 2, 6, 10, 10),
)
net("conv3d_transpose", lambda: nn.ConvTranspose3d(2, 4, 2, 2), (1, 2, 3, 4, 4))
net(
    "conv3d_avg",
    lambda: nn.Sequential(
        nn.Conv3d(2, 4, 3, 2, 1), nn.AvgPool3d(2), nn.Flatten(), nn.Linear(4 * 1 * 2 * 2, 5)
    ),
    (1, 2, 4, 8, 8),
)
net(
    "bn_first",
    lambda: nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 3)),
    (1, 3, 9, 9),
)
net(
    "mlp_bn",
    lambda: nn.Sequential(
        nn.Linear(10, 16),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(16, 4),
        nn.LogSoftmax(1),
    ),
    (1, 10),
)
net("linear_3d", lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), (1, 5, 6))

for _name in (
    "ReLU",
    "ReLU6",
    "ELU",
    "SELU",
    "CELU",
    "LeakyReLU",
    "PReLU",
    "RReLU",
    "Sigmoid",
    "Tanh",
    "Softplus",
    "Softsign",
    "Hardtanh",
    "LogSigmoid",
    "Softmin",
    "Tanhshrink",
    "Softshrink",
    "Hardshrink",
    "Threshold",
    "GELU",
    "Hardsigmoid",
):

    def _make(name: str = _name) -> nn.Module:
        torch_name = getattr(nn, name, None)
        if name == "Softmin":
            act: nn.Module = nn.Softmin(dim=1)
        elif name == "Threshold":
            act = nn.Threshold(0.1, 0.5)
        elif name == "PReLU":
            act = nn.PReLU(8)
            nn.init.uniform_(act.weight, -0.5, 1.5)
        else:
            act = torch_name()
        return nn.Sequential(nn.Conv2d(3, 8, 3), act, nn.Conv2d(8, 2, 1))

    net(f"act_{_name.lower()}", _make, (1, 3, 7, 7))

net("act_elu_alpha", lambda: nn.ELU(0.5), (1, 3, 5, 5))
net("prelu_shared", lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.PReLU()), (1, 3, 7, 7))


@fn("act_hardsigmoid_f", (1, 3, 5, 5))
def _hs(m: Any, x: Any) -> Any:
    return F.hardsigmoid(x) * x


@fn("act_swish_mish", (1, 3, 5, 5))
def _mish(m: Any, x: Any) -> Any:
    return x * torch.sigmoid(x) + x * torch.tanh(F.softplus(x))


@fn("act_glu", (1, 8, 5, 5))
def _glu(m: Any, x: Any) -> Any:
    return F.glu(x, 1)


net(
    "norm_layer",
    lambda: nn.Sequential(nn.Linear(8, 12), nn.LayerNorm(12), nn.Linear(12, 4)),
    (1, 6, 8),
)
net(
    "norm_layer_2d",
    lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.LayerNorm([4, 6, 6])),
    (1, 3, 8, 8),
)
net(
    "norm_instance",
    lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8, affine=True), nn.ReLU(), nn.Conv2d(8, 4, 3)
    ),
    (1, 3, 10, 10),
)
net(
    "norm_instance_plain",
    lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8), nn.ReLU()),
    (1, 3, 10, 10),
)
net("norm_instance1d", lambda: nn.Sequential(nn.Conv1d(3, 8, 3), nn.InstanceNorm1d(8)), (1, 3, 10))
net(
    "norm_group",
    lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(4, 8), nn.ReLU(), nn.Conv2d(8, 4, 3)),
    (1, 3, 10, 10),
)
net(
    "norm_local_response",
    lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.LocalResponseNorm(3)),
    (1, 3, 8, 8),
)


@fn("norm_l2", (1, 6, 4, 4))
def _l2(m: Any, x: Any) -> Any:
    return F.normalize(x, dim=1)


net(
    "pool_max_ceil",
    lambda: nn.Sequential(nn.MaxPool2d(3, 2, ceil_mode=True), nn.Conv2d(4, 4, 1)),
    (1, 4, 10, 10),
)
net(
    "pool_max_pad", lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(3, 2, 1)), (1, 3, 11, 11)
)
net("pool_max_dilated", lambda: nn.MaxPool2d(3, 1, dilation=2), (1, 4, 9, 9))
net("pool_avg_pad", lambda: nn.AvgPool2d(3, 2, 1), (1, 4, 9, 9))
net("pool_avg_exclude", lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False), (1, 4, 9, 9))
net("pool_avg_exclude10", lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False), (1, 4, 10, 10))
net("pool_avg_ceil", lambda: nn.AvgPool2d(3, 2, ceil_mode=True), (1, 4, 10, 10))
net("pool_avg_ceil_pad", lambda: nn.AvgPool2d(3, 2, 1, ceil_mode=True), (1, 4, 10, 10))
net("pool_adaptive_1", lambda: nn.AdaptiveAvgPool2d(1), (1, 8, 5, 5))
net("pool_adaptive_max_1", lambda: nn.AdaptiveMaxPool2d(1), (1, 8, 5, 5))
# By onnx-tf alone, the shape is lost before BatchNorm in the one, and wrong in the other.
net("pool_avg_bn", lambda: nn.Sequential(nn.AvgPool2d(3, 2, 1), nn.BatchNorm2d(3)), (1, 3, 9, 9))
net(
    "pool_adaptive_output",
    lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1)),
    (1, 3, 8, 8),
)
net("pool_adaptive_divides", lambda: nn.AdaptiveAvgPool2d((3, 2)), (1, 4, 9, 8))
net("pool_adaptive_any", lambda: nn.AdaptiveAvgPool2d((3, 5)), (1, 4, 7, 8))
net("pool_adaptive_up", lambda: nn.AdaptiveAvgPool2d(7), (1, 4, 4, 4))
net("pool_adaptive_max_any", lambda: nn.AdaptiveMaxPool2d((3, 5)), (1, 4, 7, 8))
net("pool_adaptive_1d", lambda: nn.AdaptiveAvgPool1d(4), (1, 4, 10))
net("pool_adaptive_max_divides", lambda: nn.AdaptiveMaxPool2d((3, 2)), (1, 4, 9, 8))
net("pool_lp", lambda: nn.LPPool2d(2, 2), (1, 4, 8, 8))

net("lstm", lambda: nn.LSTM(6, 8, batch_first=True), (1, 7, 6))
net("lstm_bi2", lambda: nn.LSTM(6, 8, 2, bidirectional=True), (7, 1, 6))
net("gru", lambda: nn.GRU(6, 8, batch_first=True), (1, 7, 6))
net("gru_bi2", lambda: nn.GRU(6, 8, 2, bidirectional=True, batch_first=True), (1, 7, 6))
net("rnn", lambda: nn.RNN(6, 8, nonlinearity="relu"), (7, 1, 6))


@fn("lstm_last", (1, 9, 6), modules=lambda: (nn.LSTM(6, 8, batch_first=True), nn.Linear(8, 3)))
def _lstm_last(m: Any, x: Any) -> Any:
    y, _ = m.a(x)
    return m.b(y[:, -1])


@fn(
    "crnn",
    (1, 1, 16, 24),
    modules=lambda: (
        conv_bn(1, 8, 3, 2, act=nn.ReLU()),
        nn.GRU(64, 12, batch_first=True, bidirectional=True),
        nn.Linear(24, 5),
    ),
)
def _crnn(m: Any, x: Any) -> Any:
    y = m.a(x).permute(0, 3, 1, 2).flatten(2)
    y, _ = m.b(y)
    return F.log_softmax(m.c(y), 2)


@fn("lstm_state", (5, 1, 6), (1, 1, 8), (1, 1, 8), modules=lambda: (nn.LSTM(6, 8),))
def _lstm_state(m: Any, x: Any, h: Any, c: Any) -> Any:
    y, (h, c) = m.a(x, (h, c))
    return y, h, c


@fn("attention", (1, 6, 8), modules=lambda: (nn.Linear(8, 24), nn.Linear(8, 8)))
def _attention(m: Any, x: Any) -> Any:
    q, k, v = m.a(x).reshape(1, 6, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
    w = torch.softmax(q @ k.transpose(-2, -1) * 0.5, -1)
    return m.b((w @ v).transpose(1, 2).reshape(1, 6, 8))


@fn("multihead_attention", (6, 1, 8), modules=lambda: (nn.MultiheadAttention(8, 2),))
def _mha(m: Any, x: Any) -> Any:
    return m.a(x, x, x)[0]


net("transformer_encoder", lambda: nn.TransformerEncoderLayer(8, 2, 16), (6, 1, 8))
net(
    "transformer_encoder2",
    lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, activation="gelu"), 2),
    (6, 2, 8),
)


@fn(
    "transformer_decoder",
    (5, 1, 8),
    (6, 1, 8),
    modules=lambda: (nn.TransformerDecoderLayer(8, 2, 16),),
)
def _decoder(m: Any, x: Any, y: Any) -> Any:
    return m.a(x, y)


@fn(
    "vit_small",
    (1, 3, 16, 16),
    modules=lambda: (nn.Conv2d(3, 8, 4, 4), nn.TransformerEncoderLayer(8, 2, 16), nn.Linear(8, 5)),
)
def _vit(m: Any, x: Any) -> Any:
    y = m.a(x).flatten(2).permute(2, 0, 1)
    return m.c(m.b(y).mean(0))


@fn(
    "non_local",
    (1, 8, 6, 6),
    modules=lambda: (nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 8, 1)),
)
def _non_local(m: Any, x: Any) -> Any:
    q, k, v = m.a(x).flatten(2), m.b(x).flatten(2), m.c(x).flatten(2)
    w = torch.softmax(q.transpose(1, 2) @ k, -1)
    return x + (v @ w.transpose(1, 2)).view_as(x)


@fn("embedding", (1, 6), modules=lambda: (nn.Embedding(10, 8), nn.Linear(8, 4)), dtypes=("int64",))
def _embedding(m: Any, x: Any) -> Any:
    return m.b(m.a(x).mean(1))


net(
    "embedding_bag",
    lambda: nn.Sequential(nn.Embedding(10, 6), nn.LSTM(6, 4, batch_first=True)),
    (1, 5),
    dtypes=("int64",),
)


@fn("slices", (1, 8, 9, 9))
def _slices(m: Any, x: Any) -> Any:
    return x[:, 2:7:2, 1:-1, ::3] * x[:, :3, -7:, 0:3] + x[:, 1:4, 2, None, 1:4]


@fn("chunk_outputs", (1, 8, 6, 6), modules=lambda: (nn.Conv2d(8, 8, 1),))
def _chunk(m: Any, x: Any) -> Any:
    return m.a(x).chunk(3, 1)


@fn("topk", (1, 12))
def _topk(m: Any, x: Any) -> Any:
    values, indices = x.topk(4, 1)
    return values, indices


@fn("argmax", (1, 5, 6, 6), modules=lambda: (nn.Conv2d(5, 4, 1),))
def _argmax(m: Any, x: Any) -> Any:
    y = m.a(x)
    return y.argmax(1), y.max(1)[0]


@fn("gather_index", (1, 10, 6), (1, 3, 6), dtypes=("float32", "int64"))
def _gather(m: Any, x: Any, i: Any) -> Any:
    return x.gather(1, i)


@fn("index_select", (1, 8, 6))
def _index(m: Any, x: Any) -> Any:
    return x[:, [0, 3, 5]] + x.index_select(1, torch.tensor([7, 1, 2]))


@fn("where_mask", (1, 4, 5), (1, 4, 5))
def _where(m: Any, x: Any, y: Any) -> Any:
    return torch.where(x > y, x * 2, y).masked_fill(x < -1, 0.5)


@fn(
    "channel_shuffle",
    (1, 8, 6, 6),
    modules=lambda: (nn.Conv2d(8, 8, 1, groups=2), nn.Conv2d(8, 8, 3, padding=1, groups=8)),
)
def _shuffle(m: Any, x: Any) -> Any:
    y = m.a(x)
    n, c, h, w = y.shape
    y = y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
    return m.b(y)


net(
    "pixel_shuffle",
    lambda: nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2), nn.Conv2d(3, 3, 3, padding=1)
    ),
    (1, 3, 8, 8),
)
net("pixel_shuffle_bare", lambda: nn.Sequential(nn.ReLU(), nn.PixelShuffle(2)), (1, 8, 5, 5))


@fn("pixel_unshuffle", (1, 3, 8, 8), modules=lambda: (nn.Conv2d(12, 4, 1),))
def _unshuffle(m: Any, x: Any) -> Any:
    y = x.view(1, 3, 4, 2, 4, 2).permute(0, 1, 3, 5, 2, 4).reshape(1, 12, 4, 4)
    return m.a(y)


@fn(
    "conv_plus_constants",
    (1, 4, 7, 6),
    modules=lambda: (nn.Conv2d(4, 6, 3), nn.ConvTranspose2d(6, 4, 2, 2, groups=2)),
)
def _plus(m: Any, x: Any) -> Any:
    y = F.relu6(m.a(x) + 3)
    return F.relu(torch.arange(4.0).reshape(4, 1, 1) + m.b(y)) + 1


net("unfold", lambda: nn.Unfold(3, padding=1), (1, 4, 6, 6))
net("pad_reflect", lambda: nn.Sequential(nn.ReflectionPad2d(2), nn.Conv2d(3, 4, 3)), (1, 3, 8, 8))
net(
    "pad_replicate",
    lambda: nn.Sequential(nn.ReplicationPad2d((1, 2, 3, 0)), nn.Conv2d(3, 4, 3)),
    (1, 3, 8, 8),
)
net(
    "pad_constant",
    lambda: nn.Sequential(nn.ConstantPad2d(1, 0.7), nn.Conv2d(3, 4, 3)),
    (1, 3, 8, 8),
)
net("pad_negative", lambda: nn.ConstantPad2d((-1, 2, 1, -2), 0.0), (1, 3, 8, 8))
net("pad1d", lambda: nn.Sequential(nn.ReflectionPad1d(2), nn.Conv1d(3, 4, 3)), (1, 3, 8))
net("upsample1d", lambda: nn.Sequential(nn.Conv1d(3, 4, 3), nn.Upsample(scale_factor=2)), (1, 3, 8))
net(
    "upsample_linear1d",
    lambda: nn.Upsample(scale_factor=2, mode="linear", align_corners=False),
    (1, 3, 8),
)
net("upsample3d", lambda: nn.Upsample(scale_factor=2, mode="nearest"), (1, 3, 3, 4, 4))
net(
    "upsample_trilinear",
    lambda: nn.Upsample(scale_factor=2, mode="trilinear", align_corners=True),
    (1, 3, 3, 4, 4),
)
net("upsample_size", lambda: nn.Upsample(size=(11, 7), mode="nearest"), (1, 3, 5, 5))
net(
    "upsample_down",
    lambda: nn.Upsample(scale_factor=0.5, mode="bilinear", align_corners=False),
    (1, 3, 8, 8),
)


@fn("two_inputs", (1, 3, 8, 8), (1, 5), modules=lambda: (nn.Conv2d(3, 5, 3), nn.Linear(5, 5)))
def _two(m: Any, x: Any, y: Any) -> Any:
    return F.relu(m.a(x)).mean((2, 3)) + m.b(y)


@fn("unused_input", (1, 3, 8, 8), (1, 5), modules=lambda: (nn.Conv2d(3, 5, 3),))
def _unused(m: Any, x: Any, y: Any) -> Any:
    return m.a(x)


@fn("interior_outputs", (1, 3, 8, 8), modules=lambda: (nn.Conv2d(3, 5, 3), nn.Conv2d(5, 4, 3)))
def _interior(m: Any, x: Any) -> Any:
    y = F.relu(m.a(x))
    z = m.b(y)
    return y, z, torch.sigmoid(z)


@fn("passed_through", (1, 3, 8, 8), modules=lambda: (nn.Conv2d(3, 5, 3),))
def _passed(m: Any, x: Any) -> Any:
    return m.a(x), x


@fn("same_output_twice", (1, 3, 8, 8), modules=lambda: (nn.Conv2d(3, 5, 3),))
def _twice(m: Any, x: Any) -> Any:
    y = m.a(x)
    return y, y + 0, y.view(1, -1)


@fn("constant_output", (1, 3, 8, 8), modules=lambda: (nn.Conv2d(3, 5, 3),))
def _constant(m: Any, x: Any) -> Any:
    y = m.a(x)
    return y, torch.arange(6, dtype=torch.float32).view(1, 6)


@fn("nchw_output_ops", (1, 3, 8, 8), modules=lambda: (nn.Conv2d(3, 5, 3),))
def _nchw(m: Any, x: Any) -> Any:
    return torch.relu(m.a(x)).permute(0, 2, 3, 1)


@fn("einsum", (1, 4, 6), (1, 6, 5))
def _einsum(m: Any, x: Any, y: Any) -> Any:
    return torch.einsum("bij,bjk->bik", x, y)


@fn("einsum_attention", (1, 2, 4, 6), (1, 2, 5, 6))
def _einsum2(m: Any, x: Any, y: Any) -> Any:
    return torch.einsum("bhid,bhjd->bhij", x, y)


@fn("grid_sample", (1, 3, 8, 8), modules=lambda: (nn.Conv2d(3, 2, 3, padding=1),))
def _grid(m: Any, x: Any) -> Any:
    flow = torch.tanh(m.a(x)).permute(0, 2, 3, 1) * 0.8
    return F.grid_sample(x, flow, mode="bilinear", padding_mode="zeros", align_corners=False)


@fn("expand_tile", (1, 3, 1, 5))
def _expand(m: Any, x: Any) -> Any:
    return x.expand(1, 3, 4, 5) * x.repeat(1, 1, 4, 1)


@fn("reductions", (1, 4, 5, 6))
def _reductions(m: Any, x: Any) -> Any:
    return (
        x.sum(1),
        x.max(3)[0].min(1)[0],
        x.norm(dim=2),
        x.std(dim=1),
        x.prod(3),
        torch.logsumexp(x, 1),
    )


@fn("cumsum", (1, 4, 6))
def _cumsum(m: Any, x: Any) -> Any:
    return x.cumsum(1)


@fn("math", (1, 4, 6))
def _math(m: Any, x: Any) -> Any:
    y = x.abs() + 0.5
    return (
        torch.sqrt(y)
        + y.log()
        + y.reciprocal()
        + x.exp()
        + x.sin()
        + torch.floor(x)
        + y**1.5
        + torch.erf(x)
    )


@fn("logic", (1, 4, 6))
def _logic(m: Any, x: Any) -> Any:
    return ((x > 0) & (x < 1)).float() + (x.round() == 0).float() + torch.sign(x)


@fn("matmul_batched", (2, 3, 4, 5), (2, 3, 5, 6))
def _matmul(m: Any, x: Any, y: Any) -> Any:
    return x @ y


@fn("stack_unbind", (1, 3, 4))
def _stack(m: Any, x: Any) -> Any:
    a, b, c = x.unbind(1)
    return torch.stack([a + b, b * c, c - a], 2)


@fn("flip_roll", (1, 3, 6, 6))
def _flip(m: Any, x: Any) -> Any:
    return x.flip(3) + torch.cat([x[:, :, 2:], x[:, :, :2]], 2)


@fn("one_hot_free", (1, 5), modules=lambda: (nn.Embedding(10, 5),), dtypes=("int64",))
def _onehot(m: Any, x: Any) -> Any:
    return F.one_hot(x, 10).float() @ m.a.weight


@fn(
    "ssd_head",
    (1, 8, 6, 6),
    modules=lambda: (nn.Conv2d(8, 12, 3, padding=1), nn.Conv2d(8, 6, 3, 2, 1)),
)
def _ssd(m: Any, x: Any) -> Any:
    a = m.a(x).permute(0, 2, 3, 1).reshape(1, -1, 4)
    b = m.b(x).permute(0, 2, 3, 1).reshape(1, -1, 2)
    return a, F.softmax(b, -1)


@fn("yolo_head", (1, 8, 4, 4), modules=lambda: (nn.Conv2d(8, 21, 1),))
def _yolo(m: Any, x: Any) -> Any:
    y = m.a(x).view(1, 3, 7, 4, 4).permute(0, 1, 3, 4, 2).contiguous()
    y = torch.cat([y[..., :2].sigmoid() * 2, y[..., 2:4].exp(), y[..., 4:].sigmoid()], -1)
    return y.view(1, -1, 7)


class Scripted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        if bool(y.mean() > 0):
            y = y * 2
        else:
            y = y - 1
        for i in range(3):
            y = torch.relu(y) + i
        return y


class ScriptedLoop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        for _ in range(3):
            y = torch.tanh(self.conv(y))
        return y


class ScriptedBatchNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def _scripted_batchnorm() -> nn.Module:
    module = ScriptedBatchNorm()
    nn.init.uniform_(module.layers[1].running_var, 0.5, 1.5)
    nn.init.normal_(module.layers[1].running_mean)
    return torch.jit.script(module.eval())


net(
    "traced",
    lambda: torch.jit.trace(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval(),
        torch.zeros(1, 3, 8, 8),
    ),
    (1, 3, 8, 8),
)
net("scripted_control", lambda: torch.jit.script(Scripted()), (1, 3, 8, 8))
net("scripted_loop", lambda: torch.jit.script(ScriptedLoop()), (1, 3, 8, 8))
net("scripted_batchnorm", _scripted_batchnorm, (1, 3, 8, 8))


@fn(
    "dcgan",
    (1, 8, 1, 1),
    modules=lambda: (
        nn.Sequential(
            nn.ConvTranspose2d(8, 16, 4, 1, 0, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.ConvTranspose2d(16, 3, 4, 2, 1),
            nn.Tanh(),
        ),
    ),
)
def _dcgan(m: Any, x: Any) -> Any:
    return m.a(x)


@fn(
    "tcn",
    (1, 4, 20),
    modules=lambda: (
        nn.utils.weight_norm(nn.Conv1d(4, 8, 3, padding=4, dilation=2)),
        nn.Conv1d(4, 8, 1),
    ),
)
def _tcn(m: Any, x: Any) -> Any:
    return F.relu(F.relu(m.a(x)[:, :, :-4]) + m.b(x))


@fn("wavenet", (1, 4, 20), modules=lambda: (nn.Conv1d(4, 16, 2, dilation=2), nn.Conv1d(8, 4, 1)))
def _wavenet(m: Any, x: Any) -> Any:
    a, b = m.a(F.pad(x, (2, 0))).chunk(2, 1)
    return x + m.b(torch.tanh(a) * torch.sigmoid(b))


@fn(
    "pointnet",
    (1, 3, 16),
    modules=lambda: (
        nn.Sequential(nn.Conv1d(3, 8, 1), nn.BatchNorm1d(8), nn.ReLU()),
        nn.Linear(8, 9),
        nn.Conv1d(3, 8, 1),
        nn.Linear(8, 4),
    ),
)
def _pointnet(m: Any, x: Any) -> Any:
    t = m.b(m.a(x).max(2)[0]).view(-1, 3, 3) + torch.eye(3)
    y = torch.bmm(x.transpose(2, 1), t).transpose(2, 1)
    return m.d(torch.max(m.c(y), 2)[0])


@fn(
    "bert_tiny",
    (1, 6),
    (1, 6),
    dtypes=("int64", "int64"),
    modules=lambda: (
        nn.Embedding(10, 8),
        nn.Embedding(6, 8),
        nn.LayerNorm(8),
        nn.Linear(8, 24),
        nn.Linear(8, 8),
        nn.Linear(8, 16),
        nn.Linear(16, 8),
        nn.Linear(8, 3),
    ),
)
def _bert(m: Any, x: Any, mask: Any) -> Any:
    y = m.c(m.a(x) + m.b(torch.arange(6)))
    q, k, v = m.d(y).view(1, 6, 3, 2, 4).permute(2, 0, 3, 1, 4)
    bias = (1 - (mask > 4).float())[:, None, None] * -1e4
    w = torch.softmax(torch.matmul(q, k.transpose(-1, -2)) / 2 + bias, -1)
    y = y + m.e(torch.matmul(w, v).permute(0, 2, 1, 3).reshape(1, 6, 8))
    return m.h(torch.tanh(y + m.g(F.gelu(m.f(y))))[:, 0])


@fn("coord_conv", (1, 3, 8, 8), modules=lambda: (nn.Conv2d(5, 4, 3),))
def _coord(m: Any, x: Any) -> Any:
    line = torch.linspace(-1, 1, 8)
    grid = torch.stack(torch.meshgrid(line, line))[None]
    return m.a(torch.cat([x, grid], 1))


@fn(
    "efficient_block",
    (1, 8, 8, 8),
    modules=lambda: (
        conv_bn(8, 16, 1),
        conv_bn(16, 16, 5, 2, 16),
        nn.Conv2d(16, 4, 1),
        nn.Conv2d(4, 16, 1),
        conv_bn(16, 8, 1),
    ),
)
def _efficient(m: Any, x: Any) -> Any:
    y = m.a(x)
    y = m.b(y * torch.sigmoid(y))
    y = y * torch.sigmoid(y)
    s = m.c(y.mean((2, 3), keepdim=True))
    return m.e(y * torch.sigmoid(m.d(s * torch.sigmoid(s))))


@fn("dynamic_weights", (1, 4, 8, 8), modules=lambda: (nn.Linear(4, 72),))
def _dynamic(m: Any, x: Any) -> Any:
    w = m.a(x.mean((2, 3))).view(2, 4, 3, 3)
    return F.conv2d(x, w, padding=1)


net("bilinear_layer", lambda: nn.Bilinear(5, 6, 4), (1, 5), (1, 6))


@fn("spectral_norm", (1, 3, 8, 8), modules=lambda: (nn.utils.spectral_norm(nn.Conv2d(3, 4, 3)),))
def _spectral(m: Any, x: Any) -> Any:
    return m.a(x)


@fn(
    "hourglass",
    (1, 4, 16, 16),
    modules=lambda: (conv_bn(4, 4, act=nn.ReLU()), conv_bn(4, 4, act=nn.ReLU()), conv_bn(4, 4)),
)
def _hourglass(m: Any, x: Any) -> Any:
    y = m.b(F.max_pool2d(m.a(x), 2))
    z = F.interpolate(m.c(F.max_pool2d(y, 2)), scale_factor=2)
    return F.interpolate(y + z, scale_factor=2) + x


@fn("spp", (1, 4, 13, 13), modules=lambda: (nn.Conv2d(16, 4, 1), nn.Linear(56, 3)))
def _spp(m: Any, x: Any) -> Any:
    y = m.a(torch.cat([x] + [F.max_pool2d(x, k, 1, k // 2) for k in (5, 9, 13)], 1))
    pools = [F.adaptive_avg_pool2d(y, n).flatten(1) for n in (1, 2, 3)]
    return m.b(torch.cat(pools, 1))


@fn(
    "seq2seq",
    (1, 5, 4),
    (1, 3, 4),
    modules=lambda: (
        nn.GRU(4, 6, batch_first=True),
        nn.GRU(4, 6, batch_first=True),
        nn.Linear(12, 2),
    ),
)
def _seq2seq(m: Any, x: Any, y: Any) -> Any:
    memory, h = m.a(x)
    out, _ = m.b(y, h)
    w = torch.softmax(torch.bmm(out, memory.transpose(1, 2)), 2)
    return m.c(torch.cat([out, torch.bmm(w, memory)], 2))


@fn("lstm_cell", (1, 3, 4), modules=lambda: (nn.LSTMCell(4, 5), nn.GRUCell(5, 5)))
def _cell(m: Any, x: Any) -> Any:
    h, c, g = torch.zeros(1, 5), torch.zeros(1, 5), torch.zeros(1, 5)
    for i in range(3):
        h, c = m.a(x[:, i], (h, c))
        g = m.b(h, g)
    return g


@fn("cosine_similarity", (1, 6), (1, 6))
def _cosine(m: Any, x: Any, y: Any) -> Any:
    return F.cosine_similarity(x, y), (x - y).pow(2).sum(1).sqrt(), torch.cat([x, y], 1)


@fn("fold_patches", (1, 8, 16))
def _fold(m: Any, x: Any) -> Any:
    return x.view(1, 2, 2, 2, 4, 4).permute(0, 1, 4, 2, 5, 3).reshape(1, 2, 8, 8)


@fn("window_attention", (2, 8, 8, 4), modules=lambda: (nn.Linear(4, 12), nn.LayerNorm(4)))
def _window(m: Any, x: Any) -> Any:
    y = m.b(x).view(2, 2, 4, 2, 4, 4).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, 4)
    q, k, v = m.a(y).chunk(3, -1)
    y = torch.softmax(q @ k.transpose(1, 2), -1) @ v
    return x + y.view(2, 2, 2, 4, 4, 4).permute(0, 1, 3, 2, 4, 5).reshape(2, 8, 8, 4)


@fn("max_unreduced", (1, 3, 6))
def _maximum(m: Any, x: Any) -> Any:
    return (
        torch.max(x, x.flip(2)),
        torch.min(x, -x),
        x.min(2)[1],
        x.clamp(-0.5, 0.5),
        x.clamp(max=0.1),
    )


@fn("spatial_transformer", (1, 3, 8, 8), modules=lambda: (nn.Linear(3, 6),))
def _stn(m: Any, x: Any) -> Any:
    theta = m.a(x.mean((2, 3))).view(1, 2, 3)
    grid = F.affine_grid(theta, [1, 3, 8, 8], align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


class Chooser(nn.Module):
    """Scripted: a choice by an attribute, a list of layers, a tuple of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.double = True

    def forward(self, x: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        y = x
        for layer in self.layers:
            y = torch.relu(layer(y))
        if self.double:
            y = y * 2
        return y, x.sum(1)


def _scripted_vision(name: str) -> nn.Module:
    import torchvision

    module = getattr(torchvision.models, name)(pretrained=False)
    generator = torch.Generator().manual_seed(0)
    module.train()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None
            layer.reset_running_stats()
        if isinstance(layer, nn.Dropout):
            layer.eval()
    with torch.no_grad():
        for _ in range(3):
            module(torch.randn(2, 3, 64, 64, generator=generator))
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 0.1
    return torch.jit.script(module.eval())


net("scripted_chooser", lambda: torch.jit.script(Chooser()), (1, 4))
net("scripted_resnet18", lambda: _scripted_vision("resnet18"), (1, 3, 64, 64))
net("scripted_mobilenet_v2", lambda: _scripted_vision("mobilenet_v2"), (1, 3, 64, 64))


# Straight lines of plain operators that need the sizes inside, which an archive does not have.
def _traced(function: Callable[..., Any], *modules: nn.Module) -> nn.Module:
    FUNCTIONS["traced"] = function
    return torch.jit.trace(Fn("traced", *modules).eval(), torch.randn(1, 4, 8, 8))


TRACED = {
    "traced_pool": (lambda m, x: F.adaptive_avg_pool2d(F.max_pool2d(m.a(x), 2), 3).flatten(1)),
    "traced_flatten": lambda m, x: F.max_pool2d(m.a(x), 2).flatten(2),
    "traced_divisor": lambda m, x: F.avg_pool2d(m.a(x), 2, divisor_override=3),
    "traced_weights": lambda m, x: F.conv2d(x, m.a(x).mean((2, 3)).view(1, 4, 1, 1)),
}
for _name, _function in TRACED.items():
    net(
        _name,
        lambda function=_function: _traced(function, nn.Conv2d(4, 4, 3)),  # type: ignore[misc]
        (1, 4, 8, 8),
    )
net("traced_lstm", lambda: torch.jit.trace(nn.LSTM(4, 5), torch.zeros(6, 1, 4)), (6, 1, 4))
vision("resnet50", 64)
vision("segmentation.fcn_resnet50", 48, pretrained_backbone=False)
vision("segmentation.deeplabv3_resnet50", 48, pretrained_backbone=False)


# Without the fix the net fails, or needs Flex, or has more operators than it should.

# One operator each, most of which torch 1.5.1 does not export, or TensorFlow Lite has not.
OPERATORS: Dict[str, Callable[[Any], Any]] = {
    "acos": lambda x: (x * 0.2).acos(),
    "add_alpha": lambda x: torch.add(x, x, alpha=3),
    "addbmm": lambda x: torch.addbmm(x[0, :, :4], x, x.transpose(1, 2), beta=0.5, alpha=2.0),
    "addcdiv": lambda x: torch.addcdiv(x, 0.5, x, x.abs() + 1),
    "addcmul": lambda x: torch.addcmul(x, 0.5, x, x + 1),
    "all": lambda x: (x > -1).all(2),
    "any_of_all": lambda x: torch.stack([(x > 9).any(), (x > -9).all()]),
    "argsort": lambda x: x.argsort(2, descending=True),
    "asin": lambda x: (x * 0.2).asin(),
    "atan": lambda x: (x * 5).atan(),
    "atan2": lambda x: torch.atan2(x, x.flip(1) + 0.1),
    "cdist": lambda x: torch.cdist(x, x[:, :3] + 1),
    "cdist_max": lambda x: torch.cdist(x, x[:, :3] + 1, p=float("inf")),
    "chain_matmul": lambda x: torch.chain_matmul(x[0], x[0].t(), x[0]),
    "cosh": lambda x: x.cosh(),
    "cross": lambda x: torch.cross(x[:, :3], x[:, 1:4], 1),
    "diagonal": lambda x: torch.diagonal(x, 1, 1, 2),
    "erfc": lambda x: x.erfc(),
    "expm1": lambda x: x.expm1(),
    "fmod": lambda x: torch.fmod(x, 0.7),
    "fold": lambda x: F.fold(
        F.unfold(x.unsqueeze(1), (2, 3), padding=1, stride=(1, 2)), (4, 6), (2, 3), 1, 1, (1, 2)
    ),
    "frac": lambda x: x.frac(),
    "ger": lambda x: torch.ger(x[0, 0], x[0, 1]),
    "index_add": lambda x: x.index_add(1, torch.tensor([2, 0, 2]), x[:, 1:]),
    "index_copy": lambda x: x.index_copy(1, torch.tensor([0, 2]), x[:, :2]),
    "index_fill": lambda x: x.index_fill(2, torch.tensor([0, 2]), 3.0),
    "isnan": lambda x: torch.isnan(x).float() + x,
    "kthvalue": lambda x: x.kthvalue(2, 2, keepdim=True),
    "lerp": lambda x: torch.lerp(x, x * x, 0.3),
    "log10": lambda x: (x.abs() + 0.1).log10(),
    "logical": lambda x: torch.logical_and(x > 0, x < 1) ^ (x > 0.5),
    "median": lambda x: x.median(1),
    "norm_all": lambda x: x.norm(),
    "norm_any": lambda x: (x.norm(3, 2), x.norm(float("inf"), 1, keepdim=True)),
    "norm_count": lambda x: (x.norm(0, 2), x.norm(float("-inf"), 1)),
    "pairwise_distance": lambda x: F.pairwise_distance(x[0], x[0] * 2),
    "remainder": lambda x: torch.remainder(x, 0.7),
    "repeat_interleave": lambda x: x.repeat_interleave(2, 1),
    "roll": lambda x: torch.roll(x, (-2, 1), (1, 2)),
    "roll_flat": lambda x: torch.roll(x, 5),
    "rsub": lambda x: torch.rsub(x, 2, alpha=3),
    "scatter": lambda x: torch.zeros_like(x).scatter(2, x.topk(2, 2)[1], x.topk(2, 2)[0]),
    "scatter_add": lambda x: torch.zeros(1, 4, 3).scatter_add(
        2, torch.tensor([0, 1, 2, 0, 1, 2]).repeat(1, 4, 1), x
    ),
    "scatter_number": lambda x: torch.zeros_like(x).scatter(1, x.argmax(1, keepdim=True), 2.0),
    "sinh": lambda x: x.sinh(),
    "square": lambda x: x.square(),
    "std_mean": lambda x: torch.std_mean(x, 2),
    "tensordot": lambda x: torch.tensordot(x, x, ([2, 0], [2, 0])),
    "trace": lambda x: x[0].trace(),
    "tril": lambda x: x.tril() + x.triu(1) * 2,
    "trunc": lambda x: (x * 3).trunc(),
    "var": lambda x: (x.var(2), x.var(1, unbiased=False, keepdim=True), x.var()),
}


def _assigned(x: Any) -> Any:
    """Assignments to slices, one of them in place of what another has assigned."""
    y = x.clone()
    y[:, 1] = 0
    y[:, :, 2:4] = x[:, :, :2] * 2
    y[:, 2, ::2] += 1
    return y


OPERATORS["assigned"] = _assigned
for _name, _operator in OPERATORS.items():
    FUNCTIONS[f"op_{_name}"] = lambda m, x, operator=_operator: operator(x)
    net(f"op_{_name}", lambda name=_name: Fn(f"op_{name}"), (1, 4, 6))  # type: ignore[misc]


# Sizes that forward() reads.


@fn("sizes_pool", (1, 4, 9, 7), modules=lambda: (nn.Conv2d(4, 4, 1),))
def _sizes_pool(m: Any, x: Any) -> Any:
    return torch.sigmoid(m.a(F.avg_pool2d(x, x.size()[2:]))) * x


@fn("sizes_text_cnn", (1, 12, 8), modules=lambda: (nn.Conv1d(8, 5, 3), nn.Linear(5, 3)))
def _sizes_text_cnn(m: Any, x: Any) -> Any:
    y = F.relu(m.a(x.transpose(1, 2)))
    return m.b(F.max_pool1d(y, y.size(2)).squeeze(2))


@fn("sizes_norm", (1, 3, 6, 8))
def _sizes_norm(m: Any, x: Any) -> Any:
    return F.layer_norm(x, x.shape[-2:]) / x.size(-1) ** 0.5


@fn("sizes_arithmetic", (2, 8, 6, 6))
def _sizes_arithmetic(m: Any, x: Any) -> Any:
    n, c, h, w = x.shape
    y = x.view(n, 2, c // 2, h // 2, 2, w).permute(0, 2, 1, 3, 5, 4).reshape(n, c, -1)
    return y[:, : c // 2, : x.numel() // (n * c * 2)] * len(x) + torch.arange(c // 2).view(-1, 1)


@fn("sizes_gem", (1, 4, 7, 5))
def _sizes_gem(m: Any, x: Any) -> Any:
    return F.avg_pool2d(x.clamp(min=1e-6).pow(3), (x.size(-2), x.size(-1))).pow(1 / 3)


# Scripts: branches, loops, lists and attributes that are known once the shapes are.


class ScriptedLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 8)
        self.lstm = nn.LSTM(8, 6, bidirectional=True)
        self.gru = nn.GRU(12, 4)
        self.norm = nn.LayerNorm(4)
        self.linear = nn.Linear(4, 3, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        y, _ = self.lstm(self.embedding(ids))
        z, _ = self.gru(y)
        return self.linear(self.norm(z))


class ScriptedLists(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1)])
        self.sizes = [2, 4]
        self.wide = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: List[torch.Tensor] = []
        named: Dict[str, torch.Tensor] = {}
        for index, layer in enumerate(self.layers):
            found.append(F.relu(layer(x)))
            named["layer" + str(index)] = found[-1]
        if self.wide and len(found) > 1:
            found.append(named["layer0"] * self.sizes[1])
        y = torch.cat(found, 1)
        c = y.size(1) // 2
        y = F.interpolate(y[:, :c], scale_factor=2.0, mode="nearest")
        return F.avg_pool2d(y, y.shape[2:]).view(y.size(0), -1)


class ScriptedSum:
    def __init__(self, start: torch.Tensor) -> None:
        self.total = start

    def add(self, x: torch.Tensor) -> None:
        self.total = self.total + x


class ScriptedValues(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def scale(self, x: torch.Tensor, by: int) -> torch.Tensor:
        return x * by

    def forward(self, x: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        y = self.conv(x)
        for i in range(4):
            if bool(y.abs().max() < 1.0):
                break
            y = y / 2 + i * 0.01
        if float(x.sum()) > 0.5 and x.size(2) > 4:
            z = self.scale(y, 2)
        else:
            z = y - 1
        if bool(torch.isnan(z).any()):
            raise ValueError("not a number")
        return z, torch.zeros([x.size(0), 2], device=x.device) + z.mean()


net("scripted_layers", lambda: torch.jit.script(ScriptedLayers()), (5, 1), dtypes=("int64",))
net("scripted_lists", lambda: torch.jit.script(ScriptedLists()), (1, 4, 6, 6))
net("scripted_values", lambda: torch.jit.script(ScriptedValues()), (1, 3, 6, 6))


# Writes in place through views.
WRITES: Dict[str, Callable[[Any], Any]] = {
    "masked": lambda y: y.view(-1).masked_fill_(y.view(-1) > 0.5, 0.0),
    "transposed": lambda y: y.transpose(0, 1).add_(1),
    "part": lambda y: y[:, 1].mul_(3),
    "strided": lambda y: y[..., ::2].neg_(),
    "nested": lambda y: y.permute(1, 2, 0)[1:3, :2].clamp_(0, 1),
    "copied": lambda y: y.unsqueeze(0)[:, :, 1].copy_(y[:, 2]),
    "assigned": lambda y: y.transpose(1, 2).__setitem__((slice(None), 1), 4.0),
    "chunk": lambda y: y.chunk(2, 1)[1].mul_(3),
    "unbound": lambda y: y.unbind(2)[3].relu_(),
    "functional": lambda y: F.relu(y[:, 1:], inplace=True),
}


def _write(change: Callable[[Any], Any], x: Any) -> Any:
    y = x * 2
    before, row = y.reshape(-1), y[:, 0]
    change(y)
    return y, before + 1, row


for _name, _change in WRITES.items():
    FUNCTIONS[f"write_{_name}"] = lambda m, x, change=_change: _write(change, x)
    net(f"write_{_name}", lambda name=_name: Fn(f"write_{name}"), (1, 4, 6))  # type: ignore[misc]


@fn("weights_inverse", (2, 4), modules=lambda: (nn.Linear(4, 4),))
def _weights_inverse(m: Any, x: Any) -> Any:
    matrix = m.a.weight @ m.a.weight.t() + torch.eye(4)
    return x @ matrix.inverse()


net("weight_norm", lambda: nn.utils.weight_norm(nn.Conv2d(3, 4, 3)), (1, 3, 6, 6))
net(
    "spectral_norm",
    lambda: nn.utils.spectral_norm(nn.Linear(4, 5)).eval(),
    (2, 4),
)


@fn("softmax_inner", (1, 4, 6))
def _softmax_inner(m: Any, x: Any) -> Any:
    return F.softmax(x * 100, 1), F.log_softmax(x * 100, 1)


@fn("std_far", (1, 4, 6))
def _std_far(m: Any, x: Any) -> Any:
    return (x + 300).std(2), (x + 300).std(), F.logsigmoid(x * 100), (x * 1e-4).log1p() * 1e4


class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return grad


class SwishLayer(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(size, size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Swish.apply(self.linear(Swish.apply(x)))


net("functions", lambda: nn.Sequential(SwishLayer(4), nn.Sequential(SwishLayer(4))), (2, 4))


@fn("pool_unpool", (1, 3, 9, 8), modules=lambda: (nn.MaxPool2d(3, 2, 1, return_indices=True),))
def _pool_unpool(m: Any, x: Any) -> Any:
    y, places = F.max_pool2d(x, 2, return_indices=True)
    z, others = m.a(x)
    return F.max_unpool2d(y * 2, places, 2, output_size=x.shape), z, others + 1


class Bags(nn.Module):
    """Bags of indices at offsets that are a buffer, of different sizes, one of them empty."""

    def __init__(self) -> None:
        super().__init__()
        self.sums = nn.EmbeddingBag(10, 4, mode="sum")
        self.means = nn.EmbeddingBag(10, 4)
        self.most = nn.EmbeddingBag(10, 4, mode="max")
        self.register_buffer("equal", torch.tensor([0, 3]))
        self.register_buffer("unequal", torch.tensor([0, 2, 2]))

    def forward(self, ids: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        sums, means = self.sums(ids, self.equal), self.means(ids, self.unequal)
        return sums, means, self.most(ids, self.unequal)


net("embedding_bags", Bags, (6,), dtypes=("int64",))


# Autograd functions with arguments and with several outputs.
class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any, factor: float, positive: bool) -> Any:
        ctx.factor = factor
        return (x.clamp(min=0) if positive else x) * factor


class Halves(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any) -> Any:
        ctx.mark_non_differentiable(weight)
        first, second = x.chunk(2, 1)
        return first * weight, second.tanh() + first


@fn("function_swish", (1, 3, 8, 8), modules=lambda: (nn.Conv2d(3, 4, 3),))
def _function_swish(m: Any, x: Any) -> Any:
    return Swish.apply(m.a(x)) + Swish.apply(x[:, :1, 1:-1, 1:-1])


@fn("function_arguments", (1, 6))
def _function_arguments(m: Any, x: Any) -> Any:
    return Scaled.apply(x, 2.5, True) + Scaled.apply(x + 1, 0.5, False)


@fn("function_two_outputs", (1, 6, 4), modules=lambda: (nn.Linear(4, 4),))
def _function_two_outputs(m: Any, x: Any) -> Any:
    first, second = Halves.apply(m.a(x), torch.arange(4.0))
    return Swish.apply(first), second


# Masks: truth values that are assigned by, summed, padded and made.
@fn("mask_assigned", (1, 4, 6))
def _mask_assigned(m: Any, x: Any) -> Any:
    y, z = x * 2, x.clone()
    y[x > 0.5] = 0.25
    z[x < 0] = y[x < 0]
    y[:, 1][x[:, 1] < -0.5] = -1.0
    return y, z


@fn("mask_counted", (1, 4, 6))
def _mask_counted(m: Any, x: Any) -> Any:
    return (x > 0).sum(1), (x > 0).float().mean(2), (x > 0).sum() + (x < -1).long().sum()


@fn("mask_made", (1, 4, 6))
def _mask_made(m: Any, x: Any) -> Any:
    mask = torch.zeros(4, 6, dtype=torch.bool)
    mask[1:3] = True
    causal = torch.ones(6, 6).triu(1).bool()
    scores = x.transpose(1, 2).matmul(x).masked_fill(causal, -float("inf"))
    return torch.where(mask, x, -x), F.pad(mask, (1, 0)) & True, scores.softmax(-1)


@fn(
    "mask_attention",
    (5, 2, 8),
    modules=lambda: (nn.MultiheadAttention(8, 2, add_zero_attn=True, add_bias_kv=True),),
)
def _mask_attention(m: Any, x: Any) -> Any:
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    return m.a(x, x, x, key_padding_mask=padding)[0]


# Pools of one image, and of another divisor.
@fn("pool_unbatched", (4, 8, 8))
def _pool_unbatched(m: Any, x: Any) -> Any:
    pooled = F.max_pool2d(x, 2), F.avg_pool2d(x, 3, 2, 1), F.adaptive_avg_pool2d(x, 3)
    return (*pooled, F.adaptive_max_pool2d(x, (2, 4)))


@fn("pool_divisor", (1, 4, 8, 8))
def _pool_divisor(m: Any, x: Any) -> Any:
    return F.avg_pool2d(x, 2, divisor_override=3), F.avg_pool2d(x, 3, 2, 1, divisor_override=1)


@fn("linear_vector", (6,), modules=lambda: (nn.Linear(6, 4),))
def _linear_vector(m: Any, x: Any) -> Any:
    return m.a(x), F.linear(x, m.a.weight)


# Integers: indices that are computed, without Flex.
@fn("index_next", (2, 5, 7))
def _index_next(m: Any, x: Any) -> Any:
    best = x.argmax(2)
    return best + 1, (best * 3 - 2) % 7, best // 2, -best


@fn("index_batched", (3, 5))
def _index_batched(m: Any, x: Any) -> Any:
    rows = torch.arange(x.size(0))
    best = x.argmax(1)
    return x[rows, best], x[rows, (best + 2) % 5], x.gather(1, best[:, None])


@fn("index_grid", (1, 3, 4, 6))
def _index_grid(m: Any, x: Any) -> Any:
    flat = x.view(1, 3, -1).argmax(2)
    row, column = flat // x.size(3), flat % x.size(3)
    return torch.stack((row, column), -1), row.float() / x.size(2) + column.float()


# What the chain truly cannot carry, which it refuses by the operator and the user's line.
class Refused(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.offsets = nn.Conv2d(3, 18, 3, padding=1)
        self.deformed = DeformConv2d(3, 4, 3, padding=1)

    def forward(self, x: Any) -> Any:
        return getattr(self, self.name)(x)

    def stft(self, x: Any) -> Any:
        return torch.stft(x[0, 0], 4, 2)

    def deform(self, x: Any) -> Any:
        return self.deformed(x, self.offsets(x))

    def suppress(self, x: Any) -> Any:
        boxes = x.abs().view(-1, 4)
        return boxes[nms(boxes, boxes.sum(1), 0.5)].sum(0)

    def histogram(self, x: Any) -> Any:
        return torch.histc(x, 8, -2, 2)


for _name in ("stft", "deform", "suppress", "histogram"):
    REFUSED[f"refused_{_name}"] = (lambda name=_name: Refused(name), ((1, 3, 8, 8),), ("float32",))  # type: ignore[misc]


class ScriptedLike(nn.Module):
    """New tensors of another's type: scripts do not name it."""

    def forward(self, ids: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        begin = torch.ones_like(ids[:, :1])
        more = torch.cat([begin, ids, torch.full_like(begin, 7), torch.zeros_like(begin)], 1)
        more[:, 1] = 0
        return more, torch.max(ids, torch.zeros_like(ids) + 4)


net("scripted_like", lambda: torch.jit.script(ScriptedLike()), (2, 4), dtypes=("int64",))


for _name, (_sweep, _) in sweeps.make_sweeps().items():
    FUNCTIONS[_name] = lambda m, x, sweep=_sweep: sweep(x)
    net(_name, lambda name=_name: Fn(name), (1, 4, 6))  # type: ignore[misc]

for _prefix, _nets in (("shuffle", shuffles.FOLDED), ("shuffle_kept", shuffles.KEPT)):
    for _name, (_function, _modules, _shape) in _nets.items():
        fn(f"{_prefix}_{_name}", _shape, modules=_modules)(_function)


NEEDS: Dict[str, str] = {
    "index_next": "narrow-integers",
    "scripted_like": "operator-forms",
    "functions": "traced-functions",
    "pool_unpool": "operator-forms",
    "embedding_bags": "operator-forms",
    "pool_adaptive_any": "adaptive-pool",
    "alexnet": "adaptive-pool",
    "einsum": "missing-symbolics",
    "grid_sample": "missing-symbolics",
    "act_celu": "missing-symbolics",
    "scripted_batchnorm": "specialised-scripts",
    "passed_through": "input-names",
    "scripted_lists": "specialised-scripts",
    "scripted_values": "specialised-scripts",
    "sizes_pool": "concrete-sizes",
    "sizes_text_cnn": "concrete-sizes",
    "sizes_norm": "concrete-sizes",
    "write_masked": "shared-memory",
    "write_nested": "shared-memory",
    "write_chunk": "shared-memory",
    "weights_inverse": "constant-weights",
    "softmax_inner": "stable-formulas",
    "std_far": "stable-formulas",
    "unet_nearest": "constants",
    "conv_bn_relu": "batchnorm",
    "resnet18": "layout",
    "squeezenet1_1": "layout",
    "conv_depthwise_multiplier": "convolution",
    "mobilenet_v2": "convolution",
    "conv_transpose_dilated": "transposed-convolution",
    "conv3d": "convolution-3d",
    "conv_plus_constants": "convolution",
    "act_relu6": "clip",
    "pool_avg_exclude": "pooling",
    "pool_max_dilated": "pooling",
    "googlenet": "pooling",
    "pad_replicate": "padding",
    "pad_negative": "padding",
    "unet_bilinear": "resize",
    "unet_bicubic": "resize",
    "act_selu": "activations",
    "act_gelu": "activations",
    "norm_group": "normalization",
    "gru": "recurrent",
    "pixel_shuffle": "depth-to-space",
    "shuffle_by_chunks": "channel-shuffle",
    "gather_index": "selection",
    "op_assigned": "selection",
    "op_scatter_number": "selection",
    "op_roll": "missing-symbolics",
    "op_atan": "activations",
    "linear_3d": "matmul",
    "same_output_twice": "outputs",
}
