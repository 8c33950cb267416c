"""The plan of a suite: every model with every toolchain in every variant, checked up front."""

from __future__ import annotations

import glob
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.engines.limits import Limits, parse_limits
from runner.errors import BadInput
from runner.formats.identify import read_file
from runner.formats.kinds import KINDS
from runner.planning.check import Check
from runner.planning.plan import make_plan
from runner.planning.quantization import Quantization
from runner.planning.source import Source
from runner.suite.images import keep_arrays
from runner.suite.request import Request, make_request
from runner.suite.settings import (
    PLAIN,
    Options,
    Suite,
    merge_options,
    read_model_options,
)
from runner.toolchains.load import load_toolchain, load_toolchains
from runner.toolchains.model import Toolchain

ALL = "all"


@dataclass(frozen=True)
class Cell:
    """Which conversion it is: a model, a toolchain and a variant, by their names in the suite."""

    model: str
    toolchain: str
    variant: str

    def __str__(self) -> str:
        parts = [self.model, self.toolchain, *([self.variant] * (self.variant != PLAIN))]
        return " · ".join(parts)

    @property
    def folder(self) -> str:
        """The path of its run folder, below the folder of all results."""
        return "/".join(("runs", *map(_make_slug, (self.model, self.toolchain, self.variant))))


@dataclass(frozen=True)
class Conversion:
    """A planned conversion: what to ask for, or why the toolchain refuses it."""

    cell: Cell
    request: Request | None
    refusal: BadInput | None = None


@dataclass(frozen=True)
class SuitePlan:
    """All conversions in order: model by model, then toolchain by toolchain."""

    suite: str
    models: Sequence[str]
    toolchains: Sequence[str]
    variants: Sequence[str]
    conversions: Sequence[Conversion]

    @property
    def images(self) -> list[str]:
        """The names of the environments that the conversions need."""
        names = dict.fromkeys(c.request.toolchain for c in self.conversions if c.request)
        return list(dict.fromkeys(i for name in names for i in load_toolchain(name).images))


def make_suite_plan(suite: Suite) -> SuitePlan:
    """Plan every conversion of a suite; none is run. Raises `BadInput`.

    A toolchain that does not take a model, or lacks an option, is a refusal of that conversion and
    keeps no other from being made. An option that no toolchain has is an error.
    """
    models = find_models(suite)
    titles = list_toolchains(suite.file.toolchains)
    _check_options(suite, titles)
    conversions = [
        _plan_one(Cell(name, title, variant), path, merge_options(*layers, options))
        for name, (path, layers) in models.items()
        for title in titles
        for variant, options in suite.variants.items()
    ]
    folders: dict[str, Cell] = {}
    for conversion in conversions:
        other = folders.setdefault(conversion.cell.folder, conversion.cell)
        assert other is conversion.cell, f"{other} and {conversion.cell} share a folder"
    return SuitePlan(suite.name, list(models), titles, list(suite.variants), conversions)


def list_toolchains(names: Sequence[str]) -> list[str]:
    """List the titles of the named toolchains, or of all. Raises `BadInput` for an unknown one."""
    if list(names) == [ALL]:
        return list(dict.fromkeys(chain.title for chain in load_toolchains()))
    return list(dict.fromkeys(load_toolchain(name).title for name in names))


def find_models(suite: Suite) -> dict[str, tuple[Path, list[Options]]]:
    """Find the models of a suite, each with its layers of options, by the names they go by.

    A model that several globs name is there once, with the options of each. Raises `BadInput` for
    a glob that finds nothing.
    """
    found: dict[Path, list[Options]] = {}
    for path in _expand(suite, suite.file.models):
        found.setdefault(path, [suite.file.defaults])
    for table in suite.file.model:
        options = table.resolve_paths(suite.folder)
        for path in _expand(suite, table.files):
            found.setdefault(path, [suite.file.defaults]).append(options)
    named = {_name(path, suite.folder): path for path in found}
    if len(named) < len(found):  # model.pt and model.onnx in one folder
        named = {_name(path, suite.folder, suffix=True): path for path in found}
    return {name: (path, [*found[path], read_model_options(path)]) for name, path in named.items()}


def _expand(suite: Suite, patterns: Sequence[str]) -> Iterator[Path]:
    for pattern in patterns:
        # Path.glob takes no absolute pattern.
        names = sorted(glob.glob(pattern, root_dir=suite.folder, recursive=True))  # noqa: PTH207
        paths = [path for name in names if (path := suite.folder / name).is_file()]
        if not paths:
            raise BadInput(
                f"'{pattern}' finds no file in {suite.folder}.",
                "Globs are relative to the suite's file, such as models/**/*.pt.",
            )
        yield from (path for path in paths if path.suffix not in (".toml", ".py"))


def _name(path: Path, folder: Path, *, suffix: bool = False) -> str:
    try:
        relative = path.relative_to(folder)
    except ValueError:
        relative = Path(*path.parts[1:])
    parts = [part for part in relative.parts if part != ".."]
    return "/".join(parts) if suffix else Path(*parts).with_suffix("").as_posix()


def _make_slug(text: str) -> str:
    """Make a folder's name of a name; what that changes is told apart by a few digits."""
    plain = text.replace("/", "--")
    slug = re.sub(r"[^A-Za-z0-9_.-]+", "-", plain).strip("-.")[:80] or "model"
    if slug == plain and "--" not in text:
        return slug
    return f"{slug}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def _check_options(suite: Suite, titles: Sequence[str]) -> None:
    """Raise `BadInput` for an option that none of the toolchains has, in whatever table."""
    kinds = {chain.accepts for chain in load_toolchains()}
    chains = [load_toolchain(title, kind) for title in titles for kind in kinds]
    for options in (suite.file.defaults, *suite.file.model, *suite.variants.values()):
        for name, value in _list_stage_options(options).items():
            if value not in ("", None) and not any(c.find_takers(name) for c in chains):
                raise BadInput(
                    f"None of the suite's toolchains has the option '{name}'.",
                    "See `runner stages --toolchain NAME`.",
                )


def _list_stage_options(options: Options) -> dict[str, Any]:
    return {
        "opset": options.opset,
        "fixes": options.fixes,
        "io_layout": options.io_layout,
        "signature": options.signature or None,
        **options.option,
    }


def _plan_one(cell: Cell, path: Path, options: Options) -> Conversion:
    try:
        chain = _choose_toolchain(cell.toolchain, path)
        return Conversion(cell, plan_conversion(chain, path, options))
    except BadInput as error:
        return Conversion(cell, None, error)


def _choose_toolchain(title: str, path: Path) -> Toolchain:
    """Choose the toolchain of this title that starts from such a file. Raises `BadInput`."""
    kind = KINDS[read_file(path).format].start or "pytorch"
    chain = load_toolchain(title, kind)
    if chain.accepts != kind:
        raise BadInput(f"The toolchain '{title}' does not start from such a file ({kind}).")
    return chain


def plan_conversion(chain: Toolchain, path: Path, options: Options) -> Request:
    """Check one conversion as `runner convert` does, and make its request. Raises `BadInput`."""
    stage_options = _list_stage_options(options)
    if options.faithful and chain.find_takers("fixes"):
        stage_options["fixes"] = "none"
    source = Source(path, options.arch, options.arch_args, options.embed_preprocessing)
    check = Check(
        options.input,
        Path(options.inputs) if options.inputs else None,
        options.samples,
        options.seed,
        options.tolerance,
        options.metric,
        options.strict or options.faithful,
        labels=Path(options.labels) if options.labels else None,
    )
    quantization = Quantization(
        options.quantize,
        Path(options.calibration) if options.calibration else None,
        options.calibrate_on_noise,
        options.quantize_io,
        options.min_sqnr,
        options.min_top1,
        keep_float=options.keep_float,
        trained=options.trained_ranges,
        runtimes=options.runtimes,
    )
    check, quantization = keep_arrays(source, check, quantization)
    plan = make_plan(
        source, check, toolchain=chain.name, options=stage_options, quantization=quantization
    )
    return make_request(
        *(plan, source, check, quantization, stage_options),
        _read_limits(options.limit, options.timeout),
        options.diagnose,
    )


def _read_limits(limit: Mapping[str, str | int], timeout: int | None) -> Limits:
    return parse_limits([f"{name}={value}" for name, value in limit.items()], timeout)
