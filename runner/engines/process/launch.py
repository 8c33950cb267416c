"""Running a stage as a child process: in the sandbox where there is one, within the limits."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from runner.engines.base import OnLine, StageExit, out_of_memory
from runner.engines.limits import Limits, available_memory, machine_memory
from runner.engines.process.bubblewrap import HOME, VOLUME, Sandbox
from runner.engines.process.cgroup import ControlGroup, control_group
from runner.engines.process.procfs import count_threads_of_user, measure_tree
from runner.engines.process.seccomp import seccomp_filter
from runner.engines.watchdog import ResourceUsage, Watch, measure_disk
from runner.host.subprocesses import Programs, kill

# Inside, the path names the system's folders only.
_PATH = "/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True)
class StageProgram:
    """What to start: an environment's Python on a stage's module, and the stage's two folders.

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
    """Run a stage to its end, or to the first limit that it reaches."""
    memory = limits.stage_memory(machine_memory())
    running: list[subprocess.Popen[bytes]] = []
    with ExitStack() as stack:
        group = stack.enter_context(control_group(memory, limits.processes))

        def look() -> ResourceUsage:
            use = measure_disk((str(program.volume), str(program.home)), limits.files)
            if group is None and running:
                found = measure_tree(running[0].pid)
                return replace(
                    use,
                    memory=found.memory,
                    processes=found.processes,
                    # Shared memory that no process has mapped just now belongs to none.
                    available=available_memory(),
                )
            return use

        def end() -> None:
            for process in running:
                if process.poll() is None:
                    kill(process)
            if group is not None:
                group.end()

        watch = Watch(limits, memory, look, end)

        def line_came(line: str) -> None:
            watch.count_output(line)
            if watch.exceeded is None:
                on_line(line)

        command, descriptors = (
            _sandboxed_command(program, sandbox) if sandbox else _bare_command(program)
        )
        for descriptor in descriptors:
            stack.callback(os.close, descriptor)
        command = _with_rlimits(command, limits, memory)
        if group is not None:
            command = group.wrap_command(command)
        with watch.running():
            finished = Programs().run(
                command,
                line_came,
                environment=_variables(program),
                # Not the volume: Python looks for modules in the folder that it starts in.
                folder=program.home,
                descriptors=descriptors,
                on_start=running.append,
            )
        return _describe_exit(finished.status, watch, group, memory, sandboxed=sandbox is not None)


def _variables(program: StageProgram) -> dict[str, str]:
    home = str(program.home)
    return {
        **program.variables,
        "HOME": home,
        "TMPDIR": home,
        "PYTHONPATH": str(program.code),
    }


def _bare_command(program: StageProgram) -> tuple[list[str], list[int]]:
    # -s: nothing of the user's own packages; the stage's folder comes by PYTHONPATH.
    python = [str(program.python), "-s", "-m", program.module]
    return [*python, "--volume", str(program.volume)], []


def _sandboxed_command(program: StageProgram, sandbox: Sandbox) -> tuple[list[str], list[int]]:
    seccomp = seccomp_filter()
    devices, libraries = _gpu(program) if program.gpu else ([], [])
    command = sandbox.command(
        [str(program.python), "-s", "-m", program.module, "--volume", VOLUME],
        environment={
            **_variables(program),
            "HOME": HOME,
            "TMPDIR": HOME,
            "PATH": _PATH,
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        read_only=[
            program.python.parent.parent,
            *_interpreter(program.python),
            program.code / "stages",
            *libraries,
        ],
        writable={program.volume: VOLUME, program.home: HOME},
        devices=devices,
        seccomp=seccomp,
    )
    return command, [seccomp]


def _interpreter(python: Path) -> list[Path]:
    """The folders of the CPython that an environment was made of, if the system has it not."""
    folders = []
    link = python
    while link.is_symlink():
        link = Path(os.path.normpath(link.parent / link.readlink()))
        prefix = link.parent.parent
        if prefix.is_relative_to("/usr") or prefix == Path("/"):
            continue
        # An interpreter may be in the home folder itself: then only what it needs of that.
        whole = not Path.home().is_relative_to(prefix)
        folders += [prefix] if whole else [prefix / "bin", prefix / "lib"]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def _gpu(program: StageProgram) -> tuple[list[str], list[Path]]:
    """The devices and the libraries of an NVIDIA GPU."""
    libraries = program.variables.get("LD_LIBRARY_PATH", "").split(":")
    found = [Path(name) for name in libraries if name and Path(name).is_dir()]
    return [str(path) for path in Path("/dev").glob("nvidia*")], [
        *found,
        *filter(Path.is_dir, [Path("/sys")]),
    ]


def _with_rlimits(command: list[str], limits: Limits, memory: int) -> list[str]:
    """The command under the limits that the kernel keeps for each process (man 1 prlimit)."""
    prlimit = shutil.which("prlimit")
    if prlimit is None:
        return command
    # The kernel counts all processes of a user together, on older kernels over all namespaces.
    processes = limits.processes + count_threads_of_user(os.getuid())
    bounds = {"core": 0, "fsize": limits.disk, "data": memory, "nproc": processes}
    return [prlimit, *(f"--{name}={value}" for name, value in bounds.items()), "--", *command]


def _describe_exit(
    status: int, watch: Watch, group: ControlGroup | None, memory: int, *, sandboxed: bool
) -> StageExit:
    if watch.exceeded is not None:
        return StageExit(status, watch.exceeded.reason, watch.exceeded.remedy)
    if status and group is not None and group.ran_out_of_memory():
        return out_of_memory(status, memory)
    number = -status if status < 0 else status - 128 if sandboxed else 0
    if number > 0:
        try:
            name = signal.Signals(number).name
        except ValueError:
            return StageExit(status)
        likely = " It probably ran out of memory." if name == "SIGKILL" else ""
        return StageExit(status, f"The stage was ended by {name}.{likely}")
    return StageExit(status)
