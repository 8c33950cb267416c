"""Run a program and write what it took: python measured.py RESULT.json PROGRAM ARGUMENTS...

Wall seconds, the seconds that the machine's cores worked meanwhile, and the peak resident set of
the largest process among those that were waited for: bubblewrap does not wait for what it isolates,
so that neither its time nor its peak would be seen. A small process of its own, since the kernel
hands a parent's peak to its child.
"""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # where `runner` is not installed

from benchmarks.machine import count_cpu


def main() -> int:
    before, start = count_cpu(), time.perf_counter()
    status = subprocess.run(sys.argv[2:], check=False).returncode
    result = {
        "status": status,
        "wall_s": time.perf_counter() - start,
        "cpu_s": count_cpu() - before,
        "peak_mib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
    }
    Path(sys.argv[1]).write_text(json.dumps(result))
    return status


if __name__ == "__main__":
    sys.exit(main())
