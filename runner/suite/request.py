"""One conversion, described so that any machine can do it: its files by content, its options."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runner.engines.limits import DEFAULTS, Limits
from runner.host.files import hash_file
from runner.planning.check import Check
from runner.planning.plan import Plan, list_initial_files
from runner.planning.quantization import Quantization
from runner.planning.source import Source
from runner.toolchains.code import compute_tree_digest, hash_code
from runner.version import __version__

# Incremented when results that were made before must not be taken for those of today.
_FORMAT = 1
_MODEL, _INPUTS, _CALIBRATION, _ARCH = "model", "inputs", "calibration", "arch"
_LABELS = "labels"


@dataclass(frozen=True)
class File:
    """A file by content, and where it lies on the machine that asks."""

    path: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Request:
    """A conversion. `files` are by their places: paths in a folder that holds them all.

    `check` and `quantization` go without their files, and `source` is a place and the arch as the
    stages see it, until `locate` puts paths in.
    """

    key: str
    toolchain: str
    model: str
    arch: str
    arch_args: Mapping[str, Any]
    check: Check
    quantization: Quantization
    options: Mapping[str, Any]
    files: Mapping[str, File]
    limits: Limits = DEFAULTS
    diagnose: bool = True
    embed_preprocessing: bool = False

    def locate(self, folder: Path | None = None) -> tuple[Source, Check, Quantization]:
        """Return what `convert` takes, with the files where they lie: in `folder`, or as given."""

        def find(place: str) -> Path:
            return folder / place if folder else Path(self.files[place].path)

        def find_in(kind: str) -> Path | None:
            found = [place for place in self.files if place.startswith(f"{kind}/")]
            return find(found[0]) if found else None

        file, colon, attribute = self.arch.partition(":")
        arch = f"{find(file)}{colon}{attribute}" if file in self.files else self.arch
        return (
            Source(find(self.model), arch, self.arch_args, self.embed_preprocessing),
            replace(self.check, inputs_file=find_in(_INPUTS), labels=find_in(_LABELS)),
            replace(self.quantization, calibration=find_in(_CALIBRATION)),
        )


@dataclass(frozen=True)
class Setting:
    """What holds for all conversions of a suite, and does not change their results."""

    engine: str = "auto"
    trust_model: bool = False
    cache: bool = True


def make_request(
    plan: Plan,
    source: Source,
    check: Check,
    quantization: Quantization,
    options: Mapping[str, Any],
    limits: Limits,
    diagnose: bool,
) -> Request:
    """Make the request for a plan, from what the plan was made of."""
    model = f"{_MODEL}/{source.path.name}"
    files = {model: _describe(source.path)}
    toml = source.path.with_suffix(".toml")
    if toml.is_file():
        files[f"{_MODEL}/{toml.name}"] = _describe(toml)
    arch = source.arch
    if plan.python_files:
        name = str(plan.options["arch"]).removeprefix("user/")
        arch = f"{_ARCH}/{name}"
        for place, path in plan.python_files.items():
            files[f"{_ARCH}/{place.removeprefix('user/')}"] = _describe(path)
    for kind, given in (
        (_INPUTS, check.inputs_file),
        (_CALIBRATION, quantization.calibration),
        (_LABELS, check.labels),
    ):
        if given is not None:
            files[f"{kind}/{given.name}"] = _describe(given)
    return Request(
        key=_compute_key(plan, limits, check.labels),
        toolchain=plan.toolchain.name,
        model=model,
        arch=arch,
        arch_args=source.arch_args,
        check=replace(check, inputs_file=None, labels=None),
        quantization=replace(quantization, calibration=None),
        options=options,
        files=files,
        limits=limits,
        diagnose=diagnose,
        embed_preprocessing=source.embed_preprocessing,
    )


def describe_code() -> str:
    """Name this runner's version, and the code that it is, exactly."""
    return f"{__version__} ({_digest_code()[:12]})"


@functools.cache
def _digest_code() -> str:
    from runner.host.paths import PACKAGE, ROOT
    from runner.toolchains.code import hash_tree

    hashes = {
        f"{name}/{path}": sha256
        for name, folder in (("runner", PACKAGE), ("stages", ROOT / "stages"))
        for path, sha256 in hash_tree(folder).items()
    }
    locks = {path.name + path.parent.name: hash_file(path) for path in ROOT.glob("images/*/*.lock")}
    return compute_tree_digest({**hashes, **locks})


def _compute_key(plan: Plan, limits: Limits, labels: Path | None) -> str:
    """Compute 64 hex digits that change whenever the result of a conversion could."""
    stages = (*plan.toolchain.stages, *plan.quantization.stages)
    parts = {
        "format": _FORMAT,
        "files": {
            name: _hash_known(path) if isinstance(path, Path) else hashlib.sha256(path).hexdigest()
            for name, path in {**list_initial_files(plan), **plan.quantization.files}.items()
        },
        "toolchain": plan.toolchain.name,
        "stages": [
            {
                "name": stage.name,
                "module": stage.module,
                "code": _digest_module(stage.module),
                "image": plan.images[stage.image].environment_key,
                "defaults": dict(stage.defaults),
            }
            for stage in stages
        ],
        "options": [plan.stage_options, plan.quantization.options],
        "inputs": [spec.as_request() for spec in plan.inputs],
        "inputs_from": plan.inputs_from,
        "labels": _hash_known(labels) if labels else "",
        "check": plan.check,
        "limits": [limits.timeout, limits.memory],
    }
    text = json.dumps(parts, sort_keys=True, default=dict)
    return hashlib.sha256(text.encode()).hexdigest()


@functools.cache
def _digest_module(module: str) -> str:
    return compute_tree_digest(hash_code([module]))


def _describe(path: Path) -> File:
    return File(str(path.absolute()), _hash_known(path), path.stat().st_size)


def _hash_known(path: Path) -> str:
    state = path.stat()
    return _hash_once(str(path.absolute()), state.st_mtime_ns, state.st_size)


@functools.lru_cache(4096)
def _hash_once(path: str, changed: int, size: int) -> str:
    """Compute a file's hash, once for as long as it stays as it is: a model has many toolchains."""
    return hash_file(Path(os.fspath(path)))
