"""Fuzz the host's parsers: `python -m fuzz.run [--seconds N] [PARSER ...]`.

Each parser gets a process of its own for this time; what it finds lies in fuzz/findings/PARSER,
the input and how it went wrong. With atheris installed, the inputs follow what code they reach;
without it, they are mutations of valid files and of what was found to be taken.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

FINDINGS = ROOT / "fuzz/findings"
_LONGEST = 1 << 18
# A worker that says nothing for so long hangs where no signal reaches it.
_SILENT = 120
_KEPT = 2000
GUIDED = importlib.util.find_spec("atheris") is not None


class Worker:
    """Runs examples of one parser, and keeps each kind of finding once."""

    def __init__(self, name: str, seconds: float) -> None:
        from fuzz.parsers import ALL

        self.harness = ALL[name]
        self.seeds = [*self.harness.seeds(), *self.harness.corpus().values()]
        self.current = Path(os.environ["FUZZ_CURRENT"])
        # The processor's time, so that a busy machine tries no less.
        self.end = _processor_seconds() + seconds
        self.examples = self.taken = 0
        self.found: set[str] = set()
        self.random = random.Random(os.environ.get("FUZZ_SEED", "") or time.time_ns())

    def example(self, data: bytes) -> bool:
        self.current.write_bytes(data)
        self.examples += 1
        try:
            taken = self.harness.run(data)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self._keep(data, error)
            return False
        self.taken += taken
        return taken

    def _keep(self, data: bytes, error: BaseException) -> None:
        own = [
            f for f in traceback.extract_tb(error.__traceback__) if "/fuzz/fuzz/" not in f.filename
        ]
        place = f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""
        kind = f"{type(error).__name__} {place}"
        if kind in self.found:
            return
        self.found.add(kind)
        keep(self.harness.name, data, "".join(traceback.format_exception(error))[-6000:])

    def mutated(self) -> None:
        """Valid files and what was taken of their mutations, mutated."""
        from fuzz.mutation import mutate

        pool = list(self.seeds)
        for seed in self.seeds:
            self.example(seed)
        while _processor_seconds() < self.end:
            data = self.random.choice(pool)
            made = mutate(data, pool, self.harness.tokens, self.random)
            if self.example(made) and len(pool) < _KEPT:
                pool.append(made)

    def guided(self) -> None:
        import atheris

        from fuzz.mutation import mutate

        def one(data: bytes) -> None:
            self.example(data)
            if _processor_seconds() > self.end:
                self.say()
                os._exit(0)  # libFuzzer has no other way back

        def change(data: bytes, most: int, seed: int) -> bytes:
            chance = random.Random(seed)
            kind = chance.random()
            if kind < 0.3:
                changed: bytes = atheris.Mutate(data, most)
                return changed
            # What reached new code is seldom valid any more, so half begin with what is.
            begin = data if kind < 0.5 else chance.choice(self.seeds)
            return mutate(begin, self.seeds, self.harness.tokens, chance)[:most]

        with tempfile.TemporaryDirectory(prefix="fuzz-corpus-") as corpus:
            for number, seed in enumerate(self.seeds):
                Path(corpus, str(number)).write_bytes(seed)
            options = [f"-max_len={_LONGEST}", "-timeout=600", "-rss_limit_mb=0", "-mutate_depth=1"]
            options += ["-handle_segv=0", "-handle_abrt=0", f"-artifact_prefix={corpus}/"]
            atheris.Setup([sys.argv[0], *options, corpus], one, custom_mutator=change)
            atheris.Fuzz()

    def say(self) -> None:
        print(
            f"{self.examples} examples, {self.taken} taken, {len(self.found)} findings", flush=True
        )


def _processor_seconds() -> float:
    """Of this process and the children that it has waited for."""
    return sum(os.times()[:4])


def keep(name: str, data: bytes, why: str) -> None:
    folder = FINDINGS / name
    folder.mkdir(parents=True, exist_ok=True)
    key = hashlib.sha256(data).hexdigest()[:16]
    (folder / key).write_bytes(data)
    (folder / f"{key}.txt").write_text(why, errors="backslashreplace")


def work(name: str, seconds: float) -> None:
    """In a process of its own."""
    if GUIDED:
        import atheris

        with atheris.instrument_imports(include=["runner"], enable_loader_override=False):
            worker = Worker(name, seconds)
        worker.guided()
    else:
        worker = Worker(name, seconds)
        worker.mutated()
        worker.say()


def watch(name: str, seconds: float) -> tuple[str, int]:
    """Run a worker; what it said, and how many findings there are of it."""
    before = _findings(name)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-current-") as folder:
        current = Path(folder, "current")
        command = [sys.executable, __file__, "--worker", name, "--seconds", str(seconds)]
        environment = {
            **os.environ,
            "FUZZ_CURRENT": str(current),
            "PYTHONWARNINGS": "ignore",
            "RUNNER_CACHE_DIR": str(Path(folder, "cache")),
            "TMPDIR": folder,
        }
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        said = ""
        while True:
            try:
                said, errors = process.communicate(timeout=5)
                break
            except subprocess.TimeoutExpired:
                silent = time.time() - current.stat().st_mtime if current.exists() else 0
                if silent > _SILENT:
                    process.send_signal(signal.SIGKILL)
                    keep(name, current.read_bytes(), f"No answer for {silent:.0f} seconds.\n")
        if process.returncode and current.exists():
            why = f"The process ended with status {process.returncode}.\n{errors[-4000:]}"
            keep(name, current.read_bytes(), why)
        elif process.returncode:
            said = errors[-1000:]
    lines = said.strip().splitlines() or [f"ended with status {process.returncode}"]
    took = time.monotonic() - started
    return f"{name}: {took:.0f} s, {lines[-1]}", len(_findings(name) - before)


def _findings(name: str) -> set[Path]:
    folder = FINDINGS / name
    return set(folder.glob("*.txt")) if folder.is_dir() else set()


def main(arguments: list[str] | None = None) -> int:
    from fuzz.parsers import ALL

    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("parser", nargs="*", help=f"of {', '.join(ALL)} (default: all)")
    parser.add_argument("--seconds", type=float, default=60, help="of CPU time, for each parser")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options: Any = parser.parse_args(arguments)
    if options.worker:
        work(options.worker, options.seconds)
        return 0
    if unknown := set(options.parser) - set(ALL):
        parser.error(f"no such parser: {', '.join(sorted(unknown))}")
    print("guided by coverage (atheris)" if GUIDED else "mutations (atheris is not installed)")
    total = 0
    with ThreadPoolExecutor(options.jobs) as pool:
        for said, count in pool.map(
            lambda name: watch(name, options.seconds), options.parser or list(ALL)
        ):
            print(said, flush=True)
            total += count
    print(f"{total} findings" + (f" in {FINDINGS.relative_to(ROOT)}" if total else ""))
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main())
