"""Folders of images in a suite: made into arrays once, for all the conversions that take them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from runner.host.files import atomic_write, hash_file
from runner.planning.check import Check
from runner.planning.quantization import Quantization
from runner.planning.samples import prepare_samples
from runner.planning.source import Source
from runner.suite.files import FileStore

# Incremented when the same images would be made into other arrays.
_FORMAT = 1


def keep_arrays(
    source: Source, check: Check, quantization: Quantization
) -> tuple[Check, Quantization]:
    """Return what was asked for, with arrays that this machine keeps in place of folders of images.

    An array is made again only if its images, or what the model says of them, have changed. Raises
    `BadInput`, or `EnvironmentUnavailable` if there is no room.
    """
    if not quantization:
        quantization = replace(quantization, calibration=None)
    wanted = {
        kind: FileStore().folder / "images" / f"{_compute_key(folder, source, check)}-{kind}.npy"
        for kind, folder in (
            ("inputs", check.inputs_file),
            ("calibration", quantization.calibration),
        )
        if folder is not None and folder.is_dir()
    }
    if not all(path.is_file() for path in wanted.values()):
        with prepare_samples(source, check, quantization, lambda text: None) as (made, ranges):
            found = {"inputs": made.inputs_file, "calibration": ranges.calibration}
            for kind, target in wanted.items():
                draft = found[kind]
                assert draft is not None
                target.parent.mkdir(parents=True, exist_ok=True)
                with atomic_write(target) as temporary:
                    shutil.copyfile(draft, temporary)
    return (
        replace(check, inputs_file=wanted.get("inputs", check.inputs_file)),
        replace(quantization, calibration=wanted.get("calibration", quantization.calibration)),
    )


def _compute_key(folder: Path, source: Source, check: Check) -> str:
    """Compute what changes whenever the array could: by the images' sizes and times, as `make`."""
    images: Mapping[str, Any] = {
        path.relative_to(folder).as_posix(): [path.stat().st_size, path.stat().st_mtime_ns]
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    toml = source.path.with_suffix(".toml")
    parts = {
        "format": _FORMAT,
        "folder": str(folder.absolute()),
        "images": images,
        "toml": hash_file(toml) if toml.is_file() else "",
        "inputs": list(check.inputs),
        "samples": check.samples,
        "pixels": source.embed_preprocessing,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:40]
