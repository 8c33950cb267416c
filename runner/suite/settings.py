"""A suite's file: which models, toolchains and variants, and how each conversion is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from runner.errors import BadInput
from runner.host.compat import tomllib
from runner.host.text import NAME
from runner.schemas.base import Natural, Positive, find_first_error

# A suite's file is written by hand. Parsing a dotted key takes time quadratic in its length.
_MOST_BYTES = 1 << 18
# The variant of a suite that names none.
PLAIN = "default"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Options(_Model):
    """How a model is converted: the options of `runner convert`, by their names there.

    `inputs`, `calibration`, `labels` and the file of `arch` are paths, relative to the file that
    names them. What is not set comes from the next wider table.
    """

    input: list[str] = []
    inputs: str = ""
    arch: str = ""
    arch_args: dict[str, Any] = {}
    samples: Positive = 1000
    labels: str = ""
    seed: Natural = 0
    tolerance: float = 1e-6
    metric: str = "mean"
    strict: bool = False
    faithful: bool = False
    opset: Positive | None = None
    fixes: str = ""
    io_layout: str = ""
    signature: bool = False
    embed_preprocessing: bool = False
    option: dict[str, Any] = {}
    quantize: list[str] = []
    calibration: str = ""
    calibrate_on_noise: bool = False
    quantize_io: str = ""
    min_sqnr: float | None = None
    min_top1: float | None = None
    keep_float: list[str] = []
    trained_ranges: bool = False
    runtimes: list[str] | None = None
    timeout: Natural | None = None
    limit: dict[str, str | int] = {}
    diagnose: bool = True

    def resolve_paths(self, folder: Path) -> Options:
        """Return the options with paths that hold whatever the current folder is."""
        changed: dict[str, Any] = {}
        for name in ("inputs", "calibration", "labels"):
            if value := getattr(self, name):
                changed[name] = str((folder / value).absolute())
        file, colon, attribute = self.arch.partition(":")
        if file.endswith(".py"):
            changed["arch"] = f"{(folder / file).absolute()}{colon}{attribute}"
        return self.model_copy(update=changed)


class ModelTable(Options):
    """Models that need options of their own: a table `[[model]]`."""

    files: Annotated[list[str], Field(min_length=1)]


class LatencyTable(_Model):
    """How latency is measured, once every conversion is done; `sessions = 0` measures none.

    In each session every file has `rounds` turns of `seconds`, in a process of its own. How much
    the sessions differ is the noise that a comparison allows for.
    """

    sessions: Annotated[int, Field(ge=0, le=100)] = 3
    rounds: Annotated[int, Field(ge=1, le=10_000)] = 5
    seconds: Annotated[float, Field(gt=0, le=600)] = 0.05


class SuiteFile(_Model):
    """`suite.toml`. Paths and globs are relative to its folder."""

    name: Annotated[str, Field(max_length=200)] = ""
    models: list[str] = []
    toolchains: Annotated[list[str], Field(min_length=1)]
    defaults: Options = Options()
    model: list[ModelTable] = []
    variants: dict[Annotated[str, Field(pattern=f"^{NAME}$", max_length=60)], Options] = {}
    latency: LatencyTable = LatencyTable()


@dataclass(frozen=True)
class Suite:
    """A suite as its file describes it; `folder` is what its paths are relative to."""

    folder: Path
    file: SuiteFile

    @property
    def name(self) -> str:
        return self.file.name or self.folder.name

    @property
    def variants(self) -> Mapping[str, Options]:
        return self.file.variants or {PLAIN: Options()}


def read_suite(path: Path) -> Suite:
    """Read and validate a suite's file. Raises `BadInput` that says what is wrong, and where."""
    data = _read_toml(path)
    try:
        file = SuiteFile.model_validate(data)
    except ValidationError as error:
        raise _explain(path, error, "docs/suites.md lists the keys.") from None
    if not (file.models or file.model):
        raise BadInput(f"{path} names no models.", 'Such as models = ["models/*.pt"].')
    folder = path.absolute().parent
    file.defaults = file.defaults.resolve_paths(folder)
    file.variants = {name: table.resolve_paths(folder) for name, table in file.variants.items()}
    return Suite(folder, file)


def read_model_options(model: Path) -> Options:
    """Read the table `[convert]` of the .toml beside a model, if any. Raises `BadInput`."""
    path = model.with_suffix(".toml")
    if not path.is_file():
        return Options()
    table = _read_toml(path).get("convert", {})
    try:
        return Options.model_validate(table).resolve_paths(path.absolute().parent)
    except ValidationError as error:
        raise _explain(
            path, error, "Its table [convert] has the options of runner convert.", "convert"
        ) from None


def merge_options(*layers: Options) -> Options:
    """Merge options; what a later layer sets wins."""
    fields = Options.model_fields
    merged: dict[str, Any] = {}
    for layer in layers:
        merged |= {k: getattr(layer, k) for k in layer.model_fields_set if k in fields}
    return Options.model_validate(merged)


def _read_toml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise BadInput(f"There is no file {path}.")
    if path.stat().st_size > _MOST_BYTES:
        raise BadInput(f"{path} is too large for a file of settings.")
    try:
        data: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        return data
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is not valid TOML: {str(error)[:200]}") from None


def _explain(path: Path, error: ValidationError, remedy: str, table: str = "") -> BadInput:
    first = find_first_error(error)
    place = ".".join(filter(None, (table, first.place)))
    unknown = "Extra inputs" in first.message
    said = f"there is no key '{place}'" if unknown else f"{place}: {first.message}"
    return BadInput(f"{path}: {said}.", remedy)
