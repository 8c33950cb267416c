"""Stages as child processes: in the sandbox where there is one, and within their limits."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runner.engines.base import OnLine, StageExit, make_out_of_memory_exit
from runner.engines.limits import Limits
from runner.engines.process.bubblewrap import HOME, VOLUME, Sandbox
from runner.engines.process.cgroup import ControlGroup, open_control_group
from runner.engines.process.procfs import count_threads_of_user, measure_tree
from runner.engines.process.seccomp import open_seccomp_filter
from runner.engines.process.warm import (
    Entry,
    NotWarm,
    WarmProcess,
    has_keeper,
    take_warm_process,
)
from runner.engines.watchdog import ResourceUsage, Watch, measure_disk
from runner.host.machine import list_own_cores, read_available_memory, read_machine_memory
from runner.host.process_identity import make_scratch_folder
from runner.host.subprocesses import Programs, kill

# The PATH inside the sandbox: system folders only.
_PATH = "/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True)
class StageProgram:
    """What to start: a stage's module on an environment's Python, and its volume.

    `code` is the folder that holds the package `stages`. With a `word` it is started ahead of its
    turn: see `runner.engines.ahead`.
    """

    python: Path
    module: str
    code: Path
    volume: Path
    variables: Mapping[str, str]
    gpu: bool = False
    word: str = ""


def start_stage(program: StageProgram, limits: Limits, sandbox: Sandbox | None) -> StageProcess:
    """Start a stage: as a fork of a warm process where there is one, else as a new process."""
    if has_keeper() and sandbox is not None and not program.gpu and not program.word:
        command = sandbox.command(
            [str(program.python), "-s", "-m", "stages.kit.warm", program.module],
            **_make_view(program),
            writable={},
            warm=True,
        )
        environment = program.python.parent.parent
        warm = take_warm_process(command, program.code / "stages", environment)
        if warm is not None:
            try:
                with closing(warm):
                    return StageProcess(program, limits, sandbox, warm)
            except NotWarm:
                warm.refuse()
    return StageProcess(program, limits, sandbox)


class StageProcess:
    """A stage's process, in the sandbox where there is one, and within its limits.

    It runs from the moment that this is made until `end`, which leaving a `with` block calls. With
    a `warm` process it is a fork of that; raises `NotWarm` if there can be none.
    """

    def __init__(
        self,
        program: StageProgram,
        limits: Limits,
        sandbox: Sandbox | None,
        warm: WarmProcess | None = None,
    ) -> None:
        self.word, self.is_warm = program.word, warm is not None
        self._limits, self._sandboxed = limits, sandbox is not None
        self._memory = limits.compute_stage_memory(read_machine_memory())
        self._programs = Programs()
        with ExitStack() as stack, ExitStack() as until_begun:
            home = stack.enter_context(make_scratch_folder("home"))
            self._folders = (str(program.volume), str(home))
            # What holds a warm stage's sandbox is a process that others do not have.
            processes = limits.processes + (warm is not None)
            self._group = stack.enter_context(open_control_group(self._memory, processes))
            entry = until_begun.enter_context(closing(Entry(warm))) if warm else None
            command, descriptors = (
                _make_sandboxed_command(program, home, sandbox, entry)
                if sandbox
                else (_make_python_command(program, str(program.volume)), [])
            )
            for descriptor in descriptors:
                until_begun.callback(os.close, descriptor)
            bounds = _compute_rlimits(limits, self._memory)
            command = _add_rlimits(command, bounds)
            if self._group is not None:
                command = self._group.wrap_command(command)
            self._process = self._programs.start(
                command,
                _make_variables(program, home),
                # Not the volume: Python imports modules from the folder that it starts in.
                home,
                [*descriptors, *(entry.descriptors if entry else [])],
            )
            self._roots = [self._process.pid]
            self._opened = stack.pop_all()
            if entry is not None:
                try:
                    self._begin(program, entry, bounds)
                except BaseException:
                    self.end()
                    raise

    def __enter__(self) -> StageProcess:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    def is_running(self) -> bool:
        return self._process.poll() is None

    def follow(self, on_line: OnLine) -> StageExit:
        """Pass on the stage's output until it ends or reaches a limit."""
        watch = Watch(self._limits, self._memory, self._look, self._kill)

        def handle_line(line: str) -> None:
            watch.count_output(line)
            if watch.exceeded is None:
                on_line(line)

        with watch.run_in_background():
            finished = self._programs.follow(self._process, handle_line)
            return _describe_exit(
                finished.status, watch, self._group, self._memory, sandboxed=self._sandboxed
            )

    def _begin(self, program: StageProgram, entry: Entry, bounds: Mapping[str, int]) -> None:
        """Have the stage forked into its sandbox. Raises `NotWarm`."""
        order = {
            "module": program.module,
            "arguments": ["--volume", VOLUME],
            "folder": HOME,
            "cores": list_own_cores(),
            "limits": bounds,
        }
        assert self._process.stdout is not None
        groups = self._group.folders if self._group is not None else ()
        self._roots.append(entry.begin(order, self._process.stdout.fileno(), groups))

    def end(self) -> None:
        """End it if it runs, and remove what it was given."""
        with self._opened:
            self._kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()

    def _look(self) -> ResourceUsage:
        use = measure_disk(self._folders, self._limits.files)
        if self._group is not None:
            return use
        found = measure_tree(*self._roots)
        return replace(
            use,
            memory=found.memory,
            processes=found.processes,
            # Shared memory that no process maps at the moment is charged to none.
            available=read_available_memory(),
        )

    def _kill(self) -> None:
        if self.is_running():
            kill(self._process)
        if self._group is not None:
            self._group.end()


def _make_variables(program: StageProgram, home: Path | str) -> dict[str, str]:
    return {
        **program.variables,
        "HOME": str(home),
        "TMPDIR": str(home),
        "PYTHONPATH": str(program.code),
    }


def _make_python_command(program: StageProgram, volume: str) -> list[str]:
    # -s leaves out the user's own packages; the stage's code is found through PYTHONPATH.
    python = [str(program.python), "-s", "-m", program.module, "--volume", volume]
    return [*python, "--wait-for", program.word] if program.word else python


def _make_sandboxed_command(
    program: StageProgram, home: Path, sandbox: Sandbox, entry: Entry | None
) -> tuple[list[str], list[int]]:
    seccomp = open_seccomp_filter()
    command = sandbox.command(
        entry.holder if entry else _make_python_command(program, VOLUME),
        **_make_view(program),
        writable={program.volume: VOLUME, home: HOME},
        seccomp=seccomp,
        information=entry.information if entry else None,
    )
    return entry.warm.wrap_command(command) if entry else command, [seccomp]


def _make_view(program: StageProgram) -> dict[str, Any]:
    """Make the arguments of `Sandbox.command` that do not depend on the run."""
    devices, libraries = _find_gpu(program) if program.gpu else ([], [])
    return {
        "environment": {
            **_make_variables(program, HOME),
            "PATH": _PATH,
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        "read_only": [
            program.python.parent.parent,
            *_find_interpreter_folders(program.python),
            program.code / "stages",
            *libraries,
        ],
        "devices": devices,
    }


def _find_interpreter_folders(python: Path) -> list[Path]:
    """List the folders of an environment's base CPython that lie outside the system's."""
    folders = []
    link = python
    while link.is_symlink():
        link = Path(os.path.normpath(link.parent / link.readlink()))
        prefix = link.parent.parent
        if prefix.is_relative_to("/usr") or prefix == Path("/"):
            continue
        # A prefix that contains the home folder is not exposed whole: only what Python needs.
        whole = not Path.home().is_relative_to(prefix)
        folders += [prefix] if whole else [prefix / "bin", prefix / "lib"]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def _find_gpu(program: StageProgram) -> tuple[list[str], list[Path]]:
    """Find the devices and the libraries of an NVIDIA GPU."""
    libraries = program.variables.get("LD_LIBRARY_PATH", "").split(":")
    found = [Path(name) for name in libraries if name and Path(name).is_dir()]
    return [str(path) for path in Path("/dev").glob("nvidia*")], [
        *found,
        *filter(Path.is_dir, [Path("/sys")]),
    ]


def _compute_rlimits(limits: Limits, memory: int) -> dict[str, int]:
    """Compute the limits that the kernel enforces per process, by their names in `resource`."""
    return {
        "RLIMIT_CORE": 0,
        "RLIMIT_FSIZE": limits.disk,
        "RLIMIT_DATA": memory,
        # The kernel counts all processes of a user together, on older kernels across namespaces.
        "RLIMIT_NPROC": limits.processes + count_threads_of_user(os.getuid()),
    }


def _add_rlimits(command: list[str], bounds: Mapping[str, int]) -> list[str]:
    """Wrap a command in these limits (man 1 prlimit)."""
    prlimit = shutil.which("prlimit")
    if prlimit is None:
        return command
    options = [f"--{name[len('RLIMIT_') :].lower()}={value}" for name, value in bounds.items()]
    return [prlimit, *options, "--", *command]


def _describe_exit(
    status: int, watch: Watch, group: ControlGroup | None, memory: int, *, sandboxed: bool
) -> StageExit:
    if watch.exceeded is not None:
        return StageExit(status, watch.exceeded.reason, watch.exceeded.remedy)
    if status and group is not None and group.ran_out_of_memory():
        return make_out_of_memory_exit(status, memory)
    number = -status if status < 0 else status - 128 if sandboxed else 0
    if number > 0:
        try:
            name = signal.Signals(number).name
        except ValueError:
            return StageExit(status)
        likely = " It probably ran out of memory." if name == "SIGKILL" else ""
        return StageExit(status, f"The stage was ended by {name}.{likely}")
    return StageExit(status)
