"""How ONNX operators become TensorFlow ones, a family a module.

A module registers its handlers as it is imported: adding one is adding a file.
"""

from __future__ import annotations

import importlib
import pkgutil


def register_all() -> None:
    """Import every module of handlers."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
