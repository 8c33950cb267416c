"""Writes the models of the tests: `python models.py FOLDER`, under torch 1.5.1 and Python 3.8.

A function a model. Its name is the file's, and what it returns is what the file holds: a module is
pickled, TorchScript is saved as such, anything else goes through torch.save.
"""

import sys
from pathlib import Path

import torch
from torch import nn
from user_code import Branches, Dies, OwnNet, TwoInTwoOut


class Function(nn.Module):
    """A linear layer and a function; only ever saved traced, since its class is here."""

    def __init__(self, function, features=8):
        super().__init__()
        self.linear = nn.Linear(features, features)
        self.function = function

    def forward(self, x):
        return self.function(self.linear(x))


class Loops(nn.Module):
    """Control flow that tracing would lose."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        for _ in range(3):
            x = torch.tanh(self.conv(x))
        return x


class Pictures(nn.Module):
    """Two inputs and two outputs, of which one each is an image, and not a square one."""

    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(3, 6, (3, 2), stride=(2, 1), padding=1)
        self.up = nn.ConvTranspose2d(6, 4, 2, stride=2)
        self.scores = nn.Linear(6, 5)

    def forward(self, image, weights):
        features = torch.relu(self.down(image)) * weights.reshape(1, 6, 1, 1)
        return self.up(features), self.scores(features.mean([2, 3]))


def calibrated(model, shape):
    """BatchNorm's statistics from a few passes, without which outputs are of size 1e-9."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()
    model.train()
    with torch.no_grad():
        for _ in range(4):
            model(torch.randn(8, *shape[1:]))
    return model.eval()


def traced(model, *shape):
    return torch.jit.trace(model.eval(), torch.randn(*shape))


def small_cnn():
    # Flattened with several rows and columns: a mistake in the layout shows in every output.
    layers = [nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU6()]
    layers += [nn.Conv2d(6, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    return calibrated(nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 7 * 7, 5)), (1, 3, 32, 32))


def cnn():
    return small_cnn()


def script():
    return traced(small_cnn(), 1, 3, 32, 32)


def weights():
    return OwnNet(classes=7).state_dict()


def checkpoint():
    state = {"module." + name: value for name, value in OwnNet().state_dict().items()}
    return {"epoch": 3, "optimizer": {"lr": 0.1}, "state_dict": state}


def own():
    return OwnNet().eval()


def two():
    return TwoInTwoOut().eval()


def branches():
    return Branches().eval()


def dies():
    return Dies().eval()


def ids():
    return nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 4)).eval()


def lstm():
    return nn.LSTM(8, 8).eval()


def pictures():
    return torch.jit.trace(Pictures().eval(), (torch.randn(1, 3, 10, 7), torch.randn(1, 6)))


def half():
    return small_cnn().half()


def loops():
    return torch.jit.script(Loops().eval())


def nan():
    return traced(Function(lambda x: torch.log(-x.abs())), 1, 8)


def masked():
    """Infinities that PyTorch has too, as in the logits of attention under a mask."""
    return traced(Function(lambda x: x.masked_fill(x < 0, -float("inf"))), 1, 8)


def log_sigmoid():
    """Exported by torch 1.5.1 as the logarithm of a sigmoid, which is 0 from -104 on."""
    return nn.Sequential(nn.Linear(8, 8), nn.LogSigmoid()).eval()


def vacuous():
    model = nn.Linear(8, 8)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1e-9)
    return model


def ignores():
    return traced(Function(lambda x: x * 0 + 1), 1, 8)


def constant():
    return nn.Linear(8, 8).eval()


def inverse():
    """torch.inverse has no ONNX counterpart at all."""
    return traced(
        Function(
            lambda x: torch.inverse(
                x.reshape(1, 4, 2).matmul(x.reshape(1, 2, 4)) + 9 * torch.eye(4)
            )
        ),
        1,
        8,
    )


def roi():
    """RoiAlign is in ONNX, and onnx-tf 1.6.0 does not implement it."""
    from torchvision.ops import RoIAlign

    return RoIAlign((3, 3), 1.0, 2)


def mobilenet_v2():
    from torchvision.models import mobilenet_v2

    return calibrated(mobilenet_v2(), (1, 3, 224, 224))


def huge():
    """2.4 GB of weights in a small file: they are all the same number."""
    linear = nn.Linear(1, 1)
    linear.weight = nn.Parameter(torch.zeros(1).expand(30_000, 20_000))
    return linear


def mapping():
    """A dictionary with neither weights nor a model."""
    return {"epoch": 3, "learning_rate": 0.1}


def tensor():
    return torch.zeros(3)


MODELS = (
    cnn,
    script,
    weights,
    checkpoint,
    own,
    two,
    ids,
    lstm,
    half,
    pictures,
    loops,
    nan,
    masked,
    log_sigmoid,
    vacuous,
    ignores,
    inverse,
    roi,
    branches,
    dies,
    mobilenet_v2,
    huge,
    mapping,
    tensor,
)


def main(folder):
    for make in MODELS:
        torch.manual_seed(0)
        model, path = make(), str(folder / (make.__name__ + ".pt"))
        if isinstance(model, torch.jit.ScriptModule):
            torch.jit.save(model, path)
        else:
            torch.save(model, path)
    # The format of torch 1.6 and later, which 1.5.1 can write when asked to.
    torch.manual_seed(0)
    torch.save(OwnNet(), str(folder / "zip_module.pt"), _use_new_zipfile_serialization=True)
    torch.manual_seed(0)
    state = OwnNet().state_dict()
    torch.save(state, str(folder / "zip_weights.pt"), _use_new_zipfile_serialization=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
