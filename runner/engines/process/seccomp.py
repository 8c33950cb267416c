"""The sandbox's seccomp filter, which refuses system calls that no stage needs.

Docker has a filter of its own. This one refuses what no framework needs and where most kernel
vulnerabilities were: other processes' memory, keys, mounts, namespaces, BPF, io_uring.
"""

from __future__ import annotations

import os
import socket
import struct

# The numbers of x86-64, since the stages' packages are for that architecture.
_REFUSED = {
    # Memory that belongs to no process, so its size would go unnoticed.
    "shmget": 29,
    "ptrace": 101,
    "syslog": 103,
    "personality": 135,
    "pivot_root": 155,
    "acct": 163,
    "settimeofday": 164,
    "mount": 165,
    "umount2": 166,
    "swapon": 167,
    "swapoff": 168,
    "reboot": 169,
    "iopl": 172,
    "ioperm": 173,
    "init_module": 175,
    "delete_module": 176,
    "quotactl": 179,
    "lookup_dcookie": 212,
    "clock_settime": 227,
    "kexec_load": 246,
    "add_key": 248,
    "request_key": 249,
    "keyctl": 250,
    "unshare": 272,
    "perf_event_open": 298,
    "name_to_handle_at": 303,
    "open_by_handle_at": 304,
    "setns": 308,
    "process_vm_readv": 310,
    "process_vm_writev": 311,
    "kcmp": 312,
    "finit_module": 313,
    "memfd_create": 319,
    "memfd_secret": 447,
    "kexec_file_load": 320,
    "bpf": 321,
    "userfaultfd": 323,
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
}
_CLONE, _CLONE3 = 56, 435
# Every flag of clone that creates a namespace (linux/sched.h), and CLONE_PARENT: a child of the
# parent's would be looked for below the stage in vain.
_REFUSED_FLAGS = 0x7E020000 | 0x8000

# Sockets of other families bypass the network namespace (vsock reaches the hypervisor), or lead
# into parts of the kernel that no framework needs.
_SOCKET, _SOCKETPAIR = 41, 53
_FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)

_AUDIT_ARCH_X86_64 = 0xC000003E
_X32 = 0x40000000  # the other ABI of the same architecture, with its own numbers
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS, _EAFNOSUPPORT = 1, 38, 97
# Offsets in struct seccomp_data; of the first argument, that of its lower half.
_ARCH_OFFSET, _NUMBER_OFFSET, _ARGUMENT_OFFSET = 4, 0, 16


def assemble_filter() -> bytes:
    """Assemble the filter as classic BPF (linux/filter.h), 8 bytes per instruction."""
    lines = [
        (_LOAD, 0, 0, _ARCH_OFFSET),
        (_JUMP_EQUAL, 1, 0, _AUDIT_ARCH_X86_64),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_OFFSET),
        (_JUMP_AT_LEAST, 0, 1, _X32),
        (_RETURN, 0, 0, _KILL),
        # Its flags lie in memory that no filter can read; the C library falls back to clone.
        (_JUMP_EQUAL, 0, 1, _CLONE3),
        (_RETURN, 0, 0, _ERROR | _ENOSYS),
    ]
    for number in _REFUSED.values():
        lines += [(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERROR | _EPERM)]
    lines += [
        (_JUMP_EQUAL, 1, 0, _SOCKET),
        (_JUMP_EQUAL, 0, len(_FAMILIES) + 3, _SOCKETPAIR),
        (_LOAD, 0, 0, _ARGUMENT_OFFSET),
        *((_JUMP_EQUAL, len(_FAMILIES) - n, 0, f) for n, f in enumerate(_FAMILIES)),
        (_RETURN, 0, 0, _ERROR | _EAFNOSUPPORT),
        (_RETURN, 0, 0, _ALLOW),
        (_JUMP_EQUAL, 0, 3, _CLONE),
        (_LOAD, 0, 0, _ARGUMENT_OFFSET),
        (_JUMP_ANY_BIT, 0, 1, _REFUSED_FLAGS),
        (_RETURN, 0, 0, _ERROR | _EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


def open_seccomp_filter() -> int:
    """Return a file descriptor to read the filter from; the caller closes it."""
    descriptor = os.memfd_create("seccomp", 0)
    os.write(descriptor, assemble_filter())
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
