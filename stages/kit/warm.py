"""A stage's process by fork from one that has imported what the stage imports.

`python -m stages.kit.warm MODULE`, with a socket as its standard input, imports the stage and what
its conversions always import, and then waits for orders. It never sees anything of a model: an
order names an empty sandbox, which the runner has made for one run of the stage. A fork of this
process enters that sandbox, gives up what no stage may have, and only then becomes the stage. See
docs/security.md.

Whatever goes wrong before that is no result: the runner is not told `ready`, and starts the stage
in a new process.
"""

from __future__ import annotations

import array
import ctypes
import gc
import importlib
import json
import os
import resource
import runpy
import signal
import socket
import sys
import tempfile
import types
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

# The file descriptors of an order: where to answer, the first process of the sandbox (a pidfd), the
# stage's output, where its end is told, and the filter of system calls. Control groups follow.
_DESCRIPTORS = ("reply", "sandbox", "output", "ended", "filter")
_MOST_BYTES, _MOST_DESCRIPTORS = 1 << 16, 16

# linux/prctl.h, linux/sched.h, linux/capability.h
_SET_DEATH_SIGNAL, _SET_DUMPABLE, _SET_SECCOMP, _DROP_FROM_BOUND = 1, 4, 22, 24
_SET_NO_NEW_PRIVILEGES, _AMBIENT, _CLEAR_ALL, _MODE_FILTER = 38, 47, 4, 2
_NEW_PROCESSES = 0x20000000
# Mounts, control groups, host name, IPC, users, network.
_OTHERS = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x40000000
_CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    """struct sock_fprog (linux/filter.h)."""

    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


def main() -> None:
    """Import, then fork a stage for each order, until the runner closes the socket."""
    orders = socket.socket(fileno=os.dup(0))
    _open_nothing()
    said, problem = b"", ""
    try:
        said = _import_stage(sys.argv[1])
        problem = _find_shared(orders.fileno())
    except Exception as error:  # the stage itself will say it
        problem = "{}: {}".format(type(error).__name__, error)
    gc.collect()
    gc.freeze()  # so that it stays shared with the forks
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    while True:
        order, descriptors = _receive(orders)
        if not order:
            return
        if order["do"] == "hello":
            with open("/proc/self/ns/user") as users:
                _send(descriptors[0], {"problem": problem}, [users.fileno()])
        elif not problem and os.fork() == 0:
            orders.close()
            if _enter_processes(descriptors):
                _enter_sandbox(order, descriptors)
                os.write(1, said)
                _run_stage(order["module"], order["arguments"])
            return
        for descriptor in descriptors:
            os.close(descriptor)


def _import_stage(module: str) -> bytes:
    """Import a stage and what it always imports; return what that prints, as it would each time."""
    before = os.dup(1), os.dup(2)
    with tempfile.TemporaryFile() as file:
        try:
            for number in (1, 2):
                os.dup2(file.fileno(), number)
            for name in importlib.import_module(module).STAGE.imports:  # type: ignore[attr-defined]
                importlib.import_module(name)
        finally:
            for number, descriptor in enumerate(before, 1):
                os.dup2(descriptor, number)
                os.close(descriptor)
        file.seek(0)
        return file.read()


def _find_shared(orders: int) -> str:
    """Say what a fork would lack or share with this process and others, if anything."""
    threads = len(os.listdir("/proc/self/task")) - 1
    if threads:
        return "its imports start {} threads".format(threads)
    for number in _list_descriptors():
        if number > 2 and number != orders:
            return "its imports leave a file open: {}".format(
                os.readlink("/proc/self/fd/{}".format(number))
            )
    for line in Path("/proc/self/maps").read_text().splitlines():
        rights = line.split()[1]
        if rights[1] == "w" and rights[3] == "s":
            return "its imports share memory: {}".format(line)
    return ""


def _list_descriptors() -> List[int]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            os.fstat(int(name))
            found.append(int(name))
        except OSError:  # that of the listing
            pass
    return found


def _receive(orders: socket.socket) -> Tuple[Dict[str, Any], List[int]]:
    """Wait for an order and its file descriptors; there is none once the socket is closed."""
    descriptors = array.array("i")
    space = socket.CMSG_SPACE(_MOST_DESCRIPTORS * descriptors.itemsize)
    text, ancillary, _, _ = orders.recvmsg(_MOST_BYTES, space, socket.MSG_CMSG_CLOEXEC)
    for _, _, data in ancillary:
        descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    return (json.loads(text.decode()) if text else {}), list(descriptors)


def _send(reply: int, message: Dict[str, Any], descriptors: Sequence[int] = ()) -> None:
    data = array.array("i", descriptors).tobytes()
    with socket.socket(fileno=os.dup(reply)) as own:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, data)] if descriptors else []
        own.sendmsg([json.dumps(message).encode()], rights)


def _enter_processes(descriptors: Sequence[int]) -> bool:
    """Fork into the sandbox's process namespace, and return True there.

    This process stays outside, tells how the other ended, and ends.
    """
    reply, sandbox, output, ended, filter_ = descriptors[: len(_DESCRIPTORS)]
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _check(_libc.prctl(_SET_DEATH_SIGNAL, int(signal.SIGKILL), 0, 0, 0))
        _check(_libc.setns(sandbox, _NEW_PROCESSES))
        stage = os.fork()
        if stage == 0:
            return True
        _send(reply, {"pid": stage})
        for descriptor in (reply, sandbox, output, filter_):
            os.close(descriptor)
        _, status = os.waitpid(stage, 0)
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
        os.write(ended, b"%d\n" % code)
    except BaseException:
        pass  # with this process go its descriptors, which tells the runner
    os._exit(0)


def _enter_sandbox(order: Dict[str, Any], descriptors: Sequence[int]) -> None:
    """Enter the sandbox's other namespaces, take on its limits, and give up all privileges."""
    reply, sandbox, output, _, filter_ = descriptors[: len(_DESCRIPTORS)]
    try:
        for group in descriptors[len(_DESCRIPTORS) :]:
            os.write(group, b"0")
        os.sched_setaffinity(0, order["cores"])
        for name, value in order["limits"].items():
            resource.setrlimit(getattr(resource, name), (value, value))
        os.setsid()
        _check(_libc.setns(sandbox, _OTHERS))
        os.chdir(order["folder"])
        _open_nothing()
        os.dup2(output, 1)
        os.dup2(output, 2)
        code = os.pread(filter_, 1 << 20, 0)
        for number in _list_descriptors():
            if number > 2 and number != reply:
                os.close(number)
        _give_up_privileges(code)
        _send(reply, {"ready": True})
        os.close(reply)
    except BaseException:
        os._exit(1)


def _give_up_privileges(code: bytes) -> None:
    """Drop all capabilities for good, and install a filter of system calls. Raises `OSError`."""
    capability = 0
    while _libc.prctl(_DROP_FROM_BOUND, capability, 0, 0, 0) == 0:
        capability += 1
    _check(_libc.prctl(_AMBIENT, _CLEAR_ALL, 0, 0, 0))
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    _check(_libc.capset(header, (ctypes.c_uint32 * 6)()))
    _check(_libc.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    # As after the start of a program: else /proc would give its files to root.
    _check(_libc.prctl(_SET_DUMPABLE, 1, 0, 0, 0))
    program = _Program(len(code) // 8, code)
    _check(_libc.prctl(_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0))
    status = dict(
        line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines()
    )
    held = [status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")]
    if any(int(text, 16) for text in held) or status["Seccomp"] != "2":
        raise OSError("it has privileges left")


def _run_stage(module: str, arguments: List[str]) -> None:
    """Run a module as `python -m` does."""
    sys.modules["__main__"] = main = types.ModuleType("__main__")
    main.__annotations__ = {}
    del sys.modules[module]
    package, _, name = module.rpartition(".")
    delattr(sys.modules[package], name)
    importlib.invalidate_caches()
    sys.argv = ["-m", *arguments]
    runpy._run_module_as_main(module)  # type: ignore[attr-defined]


def _open_nothing() -> None:
    """Make standard input empty."""
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.close(nothing)


def _check(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


if __name__ == "__main__":
    main()
