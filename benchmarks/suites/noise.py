"""The latencies of equal sets, compared: what is named there is noise taken for a change.

    python benchmarks/suites/noise.py FOLDER [--sets 21]

FOLDER holds results of a suite, or any .tflite files below it. They are measured again and again,
as a suite measures them, and each set is compared with the one before. Then every latency of the
last set is made a quarter longer, which has to be named where the noise leaves room. Writes
benchmarks/suites/noise.md.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from runner.host.files import hash_file
from runner.suite.compare import compare_results
from runner.suite.latency import measure_latency
from runner.suite.results import LatencyRecord, Record, ResultSet
from runner.suite.settings import LatencyTable

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sets", type=int, default=21)
    arguments = parser.parse_args()
    files = {hash_file(path): path for path in sorted(arguments.folder.rglob("*.tflite"))}
    begin, sets, named, notes, spread = time.monotonic(), [], 0, [], []
    for number in range(arguments.sets):
        measured = measure_latency(files, LatencyTable(), "process")
        sets.append(make_set(measured))
        spread += [max(t.sessions) / min(t.sessions) for t in measured.files.values() if t.sessions]
        if number:
            found = compare_results(sets[-2], sets[-1])
            named += len(found.changes)
            notes += found.notes
            print(f"{number}: {len(found.changes)} named; {found.notes}", file=sys.stderr)
    slower = sets[-1].latency.model_copy(deep=True)
    for timing in slower.files.values():
        timing.sessions = [1.25 * seconds for seconds in timing.sessions]
    planted = compare_results(sets[-2], make_set(slower)).worse
    text = f"""# The noise of latencies

Written by `python benchmarks/suites/noise.py`: {len(files)} files, {arguments.sets} sets of
{LatencyTable().sessions} sessions, {time.monotonic() - begin:.0f} s, on
{len(os.sched_getaffinity(0))} cores with a load average of {os.getloadavg()[1]:.1f}.

Within a set, the slowest session of a file took up to {max(spread):.2f} times as long as its
fastest (median {sorted(spread)[len(spread) // 2]:.2f}). In {arguments.sets - 1} comparisons of
equal sets, {named} latencies were named. Bounds, first and last: {notes[0]} {notes[-1]}

Of {len(files)} latencies that were made a quarter longer, {len(planted)} were named.
"""
    (HERE / "noise.md").write_text(text)
    print(text)


def make_set(measured: LatencyRecord) -> ResultSet:
    """Make a set of results of nothing but latencies."""
    names = [sha256[:12] for sha256 in measured.files]
    records = [
        Record(key="", model=name, toolchain="-", variant="-", outcome="passed", artifact=sha256)
        for name, sha256 in zip(names, measured.files, strict=True)
    ]
    return ResultSet(Path("set"), "set", names, ["-"], ["-"], records, measured)


if __name__ == "__main__":
    main()
