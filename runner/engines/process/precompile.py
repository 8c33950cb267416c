"""Bytecode for an environment's Python code, compiled before a stage needs it.

A sandboxed stage cannot save bytecode, since it must not be able to change the code that the next
run executes. So the packages of an environment are imported once without any model, and the stages'
own modules are compiled when they are new.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path

from runner.host.paths import ROOT
from runner.toolchains.load import load_targets, load_toolchains
from runner.toolchains.model import Image

_MARK = ".compiled"
_SECONDS = 300
_IMPORT = """
import importlib, sys
for module in sys.argv[1:]:
    for package in importlib.import_module(module).STAGE.packages:
        try:
            importlib.import_module(package.replace("-", "_"))
        except Exception:
            pass  # the stage will say it
"""


def precompile(image: Image, environment: Path) -> None:
    """Compile what is not compiled yet, except where the bytecode cannot be written."""
    mark = environment / _MARK
    if not mark.exists() and os.access(environment, os.W_OK):
        _run(environment, "-c", _IMPORT, *_list_modules(image))
        mark.touch()
    stages = ROOT / "stages"
    if os.access(stages, os.W_OK) and any(
        _is_stale(path, image.python) for path in stages.rglob("*.py")
    ):
        _run(environment, "-m", "compileall", "-q", str(stages))


def _list_modules(image: Image) -> list[str]:
    stages = [stage for chain in load_toolchains() for stage in chain.stages]
    stages += load_targets().values()
    return sorted({stage.module for stage in stages if stage.image == image.name})


def _is_stale(source: Path, python: str) -> bool:
    tag = f"cpython-{python.replace('.', '')}"
    compiled = source.parent / "__pycache__" / f"{source.stem}.{tag}.pyc"
    try:
        return compiled.stat().st_mtime < source.stat().st_mtime
    except FileNotFoundError:
        return True


def _run(environment: Path, *arguments: str) -> None:
    variables = {"PYTHONPATH": str(ROOT), "HOME": "/nonexistent", "PATH": os.environ["PATH"]}
    with suppress(subprocess.TimeoutExpired):  # then the stage compiles what it needs
        subprocess.run(
            [str(environment / "bin" / "python"), "-s", *arguments],
            env={**variables, "CUDA_VISIBLE_DEVICES": "-1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
            cwd="/",
        )
