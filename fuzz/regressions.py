"""Inputs that once went wrong, written out where that says more than their bytes would.

Those that a run found lie in fuzz/corpus as they are.
"""

from __future__ import annotations

import copy
import io
import json
import struct
import zipfile
from collections.abc import Callable, Mapping

import numpy as np

from fuzz import seeds
from fuzz.parsers import archives, records

_OPEN = b"\x80\x04"


def _doubled(times: int) -> bytes:
    """A tuple of two of a tuple of two ...: small, and without end for who prints or hashes it."""
    return b")" + b"2\x86" * times


def _dictionaries(levels: int) -> bytes:
    """Dictionaries that reach the one before by each of six keys: 6 ** levels ways."""
    keys = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
    made = b"}\x94"
    for level in range(levels):
        get = b"j" + struct.pack("<I", level)
        items = b"".join(b"X" + struct.pack("<I", len(k)) + k.encode() + get for k in keys)
        made += b"0}\x94(" + items + b"u"
    return made


def _zip_with(offset_of: bytes, change: Callable[[bytearray, int], None]) -> bytes:
    made = bytearray(seeds.torch_zip(seeds.state_dict()))
    change(made, made.index(offset_of))
    return bytes(made)


def _deflated_wrongly() -> bytes:
    made = bytearray(
        seeds.zipped({"m/data.pkl": b"a" * 300, "m/version": b"3"}, zipfile.ZIP_DEFLATED)
    )
    at = made.index(b"data.pkl") + len("data.pkl")
    made[at : at + 4] = b"\xff\xff\xff\xff"
    return bytes(made)


def _not_the_header(made: bytearray, at: int) -> None:
    made[made.index(b"m/version") - 30] ^= 1


def _array(header: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


def _npz(members: Mapping[str, bytes]) -> bytes:
    with io.BytesIO() as file:
        np.savez_compressed(file, x=np.zeros((2, 3), np.float32))
        with zipfile.ZipFile(file, "a") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return file.getvalue()


def _shared_tables(count: int) -> bytes:
    """As many subgraphs, each the same one, of as many tensors, each the same one."""
    out = bytearray(struct.pack("<I4sHHHHHxx", 20, b"TFL3", 10, 8, 0, 0, 4))

    def table(vtable: int) -> int:
        out.extend(struct.pack("<iI", len(out) - vtable, 4))
        return len(out) - 4

    def vector(field: int) -> None:
        struct.pack_into("<I", out, field, len(out) - field)
        out.extend(struct.pack("<I", count))
        end = len(out) + 4 * count + 8  # behind a vtable of one field
        out.extend(b"".join(struct.pack("<I", end - (len(out) + 4 * i)) for i in range(count)))
        out.extend(struct.pack("<HHHxx", 6, 8, 4))

    vector(table(8))
    vector(table(len(out) - 8))
    table(len(out) - 8)
    return bytes(out)


def _record(change: Callable[[dict[str, object]], None]) -> bytes:
    record = json.loads(records.records()[0])
    for item in record["predicate"]["buildDefinition"]["resolvedDependencies"]:
        if item["name"].startswith("environment/"):
            change(item["annotations"])
    return json.dumps(record).encode()


def _storage_key(key: bytes) -> bytes:
    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\n" + key + b"X\x03\0\0\0cpuK\x0ctQ"
    return b"\x80\x02}X\x01\0\0\0a" + storage + b"s."


def _trailer_to(offset: int) -> bytes:
    """A file that is only an index and a trailer, which says that the index is elsewhere."""
    made = archives._closed(b"", b"{}")
    return made.replace(f"\n{512:016d} ".encode(), f"\n{offset:016d} ".encode())


def _pushed(text: bytes) -> bytes:
    """A text on the stack, and in the memo under 0."""
    return b"X" + struct.pack("<I", len(text)) + text + b"q\0"


def _number(digits: int) -> bytes:
    """An integer of so many bytes, likewise."""
    return b"\x8b" + struct.pack("<i", digits) + b"\x01" * digits + b"q\0"


def _deflated(pickled: bytes) -> bytes:
    return seeds.zipped({"m/data.pkl": pickled, "m/version": b"3\n"}, zipfile.ZIP_DEFLATED)


def _one_array_many_times(times: int) -> bytes:
    with io.BytesIO() as file:
        np.savez_compressed(file, x=np.zeros(1 << 23, np.float32))
        with zipfile.ZipFile(file, "a") as archive:
            for number in range(times):
                entry = copy.copy(archive.filelist[0])
                entry.filename = f"x{number}.npy"
                archive.filelist.append(entry)
            archive._didModify = True
        return file.getvalue()


REGRESSIONS: dict[str, dict[str, bytes]] = {
    "pickle": {
        "a storage whose key prints without end": _storage_key(_doubled(60)),
        "a name that prints without end": _OPEN + _doubled(60) + b"2\x93.",
        "more ways through it than there is time": _OPEN + _dictionaries(40) + b".",
        "a pair whose key is a list": b"\x80\x02ccollections\nOrderedDict\n]]K\x01\x86a\x85R.",
        "a pair whose key hashes without end": b"\x80\x02ccollections\nOrderedDict\n]"
        + (_doubled(60) + b"K\x01\x86a\x85R."),
    },
    "model-file": {
        "deflated data that is none": _deflated_wrongly(),
        "a name of megabytes, again and again": _deflated(
            b"\x80\x04" + _pushed(b"a" * (4 << 20)) + b"0" + b"h\0h\0\x930" * 5_000 + b"N."
        ),
        "a tensor's storage of a long tuple, again and again": _deflated(
            b"\x80\x04(" + b"N" * 100_000 + b"tq\0" + b"h\0Q" * 20_000 + b"N."
        ),
        "a key of a million digits": _deflated(
            b"\x80\x04}(" + _number(1_000_000) + b"N" + b"h\0N" * 30_000 + b"u."
        ),
        "a storage whose key has a million digits": _deflated(_storage_key(_number(500_000))),
        "a version whose header is none": _zip_with(b"m/version", _not_the_header),
    },
    "toml": {
        "a dotted key without end": b"a." * 50_000 + b"a = 1",
        "nested without end": b"a = " + b"[" * 50_000,
        "a size that is infinite": b"[[input]]\nshape = [inf]\n",
        "a bound too large for a float": b"[[input]]\nshape = [1]\nrange = [0, "
        + b"9" * 400
        + b"]\n",
        "a second input that is a number": b"input = [{shape = [1]}, 3]\n",
        "a number of too many digits": b"a = " + b"9" * 10_000,
    },
    "arrays": {
        "a member that is no array": _npz({"note.txt": b"note"}),
        "a shape that takes all memory": _array(
            b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999,)}\n"
        ),
        "a header that nests": _array(b"(" * 9000 + b"\n"),
        "one array many times": _one_array_many_times(900),
        "an array of nothing": _npz({"y.npy": b"\x93NUMPY\x01\x00"}),
    },
    "tflite": {"one table reached in a billion ways": _shared_tables(30_000)},
    "wheel-record": {
        "a hash without a length": b"a.py,shake_128=x,1\nb.py,sha256=x,1\n",
        "a field longer than csv takes": b"a.py," + b"x" * 200_000,
    },
    "image-layout": {
        "nested without end": b"[" * 100_000,
        "a name that is a number": b'[{"RepoTags": [3]}]',
    },
    "archive": {"an index before the file": _trailer_to(0)},
    "record": {
        "wheels that are a number": _record(lambda notes: notes.update(wheels=3)),
        "a name longer than a file's": records.records()[0].replace(
            b'"model.onnx"', b'"' + b"x" * 3000 + b'"'
        ),
    },
    "stage-output": {"what no UTF-8 is": b"\xff\xfe\xed\xa0\x80\n"},
    "sample-index": {
        "sizes below zero": b'{"count": 3, "outputs": [{"shape": [-1, 9], "dtype": "float32"}]}',
        "a type that is a program": b'{"count": 1, "outputs": [{"shape": [], "dtype": "(2,3)O,"}]}',
    },
    "command-line": {"JSON that nests without end": b"[" * 50_000},
}
