"""ONNX to TFLite by onnx2tf: python convert.py MODEL.onnx OUT.tflite."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path


def main() -> None:
    model, target = Path(sys.argv[1]), Path(sys.argv[2])
    with tempfile.TemporaryDirectory() as scratch:
        # A copy: onnx2tf overwrites the file that it reads.
        copy = shutil.copy(model, Path(scratch) / "model.onnx")
        programs = Path(sys.executable).parent
        # It calls `onnxsim` by name, and goes on without if there is none.
        environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
        command = [programs / "python", programs / "onnx2tf", "-i", copy]
        command += ["-o", Path(scratch) / "out"]
        subprocess.run(command, check=True, cwd=scratch, env=environment)
        found = sorted((Path(scratch) / "out").glob("*float32.tflite"))
        shutil.copyfile(found[0], target)


if __name__ == "__main__":
    main()
