"""Named repairs of what was wrong in the 2020 tools, by the tool that they repair.

`FIXES` lists them, `select` chooses, `resolve` chooses by a stage's options and says there which.
Each tool's folder has its entry in `apply`, imported only where its framework is installed.
"""

from stages.fixes.catalogue import FIXES, Fix, resolve, select

__all__ = ["FIXES", "Fix", "resolve", "select"]
