"""Samples that are made into arrays before a run is planned: those of folders of images."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from runner.errors import BadInput, EnvironmentUnavailable
from runner.planning.check import Check
from runner.planning.images import write_images
from runner.planning.inputs import InputSpec, resolve_inputs
from runner.planning.quantization import Quantization
from runner.planning.source import Source

# Ranges do not move any more beyond so many samples, and calibration takes time.
_MOST_CALIBRATION = 500


@contextmanager
def prepare_samples(
    source: Source, check: Check, quantization: Quantization, say: Callable[[str], None]
) -> Iterator[tuple[Check, Quantization]]:
    """Yield what was asked for, with arrays in place of folders of images, for as long as it lasts.

    Raises `BadInput`, or `EnvironmentUnavailable` if there is no room for the arrays.
    """
    folders = [check.inputs_file, quantization.calibration]
    if not any(folder is not None and folder.is_dir() for folder in folders):
        yield check, quantization
        return
    scratch = Path(tempfile.mkdtemp(prefix="runner-images-"))
    try:
        try:
            prepared = _prepare(source, check, quantization, scratch, say)
        except OSError as error:
            raise EnvironmentUnavailable(
                f"The images cannot be made into arrays in {scratch}: {error.strerror or error}.",
                "Take fewer, or set TMPDIR to a disk with more room.",
            ) from None
        yield prepared
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _prepare(
    source: Source,
    check: Check,
    quantization: Quantization,
    scratch: Path,
    say: Callable[[str], None],
) -> tuple[Check, Quantization]:
    specs, _ = resolve_inputs(source.path, check.inputs, None, source.embed_preprocessing)
    # Checked before images are read, which takes a while.
    replace(check, inputs_file=None, labels=None).as_request()

    def make(folder: Path, name: str, most: int) -> Path:
        (scratch / name).mkdir()
        target = scratch / name / "images.npy"
        spec = _require_single(specs, folder)
        taken, count = write_images(folder, target, spec.shape, spec.dtype, spec.image, most)
        of = f" of {count:,}" if taken < count else ""
        how = "as pixels" if spec.embedded else "prepared as the model's .toml says"
        say(f"{folder.name}: {taken:,}{of} images, {how}.")
        return target

    if check.inputs_file is not None and check.inputs_file.is_dir():
        check = replace(
            check, inputs_file=make(check.inputs_file, "inputs", check.samples), made=True
        )
    if quantization and quantization.calibration is not None and quantization.calibration.is_dir():
        made = make(quantization.calibration, "calibration", _MOST_CALIBRATION)
        quantization = replace(quantization, calibration=made)
    return check, quantization


def _require_single(specs: list[InputSpec], folder: Path) -> InputSpec:
    if len(specs) > 1:
        raise BadInput(
            f"{folder} is a folder of images, and the model has {len(specs)} inputs.",
            "Give such samples as .npz, with an array for each input.",
        )
    return specs[0] if specs else InputSpec("", (1,))
