"""A program of the runner with a keeper of warm processes, as a suite's conversions have one.

    python warm_cli.py PYTHON -m runner convert ...

PYTHON is this one. Each stage is forked from a warm process that is there for this run alone.
"""

from __future__ import annotations

import os
import runpy
import socket
import sys

from runner.engines.process.warm import use_keeper
from runner.suite.jobs.keeper import KIND, Keeper


def main() -> None:
    keeper = Keeper()
    requests, asks = socket.socketpair(type=KIND)
    child = os.fork()
    if child == 0:
        requests.close()
        use_keeper(asks)
        module, sys.argv = sys.argv[3], sys.argv[3:]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        os._exit(0)
    asks.close()
    keeper.serve(child, requests)
    _, status = os.waitpid(child, 0)
    keeper.end()
    sys.exit(os.waitstatus_to_exitcode(status) % 256)


if __name__ == "__main__":
    main()
