"""This project's adapter: python ours.py WEIGHTS.pt OUT NAME SHAPE [OPTION ...].

Runs the command as a user would, with the check reduced to one sample. OUT is the run folder.
"""

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> None:
    weights, folder, name, shape, *options = sys.argv[1:]
    model = ["--model", weights, "--arch", f"{HERE}/nets.py:build"]
    model += ["--arch-args", f'{{"name": "{name}"}}', "--input", shape, *options]
    run = ["--engine", "process", "--samples", "1", "--quiet", "--no-cache", "--output", folder]
    os.chdir(HERE.parents[1])
    os.execv(sys.executable, [sys.executable, "-m", "runner", "convert", *model, *run])


if __name__ == "__main__":
    main()
