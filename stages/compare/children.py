"""Work in a process of its own: an older interpreter may crash on a newer file."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from typing import Any, Callable, Dict

from stages.kit.contract import Job, write_json


def run_in_child(job: Job, work: Callable[[], Dict[str, Any]]) -> Dict[str, Any]:
    """Return what the work returns (JSON); if it leaves nothing, `failure` says why."""
    answer = job.volume / ".answer.json"
    if answer.exists():
        answer.unlink()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        try:
            write_json(answer, work())
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return {"failure": f"The interpreter crashed ({name})."}
    if not answer.exists():
        return {"failure": "The interpreter left no answer; the log says more."}
    found: Dict[str, Any] = json.loads(answer.read_text())
    return found
