"""Stages as child processes: in the sandbox where there is one, and within their limits."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from runner.engines.base import OnLine, StageExit, make_out_of_memory_exit
from runner.engines.limits import Limits
from runner.engines.process.bubblewrap import HOME, VOLUME, Sandbox
from runner.engines.process.cgroup import ControlGroup, open_control_group
from runner.engines.process.procfs import count_threads_of_user, measure_tree
from runner.engines.process.seccomp import open_seccomp_filter
from runner.engines.watchdog import ResourceUsage, Watch, measure_disk
from runner.host.machine import read_available_memory, read_machine_memory
from runner.host.subprocesses import Programs, kill

# The PATH inside the sandbox: system folders only.
_PATH = "/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True)
class StageProgram:
    """What to start: a stage's module on an environment's Python, and the stage's two folders.

    `code` is the folder that holds the package `stages`.
    """

    python: Path
    module: str
    code: Path
    volume: Path
    home: Path
    variables: Mapping[str, str]
    gpu: bool = False


def run_stage_program(
    program: StageProgram, limits: Limits, sandbox: Sandbox | None, on_line: OnLine
) -> StageExit:
    """Run a stage until it ends or reaches a limit."""
    memory = limits.compute_stage_memory(read_machine_memory())
    running: list[subprocess.Popen[bytes]] = []
    with ExitStack() as stack:
        group = stack.enter_context(open_control_group(memory, limits.processes))

        def look() -> ResourceUsage:
            use = measure_disk((str(program.volume), str(program.home)), limits.files)
            if group is None and running:
                found = measure_tree(running[0].pid)
                return replace(
                    use,
                    memory=found.memory,
                    processes=found.processes,
                    # Shared memory that no process maps at the moment is charged to none.
                    available=read_available_memory(),
                )
            return use

        def end() -> None:
            for process in running:
                if process.poll() is None:
                    kill(process)
            if group is not None:
                group.end()

        watch = Watch(limits, memory, look, end)

        def handle_line(line: str) -> None:
            watch.count_output(line)
            if watch.exceeded is None:
                on_line(line)

        command, descriptors = (
            _make_sandboxed_command(program, sandbox) if sandbox else _make_bare_command(program)
        )
        for descriptor in descriptors:
            stack.callback(os.close, descriptor)
        command = _add_rlimits(command, limits, memory)
        if group is not None:
            command = group.wrap_command(command)
        with watch.run_in_background():
            finished = Programs().run(
                command,
                handle_line,
                environment=_make_variables(program),
                # Not the volume: Python imports modules from the folder that it starts in.
                folder=program.home,
                descriptors=descriptors,
                on_start=running.append,
            )
        return _describe_exit(finished.status, watch, group, memory, sandboxed=sandbox is not None)


def _make_variables(program: StageProgram) -> dict[str, str]:
    home = str(program.home)
    return {
        **program.variables,
        "HOME": home,
        "TMPDIR": home,
        "PYTHONPATH": str(program.code),
    }


def _make_bare_command(program: StageProgram) -> tuple[list[str], list[int]]:
    # -s leaves out the user's own packages; the stage's code is found through PYTHONPATH.
    python = [str(program.python), "-s", "-m", program.module]
    return [*python, "--volume", str(program.volume)], []


def _make_sandboxed_command(program: StageProgram, sandbox: Sandbox) -> tuple[list[str], list[int]]:
    seccomp = open_seccomp_filter()
    devices, libraries = _find_gpu(program) if program.gpu else ([], [])
    command = sandbox.command(
        [str(program.python), "-s", "-m", program.module, "--volume", VOLUME],
        environment={
            **_make_variables(program),
            "HOME": HOME,
            "TMPDIR": HOME,
            "PATH": _PATH,
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        read_only=[
            program.python.parent.parent,
            *_find_interpreter_folders(program.python),
            program.code / "stages",
            *libraries,
        ],
        writable={program.volume: VOLUME, program.home: HOME},
        devices=devices,
        seccomp=seccomp,
    )
    return command, [seccomp]


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


def _add_rlimits(command: list[str], limits: Limits, memory: int) -> list[str]:
    """Wrap a command in the limits that the kernel enforces per process (man 1 prlimit)."""
    prlimit = shutil.which("prlimit")
    if prlimit is None:
        return command
    # The kernel counts all processes of a user together, on older kernels across namespaces.
    processes = limits.processes + count_threads_of_user(os.getuid())
    bounds = {"core": 0, "fsize": limits.disk, "data": memory, "nproc": processes}
    return [prlimit, *(f"--{name}={value}" for name, value in bounds.items()), "--", *command]


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
