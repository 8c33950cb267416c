"""The code that runs in images: which files a stage uses, and hashes of these and of the runner.

A stage's files are found by following the imports in their text, inside functions too, so that a
stage that is added for one toolchain changes no other toolchain's record, cache keys or images.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Collection, Iterable
from pathlib import Path

from runner.host.files import hash_file
from runner.host.paths import ROOT
from runner.toolchains.model import Toolchain

_TOP = "stages"
_IMPORT = re.compile(
    rf"^\s*(?:from\s+({_TOP}[\w.]*)\s+import\s+(\([^)]*\)|[^\n]*)|import\s+({_TOP}[\w.]*))",
    re.MULTILINE,
)
# An import whose module is known at run time only: it may be any of the package's.
_ANY_OF_PACKAGE = "importlib.import_module(f"


def list_code(modules: Iterable[str], root: Path = ROOT) -> tuple[Path, ...]:
    """List the files that these modules of `stages` use: their own, what they import, and data.

    Data is every JSON file in the folder of a module that is used.
    """
    found: set[Path] = set()
    for module in modules:
        found |= _follow(module, root)
    data = {path for folder in {path.parent for path in found} for path in folder.glob("*.json")}
    return tuple(sorted(found | data))


@functools.cache
def _follow(module: str, root: Path) -> frozenset[Path]:
    found: set[Path] = set()
    seen = {module}
    pending = [module]
    while pending:
        for path in _locate(pending.pop(), root):
            if path not in found:
                found.add(path)
                named = set(_list_imports(path, root)) - seen
                seen |= named
                pending += named
    return frozenset(found)


@functools.cache
def _locate(module: str, root: Path) -> tuple[Path, ...]:
    """Find a module's file, if there is such a module, and the `__init__.py` of its packages."""
    above = module.rpartition(".")[0]
    place = root.joinpath(*module.split("."))
    own = (place / "__init__.py", place.with_name(f"{place.name}.py"))
    return (*(_locate(above, root) if above else ()), *filter(Path.is_file, own))


@functools.cache
def _list_imports(path: Path, root: Path) -> tuple[str, ...]:
    text = path.read_text(encoding="utf-8")
    names = []
    for package, imported, module in _IMPORT.findall(text):
        if module:
            names.append(module)
            continue
        words = re.sub(r"#[^\n]*|[()\s]", " ", imported).split(",")
        names += [package, *(f"{package}.{word.split()[0]}" for word in words if word.split())]
    if _ANY_OF_PACKAGE in text:
        package = ".".join(path.parent.relative_to(root).parts)
        names += [f"{package}.{beside.stem}" for beside in path.parent.glob("*.py")]
    return tuple(names)


def hash_code(modules: Iterable[str], root: Path = ROOT) -> dict[str, str]:
    """Return the sha256 of each file that these modules use, by its path below `stages`."""
    folder = root / _TOP
    return {
        path.relative_to(folder).as_posix(): _hash_once(path) for path in list_code(modules, root)
    }


def hash_toolchain(
    chain: Toolchain, quantizers: Collection[str] = (), root: Path = ROOT
) -> dict[str, str]:
    """Return the sha256 of each file that a toolchain's stages use, and of its definition.

    `quantizers` are the modes that were asked for besides.
    """
    stages = [*chain.stages, *(stage for stage in chain.quantizers if stage.name in quantizers)]
    modules = [module for stage in stages for module in (stage.module, stage.trace) if module]
    definitions = {f"toolchains/{chain.file.name}": hash_file(chain.file)}
    if chain.target_stage:
        definitions[f"targets/{chain.target_file.name}"] = hash_file(chain.target_file)
    return {**hash_code(modules, root), **definitions}


@functools.cache
def _hash_once(path: Path) -> str:
    return hash_file(path)


@functools.cache
def hash_tree(folder: Path) -> dict[str, str]:
    """Return the sha256 of each file of code below a folder, by its path there."""
    paths = [p for p in folder.rglob("*") if p.suffix in (".py", ".toml", ".json") and p.is_file()]
    hashes = {path.relative_to(folder).as_posix(): hash_file(path) for path in paths}
    return dict(sorted(hashes.items()))


def compute_tree_digest(hashes: dict[str, str]) -> str:
    """Compute what `find . -type f | sort | xargs sha256sum | sha256sum` gives in such a folder."""
    lines = "".join(f"{sha256}  {path}\n" for path, sha256 in sorted(hashes.items()))
    return hashlib.sha256(lines.encode()).hexdigest()
