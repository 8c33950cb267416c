"""What converts without isolation and without --trust-model: only what cannot run code.

Files that try to pass for harmless are made here, those of torch by torch 1.5.1 itself.
"""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import hostile
import pytest
from harness import ROOT, SUPPORT

from runner.planning.source import identify_source
from runner.schemas.inspection import Format
from runner.toolchains.load import load_toolchain
from runner.trust.scan import find_code, make_trust_check


def judged(path: Path, kind: Format) -> str:
    return find_code(path, kind)


@pytest.mark.parametrize("name", ["script", "loops", "pictures", "inverse"])
def test_torchscript_is_no_program(models: Path, name: str) -> None:
    assert judged(models / f"{name}.pt", "torchscript") == ""


def test_the_example_is_no_program() -> None:
    assert judged(ROOT / "examples" / "mbv2.pt", "torchscript") == ""


@pytest.mark.parametrize("name", ["weights", "checkpoint", "zip_weights"])
def test_weights_are_no_program(models: Path, name: str) -> None:
    assert judged(models / f"{name}.pt", "state-dict") == ""


@pytest.mark.parametrize("name", ["cnn", "lstm", "own"])
def test_modules_are(models: Path, name: str) -> None:
    assert "pickled module" in judged(models / f"{name}.pt", "torch-module")


def test_arch_file_is(models: Path) -> None:
    files = {models / "weights.pt": "state-dict"}
    ask = make_trust_check(files, SUPPORT / "user_code.py", trusted=False)
    assert "user_code.py, named by --arch, is a program" in ask()
    assert make_trust_check(files, trusted=False)() == ""
    assert make_trust_check({**files, models / "cnn.pt": "torch-module"}, trusted=False)() != ""
    assert make_trust_check({models / "cnn.pt": "torch-module"}, trusted=True)() == ""


# Scripts that reach a file, each in another way; tried under torch 1.5.1, which really does it.
SCRIPTS = """
import sys, torch
class Saves(torch.nn.Module):
    def forward(self, x):
        torch.save(x, {target!r})
        return x
class Reads(torch.nn.Module):
    def forward(self, x):
        return x + torch.from_file({target!r}, False, 1)
folder = sys.argv[1]
for make in (Saves, Reads):
    torch.jit.save(torch.jit.script(make()), folder + '/' + make.__name__ + '.pt')
torch.jit.load(folder + '/Saves.pt')(torch.zeros(1))
print(torch.jit.load(folder + '/Reads.pt')(torch.zeros(1)))
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory, in_environment: Any) -> Path:
    folder: Path = tmp_path_factory.mktemp("scripts")
    target = folder / "written by a script"
    (folder / "scripts.py").write_text(SCRIPTS.format(target=str(target)))
    made = in_environment("torch", folder / "scripts.py", folder)
    assert made.returncode == 0, made.stderr
    assert target.stat().st_size > 0  # so TorchScript writes where it likes
    return folder


@pytest.mark.parametrize(("name", "word"), [("Saves", "save"), ("Reads", "from_file")])
def test_torchscript_that_reaches_files(scripts: Path, name: str, word: str) -> None:
    assert f"has the word '{word}'" in judged(scripts / f"{name}.pt", "torchscript")


# Ways to write the same call, as the code in an archive.
SPELLINGS = [
    "torch.save(x, 'f')",
    "t = torch\n    t.save(x, 'f')",
    "x.save('f')",
    "ops.aten.save(x, 'f')",
    "getattr(torch, 'sa' 've')(x, 'f')",
    'getattr(torch, "sa" "ve")(x, "f")',
    'getattr(torch, "\\163ave")(x, "f")',
    'getattr (torch, "x")(x)',
    "o = ops\n    o.aten.x(x)",
    "ops.image.write_file('f', x)",
    "torch.s\u0430ve(x, 'f')",
]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings(models: Path, tmp_path: Path, spelling: str) -> None:
    code = f"def forward(self, x):\n    {spelling}\n    return x\n".encode()
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(models / "loops.pt") as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.infolist():
            content = code if entry.filename.endswith(".py") else old.read(entry)
            new.writestr(entry.filename, content)
    assert "could run code" in judged(path, "torchscript")


def legacy(content: bytes, *, keys: bytes = pickle.dumps([], 2), head: bytes = b"") -> bytes:
    """torch 1.5's own format around a pickle."""
    parts = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {})]
    return b"".join([parts[0], head, *parts[1:], content, keys])


class Calls:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


EVIL = pickle.dumps(Calls(print, "evil"), 2)
ORDERED = b"\x80\x02ccollections\nOrderedDict\n"
TENSOR = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n"
FLOATS = b"ctorch\nFloatStorage\n"

# Files of weights, as the first reader believes, that do something else on the way.
WEIGHTS: dict[str, bytes] = {
    "a call": legacy(pickle.dumps({"w": Calls(print, "evil")}, 2)),
    "a call by INST": legacy(b"(S'evil'\niposix\nsystem\n."),
    "a call by OBJ": legacy(b"(cposix\nsystem\nS'evil'\no."),
    "a call by STACK_GLOBAL": legacy(b"\x80\x04\x8c\x05posix\x8c\x06system\x93)R."),
    "a call by NEWOBJ": legacy(b"\x80\x02ctypes\nFunctionType\n)\x81."),
    "an extension": legacy(b"\x80\x02\x82\x01)R."),
    "a call among the keys": legacy(pickle.dumps({}, 2), keys=EVIL),
    "a call before the protocol": legacy(pickle.dumps({}, 2), head=EVIL),
    "an attribute of a function": legacy(TENSOR + b"}X\x08\0\0\0__code__K\x01sb."),
    "an attribute of a class": legacy(ORDERED + b"}X\x03\0\0\0getK\x01sb."),
    "an attribute of a dictionary": legacy(ORDERED + b")R}X\x05\0\0\0itemsK\x01sb."),
    "a tensor of a list": legacy(TENSOR + b"(]K\x00))\x89}tR."),
    "a storage by itself": legacy(b"\x80\x02" + FLOATS + b"K\x04\x85R."),
    "a storage of a dictionary": legacy(
        b"\x80\x02(X\x07\0\0\0storagecollections\nOrderedDict\nX\x01\0\0\0aX\x03\0\0\0cpuK\x04NtQ."
    ),
    "a source to compare with": legacy(b"\x80\x02(X\x06\0\0\0moduleK\x01K\x02K\x03tQ."),
    "a dotted name": legacy(b"\x80\x04\x8c\x0btorch._utils\x8c\x09torch.os.x\x93."),
    "cut off": legacy(ORDERED)[:-30],
}


@pytest.mark.parametrize("what", WEIGHTS)
def test_weights_that_are_a_program(tmp_path: Path, what: str) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(WEIGHTS[what])
    assert "could run code" in judged(path, "state-dict")


@pytest.mark.parametrize("levels", [60, 3_000_000])
def test_weights_that_break_an_unpickler(tmp_path: Path, levels: int) -> None:
    """A key whose hash takes the square of for ever, and one that is nested too deeply for C."""
    nested = b"K\x01" + (b"\x85" if levels > 1000 else b"2\x86") * levels
    path = tmp_path / "model.pt"
    path.write_bytes(legacy(b"\x80\x02}" + nested + b"K\x01s."))
    assert "it cannot be followed (SIG" in judged(path, "state-dict")


def test_weights_that_are_none(tmp_path: Path) -> None:
    """The same frame around what is harmless: it is the content that is refused above."""
    path = tmp_path / "weights.pt"
    path.write_bytes(legacy(pickle.dumps(OrderedDict(a=1), 2)))
    assert judged(path, "state-dict") == ""


def test_two_formats_in_one(models: Path, tmp_path: Path) -> None:
    """torch looks for a tar archive first, and for a zip archive at the end."""
    harmless = legacy(pickle.dumps({}, 2))
    path = tmp_path / "weights.pt"
    appended = io.BytesIO()
    with zipfile.ZipFile(appended, "w") as archive:
        archive.writestr("a/data.pkl", EVIL)
    path.write_bytes(harmless + appended.getvalue())
    assert "zip archive as well" in judged(path, "state-dict")
    # torch's reader goes back further than others.
    path.write_bytes(harmless + appended.getvalue() + bytes(67_000))
    assert "zip archive as well" in judged(path, "state-dict")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        # The name of its first file is where the pickles begin.
        entry = tarfile.TarInfo(harmless[:14].decode("latin-1"))
        entry.size = 0
        tar.addfile(entry)
    head = bytearray(packed.getvalue())
    head[:14] = harmless[:14]
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head[:512])
    path.write_bytes(bytes(head))
    assert "tar archive as well" in judged(path, "state-dict")
    # A header that later readers refuse for its content, and earlier ones take.
    content = bytearray(legacy(pickle.dumps({"x" * 500: 1}, 2)))
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])
    path.write_bytes(bytes(content))
    assert "tar archive as well" in judged(path, "state-dict")
    content[150] ^= 1
    path.write_bytes(bytes(content))
    assert judged(path, "state-dict") == ""


def zipped(*files: tuple[str, bytes], extra: bytes = b"") -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two files of one name
        for name, content in files:
            entry = zipfile.ZipInfo(name)
            entry.extra = extra
            archive.writestr(entry, content)
    return target.getvalue()


# Of Info-ZIP: another name, which Python reads from 3.12 on.
OTHER_NAME = struct.pack("<BL", 1, zlib.crc32(b"a/data.pkl")) + b"a/other.pkl"
OTHER_NAME = struct.pack("<HH", 0x7075, len(OTHER_NAME)) + OTHER_NAME


GOOD = pickle.dumps(OrderedDict(), 2)


def test_what_newer_torch_adds_is_harmless(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    names = (".format_version", ".storage_alignment", "byteorder", ".data/serialization_id")
    path.write_bytes(zipped(("a/data.pkl", GOOD), *((f"a/{name}", b"1") for name in names)))
    assert judged(path, "state-dict") == ""


# Archives that two readers read differently.
ARCHIVES: dict[str, tuple[bytes, str]] = {
    "two folders": (zipped(("a/data.pkl", EVIL), ("b/data.pkl", GOOD)), "'b/data.pkl'"),
    "two of one name": (zipped(("a/data.pkl", EVIL), ("a/data.pkl", GOOD)), "of one name"),
    "two but for the case": (zipped(("a/DATA.PKL", EVIL), ("a/data.pkl", GOOD)), "of one name"),
    "something before it": (b"PK\x03\x04" + zipped(("a/data.pkl", GOOD)), "index"),
    "something after it": (zipped(("a/data.pkl", GOOD)) + b"more", "follows"),
    "two archives": (zipped(("a/data.pkl", EVIL)) + zipped(("a/data.pkl", GOOD)), "index"),
    "a second name": (zipped(("a/data.pkl", GOOD), extra=OTHER_NAME), "two names"),
    "an extra part that is none": (zipped(("a/data.pkl", GOOD), extra=b"\1"), "two names"),
    "an odd name": (zipped(("a/data.pkl", GOOD), ("a/\xe9", b"")), "it holds"),
    "a script in a checkpoint": (zipped(("a/data.pkl", GOOD), ("a/model.json", b"")), "besides"),
    "a call": (zipped(("a/data.pkl", EVIL)), "names __builtin__.print"),
    "nothing": (zipped(), "could run code"),
}


@pytest.mark.parametrize("what", ARCHIVES)
def test_archives_of_two_meanings(tmp_path: Path, what: str) -> None:
    content, words = ARCHIVES[what]
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    found = judged(path, "state-dict")
    assert "could run code" in found and words in found, found


def test_an_archive_whose_index_lies(tmp_path: Path) -> None:
    content = bytearray(zipped(("a/data.pkl", GOOD)))
    start = struct.unpack_from("<L", content, len(content) - 6)[0]
    struct.pack_into("<L", content, len(content) - 6, start - 1)
    path = tmp_path / "weights.pt"
    path.write_bytes(bytes(content))
    assert "could run code" in judged(path, "state-dict")


GRAPHS = """
import os, sys
os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'
import tensorflow as tf
tf1, folder = tf.compat.v1, sys.argv[1]
def graph(name, make):
    with tf1.Graph().as_default() as g:
        x = tf1.placeholder(tf.float32, (1, 2), name='x')
        make(x)
        with open(folder + '/' + name + '.pb', 'wb') as file:
            file.write(g.as_graph_def().SerializeToString())
graph('harmless', lambda x: tf.nn.relu(x, name='y'))
graph('writes', lambda x: tf.io.write_file('/tmp/f', 'x'))
graph('reads', lambda x: tf.io.read_file('/etc/passwd'))
graph('prints', lambda x: tf.raw_ops.PrintV2(input='x', output_stream='file:///tmp/f'))
graph('python', lambda x: tf1.py_func(lambda v: v, [x], tf.float32))
graph('saves', lambda x: tf.raw_ops.Save(filename='f', tensor_names=['x'], data=[x]))
graph('saves2', lambda x: tf.raw_ops.SaveV2(prefix='f', tensor_names=['x'],
    shape_and_slices=[''], tensors=[x]))
graph('restores', lambda x: tf.raw_ops.RestoreV2(prefix='f', tensor_names=['x'],
    shape_and_slices=[''], dtypes=[tf.float32]))
graph('maps', lambda x: tf.raw_ops.ImmutableConst(dtype=tf.float32, shape=(1,),
    memory_region_name='/etc/passwd'))
graph('decodes', lambda x: tf.raw_ops.DecodeProtoV2(bytes='x', message_type='m', field_names=[],
    output_types=[], descriptor_source='/etc/passwd'))
@tf.function
def inside(x):
    tf.io.write_file('/tmp/f', 'x')
    return x
graph('function', lambda x: inside(x))
"""


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory, in_environment: Any) -> Path:
    folder: Path = tmp_path_factory.mktemp("graphs")
    made = in_environment("tflite", "-c", GRAPHS, folder)
    assert made.returncode == 0, made.stderr
    return folder


def test_graphs(graphs: Path) -> None:
    harmless = identify_source(load_toolchain("pb-tflite-2020"), graphs / "harmless.pb")
    assert find_code(harmless.path, harmless.format) == ""
    others = [path for path in graphs.glob("*.pb") if path.stem != "harmless"]
    assert len(others) == 10
    for path in others:
        assert "may read or write files" in judged(path, "frozen-graph"), path.stem


@pytest.mark.parametrize(
    "content",
    [
        b"\x12\x04Save",
        b"\x92\x80\x00\x84\x80\x80\x00Save",
        b"\x92\x80\x80\x80\x10\x84\xff\x80\x80\x10Save",
        b"\x92\x80\x80\x80\x10\x04Save",  # its upper bits are dropped
        b"\x92\x80\x80\x80\xf0\xff\x01\x04Save",
        b"\x12\x03Rpc",
    ],
)
def test_spellings_of_an_operator(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "graph.pb"
    path.write_bytes(b"\x0a\x20" + content)
    assert "may read or write files" in judged(path, "frozen-graph")


@pytest.mark.parametrize("size", [b"\x04", b"\x04\0", b"\x04\0\0\0", b"\x04" + bytes(7)])
def test_flex_operators(tmp_path: Path, size: bytes) -> None:
    """A string of a FlexBuffer names the operator, whatever the NodeDef says."""
    path = tmp_path / "model.tflite"
    path.write_bytes(b"\x1c\0\0\0TFL3 FlexRelu " + size + b"Save!")
    assert "may read or write files" in judged(path, "tflite")


def test_what_builds_the_model_by_a_record() -> None:
    def ask(arch: str) -> str:
        return make_trust_check({}, recorded=["", arch], trusted=False)()

    assert ask("torchvision.models:mobilenet_v2") == "" and ask("") == ""
    for arch in (
        "os:system",
        "user/net.py:build",
        "torchvision.models.utils:load",
        "x:torchvision",
    ):
        assert "may do anything" in ask(arch)


def test_onnx_with_data_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x08\x06...\x0a\x08location\x12\x0e../../id_ed25519")
    assert "may read other files" in judged(path, "onnx")


def test_hostile_files_are_refused(tmp_path: Path) -> None:
    path = hostile.hostile_file(tmp_path / "model.pt", "")
    assert "could run code" in judged(path, "state-dict")
