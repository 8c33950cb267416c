"""The contract of a stage: a request and an input artifact in, an artifact and a report out.

A stage is a program, `python -m stages.convert.NAME`, that works in a folder shared with the other
stages (the volume, `/artifacts` in a container). It reads `requests/NAME.json` there, if there is
one, and its command line, which takes precedence. It writes its artifact and `reports/NAME.json`,
each under a temporary name first, so that neither is ever seen half-written. docs/contract.md
describes the request and the report.

Exit status: 0 with an artifact, 1 with an error in the report, 2 for a wrong command line.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import hashlib
import json
import math
import os
import platform
import sys
import time
import traceback
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Optional, Sequence, Tuple

from stages.kit.progress import watch_progress
from stages.kit.turn import wait_for_turn

# Samples are spread over the cores, and each is computed in one thread (see stages.kit.samples).
# OpenMP reads this once, when the first framework is imported, which happens after this module.
os.environ.setdefault("OMP_NUM_THREADS", "1")

SCHEMA = 1
PROGRESS_MARK = "@progress "


class StageError(Exception):
    """An error with a known cause and, mostly, a remedy.

    `blame` is 'input' when the user's model, inputs or options are at fault, else 'stage'.
    """

    def __init__(self, message: str, remedy: str = "", blame: str = "stage") -> None:
        super().__init__(message)
        self.remedy = remedy
        self.blame = blame


class InputError(StageError):
    """An error in the user's model, inputs or options."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message, remedy, blame="input")


@dataclass(frozen=True)
class Tensor:
    """One input or output of a model.

    `name` is the same in every stage; `node` is its name in the artifact at hand (a tensor of a
    graph, `input:0`). `axes` is its layout there: the axis of `shape` at each position of the
    artifact's own shape; empty if both are the same. `low` and `high` bound generated values:
    [low, high) for integers, a uniform distribution for floats; without them floats are drawn from
    the standard normal distribution. `dims` names the dimension of each axis that is open, '' for
    one that is not (none of either: every axis is fixed); `shape` has 1 there.
    """

    name: str
    shape: Tuple[int, ...]
    dtype: str
    node: str = ""
    low: Optional[float] = None
    high: Optional[float] = None
    axes: Tuple[int, ...] = ()
    dims: Tuple[str, ...] = ()

    @staticmethod
    def from_dict(data: Dict[str, Any]) -> Tensor:
        orders = {name: tuple(data.get(name, ())) for name in ("axes", "dims")}
        return Tensor(**{**data, "shape": tuple(data["shape"]), **orders})

    @property
    def own_shape(self) -> Tuple[int, ...]:
        """The shape in the artifact."""
        return tuple(self.shape[axis] for axis in self.axes) if self.axes else self.shape

    @property
    def open_shape(self) -> Tuple[int, ...]:
        """The shape in the artifact, with -1 for an open size."""
        dims = self.dims or ("",) * len(self.shape)
        shape = tuple(-1 if name else size for name, size in zip(dims, self.shape))
        return tuple(shape[axis] for axis in self.axes) if self.axes else shape


@dataclass(frozen=True)
class Signature:
    """The inputs and outputs of an artifact, in the PyTorch model's order."""

    inputs: Tuple[Tensor, ...]
    outputs: Tuple[Tensor, ...]

    @staticmethod
    def from_dict(data: Dict[str, Any]) -> Signature:
        return Signature(
            tuple(Tensor.from_dict(t) for t in data["inputs"]),
            tuple(Tensor.from_dict(t) for t in data["outputs"]),
        )


@dataclass(frozen=True)
class Option:
    """An option of a stage: `options` in a request, `--name` on the command line."""

    name: str
    type: Callable[[str], Any]
    default: Any
    help: str


def flag(text: str) -> bool:
    """Parse `true` or `false`, as the type of an option."""
    return {"true": True, "false": False}[text.lower()]


@dataclass(frozen=True)
class Stage:
    """What a stage module declares; `main` does the rest.

    `convert` writes the artifact to `job.output` and returns its signature. `check` compares the
    published artifact with the reference outputs, and returns None if there are none. `imports` are
    the modules that every conversion imports anyway, in its own order: a stage that waits for its
    turn imports them meanwhile.
    """

    name: str
    summary: str
    consumes: str
    produces: str
    packages: Tuple[str, ...]
    convert: Callable[[Job], Signature]
    check: Callable[[Job], Optional[Dict[str, Any]]]
    options: Tuple[Option, ...] = ()
    imports: Tuple[str, ...] = ()


@dataclass
class Job:
    """One run of a stage: the paths, the request, and the report.

    To compare two artifacts, the outputs of one are kept in the folder `keep`, and the other is
    then checked against that folder, its `reference`. `prepared` is whatever a stage's `convert`
    hands on to its `check`. `started` is when its turn came, in seconds since the epoch.
    """

    stage: Stage
    volume: Path
    input: Path
    output: Path
    artifact: Path
    options: Dict[str, Any]
    request: Dict[str, Any]
    started: float = 0.0
    signature: Optional[Signature] = None
    report: Dict[str, Any] = field(default_factory=dict)
    keep: Optional[Path] = None
    reference: Optional[Path] = None
    prepared: Any = None

    def note(self, text: str) -> None:
        """Tell the user something, in the log and in the report."""
        print(f"note: {text}", flush=True)
        self.report["notes"].append(text)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a part of the work, and name it as the phase of any error in the block."""
        self.report["phase"] = name
        report_progress(name)
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = self.report["phases"].get(name, 0.0) + time.perf_counter() - start
            self.report["phases"][name] = round(seconds, 3)

    def find_upstream_signature(self) -> Optional[Signature]:
        """Return the input artifact's signature, from the request or its maker's report, if any."""
        if self.request.get("signature"):
            return Signature.from_dict(self.request["signature"])
        for path in sorted((self.volume / "reports").glob("*.json")):
            try:
                report = json.loads(path.read_text())
            except ValueError:
                continue  # a stage that has not run yet
            made = report.get("artifact") or {}
            if made.get("path") == self.input.name and made.get("sha256") == sha256(self.input):
                return Signature.from_dict(report["signature"])
        return None

    def require_upstream_signature(self) -> Signature:
        """Return the input artifact's signature. Raises `InputError` if no stage has told it."""
        signature = self.find_upstream_signature()
        if signature is None:
            raise InputError(
                f"No report says who made '{self.input.name}'.", "Run the stage before this one."
            )
        return signature


_last_progress = 0.0


def report_progress(phase: str, done: int = 0, total: int = 0) -> None:
    """Report progress to the runner, at most ten times a second; without a runner do nothing."""
    global _last_progress
    if os.environ.get("RUNNER_PROGRESS") != "1":
        return
    now = time.monotonic()
    if done and done != total and now - _last_progress < 0.1:
        return
    _last_progress = now
    print(PROGRESS_MARK + json.dumps({"phase": phase, "done": done, "total": total}), flush=True)


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def describe_file(path: Path) -> Dict[str, Any]:
    return {"path": path.name, "sha256": sha256(path), "bytes": path.stat().st_size}


def publish(temporary: Path, final: Path) -> None:
    """Sync a finished file to disk, then give it its final name."""
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, final)


def write_json(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n")
    publish(temporary, path)


def run_as_program(stage: Stage) -> None:
    """Run a stage and end the process at once: TensorFlow takes most of a second to shut down."""
    status = main(stage)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def main(stage: Stage, argv: Optional[Sequence[str]] = None) -> int:
    """Run a stage from its command line and return its exit status."""
    arguments = _make_parser(stage).parse_args(argv)
    volume = Path(arguments.volume).resolve()
    started = _get_process_start()
    phases = {}
    if arguments.wait_for:
        turn, done = wait_for_turn(stage.imports, volume / arguments.wait_for)
        phases["ahead"] = round(min(turn, done) - started, 3)
        started = turn
    request_file = volume / "requests" / f"{stage.name}.json"
    request = json.loads(request_file.read_text()) if request_file.is_file() else {}
    requested = request.get("options", {})
    options = {}
    for option in stage.options:
        given = getattr(arguments, option.name)
        options[option.name] = (
            requested.get(option.name, option.default) if given is None else given
        )
    input_name = arguments.input or request.get("input", {}).get("path") or stage.consumes
    artifact = volume / (arguments.output or request.get("output") or stage.produces)
    job = Job(
        stage=stage,
        volume=volume,
        input=volume / input_name,
        output=artifact.with_name(f".{artifact.name}.part"),
        artifact=artifact,
        options=options,
        request=request,
        started=started,
    )
    return _run(job, phases)


def _run(job: Job, phases: Dict[str, float]) -> int:
    report = job.report
    report.update(
        schema=SCHEMA,
        stage=job.stage.name,
        status="failed",
        started=_format_utc(job.started),
        seconds=0.0,
        phases=phases,
        phase="start",
        peak_memory_bytes=0,
        platform={"python": platform.python_version(), "machine": platform.machine()},
        versions={},
        options=job.options,
        notes=[],
        input=None,
        artifact=None,
        signature=None,
        operators={},
        check=None,
        error=None,
    )

    def end(reason: str) -> None:
        error = StageError(reason, "It hangs, and the log says where: please report it.")
        try:
            report["error"] = _describe_error(error, report["phase"])
            _finish(job)
        finally:  # even with a full disk
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)

    end_watch = watch_progress(end)
    try:
        _verify_options(job)
        if job.request.get("compare"):
            _compare(job)
        else:
            _convert(job)
        report["status"] = "ok"
    except BaseException as error:  # report everything, even a model's sys.exit()
        traceback.print_exc()
        report["error"] = _describe_error(error, report["phase"])
    end_watch()
    _finish(job)
    return 0 if report["status"] == "ok" else 1


def _finish(job: Job) -> None:
    """Write the report, and remove what is half-written."""
    report = job.report
    if job.output.exists():
        job.output.unlink()
    phase = report.pop("phase")
    report["versions"] = _list_imported_versions(job.stage.packages)
    report["seconds"] = round(time.time() - job.started, 3)
    report["peak_memory_bytes"] = _read_peak_memory()
    path = job.volume / "reports" / f"{job.stage.name}.json"
    try:
        write_json(path, report)
    except ValueError as error:  # a number that JSON does not have
        traceback.print_exc()
        report.update(status="failed", check=None, error=_describe_error(error, phase))
        write_json(path, _drop_nonfinite(report))


def _drop_nonfinite(data: Any) -> Any:
    """Return data with None in the place of every number that JSON does not have."""
    if isinstance(data, dict):
        return {key: _drop_nonfinite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_drop_nonfinite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def _convert(job: Job) -> None:
    _verify_input(job)
    with job.phase("convert"):
        job.signature = job.stage.convert(job)
        publish(job.output, job.artifact)
    job.report["artifact"] = describe_file(job.artifact)
    job.report["signature"] = asdict(job.signature)
    gc.collect()  # the model, gigabytes perhaps, refers to itself
    with job.phase("check"):
        job.report["check"] = job.stage.check(job)


def _compare(job: Job) -> None:
    """Convert nothing; run two artifacts on the samples, with the second one as the reference."""
    first, second = job.request["compare"]
    kept = job.volume / "compared"
    kept.mkdir(exist_ok=True)
    with job.phase("compare"):
        job.stage.check(replace(_retarget_job(job, second), keep=kept))
        job.report["check"] = job.stage.check(replace(_retarget_job(job, first), reference=kept))


def _retarget_job(job: Job, artifact: Dict[str, Any]) -> Job:
    signature = Signature.from_dict(artifact["signature"])
    return replace(job, artifact=job.volume / artifact["path"], signature=signature)


def _verify_options(job: Job) -> None:
    """Convert the request's options to their types. Raises `InputError` if one does not fit."""
    for option in job.stage.options:
        value = job.options[option.name]
        try:
            if type(value) is not type(option.default):
                # Only text, from a command line, is converted: adding "" fails for anything else.
                value = option.type(value.lower() if option.type is flag else value + "")
        except (AttributeError, KeyError, ValueError, TypeError):
            kind = "true or false" if option.type is flag else f"of type {option.type.__name__}"
            raise InputError(
                f"The option {job.stage.name}.{option.name} cannot be {value!r}: {option.help}.",
                f"It is {kind}; the default is {option.default!r}.",
            ) from None
        job.options[option.name] = value


def _verify_input(job: Job) -> None:
    if not job.input.is_file():
        raise InputError(
            f"The volume holds no '{job.input.name}' for the stage '{job.stage.name}'.",
            f"Put it into {job.volume}, or name another file with --input.",
        )
    job.report["input"] = describe_file(job.input)
    expected = job.request.get("input", {}).get("sha256")
    if expected and expected != job.report["input"]["sha256"]:
        raise StageError(
            f"'{job.input.name}' is not the file that the request names (its sha256 differs).",
            "Something changed the volume between two stages; run the conversion again.",
        )


def _make_parser(stage: Stage) -> argparse.ArgumentParser:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    parser = argparse.ArgumentParser(
        prog=f"python -m {spec.name if spec else stage.name}",
        description=stage.summary,
    )
    parser.add_argument(
        "--volume",
        default=os.environ.get("ARTIFACTS", "/artifacts"),
        help="the folder that holds the artifacts (default: %(default)s)",
    )
    parser.add_argument(
        "--wait-for",
        metavar="NAME",
        help="import what every conversion needs, and begin when the volume has this file",
    )
    parser.add_argument("--input", help=f"the input artifact there (default: {stage.consumes})")
    parser.add_argument("--output", help=f"the artifact to write (default: {stage.produces})")
    for option in stage.options:
        parser.add_argument(
            f"--{option.name.replace('_', '-')}",
            dest=option.name,
            type=option.type,
            help=f"{option.help} (default: {option.default})",
        )
    return parser


def _describe_error(error: BaseException, phase: str) -> Dict[str, Any]:
    name, message = type(error).__name__, str(error).strip()
    if isinstance(error, MemoryError):
        message = f"The stage ran out of memory ({message or name})."
    return {
        "phase": phase,
        "type": name,
        # Some messages say little by themselves: that of KeyError('x') is just 'x'.
        "message": message if " " in message else f"{name}: {message}".rstrip(": "),
        "remedy": getattr(error, "remedy", ""),
        "blame": getattr(error, "blame", "stage"),
        "traceback": traceback.format_exception(type(error), error, error.__traceback__)[-20:],
    }


def _list_imported_versions(packages: Sequence[str]) -> Dict[str, str]:
    """Return the versions of those packages that this process imported, by distribution name."""
    versions = {}
    for package in packages:
        module = sys.modules.get(package.replace("-", "_"))
        if module is not None:
            # The module's own version first: a stand-in's distribution has another name.
            stated = getattr(module, "__version__", None)
            versions[package] = stated or _read_installed_version(package)
    return versions


def _read_installed_version(package: str) -> str:
    if sys.version_info < (3, 8):
        import pkg_resources

        return pkg_resources.get_distribution(package).version  # type: ignore[no-any-return]
    import importlib.metadata

    return importlib.metadata.version(package)


def _get_process_start() -> float:
    """Return when this process, interpreter included, started, in seconds since the epoch."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    started_after_boot = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    return time.time() - (uptime - started_after_boot)


def _read_peak_memory() -> int:
    """Return the peak resident set in bytes: VmHWM, since ru_maxrss survives the parent's exec."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _format_utc(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).isoformat("T", "seconds")
