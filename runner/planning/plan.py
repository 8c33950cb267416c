"""The plan of a run: everything that was asked for, checked before anything starts."""

from __future__ import annotations

import datetime
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from runner.errors import BadInput
from runner.packages.user_wheel import accept_wheel
from runner.planning.check import Check
from runner.planning.inputs import InputSpec, resolve_inputs
from runner.planning.quantization import Quantization, QuantizationPlan, plan_quantization
from runner.planning.source import ModelFile, Source, identify_source
from runner.toolchains.load import list_variants, load_image, load_toolchain, load_toolchains
from runner.toolchains.model import DEFAULT_VARIANT, Image, Toolchain, add_wheels

_MOST_PYTHON_FILES = 200
# The option of the stages that put the preparation of images into the model.
_PREPROCESSING = "preprocessing"


@dataclass(frozen=True)
class GivenReference:
    """The reference of another toolchain's run: its samples' index and outputs, and their inputs.

    `toolchain` is that run's, by its title. Files are by their names in the volume; `sha256` is of
    all of `files`. The inputs are handed on too, since another numpy draws some of them one bit
    off; the outputs pin them down.
    """

    toolchain: str
    run: str
    files: Mapping[str, Path]
    inputs: Mapping[str, Path]
    sha256: str


@dataclass(frozen=True)
class Plan:
    """Everything that was asked for, checked; making one starts no engine and writes no file.

    `python_files` are the file of `--arch` and those beside it, by their names in the volume.
    """

    model: ModelFile
    toolchain: Toolchain
    images: Mapping[str, Image]
    inputs: Sequence[InputSpec]
    inputs_from: str
    arrays: Path | None
    # Whether that is a temporary file of the runner's own, which the run's folder is to keep.
    arrays_made: bool = field(default=False, kw_only=True)
    python_files: Mapping[str, Path]
    check: Mapping[str, Any]
    stage_options: Mapping[str, Mapping[str, Any]]
    output: Path
    run: str
    options: Mapping[str, Any] = field(default_factory=dict)
    # Further files that the stages find in the volume, by their names there.
    extras: Mapping[str, Path] = field(default_factory=dict)
    # Whether it is a conversion, which leaves a record.
    recorded: bool = True
    # The quantised models that were asked for besides.
    quantization: QuantizationPlan = QuantizationPlan()
    # The true classes of the samples.
    labels: Path | None = None
    # Whose reference the check compares with, if the run does not make its own.
    reference: GivenReference | None = None

    @property
    def arch_file(self) -> Path | None:
        """The path of the file that --arch names, if it names one."""
        name = str(self.options.get("arch", "")).partition(":")[0]
        return self.python_files.get(name)


def make_plan(
    source: Source,
    check: Check,
    *,
    toolchain: str = "",
    options: Mapping[str, Any] | None = None,
    wheels: Sequence[str] = (),
    gpu: bool = False,
    output: Path | None = None,
    quantization: Quantization = Quantization(),
) -> Plan:
    """Check everything that was asked for, and make a plan of it. Raises `BadInput`."""
    chain = load_toolchain(toolchain)
    fixes = str({**source.options, **(options or {})}.get("fixes") or "")
    quantized = plan_quantization(quantization, chain, check.inputs_file, fixes)
    model = identify_source(chain, source.path, source.arch)
    names = dict.fromkeys((*chain.images, *(stage.image for stage in quantized.stages)))
    images = {name: _choose_image(name, gpu) for name in names}
    accepted = tuple(accept_wheel(wheel, list(images.values())) for wheel in wheels)
    images = {name: add_wheels(image, accepted) for name, image in images.items()}
    plan = make_file_plan(
        model, chain, source, check, options=options or {}, images=images, output=output
    )
    if not quantized.stages:
        return plan
    told = {"quantize": ",".join(stage.name for stage in quantized.stages)}
    return replace(plan, quantization=quantized, options={**plan.options, **told})


def make_file_plan(
    model: ModelFile,
    chain: Toolchain,
    source: Source,
    check: Check,
    *,
    options: Mapping[str, Any],
    output: Path | None,
    images: Mapping[str, Image] | None = None,
    extras: Mapping[str, Path] | None = None,
) -> Plan:
    """Make the plan for an identified file and a toolchain that takes it. Raises `BadInput`."""
    request = check.as_request()
    embed = source.embed_preprocessing
    specs, inputs_from = resolve_inputs(model.path, check.inputs, check.inputs_file, embed)
    if embed:
        options = {**options, _PREPROCESSING: _describe_preprocessing(chain, specs)}
    if any(spec.dims for spec in specs):
        _check_open_batch(chain)
    arch_file, asked = _find_arch_file(source.arch, {**source.options, **options})
    run = make_run_name(model.path)
    return Plan(
        model=model,
        toolchain=chain,
        images=images or {name: load_image(name) for name in chain.images},
        inputs=specs,
        inputs_from=inputs_from,
        arrays=check.inputs_file,
        arrays_made=check.made,
        labels=check.labels,
        python_files=collect_python_files(arch_file) if arch_file else {},
        check=request,
        stage_options=_sort_options(chain, asked),
        output=choose_run_folder(output, run),
        run=run,
        options={**request, **{k: v for k, v in asked.items() if v not in ("", None)}},
        extras=extras or {},
    )


def _describe_preprocessing(chain: Toolchain, specs: Sequence[InputSpec]) -> str:
    """Return what the converted model does to its pixels, as a stage is told it.

    Raises `BadInput` if the toolchain has no stage for it.
    """
    if not chain.find_takers(_PREPROCESSING):
        known = [c for c in load_toolchains() if c.find_takers(_PREPROCESSING)]
        same = [c.title for c in known if c.accepts == chain.accepts]
        raise BadInput(
            f"--embed-preprocessing: the toolchain '{chain.title}' has no stage that does it.",
            f"Take --toolchain {' or '.join(same)}."
            if same
            else "Convert the model that the graph was made of, with --model or --from-onnx.",
        )
    return json.dumps({spec.name: spec.embedded.as_option() for spec in specs if spec.embedded})


def _check_open_batch(chain: Toolchain) -> None:
    """Raise `BadInput` unless the toolchain can leave the batch size open."""
    if not chain.opens_batch:
        others = [
            c.title for c in load_toolchains() if c.opens_batch and c.accepts == chain.accepts
        ]
        raise BadInput(
            f"The toolchain '{chain.title}' cannot leave the batch size open.",
            "Give a number in its place"
            + (f", or take --toolchain {' or '.join(others)}." if others else "."),
        )


def judge_by(plan: Plan, reference: GivenReference) -> Plan:
    """Return the plan with another run's reference, in place of one that the run would make."""
    told = {"reference": reference.toolchain}
    return replace(
        plan,
        check={**plan.check, **told},
        options={**plan.options, **told},
        reference=reference,
    )


def _choose_image(name: str, gpu: bool) -> Image:
    variant = "cuda" if gpu and "cuda" in list_variants(name) else DEFAULT_VARIANT
    return load_image(name, variant)


def _find_arch_file(arch: str, options: Mapping[str, Any]) -> tuple[Path | None, Mapping[str, Any]]:
    """Return the Python file of `--arch`, if any, and the options with its name in the volume."""
    source, colon, attribute = arch.partition(":")
    if not source.endswith(".py"):
        if arch and not colon:
            raise BadInput(
                f"--arch {arch} names neither a file nor a callable.",
                "The forms are FILE.py, FILE.py:CALLABLE and MODULE:CALLABLE.",
            )
        return None, options
    path = Path(source)
    if not path.is_file():
        raise BadInput(f"--arch: there is no file {source}.")
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*\.py", path.name):
        raise BadInput(f"--arch: {path.name} cannot be imported; a module's name is an identifier.")
    return path, {**options, "arch": f"user/{path.name}{colon}{attribute}"}


def _sort_options(chain: Toolchain, options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Sort options by the stages that know them. Raises `BadInput` for one that none knows."""
    sorted_options = {stage.name: dict(stage.defaults) for stage in chain.stages}
    for key, value in options.items():
        if value in ("", None):
            continue
        option = key.rpartition(".")[2]
        takers = chain.find_takers(key)
        if not takers:
            raise _make_option_error(chain, key, option)
        for stage in takers:
            sorted_options[stage.name][option] = value
    return sorted_options


def _make_option_error(chain: Toolchain, key: str, option: str) -> BadInput:
    known = ", ".join(f"{s.name}.{o}" for s in chain.stages for o in s.options)
    others = dict.fromkeys(c.title for c in load_toolchains() if c.find_takers(option))
    elsewhere = f" Toolchains that have it: {', '.join(others)}." if others else ""
    return BadInput(
        f"No stage of the toolchain '{chain.title}' has the option '{key}'.",
        f"Known: {known or 'none'}.{elsewhere}",
    )


def choose_run_folder(output: Path | None, run: str) -> Path:
    """Return the absolute path of a run's folder. Raises `BadInput` if there is something in it."""
    folder = output or Path("runs") / run
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(
            f"{folder} exists and is not empty{_explain_leftovers(folder)}.",
            "Name another --output, or remove it first.",
        )
    return folder.absolute()


def _explain_leftovers(folder: Path) -> str:
    if (folder / "logs").is_dir() and not (folder / "report.json").exists():
        return ": a run is working there, or one was killed (then `runner clean` tidies it)"
    return ""


def make_run_name(model: Path) -> str:
    stem = re.sub(r"[^A-Za-z0-9]+", "-", model.stem).strip("-") or "model"
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return f"{stem[:40]}-{now}-{secrets.token_hex(2)}"


def list_initial_files(plan: Plan) -> dict[str, Path]:
    files: dict[str, Path] = {
        plan.toolchain.stages[0].consumes: plan.model.path,
        **plan.extras,
        **(plan.reference.files if plan.reference else {}),
    }
    if plan.arrays is not None:
        files[plan.check["inputs"]] = plan.arrays
    if plan.labels is not None:
        files[plan.check["labels"]] = plan.labels
    return files | dict(plan.python_files)


def read_arch_files(arch: str) -> tuple[str, dict[str, Path | bytes]]:
    """Return `--arch` as the stages see it, and the files for their volume. Raises `BadInput`."""
    file, options = _find_arch_file(arch, {"arch": arch})
    return str(options["arch"]), {} if file is None else dict(collect_python_files(file))


def collect_python_files(arch_file: Path) -> dict[str, Path]:
    """List the file of `--arch` and what it may import: the Python files and packages beside it."""
    folder = arch_file.parent
    packages = [path.parent for path in folder.glob("*/__init__.py")]
    beside = [*folder.glob("*.py"), *(path for p in packages for path in p.rglob("*.py"))]
    if len(beside) > _MOST_PYTHON_FILES:
        beside = [arch_file]  # a folder of all kinds of files, not a project's
    return {f"user/{path.relative_to(folder).as_posix()}": path for path in beside}
