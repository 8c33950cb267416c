"""Convert PyTorch models to TensorFlow Lite with pinned tools, on any machine.

from runner import convert

report = convert("mbv2.pt")
print(report.outcome, report.artifacts[-1].path)

`diagnose` finds the first operator that introduces the error of a finished run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runner.version import __version__

if TYPE_CHECKING:
    from runner.api import convert, diagnose

__all__ = ["__version__", "convert", "diagnose"]


def __getattr__(name: str) -> Any:
    # Late, so that modules which need the standard library only (bootstrap.py imports one) load
    # before anything is installed.
    if name in ("convert", "diagnose"):
        from runner import api

        return getattr(api, name)
    raise AttributeError(name)
