"""Named repairs of what was wrong in the 2020 tools; see docs and `catalogue`.

`FIXES` lists them, `select` chooses, `resolve` chooses by a stage's options and says there which;
each stage has an entry in a module of its own (`stages.fixes.for_torch`, `for_onnx_tf`), imported
only where its framework is installed.
"""

from stages.fixes.catalogue import FIXES, Fix, resolve, select

__all__ = ["FIXES", "Fix", "resolve", "select"]
