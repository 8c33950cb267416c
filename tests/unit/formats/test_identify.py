"""What a file is, read from its bytes: every format, and files that are made to do harm."""

from __future__ import annotations

import io
import pickle
import resource
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner.errors import BadInput
from runner.formats import pickle as pickle_reader
from runner.formats import protobuf
from runner.planning.source import identify_source, summarize
from runner.schemas.inspection import Inspection
from runner.toolchains.load import load_toolchain

# A protocol buffer, written by hand: a field is (number, value).
Field = tuple[int, "int | bytes | str | list[Any]"]


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def message(*fields: Field) -> bytes:
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
            continue
        data = value.encode() if isinstance(value, str) else bytes(value)
        out += varint(number << 3 | 2) + varint(len(data)) + data
    return out


def value_info(name: str, *sizes: int | str) -> bytes:
    dims = [message((1, s) if isinstance(s, int) else (2, s)) for s in sizes]
    shape = message(*[(1, dim) for dim in dims])
    return message((1, name), (2, message((1, message((1, 1), (2, shape))))))


def onnx_model(*nodes: bytes, opset: int = 11, ir: int = 6, extra: bytes = b"") -> bytes:
    weight = message((1, 4), (1, 3), (2, 1), (8, "w"), (9, bytes(48)))
    graph = b"".join(message((1, node)) for node in nodes) + message(
        (5, weight),
        (11, value_info("x", "batch", 3)),
        (11, value_info("w", 4, 3)),
        (12, value_info("y", 1, 4)),
    )
    return message((1, ir), (2, "maker"), (3, "9.9"), (7, graph), (8, message((2, opset)))) + extra


GEMM = message((1, "x"), (1, "w"), (2, "y"), (4, "Gemm"))


def attribute(name: str, value: bytes) -> bytes:
    return message((1, name), (2, value))


def node(name: str, operator: str, *inputs: str, **attributes: bytes) -> bytes:
    fields: list[Field] = [(1, name), (2, operator)]
    fields += [(3, source) for source in inputs]
    fields += [(5, attribute(key, value)) for key, value in attributes.items()]
    return message(*fields)


def graph_def(*nodes: bytes, producer: int = 561) -> bytes:
    return message(*[(1, n) for n in nodes], (4, message((1, producer), (2, 12))))


FLOAT = message((6, 1))
IMAGE = message((7, message((2, message((1, -1))), (2, message((1, 8))), (2, message((1, 3))))))
WEIGHTS = message((8, message((1, 1), (2, message((2, message((1, 5))), (2, message((1, 7))))))))
PLACEHOLDER = node("image", "Placeholder", dtype=FLOAT, shape=IMAGE)
CONSTANT = node("weights", "Const", dtype=FLOAT, value=WEIGHTS)


def convolution(name: str, layout: str) -> bytes:
    return node(name, "Conv2D", "image", "weights", data_format=message((2, layout)))


@pytest.fixture
def look(tmp_path: Path) -> Any:
    def write(content: bytes, name: str = "file.bin") -> Inspection:
        path = tmp_path / name
        path.write_bytes(content)
        return summarize(path)

    return write


@pytest.fixture
def little_memory() -> Iterator[None]:
    """At most half a gigabyte more than there is: what tries for more fails."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (512 << 20), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def test_onnx(look: Any) -> None:
    found = look(onnx_model(GEMM))
    assert (found.format, found.written_by) == ("onnx", "maker 9.9")
    assert found.details["ONNX IR version"] == "6"
    assert found.details["operator set"] == "11"
    assert [(t.name, t.shape, t.dtype) for t in found.inputs] == [("x", ["batch", 3], "float32")]
    assert [(t.name, t.shape) for t in found.outputs] == [("y", [1, 4])]
    assert found.operators == {"Gemm": 1}
    assert (found.parameters, found.parameter_types) == (12, {"float32": 12})
    assert found.toolchain.accepted


def test_onnx_that_this_toolchain_cannot_take(look: Any) -> None:
    newer = look(onnx_model(GEMM, opset=17, ir=10))
    assert newer.toolchain.accepted
    assert "Operator set 17 is rewritten for 12" in newer.notes[0]
    assert "IR version 10" in newer.notes[1]
    newest = look(onnx_model(GEMM, opset=24, ir=10))
    assert not newest.toolchain.accepted
    assert "operator set 24" in newest.toolchain.obstacles[0].reason
    assert "opset_version=18" in newest.toolchain.obstacles[0].remedy
    never = look(onnx_model(GEMM, message((4, "NonMaxSuppression")), message((4, "Magic"))))
    assert [o.reason.partition(" ")[0] for o in never.toolchain.obstacles] == [
        "NonMaxSuppression",
        "Magic",
    ]
    foreign = look(onnx_model(GEMM, message((4, "Gelu"), (7, "com.microsoft"))))
    assert foreign.custom == ["com.microsoft::Gelu"]
    assert "com.microsoft::Gelu" in foreign.toolchain.obstacles[0].reason
    inner = message((1, message((4, "Relu"))))
    branch = message((4, "If"), (5, message((1, "then_branch"), (6, inner))))
    flowing = look(onnx_model(GEMM, branch))
    assert flowing.control_flow == ["If"]
    assert flowing.operators == {"Gemm": 1, "If": 1, "Relu": 1}


def test_graphs(look: Any) -> None:
    found = look(graph_def(PLACEHOLDER, CONSTANT, convolution("result", "NHWC")))
    assert (found.format, found.written_by) == ("frozen-graph", "TensorFlow 2.4.0")
    assert [(t.name, t.shape, t.dtype) for t in found.inputs] == [("image", ["?", 8, 3], "float32")]
    assert [t.name for t in found.outputs] == ["result"]
    assert (found.parameters, found.layout) == (35, "NHWC")
    assert found.toolchain.accepted
    both = (convolution("a", "NCHW"), convolution("b", "NHWC"), convolution("c", "NHWC"))
    mixed = look(graph_def(PLACEHOLDER, CONSTANT, *both, producer=300))
    assert mixed.layout == "mixed: 1 NCHW, 2 NHWC"
    assert mixed.written_by == "TensorFlow between 2.2.0 and 2.4.0"
    thawed = look(graph_def(PLACEHOLDER, node("v", "VarHandleOp"), node("y", "Add", "image", "v")))
    assert thawed.format == "graph"
    assert "VarHandleOp" in thawed.toolchain.obstacles[0].reason


def test_saved_model_and_meta_graph(look: Any) -> None:
    info = message((4, "serve"), (5, "2.4.0"))
    tensor = message((1, "image:0"), (2, 1), (3, message((2, message((1, 8))))))
    signature = message((1, message((1, "image"), (2, tensor))), (2, message((1, "scores"))))
    meta = message(
        (1, info), (2, graph_def(PLACEHOLDER)), (5, message((1, "serving_default"), (2, signature)))
    )
    saved = look(message((1, 1), (2, meta)))
    assert (saved.format, saved.written_by) == ("saved-model", "TensorFlow 2.4.0")
    assert [(t.name, t.shape, t.dtype) for t in saved.inputs] == [("image", [8], "float32")]
    assert [t.name for t in saved.outputs] == ["scores"]
    assert "SavedModel" in saved.toolchain.obstacles[0].reason
    assert look(meta).format == "meta-graph"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"\x7fELF\x02\x01\x01" + bytes(200), "ELF file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "PNG image"),
        (b"\x89HDF\r\n\x1a\n" + bytes(90) + b"model_config keras_version 2.4.0 ", "Keras model"),
        (b"\x89HDF\r\n\x1a\n" + bytes(90), "HDF5 file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS pointer"),
        (b"<html><title>404</title></html>", "text file"),
        (b'node {\n  name: "x"\n  op: "Placeholder"\n}\n', "TensorFlow graph as text"),
        (pickle.dumps({"a": 1}, 4), "Python pickle, but none that torch.save wrote"),
        (bytes(range(250, 256)) * 40, "file of a format that is not known here"),
    ],
)
def test_other_files_are_named(look: Any, content: bytes, what: str) -> None:
    found = look(content)
    assert found.what.startswith(what)
    assert found.toolchain.accepted is False
    assert found.toolchain.obstacles[0].reason


def test_zips_are_named_by_what_is_in_them(look: Any) -> None:
    for name, what in (("model.weights.h5", "Keras 3"), ("a.npy", "NumPy"), ("a.txt", "zip")):
        with io.BytesIO() as file:
            with zipfile.ZipFile(file, "w") as archive:
                archive.writestr(name, b"x")
            assert what in look(file.getvalue()).what


def test_the_suffix_is_no_proof(look: Any) -> None:
    found = look(onnx_model(GEMM), "model.tflite")
    assert found.format == "onnx"
    assert any("ends in .tflite" in note for note in found.notes)
    assert not look(onnx_model(GEMM), "model.onnx").notes


def test_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    for name, said in (("nothing", "no file"), ("empty", "empty"), ("", "folder")):
        with pytest.raises(BadInput, match=said):
            summarize(tmp_path / name)


def test_truncated_models_say_so_and_show_what_is_left(look: Any) -> None:
    whole = onnx_model(GEMM)
    cut = look(whole[: len(whole) // 2])
    assert cut.damaged and cut.format == "onnx" and cut.operators == {"Gemm": 1}
    assert not cut.toolchain.accepted
    whole = graph_def(PLACEHOLDER, CONSTANT, convolution("result", "NHWC"))
    assert look(whole[:-40]).damaged
    between = look(graph_def(PLACEHOLDER, convolution("result", "NHWC")))
    assert between.damaged and "weights" in between.notes[0]


def test_lengths_beyond_the_file(look: Any, little_memory: None) -> None:
    """A length of 2**63 is no reason to ask for the memory."""
    head = message((1, 6), (2, "maker"))
    for length in (1 << 63, 1 << 40, 1 << 31):
        graph = message((1, GEMM)) + varint(5 << 3 | 2) + varint(length)
        for content in (
            head + varint(7 << 3 | 2) + varint(length) + message((1, GEMM)),
            head + message((7, graph)),
            varint(1 << 3 | 2) + varint(length) + PLACEHOLDER,
        ):
            found = look(content)
            assert found.damaged, content
    endless = look(b"\x38" + b"\xff" * 400)
    assert not endless.toolchain.accepted


def test_huge_dimensions_are_only_numbers(look: Any, little_memory: None) -> None:
    huge = message(*[(1, (1 << 62) + 1)] * 64, (2, 1), (8, "huge"))
    negative = message((1, -5), (1, 7), (2, 1), (8, "negative"))
    found = look(message((1, 6), (7, message((1, GEMM), (5, huge), (5, negative)))))
    assert found.parameters == ((1 << 62) + 1) ** 64


def test_subgraphs_within_subgraphs(look: Any) -> None:
    """Two thousand of them: deeper than Python's own stack."""
    inner = message((4, "Relu"))
    for _ in range(2000):
        body = message((1, message((4, "Identity"))), (1, inner))
        inner = message((4, "If"), (5, message((1, "then_branch"), (6, body))))
    found = look(onnx_model(GEMM, inner))
    assert found.control_flow == ["If"]
    assert found.operators["If"] < 20


def test_a_budget_of_fields(look: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protobuf.Budget.__init__, "__defaults__", (5000,))
    found = look(onnx_model(*[GEMM] * 5000))
    assert found.damaged and "more fields" in found.notes[0]
    assert not look(onnx_model(*[GEMM] * 50)).damaged
    # So many fields of nothing that it cannot even be told what they are of.
    assert "not known here" in look(b"\x08\x01" * 20_000).what


def table(*fields: bytes) -> bytes:
    """A flatbuffer's table with these inline fields of four bytes, its vtable before it."""
    vtable = struct.pack("<HH", 4 + 2 * len(fields), 4 + 4 * len(fields))
    vtable += b"".join(struct.pack("<H", 4 + 4 * i) for i in range(len(fields)))
    vtable += bytes(-len(vtable) % 4)
    return vtable + struct.pack("<i", len(vtable)) + b"".join(fields)


def tflite(body: bytes) -> bytes:
    """A file whose root table begins after the vtable of `body`."""
    start = 8 + next(
        at for at in range(0, len(body), 4) if struct.unpack_from("<i", body, at)[0] == at
    )
    return struct.pack("<I", start) + b"TFL3" + body


def test_flatbuffers_that_point_anywhere(look: Any, little_memory: None) -> None:
    for offset in (0, 4, 1 << 20, (1 << 31) - 1, (1 << 32) - 1):
        reference = struct.pack("<I", offset)
        found = look(tflite(table(struct.pack("<I", 3), reference, reference, reference)))
        assert (found.format, found.damaged) == ("tflite", True)
    # A vector of 2**30 tables, each of which is one and the same: there would be room for none.
    vector = struct.pack("<I", 4) + struct.pack("<I", 1 << 30) + bytes(64)
    assert look(tflite(table(struct.pack("<I", 3), vector[:4]) + vector[4:])).damaged


def test_one_table_pointed_at_a_million_times(look: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protobuf.Budget.__init__, "__defaults__", (5000,))
    count = 20000
    root = table(struct.pack("<I", 3), struct.pack("<I", 4))
    vector = struct.pack("<I", count)
    # Every entry refers to the root table, which lies before it: offsets wrap around 2**32.
    content = tflite(root)
    base = len(content)
    start = struct.unpack("<I", content[:4])[0]
    entries = b"".join(
        struct.pack("<I", (start - (base + 4 + 4 * i)) % (1 << 32)) for i in range(count)
    )
    found = look(content + vector + entries)
    assert found.damaged


def test_zip_bombs(look: Any, tmp_path: Path, little_memory: None) -> None:
    for name in ("archive/data.pkl", "archive/data/0", "archive/version"):
        with io.BytesIO() as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                if not name.endswith(".pkl"):
                    archive.writestr("archive/data.pkl", pickle.dumps({}))
                with archive.open(name, "w", force_zip64=True) as part:
                    for _ in range(300):
                        part.write(bytes(1 << 20))
            found = look(file.getvalue(), "model.pt")
        assert "unpacks to 31" in found.toolchain.obstacles[0].reason
        assert not found.toolchain.accepted
        with pytest.raises(BadInput, match="unpacks to 31"):
            identify_source(load_toolchain(), tmp_path / "model.pt")


LEGACY = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."


def legacy(pickled: bytes) -> bytes:
    """A file of torch.save's first format that holds this pickle."""
    before = pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)
    return LEGACY + before + pickled + pickle.dumps([], 2)


class Calls:
    """Unpickled, it runs a command."""

    def __reduce__(self) -> Any:
        import os

        return os.system, ("touch pwned",)


@pytest.mark.parametrize("protocol", [2, 4])
def test_no_pickle_is_run(
    look: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    pickled = pickle.dumps({"state_dict": Calls()}, protocol)
    found = look(legacy(pickled), "model.pt")
    assert found.details["calls for"] == "posix.system"
    assert not found.toolchain.accepted
    assert "posix.system" in found.toolchain.obstacles[0].reason
    assert not (tmp_path / "pwned").exists()
    pickle.loads(pickled)  # it would have been
    assert (tmp_path / "pwned").exists()


def test_pickles_that_want_memory(look: Any, tmp_path: Path, little_memory: None) -> None:
    memo = b"\x80\x02K\x01r" + struct.pack("<I", 0xFFFFFFF0) + b"."
    deep = b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b"."
    laughs = b"\x80\x02]q\x00" + b"".join(
        b"]q" + bytes([i]) + b"(" + (b"h" + bytes([i - 1])) * 50 + b"e" for i in range(1, 40)
    )
    length = b"\x80\x04\x8e" + struct.pack("<Q", 1 << 50) + b"x."
    wrap = b"ctorch._utils\n_rebuild_parameter\n"
    wrapped = b"\x80\x02" + wrap * 50_000 + b")R" + b"\x85R" * 49_999 + b"."
    # A key of 24,000 digits, which takes long to hash and which Python refuses to print.
    digits = b"\x80\x02}\x8b" + struct.pack("<i", 10_000) + b"\x7f" * 10_000 + wrap + b")Rs."
    for pickled in (memo, deep, laughs + b".", length, wrapped, digits):
        found = look(legacy(pickled), "model.pt")
        assert not found.toolchain.accepted
        with pytest.raises(BadInput):
            identify_source(load_toolchain(), tmp_path / "model.pt")


def test_a_pickle_has_the_tensors_of_its_state_dict(look: Any) -> None:
    """By hand: {'w': _rebuild_tensor_v2(storage, 0, (2, 3), (3, 1), False, OrderedDict())}."""
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x007"
    storage += b"X\x03\x00\x00\x00cpuK\x06Nt"
    tensor = (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"QK\x00K\x02K\x03\x86K\x03K\x01\x86"
    )
    tensor += b"\x89ccollections\nOrderedDict\n)RtR"
    found = look(
        LEGACY
        + pickle.dumps(1001, 2)
        + pickle.dumps({}, 2)
        + b"\x80\x02}X\x01\x00\x00\x00w"
        + tensor
        + b"s."
        + pickle.dumps(["7"], 2)
        + bytes(8)
        + bytes(24),
        "model.pt",
    )
    assert found.format == "state-dict"
    assert found.details["tensor w"] == "2x3 float32"
    assert (found.parameters, found.damaged) == (6, False)


SEEDS = [
    onnx_model(GEMM),
    graph_def(PLACEHOLDER, CONSTANT, convolution("result", "NHWC")),
    message((1, 1), (2, message((1, message((5, "2.4.0"))), (2, graph_def(PLACEHOLDER))))),
    tflite(table(struct.pack("<I", 3), struct.pack("<I", 8), struct.pack("<I", 4))) + bytes(40),
    legacy(pickle.dumps({"a": [1, 2.0, (3, None)], "b": "text"}, 2)),
]


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.sampled_from(SEEDS),
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.binary(max_size=6)), max_size=4),
    cut=st.integers(0, 10_000),
)
def test_no_file_breaks_a_reader(
    tmp_path_factory: Any, seed: bytes, changes: list[tuple[int, bytes]], cut: int
) -> None:
    content = bytearray(seed)
    for place, new in changes:
        at = place % len(content)
        content[at : at + len(new)] = new
    path = tmp_path_factory.getbasetemp() / "mutated"
    path.write_bytes(bytes(content[: max(1, cut % (2 * len(content)))]))
    found = summarize(path)
    assert found.what and found.toolchain is not None
    Inspection.model_validate_json(found.to_json())


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader_of_pickles(content: bytes) -> None:
    try:
        pickle_reader.read_pickle(io.BytesIO(b"\x80\x02" + content))
    except pickle_reader.BadPickle:
        pass


# Instructions that make models' pickles; by chance they do not fit together.
FRAGMENTS = [
    *(b"ctorch._utils\n_rebuild_parameter\n", b"ctorch._utils\n_rebuild_tensor_v2\n"),
    *(b"ccollections\nOrderedDict\n", b"ctorch\nFloatStorage\n", b"cuser\nNet\n"),
    *(b")", b"R", b"(", b"t", b"}", b"]", b"s", b"b", b"Q", b"0", b"2", b"u", b"e", b"a", b"l"),
    *(b"\x81", b"\x85", b"\x86", b"\x87", b"K\x03", b"N", b"q\x00", b"h\x00", b"J\xff\xff\xff\xff"),
    *(b"X\x01\x00\x00\x00w", b"X\x07\x00\x00\x00storage", b"X\x08\x00\x00\x00_modules"),
    b"X\x0a\x00\x00\x00state_dict",
]


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=14), st.integers(0, 3))
def test_no_pickled_object_breaks_the_description(
    tmp_path_factory: Any, fragments: list[bytes], end: int
) -> None:
    # A module whose state is the rest, a dictionary that holds it, a tensor of it, or as it is.
    before, after = [
        (b"cuser\nNet\n)\x81}X\x08\x00\x00\x00_modules", b"sb"),
        (b"}X\x01\x00\x00\x00w", b"s"),
        (b"}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n(", b"tRs"),
        (b"", b""),
    ][end]
    path = tmp_path_factory.getbasetemp() / "pickled"
    path.write_bytes(legacy(b"\x80\x02" + before + b"".join(fragments) + after + b"."))
    Inspection.model_validate_json(summarize(path).to_json())
    try:
        identify_source(load_toolchain(), path)
    except BadInput:
        pass


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
        max_leaves=20,
    ),
    st.integers(0, 5),
)
def test_plain_pickles_are_read_as_what_they_hold(value: Any, protocol: int) -> None:
    found = pickle_reader.read_pickle(io.BytesIO(pickle.dumps(value, protocol)))
    assert found.value == value
    assert not found.names
