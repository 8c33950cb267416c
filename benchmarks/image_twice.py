"""Builds images twice without any cache, and says whether both builds are the same image.

    python benchmarks/image_twice.py [IMAGE ...] [--network host]

Without names: the smallest one. Where the ids differ, the layers that do are named, so that the
difference can be looked at (docker save, diffoscope). It takes a minute an image.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from runner.engines.docker.client import connect
from runner.engines.docker.images import build_image, choose_base
from runner.toolchains.load import load_image


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image", nargs="*", default=["tflite"])
    parser.add_argument("--network", default="default", help="what the build's steps reach")
    arguments = parser.parse_args()
    client = connect()
    base = choose_base(client, print)
    different = 0
    for name in arguments.image:
        builds = []
        for _ in range(2):
            start = time.perf_counter()
            options = ("--no-cache", "--network", arguments.network)
            record = build_image(client, load_image(name), base, lambda line: None, options=options)
            layers = client.images.get(record.id).attrs["RootFS"]["Layers"]
            builds.append((record.id, layers))
            print(f"{name}: {record.id} in {time.perf_counter() - start:.0f} s", flush=True)
        (first, ours), (second, theirs) = builds
        different += first != second
        wrong = [i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]
        print(f"{name}: {'the same image' if first == second else f'layers {wrong} differ'}")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
