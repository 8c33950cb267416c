"""What a stage sees and may do, for two kinds of stages to be compared: a hostile model's payload.

Each line that it prints is `view: [NAME, VALUE]`. Random names are left out, and numbers that the
kernel gives.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

_VIEW = r"""
import ctypes, re
libc = ctypes.CDLL(None, use_errno=True)
def tell(name, function):
    try:
        value = json.dumps([name, function()])
    except BaseException as error:
        value = json.dumps([name, '%s: %s' % (type(error).__name__, error)])
    print('view: ' + re.sub('(map_files/)[0-9a-f-]*', r'\1N', value), flush=True)
def text(name):
    return open('/proc/self/' + name).read()
def descriptors(process):
    found = {}
    for name in sorted(os.listdir('/proc/%s/fd' % process)):
        try:
            link = os.readlink('/proc/%s/fd/%s' % (process, name))
        except OSError:
            continue  # that of the listing
        flags = int(open('/proc/%s/fdinfo/%s' % (process, name)).read().split()[3], 8)
        found[name] = [re.sub('[0-9]+', 'N', link), flags & os.O_ACCMODE]
    return found
def namespaces(process):
    folder = '/proc/%s/ns/' % process
    return {name: os.readlink(folder + name) for name in sorted(os.listdir(folder))}
def call(name, *arguments):
    result = getattr(libc, name)(*arguments)
    return [result, ctypes.get_errno() if result < 0 else 0]
def capabilities():
    held = (ctypes.c_uint32 * 6)()
    return [call('capget', (ctypes.c_uint32 * 2)(0x20080522, 0), held), list(held)]
processes = {n: open('/proc/%s/comm' % n).read().strip()
             for n in os.listdir('/proc') if n.isdigit()}
kept = ('Umask|Uid|Gid|Groups|Tracer|Threads|Cap|NoNew|Seccomp|Sig[PBIC]|Shd|Core|Spec|'
        'Cpus_allowed_list|Mems_allowed_list')
tell('processes', lambda: processes)
tell('status', lambda: [line for line in text('status').splitlines() if re.match(kept, line)])
tell('capabilities', capabilities)
tell('user', lambda: [os.getresuid(), os.getresgid(), os.getgroups()])
tell('namespaces of the first process', lambda: namespaces('1') == namespaces('self'))
tell('namespaces of ours', lambda: [n for n, link in namespaces('self').items() if link in OUTSIDE])
tell('mounts', lambda: [re.sub('runner-home-[^ ]*|/[^ ]*/.volume', 'N', line.split(' ', 3)[3])
                        for line in text('mountinfo').splitlines()])
for folder in ('/', '/tmp', '/dev', '/artifacts', '/etc', '/dev/shm', '/dev/pts'):
    tell(folder, lambda: sorted(os.listdir(folder)))
tell('environment', lambda: dict(os.environ))
tell('first environment', lambda: text('environ'))
tell('descriptors', lambda: descriptors('self'))
tell('limits', lambda: [line for line in text('limits').splitlines() if 'processes' not in line])
for name in ('cgroup', 'uid_map', 'gid_map', 'setgroups', 'oom_score_adj', 'comm', 'personality',
             'coredump_filter', 'loginuid', 'sessionid', 'timens_offsets', 'timerslack_ns'):
    tell(name, lambda: text(name))
tell('python', lambda: [os.getcwd(), sys.argv, sys.path, str(sys.flags), sys.executable, sys.prefix,
    sys.dont_write_bytecode, str(sys.stdin), str(sys.stdout), str(sys.stderr),
    sys.stdout.line_buffering])
main = sys.modules['__main__']
tell('main', lambda: [main.__name__, main.__file__, main.__package__, main.__spec__.name,
    type(main.__loader__).__name__, sorted(vars(main))])
tell('scheduling', lambda: [os.nice(0), len(os.sched_getaffinity(0)), os.sched_getscheduler(0)])
tell('network', lambda: [line.split(':')[0] for line in open('/proc/net/dev')][2:])
tell('host', lambda: os.uname()[1])
tell('user namespaces', lambda: open('/proc/sys/user/max_user_namespaces').read())
tell('settings', lambda: {n: call('prctl', n, 0, 0, 0, 0) for n in (3, 7, 21, 27, 30, 39)})
tell('interpreter', lambda: [os.readlink('/proc/self/exe'), os.statvfs('/proc/self/exe').f_flag])
tell('write to the interpreter', lambda: open('/proc/self/exe', 'r+b'))
tell('touch the interpreter', lambda: os.utime('/proc/self/exe'))
tell('shorten the interpreter', lambda: os.truncate('/proc/self/exe', 10 ** 9))
tell('owner', lambda: [os.stat('/proc/self/environ').st_uid, os.stat('/proc/self').st_uid])
tell('mapped and not there', lambda: sorted(line.split()[5] for line in text('maps').splitlines()
    if len(line.split()) > 5 and line.split()[5][0] == '/' and not os.path.exists(line.split()[5])))
tell('shared and writable', lambda: [line for line in text('maps').splitlines()
    if line.split()[1] == 'rw-s'])
tell('open what is mapped', lambda: open('/proc/self/map_files/'
    + os.listdir('/proc/self/map_files')[0], 'r+b'))
tell('files of the first process', lambda: sorted(descriptors('1').values()))
for name in set(processes) - {'1', str(os.getpid())}:
    tell('descriptors of the holder', lambda: descriptors(name))
    tell('namespaces of the holder', lambda: namespaces(name) == namespaces('self'))
tell('new namespaces', lambda: [call('unshare', 0x10000000), call('unshare', 0x20000),
    call('syscall', 56, 0x10000011, 0, 0, 0, 0)])
tell('enter namespaces', lambda: call('setns', 0, 0))
tell('trace', lambda: [call('ptrace', 16, int(n), None, None) for n in ('1', '2')])
tell('keys', lambda: call('syscall', 250, 0, -3, 1))
tell('become root', lambda: os.setuid(0))
tell('children', lambda: text('task/%d/children' % os.getpid()))
tell('terminal', lambda: [[os.isatty(n) for n in range(3)], open('/dev/tty')])
tell('session', lambda: [os.getsid(0), os.getpgrp(), os.getppid()])
tell('signal its group', lambda: call('kill', 0, 0))
tell('signal what is outside', lambda: [call('kill', n, 0) for n in PIDS])
leave()
"""


def make_view(namespaces: Sequence[str], processes: Sequence[int]) -> str:
    """The payload, which asks for these namespaces of others, and signals these processes."""
    return _VIEW.replace("OUTSIDE", repr(set(namespaces))).replace("PIDS", repr(list(processes)))


def read_view(log: str) -> dict[str, Any]:
    """Return what each line of a log tells."""
    return dict(json.loads(line) for line in re.findall(r"^view: (.*)$", log, re.MULTILINE))
