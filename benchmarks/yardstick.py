"""Makes runner/suite/yardstick.tflite, the file that every session of latencies measures too.

    python benchmarks/yardstick.py

A net of seeded weights with what image models spend their time on: convolutions of 3 x 3 and 1 x 1,
depthwise ones, a matrix product. It takes a tenth of a millisecond. The result is the default
toolchain's, the same bytes on every machine.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from runner import convert
from runner.conversion.observer import Observer
from runner.engines.process.engine import ProcessEngine
from runner.engines.process.environments import locate_environment_python
from runner.toolchains.load import load_image

TARGET = Path(__file__).resolve().parents[1] / "runner" / "suite" / "yardstick.tflite"
NET = """
import sys, torch
from torch import nn
torch.manual_seed(0)
def block(i, o, s):
    return [nn.Conv2d(i, i, 3, s, 1, groups=i), nn.ReLU6(), nn.Conv2d(i, o, 1), nn.ReLU6()]
layers = [nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU6(), *block(16, 24, 1), *block(24, 32, 2)]
net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 16)).eval()
torch.jit.save(torch.jit.trace(net, torch.randn(1, 3, 32, 32)), sys.argv[1])
"""


def main() -> None:
    image = load_image("torch")
    ProcessEngine().prepare([image], Observer())
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch, "yardstick.pt")
        python = locate_environment_python(image)
        subprocess.run([python, "-c", NET, model], check=True)
        run = Path(scratch, "run")
        report = convert(model, output=run, inputs=["1x3x32x32"], engine="process", samples=20)
        if report.exit_code:
            sys.exit(f"The yardstick does not convert: {report.outcome}")
        shutil.copyfile(run / "model.tflite", TARGET)
    print(f"{TARGET}: {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
