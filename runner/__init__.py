"""Convert PyTorch models to TensorFlow Lite with pinned tools, on any machine.

from runner import convert

report = convert("mbv2.pt")
print(report.outcome, report.artifacts[-1].path)

`diagnose` finds where the error of a finished run is born.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runner.version import __version__

if TYPE_CHECKING:
    from runner.conversion.convert import convert
    from runner.conversion.diagnose import diagnose

__all__ = ["__version__", "convert", "diagnose"]


def __getattr__(name: str) -> Any:
    # Late, so that modules which need the standard library only (bootstrap.py imports one) load
    # before anything is installed.
    if name == "convert":
        from runner.conversion.convert import convert

        return convert
    if name == "diagnose":
        from runner.conversion.diagnose import diagnose

        return diagnose
    raise AttributeError(name)
