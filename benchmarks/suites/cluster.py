"""A suite on three hosts, with a worker killed, a link down and the client killed in the middle.

    python benchmarks/suites/cluster.py [--nets 40] [--plain all] [--toolchains 2020-09,2022,...]

The hosts are network namespaces of this machine, each with an address, a cache and a Dask worker of
its own; client and scheduler are in a fourth; all speak TLS. Needs root and the process engine's
environments. While the suite runs, one worker gets SIGKILL, then one host's link goes down, then
the client gets SIGKILL; the same command is given again, and the link comes up. In the end every
result must be there once, with the bytes that a plain `runner convert` makes. Writes
benchmarks/suites/cluster.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil

from runner.conversion.observer import Observer
from runner.engines.process.engine import ProcessEngine
from runner.engines.process.environments import locate_environment_python
from runner.host.files import hash_file
from runner.host.paths import cache_folder
from runner.suite.results import read_results
from runner.toolchains.load import load_image

HERE = Path(__file__).resolve().parent
HUB, HOSTS = "runner-hub", ("runner-h1", "runner-h2", "runner-h3")
ADDRESS = "10.213.77.{}"
SCHEDULER = f"tls://{ADDRESS.format(1)}:8786"
SAMPLES = 20
# A lost link is noticed by its silence; on a real cluster these are Dask's own settings.
DASK = {
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "20s",
    "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "60s",
    "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "2",
    "DASK_DISTRIBUTED__SCHEDULER__WORKER_SATURATION": "1.0",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nets", type=int, default=40)
    parser.add_argument("--toolchains", default="2020-09,2022,2026-onnx2tf")
    parser.add_argument("--plain", default="all", help="how many to convert plainly, or all")
    arguments = parser.parse_args()
    toolchains = arguments.toolchains.split(",")
    with tempfile.TemporaryDirectory(prefix="suite-cluster-") as name:
        folder = Path(name)
        make_nets(folder / "nets", arguments.nets)
        (folder / "suite.toml").write_text(
            f'models = ["nets/*.pt"]\ntoolchains = {json.dumps(toolchains)}\n'
            f"[defaults]\nsamples = {SAMPLES}\n[latency]\nsessions = 0\n"
        )
        total = arguments.nets * len(toolchains)
        trial = Trial(folder, total)
        with ExitStack() as stack:
            stack.enter_context(network())
            trial.start(stack)
            trial.run()
        plain = total if arguments.plain == "all" else int(arguments.plain)
        trial.check(plain)
        (HERE / "cluster.md").write_text(trial.describe(arguments.nets, toolchains))
        print(trial.describe(arguments.nets, toolchains))


def make_nets(folder: Path, count: int) -> None:
    image = load_image("torch")
    ProcessEngine().prepare([image], Observer())
    python = locate_environment_python(image)
    subprocess.run([python, HERE / "nets.py", folder, str(count)], check=True)


def sh(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


@contextmanager
def network() -> Iterator[None]:
    """Make the namespaces: a bridge in the hub, and a link from there to each host."""
    remove_network()
    try:
        for name in (HUB, *HOSTS):
            sh("ip", "netns", "add", name)
            sh("ip", "-n", name, "link", "set", "lo", "up")
        sh("ip", "-n", HUB, "link", "add", "bridge", "type", "bridge")
        sh("ip", "-n", HUB, "addr", "add", f"{ADDRESS.format(1)}/24", "dev", "bridge")
        sh("ip", "-n", HUB, "link", "set", "bridge", "up")
        for number, name in enumerate(HOSTS, 2):
            inside = ("type", "veth", "peer", "name", "eth0", "netns", name)
            sh("ip", "-n", HUB, "link", "add", f"to{number}", *inside)
            sh("ip", "-n", HUB, "link", "set", f"to{number}", "master", "bridge", "up")
            sh("ip", "-n", name, "addr", "add", f"{ADDRESS.format(number)}/24", "dev", "eth0")
            sh("ip", "-n", name, "link", "set", "eth0", "up")
        yield
    finally:
        remove_network()


def remove_network() -> None:
    for name in (HUB, *HOSTS):
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def make_certificates(folder: Path) -> list[str]:
    """Make an authority and one certificate for everybody; return the options that name them."""
    folder.mkdir()
    ca, key, cert = folder / "ca.pem", folder / "key.pem", folder / "cert.pem"
    new = ("openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj")
    sh(*new, "/CN=authority", "-x509", "-days", "2", "-keyout", f"{folder}/ca.key", "-out", str(ca))
    sh(*new, "/CN=cluster", "-keyout", str(key), "-out", f"{folder}/csr.pem")
    signing = ("-CA", str(ca), "-CAkey", f"{folder}/ca.key", "-CAcreateserial", "-days", "2")
    sh("openssl", "x509", "-req", "-in", f"{folder}/csr.pem", *signing, "-out", str(cert))
    return [str(ca), str(cert), str(key)]


def does_jobs(process: psutil.Process) -> bool:
    return "runner.suite.jobs.job" in process.cmdline()


class Trial:
    """The cluster, the suite on it, and what is done to both."""

    def __init__(self, folder: Path, total: int) -> None:
        self.folder, self.total = folder, total
        self.results = folder / "results"
        self.certificates = make_certificates(folder / "tls")
        self.story: list[str] = []
        self.seconds = 0.0
        self.equal = self.plain = 0
        self.workers: dict[str, psutil.Process] = {}

    def _spawn(self, stack: ExitStack, host: str, *command: str, log: str, **more: str) -> Any:
        environment = {**os.environ, **DASK, "RUNNER_STAGE_CACHE": "0", **more}
        output = stack.enter_context((self.folder / log).open("ab"))
        process = subprocess.Popen(
            ["ip", "netns", "exec", host, sys.executable, "-m", *command],
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        stack.callback(end, process)
        return process

    def start(self, stack: ExitStack) -> None:
        """Start the scheduler and a worker on each host."""
        tls = [
            word
            for option, file in zip(("ca-file", "cert", "key"), self.certificates, strict=True)
            for word in (f"--tls-{option}", file)
        ]
        scheduler = ("--host", f"tls://{ADDRESS.format(1)}", "--port", "8786", "--no-dashboard")
        self._spawn(stack, HUB, "distributed.cli.dask_scheduler", *scheduler, *tls, log="hub.log")
        for number, host in enumerate(HOSTS, 2):
            cache = self.folder / host
            cache.mkdir()
            # What a machine has installed; the files and runs that it keeps are its own.
            for shared in ("environments", "cpython.json", "interpreters"):
                if (cache_folder() / shared).exists():
                    (cache / shared).symlink_to(cache_folder() / shared)
            own = (SCHEDULER, "--name", host, "--host", ADDRESS.format(number))
            size = ("--nthreads", "1", "--nworkers", "1", "--memory-limit", "6GB")
            places = ("--no-dashboard", "--local-directory", str(self.folder / f"{host}-dask"))
            process = self._spawn(
                *(stack, host, "distributed.cli.dask_worker", *own, *size, *places, *tls),
                log=f"{host}.log",
                RUNNER_CACHE_DIR=str(cache),
                TMPDIR=str(cache),
            )
            self.workers[host] = psutil.Process(process.pid)

    def run(self) -> None:
        """Run the suite, and do it harm at a quarter, at a half and at five eighths."""
        begin = time.monotonic()
        first = self._run_client(kill_after=self.total * 5 // 8)
        assert first < 0, f"the client ended by itself, with status {first}"
        self.tell(f"client killed after {self.count()} of {self.total}; the same command again")
        sh("ip", "-n", HUB, "link", "set", "to4", "up")
        self.tell("the link is up again")
        status = self._run_client()
        assert status == 0, f"the client ended with status {status}: see its log"
        self.seconds = time.monotonic() - begin

    def _run_client(self, kill_after: int = 0) -> int:
        """Run the client until it ends, or is killed when so many are done."""
        tls = [
            word
            for option, file in zip(("ca", "cert", "key"), self.certificates, strict=True)
            for word in (f"--tls-{option}", file)
        ]
        command = ["runner", "suite", "run", str(self.folder / "suite.toml"), "--json", *tls]
        where = ["--scheduler", SCHEDULER, "--output", str(self.results), "--engine", "process"]
        with open(self.folder / "client.log", "ab") as log:
            client = subprocess.Popen(
                ["ip", "netns", "exec", HUB, sys.executable, "-m", *command, *where],
                env={**os.environ, **DASK, "RUNNER_TRUST_MODEL": "true"},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
            done, killed, cut = self.count(), False, False
            assert client.stdout is not None
            for line in client.stdout:
                event = json.loads(line)
                if event["event"] != "stage":
                    print(line[:160].rstrip(), file=sys.stderr, flush=True)
                done += event["event"] == "finished"
                if not kill_after:
                    continue
                if not killed and done >= self.total // 4 and event["event"] == "stage":
                    killed = self.kill_worker(HOSTS[0])
                if not cut and done >= self.total // 2:
                    sh("ip", "-n", HUB, "link", "set", "to4", "down")
                    self.tell(f"link of {HOSTS[2]} down after {done}")
                    cut = True
                if done >= kill_after:
                    client.send_signal(signal.SIGKILL)
                    break
            return client.wait(60)

    def kill_worker(self, host: str) -> bool:
        """Kill the process of a host's worker while it has a conversion."""
        for process in self.workers[host].children(recursive=True):
            worker = process.parent()
            assert worker is not None
            if does_jobs(process) and process.children() and not does_jobs(worker):
                worker.kill()
                self.tell(f"worker of {host} killed after {self.count()}, with a conversion")
                return True
        return False

    def count(self) -> int:
        return len(list(self.results.glob("runs/*/*/*.json")))

    def tell(self, what: str) -> None:
        self.story.append(what)
        print(f"== {what}", file=sys.stderr, flush=True)

    def check(self, plain: int) -> None:
        """Check that all results are there once, and `plain` of them against plain conversions."""
        found = read_results(self.results)
        assert len(found.records) == self.total == self.count()
        outcomes = Counter(record.outcome for record in found.records)
        assert set(outcomes) <= {"passed", "rounding"}, outcomes
        self.story.append(f"outcomes: {dict(outcomes)}")
        hosts = Counter(record.worker.split("//")[1].split(":")[0] for record in found.records)
        self.story.append(f"results by host: {dict(sorted(hosts.items()))}")
        again = sum(record.attempts > 1 for record in found.records)
        self.story.append(f"begun more than once under one client: {again}")
        for record in found.records[:: max(1, self.total // plain)][:plain]:
            model = self.folder / f"{record.model}.pt"
            output = self.folder / "plain"
            command = ["runner", "convert", "--model", str(model), "--output", str(output)]
            more = ["--toolchain", record.toolchain, "--samples", str(SAMPLES), "--no-cache"]
            done = subprocess.run(
                [sys.executable, "-m", *command, *more, "--quiet", "--engine", "process"],
                check=False,
                env={**os.environ, "RUNNER_TRUST_MODEL": "true"},
            )
            assert done.returncode == 0, f"{record.cell}: {done.returncode}"
            ours = self.results / record.run
            files = {p.name for p in output.iterdir() if p.suffix in (".onnx", ".pb", ".tflite")}
            assert files and files == {
                p.name for p in ours.iterdir() if p.suffix in (".onnx", ".pb", ".tflite")
            }
            for name in files:
                assert hash_file(output / name) == hash_file(ours / name), f"{record.cell}: {name}"
            shutil.rmtree(output)
            self.equal += len(files)
            self.plain += 1

    def describe(self, nets: int, toolchains: list[str]) -> str:
        story = "\n".join(f"- {line}" for line in self.story)
        return f"""# A suite on three hosts

Written by `python benchmarks/suites/cluster.py`: {nets} nets x {len(toolchains)} toolchains
({", ".join(toolchains)}) = {self.total} conversions, on three network namespaces of one machine
with {os.cpu_count()} cores, each with an address, a cache and a worker of its own; TLS throughout.

{story}

In {self.seconds:.0f} s every result was there, once. {self.plain} of them were made again by a
plain `runner convert`: all {self.equal} artifacts have the same bytes.
"""


def end(process: subprocess.Popen[Any]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


if __name__ == "__main__":
    main()
