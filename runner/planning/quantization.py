"""What is to be quantised, and by which samples and gate, checked before anything starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.errors import BadInput
from runner.formats.numpy import read_headers
from runner.host.files import hash_file
from runner.toolchains.load import load_toolchains
from runner.toolchains.model import Image, Stage, Toolchain
from runner.toolchains.tools import choose_runtimes, list_tries, load_tool

_CALIBRATION = "user/calibration"


@dataclass(frozen=True)
class Quantization:
    """The quantised models that were asked for, by mode, besides the float one.

    `calibration` is a file of samples, as `Check.inputs_file` is; without one, modes that need
    samples calibrate on noise if `on_noise` is set, or take the ranges that the model was trained
    to if `trained` is. `ends` is the type of an int8 model's inputs
    and outputs. `min_sqnr` (dB) and `min_top1` (0 to 1) are the gate; None is the stage's own.
    `keep_float` names layers that int8 leaves in float. `runtimes` names the images in whose
    interpreters the models are tried; None stands for the usual ones that are ready here.
    """

    modes: Sequence[str] = ()
    calibration: Path | None = None
    on_noise: bool = False
    ends: str = ""
    min_sqnr: float | None = None
    min_top1: float | None = None
    keep_float: Sequence[str] = ()
    trained: bool = False
    runtimes: Sequence[str] | None = None

    def __bool__(self) -> bool:
        return bool(self.modes)


def split_runtimes(text: str | None) -> tuple[str, ...] | None:
    """Split the images of --runtimes at their commas; 'none' stands for none."""
    return None if text is None else () if text == "none" else split_modes(text)


def split_modes(text: str) -> tuple[str, ...]:
    """Split modes at their commas."""
    return tuple(mode.strip() for mode in text.split(",") if mode.strip())


@dataclass(frozen=True)
class QuantizationPlan:
    """The stages that quantise, their options, and the calibration file by its name there."""

    stages: Sequence[Stage] = ()
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)
    # The images in which the models are tried; only those of `wanted` have to be ready.
    elsewhere: Sequence[Image] = ()
    wanted: Sequence[Image] = ()


def plan_quantization(
    asked: Quantization, chain: Toolchain, inputs_file: Path | None, fixes: str = ""
) -> QuantizationPlan:
    """Check what was asked for, and choose the toolchain's stages for it. Raises `BadInput`.

    `fixes` is the option of that name, which the run's stages have.
    """
    if not asked:
        _refuse_leftovers(asked)
        return QuantizationPlan()
    known = {stage.name: stage for stage in chain.quantizers}
    unknown = [mode for mode in asked.modes if mode not in known]
    if unknown:
        raise _make_mode_error(chain, unknown[0])
    stages = [known[mode] for mode in dict.fromkeys(asked.modes)]
    calibrated = [stage.name for stage in stages if "calibration" in stage.options]
    files: dict[str, Path] = {}
    if asked.calibration is not None:
        _check_calibration(asked.calibration, calibrated)
        files[f"{_CALIBRATION}{asked.calibration.suffix}"] = asked.calibration
        if inputs_file is None:
            raise BadInput(
                "With --calibration, the check needs samples of the same kind, and has noise.",
                "Hold some samples back from the calibration, and give them with --inputs FILE.",
            )
    elif asked.trained and not any("trained" in stage.options for stage in stages):
        raise BadInput(
            "--trained-ranges: none of the modes takes the ranges that a model was trained to.",
            "It is an option of int8.",
        )
    elif calibrated and not asked.on_noise and not asked.trained:
        raise BadInput(
            f"The mode '{calibrated[0]}' fixes the range of every activation, for which it needs "
            "samples. On the example, noise in their place had 9 times the error.",
            "Give --calibration FILE.npz with 100 to 500 samples of what the model really sees; or "
            "say --calibrate-on-noise, to see whether the model converts at all. A model that was "
            "trained for int8 (with fake quantisation) needs none: --trained-ranges.",
        )
    values = {
        "calibration": next(iter(files), None),
        "noise": asked.on_noise and not files or None,
        "trained": asked.trained or None,
        "io": asked.ends or None,
        "min_sqnr": asked.min_sqnr,
        "min_top1": asked.min_top1,
        "keep_float": ",".join(asked.keep_float) or None,
        "fixes": fixes or None,
    }
    if asked.keep_float and not any("keep_float" in stage.options for stage in stages):
        raise BadInput(
            f"--keep-float {','.join(asked.keep_float)}: no mode that was asked for takes layers.",
            "It is an option of int8; --quantize auto finds the layers itself.",
        )
    if asked.ends and not any("io" in stage.options for stage in stages):
        raise BadInput(
            f"--quantize-io {asked.ends}: none of the modes has other ends than float.",
            "It is an option of int8.",
        )
    wanted = choose_runtimes(load_tool("elsewhere"), asked.runtimes) if asked.runtimes else []
    return QuantizationPlan(
        stages=stages,
        options={
            stage.name: {
                name: value
                for name, value in values.items()
                if name in stage.options and value is not None
            }
            for stage in stages
        },
        files=files,
        hashes={name: hash_file(path) for name, path in files.items()},
        wanted=wanted,
        elsewhere=wanted if asked.runtimes is not None else list_tries([s.image for s in stages]),
    )


def _refuse_leftovers(asked: Quantization) -> None:
    """Raise `BadInput` for an option that says how to quantise, where nothing is quantised."""
    given = {
        "--calibration": asked.calibration,
        "--calibrate-on-noise": asked.on_noise,
        "--trained-ranges": asked.trained,
        "--quantize-io": asked.ends,
        "--min-sqnr": asked.min_sqnr is not None,
        "--min-top1": asked.min_top1 is not None,
        "--keep-float": asked.keep_float,
        "--runtimes": asked.runtimes is not None,
    }
    for option, value in given.items():
        if value:
            raise BadInput(
                f"{option} is given, and nothing is to be quantised.", "Say --quantize int8."
            )


def _make_mode_error(chain: Toolchain, mode: str) -> BadInput:
    known = ", ".join(stage.name for stage in chain.quantizers)
    others = dict.fromkeys(c.title for c in load_toolchains() if c.quantizers)
    if not known:
        return BadInput(
            f"The toolchain '{chain.title}' does not quantise.",
            f"Toolchains that do: {', '.join(others)}.",
        )
    return BadInput(f"'{chain.title}' has no mode {mode}.", f"Known: {known}.")


def _check_calibration(path: Path, calibrated: Sequence[str]) -> None:
    """Raise `BadInput` unless the file holds samples and a mode takes some."""
    if not calibrated:
        raise BadInput(
            "--calibration is given, and no mode that was asked for has anything to calibrate.",
            "Leave it out, or ask for int8 or int16x8.",
        )
    if not path.is_file():
        raise BadInput(f"There is no file {path}.")
    counts = set()
    for name, array in read_headers(path).items():
        if not array.shape:
            raise BadInput(f"{path}: '{name or 'the array'}' is no array of samples.")
        if not array.finite:
            raise BadInput(f"{path}: the samples contain NaN or infinity.")
        counts.add(array.shape[0])
    if len(counts) != 1 or 0 in counts:
        raise BadInput(f"{path}: the arrays hold {sorted(counts)} samples; they must agree.")
