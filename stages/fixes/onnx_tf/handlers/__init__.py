"""Handlers that emit ONNX operators as TensorFlow ones, one module for each family.

A module registers its handlers when it is imported: to add a family, add a file.
"""

from __future__ import annotations

import importlib
import pkgutil


def register_all() -> None:
    """Import every module of handlers, which registers them."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
