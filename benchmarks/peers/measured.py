"""Run a program and write what it took: python measured.py RESULT.json PROGRAM ARGUMENTS...

Wall seconds, user and system seconds of the whole process tree, and the peak resident set of its
largest process. A small process of its own, since the kernel hands a parent's peak to its child.
"""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path


def main() -> int:
    start = time.perf_counter()
    status = subprocess.run(sys.argv[2:], check=False).returncode
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = {
        "status": status,
        "wall_s": time.perf_counter() - start,
        "user_s": usage.ru_utime,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_mib": usage.ru_maxrss / 1024,
    }
    Path(sys.argv[1]).write_text(json.dumps(result))
    return status


if __name__ == "__main__":
    sys.exit(main())
