"""The archive's format: no changed bit goes unnoticed, and no archive reaches beyond its folder."""

from __future__ import annotations

import hashlib
import io
import json
import random
import re
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from harness import BAD_INPUT, PASSED, run_here

from runner.archive.format import (
    BLOCK,
    INDEX,
    TRAILER,
    TRAILER_LINE,
    Environment,
    Index,
    build_header,
    compute_padding,
)
from runner.archive.interpreter import unpack
from runner.archive.reader import Archive
from runner.archive.writer import ArchiveWriter
from runner.errors import BadInput, DamagedArchive, RunnerError

WHEEL = "six-1.15.0-py2.py3-none-any.whl"
LONG = "a_long_name-1.0-cp311-cp311-" + ".".join(["manylinux_2_17_x86_64"] * 5) + ".whl"
ABOUT = {
    "created": "2026-01-01T00:00:00Z",
    "runner": "1",
    "platform": "x86_64-manylinux2014",
    "toolchains": ["pytorch-tflite-2020", "pytorch-tflite-2020+litert"],
    "host_python": "",
    "interpreters": [],
}
Cli = Callable[..., Any]


def a_wheel() -> bytes:
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w") as wheel:
            wheel.writestr(zipfile.ZipInfo("six.py"), "pass\n" * 50)
        return file.getvalue()


def contents() -> list[tuple[str, str, bytes, bool]]:
    """Name, kind, content and whether to compress it: every way in which a part can lie."""
    return [
        ("README.txt", "about", b"about\n", False),
        ("source/compose.yaml", "source", b"x" * BLOCK, False),  # no padding
        ("source/empty", "source", b"", False),
        (f"wheels/{WHEEL}", "wheel", a_wheel(), False),
        (f"wheels/{LONG}", "wheel", b"long", False),
        ("runs/first/report.json", "run", json.dumps({"a": [0] * 400}).encode(), True),
        ("runs/first/model.tflite", "run", random.Random(0).randbytes(700), True),
    ]


def write(path: Path, runs: tuple[str, ...] = ("first",), extra: bytes = b"") -> Index:
    with ArchiveWriter(path, "plan") as writer:
        for name, kind, content, compress in contents():
            if writer.find(name) is None:
                content = content + extra if name.endswith(WHEEL) else content
                source = io.BytesIO(content)
                writer.add(name, kind, source, len(content), compress=compress)  # type: ignore[arg-type]
        return writer.finish(**ABOUT, environments=[], runs=runs)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "whole.tar"
    write(path)
    return path


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any) -> Cli:
    monkeypatch.setenv("RUNNER_CACHE_DIR", str(tmp_path / "cache"))
    return lambda *arguments: run_here(capsys, "archive", *arguments, cwd=tmp_path)


def names_by_offset(path: Path) -> list[tuple[int, str]]:
    """Where each member's header begins, and what damage there is called."""
    with Archive(path) as archive:
        parts = archive.index.parts
    found = [(p.offset - len(build_header(p.name, p.stored_size)), p.name) for p in parts]
    end = parts[-1].offset + parts[-1].stored_size + compute_padding(parts[-1].stored_size)
    size = path.stat().st_size
    trailer = size - 4 * BLOCK
    return [*found, (end, INDEX), (trailer, TRAILER), (size - 2 * BLOCK, "end of the file")]


def test_it_is_a_plain_tar_of_the_contents(whole: Path, tmp_path: Path) -> None:
    subprocess.run(["tar", "-xf", whole, "-C", tmp_path], check=True)
    for name, _, content, _ in contents():
        stored = tmp_path / name
        compressed = stored.with_name(f"{stored.name}.zst")
        assert stored.exists() != compressed.exists()
        if compressed.exists():
            reader = zstandard.ZstdDecompressor().stream_reader(compressed.read_bytes())
            assert reader.read() == content
        else:
            assert stored.read_bytes() == content
    # One shrinks and is compressed, the other does not.
    assert (tmp_path / "runs/first/report.json.zst").exists()
    assert (tmp_path / "runs/first/model.tflite").exists()


def test_verify(whole: Path, cli: Cli) -> None:
    finished = cli("verify", whole, "--json")
    assert finished.returncode == PASSED, finished.stderr
    told = json.loads(finished.stdout)
    assert told["runs"] == ["first"]
    totals = {total["kind"]: total for total in told["totals"]}
    assert totals["wheel"]["content_bytes"] == len(a_wheel()) + len(b"long")


def overwrite(path: Path, offset: int, byte: int) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(bytes([byte]))


def test_one_flipped_bit_is_refused_wherever_it_is(whole: Path, tmp_path: Path) -> None:
    places = names_by_offset(whole)
    data = whole.read_bytes()
    path = tmp_path / "flipped.tar"
    path.write_bytes(data)
    generator = random.Random(0)
    for i in range(len(data)):
        if i:
            overwrite(path, i - 1, data[i - 1])
        overwrite(path, i, data[i] ^ 1 << generator.randrange(8))
        name = [name for begin, name in places if begin <= i][-1]
        with pytest.raises(RunnerError) as caught, Archive(path) as archive:
            archive.verify()
        # What is left of the very first header's, or of the tail's, need not tell whose it is.
        assert isinstance(caught.value, DamagedArchive) or "not an archive" in str(caught.value)
        before = [n for begin, n in places if begin <= i][-2:]
        assert any(n in caught.value.message for n in before), (i, name, caught.value.message)


def test_one_cut_short_is_refused_and_the_place_named(whole: Path, tmp_path: Path) -> None:
    places = names_by_offset(whole)
    data = whole.read_bytes()
    path = tmp_path / "short.tar"
    for size in {*range(0, len(data), 97), *(begin for begin, _ in places), len(data) - 1}:
        path.write_bytes(data[:size])
        with pytest.raises(BadInput) as caught:
            Archive(path)
        before = [name for begin, name in places if begin <= max(size - 1, 0)][-2:]
        if size >= BLOCK:
            told = caught.value.message
            assert any(name in told for name in [*before, INDEX, places[-1][1]]), (
                size,
                told,
                before,
            )


@pytest.mark.parametrize("command", ["verify", "load"])
def test_damage_is_told_and_nothing_is_loaded(
    whole: Path, tmp_path: Path, cli: Cli, command: str
) -> None:
    offset = {n: b for b, n in names_by_offset(whole)}[f"wheels/{WHEEL}"] + BLOCK + 40
    data = bytearray(whole.read_bytes())
    data[offset] ^= 4
    (tmp_path / "bad.tar").write_bytes(data)
    finished = cli(command, "bad.tar")
    assert finished.returncode == BAD_INPUT
    assert f"wheels/{WHEEL}" in finished.stderr.replace("\n", "")
    assert not list((tmp_path / "cache").glob("wheels/*"))


# The second has the header of a member of less than no bytes.
@pytest.mark.parametrize(
    "content",
    [b"", build_header("a", -512) + bytes(2048), b"no archive", b"\0" * 4096, a_wheel()],
    ids=["empty", "less than empty", "text", "zeros", "wheel"],
)
def test_another_file_is_no_archive(content: bytes, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "x.tar").write_bytes(content)
    finished = cli("verify", "x.tar")
    assert finished.returncode == BAD_INPUT and "x.tar" in finished.stderr
    assert cli("verify", "missing.tar").returncode == BAD_INPUT


def test_bytes_after_the_end_are_refused(whole: Path, tmp_path: Path) -> None:
    for more in (b"\0", b"\0" * BLOCK, whole.read_bytes()):
        (tmp_path / "more.tar").write_bytes(whole.read_bytes() + more)
        with pytest.raises(BadInput):
            Archive(tmp_path / "more.tar")


def forge(path: Path, members: list[tuple[str, bytes]], change: Callable[[Any], None]) -> Path:
    """An archive that is consistent in itself, whatever it says."""
    parts: list[dict[str, Any]] = []
    data = b""
    for name, stored in members:
        head = build_header(name, len(stored))
        digest = hashlib.sha256(stored).hexdigest()
        parts.append(
            {
                "name": name,
                "kind": {"w": "wheel", "i": "image"}.get(name[0], "run"),
                "offset": len(data) + len(head),
                "stored_size": len(stored),
                "stored_sha256": digest,
                "size": len(stored),
                "sha256": digest,
                "compression": "none",
            }
        )
        data += head + stored + bytes(compute_padding(len(stored)))
    index = {"format": "runner-archive", "version": 1, **ABOUT, "environments": [], "runs": ["a"]}
    index["parts"] = parts
    change(index)
    text = json.dumps(index).encode()
    offset = len(data) + BLOCK
    line = TRAILER_LINE.format(
        sha256=hashlib.sha256(text).hexdigest(), offset=offset, size=len(text)
    ).encode()
    for name, content in ((INDEX, text), (TRAILER, line)):
        data += build_header(name, len(content)) + content + bytes(compute_padding(len(content)))
    path.write_bytes(data + bytes(2 * BLOCK))
    return path


def test_a_sound_forgery_is_accepted(tmp_path: Path, cli: Cli) -> None:
    """So that what follows is refused for what it does, and not for being forged."""
    forge(tmp_path / "x.tar", [("runs/a/report.json", b"{}")], lambda index: None)
    assert cli("load", "x.tar", "--run", "out").returncode == PASSED
    assert (tmp_path / "out/a/report.json").read_bytes() == b"{}"


@pytest.mark.parametrize(
    "name",
    [
        *("runs/../../escaped", "runs/a/../../../escaped", "runs//escaped", "/escaped"),
        *("runs/a/./x", "runs/a\\x", "runs/a/\x1b[2J", "wheels/../x", "wheels/a/b.whl"),
        *("wheels/no-wheel.exe", "elsewhere/x", "runs/", "runs/a\nb"),
    ],
)
def test_a_name_that_leads_elsewhere_is_refused(name: str, tmp_path: Path, cli: Cli) -> None:
    forge(tmp_path / "x.tar", [(name, b"x")], lambda index: None)
    finished = cli("load", "x.tar", "--run", "out")
    assert finished.returncode == BAD_INPUT and "\x1b" not in finished.stderr
    assert not list(tmp_path.rglob("*escaped*")) and not list((tmp_path).glob("out/*"))


def test_a_run_name_that_leads_elsewhere_is_refused(tmp_path: Path, cli: Cli) -> None:
    for name in ("..", "../a", "/tmp", ""):
        forge(
            tmp_path / "x.tar",
            [("runs/a/x", b"x")],
            lambda index, name=name: index.update(runs=[name]),
        )
        assert cli("verify", "x.tar").returncode == BAD_INPUT


@pytest.mark.parametrize("says", [1000, 64 << 20])
def test_a_part_that_grows_beyond_what_the_index_says(says: int, tmp_path: Path, cli: Cli) -> None:
    """64 MiB of zeros in a few kilobytes, where the index says less, or nothing of their hash."""
    bomb = zstandard.compress(bytes((64 << 20) + 1))

    def change(index: Any) -> None:
        index["parts"][0].update(
            size=says, sha256=hashlib.sha256(bytes(says)).hexdigest(), compression="zstd"
        )

    forge(tmp_path / "x.tar", [("runs/a/x.zst", bomb)], change)
    for command in (("verify", "x.tar"), ("load", "x.tar", "--run", "out")):
        finished = cli(*command)
        assert finished.returncode == BAD_INPUT
        assert re.search("larger than|unpacks to more", finished.stderr)
    assert not list(tmp_path.glob("out/*"))


def test_parts_that_overlap_or_share_a_name_are_refused(tmp_path: Path, cli: Cli) -> None:
    members = [("runs/a/x", b"x" * 600), ("runs/a/y", b"y")]

    def overlap(index: Any) -> None:
        index["parts"][1].update(offset=index["parts"][0]["offset"])

    def leave_out(index: Any) -> None:
        del index["parts"][1]

    for change in (overlap, leave_out):
        forge(tmp_path / "x.tar", members, change)
        assert cli("verify", "x.tar").returncode == BAD_INPUT
    forge(tmp_path / "x.tar", [members[0], members[0]], lambda index: None)
    assert cli("verify", "x.tar").returncode == BAD_INPUT


def test_a_part_in_a_part_is_refused(tmp_path: Path, cli: Cli) -> None:
    forge(tmp_path / "x.tar", [("runs/a/b", b"x"), ("runs/a/b/c", b"y")], lambda index: None)
    finished = cli("load", "x.tar", "--run", "out")
    assert finished.returncode == BAD_INPUT and "lies in another part" in finished.stderr


@pytest.mark.parametrize("record", [b"9 size=0\n", b"11 GNU.sparse\n", b"x" * 5000])
def test_an_interpreter_of_other_headers_is_refused(record: bytes, tmp_path: Path) -> None:
    """Such as one that says of the next file that it ends elsewhere."""
    member = tarfile.TarInfo("x")
    member.type, member.size = tarfile.XHDTYPE, len(record)
    content = member.tobuf(tarfile.USTAR_FORMAT) + record + bytes(-len(record) % 512)
    with io.BytesIO() as file:
        with tarfile.open(fileobj=file, mode="w") as tar:
            tar.addfile(tarfile.TarInfo("bin/python3.8"))
        content += file.getvalue()
    with pytest.raises(BadInput, match="no interpreter's tar has"):
        unpack(io.BytesIO(content), tmp_path)


def test_an_interpreter_with_a_link_is_refused(tmp_path: Path, cli: Cli) -> None:
    with io.BytesIO() as file:
        with tarfile.open(fileobj=file, mode="w") as tar:
            link = tarfile.TarInfo("bin/python3.8")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(link)
        content = file.getvalue()

    def change(index: Any) -> None:
        index["parts"][0]["kind"] = "interpreter"
        digest = hashlib.sha256(content).hexdigest()
        index["interpreters"] = [{"version": "3.8.1", "sha256": digest, "needs": []}]

    forge(tmp_path / "x.tar", [("interpreter/cpython-3.8.1.tar", content)], change)
    finished = cli("load", "x.tar")
    assert finished.returncode == BAD_INPUT and "python3.8" in finished.stderr
    assert not list((tmp_path / "cache").glob("interpreters/*"))


def layout(tag: str, blob: bytes = b"layer", name: str = "") -> list[tuple[str, bytes]]:
    """An image layout that gives an image this name."""
    digest = hashlib.sha256(blob).hexdigest()
    annotations = {"io.containerd.image.name": name or f"docker.io/library/{tag}"}
    return [
        (f"images/blobs/sha256/{digest}", blob),
        ("images/oci-layout", b'{"imageLayoutVersion": "1.0.0"}'),
        ("images/index.json", json.dumps({"manifests": [{"annotations": annotations}]}).encode()),
        ("images/manifest.json", json.dumps([{"RepoTags": [tag]}]).encode()),
    ]


REF_NAME = b'{"manifests": [{"annotations": {"org.opencontainers.image.ref.name": "%s"}}]}'


def named_by(manifest: bytes) -> list[tuple[str, bytes]]:
    return [*layout("runner-torch:latest")[:-1], ("images/manifest.json", manifest)]


def indexed_by(index: bytes) -> list[tuple[str, bytes]]:
    blob, version, _, manifest = layout("runner-torch:latest")
    return [blob, version, ("images/index.json", index), manifest]


@pytest.mark.parametrize(
    ("members", "accepted"),
    [
        (layout("runner-torch:latest"), True),
        (layout("debian:latest"), False),
        (layout("runner-torch:latest", name="docker.io/library/debian:latest"), False),
        (layout("runner-torch:latest")[:-1], False),
        ([*layout("runner-torch:latest"), ("images/repositories", b"{}")], False),
        ([*layout("runner-torch:latest"), (f"images/blobs/sha256/{'0' * 64}", b"x")], False),
        ([*layout("runner-torch:latest")[:-1], ("images/manifest.json", b"[]]")], False),
        # As the engine reads it: keys of any case are the same, and the last one counts.
        (named_by(b'[{"RepoTags": ["runner-torch:a"], "repotags": ["debian:a"]}]'), False),
        (named_by(b'[{"RepoTags": ["runner-torch:a"], "RepoTags": ["debian:a"]}]'), False),
        (named_by(b'[{"RepoTags": ["runner-torch:a"], "RepoTag\xc5\xbf": ["debian:a"]}]'), False),
        (named_by(b'[{"repotags": ["runner-torch:a"]}]'), False),
        (indexed_by(b'{"manifests": [{"Annotations": {"io.containerd.image.name": "x"}}]}'), False),
        (indexed_by(b'{"manifests": [{"annotations": {}, "annotations": {}}]}'), False),
        (indexed_by(REF_NAME % b"debian:a"), False),
        (indexed_by(REF_NAME % b"runner-torch:a"), True),
    ],
)
def test_images_have_our_names_and_their_hashes(
    members: list[tuple[str, bytes]], accepted: bool, tmp_path: Path, cli: Cli
) -> None:
    """Nothing else of the user's engine can be replaced by an archive."""
    forge(tmp_path / "x.tar", members, lambda index: None)
    finished = cli("verify", "x.tar")
    assert finished.returncode == (PASSED if accepted else BAD_INPUT), finished.stderr


def test_load_and_what_is_there_already(whole: Path, tmp_path: Path, cli: Cli) -> None:
    assert cli("load", whole, "--run", "out").returncode == PASSED
    (stored,) = (tmp_path / "cache/wheels" / hashlib.sha256(a_wheel()).hexdigest()).iterdir()
    assert stored.name == WHEEL and stored.read_bytes() == a_wheel()
    # Runs are not overwritten.
    (tmp_path / "out/first/report.json").write_text("mine")
    finished = cli("load", whole, "--run", "out")
    assert finished.returncode == BAD_INPUT and "exists already" in finished.stderr
    assert (tmp_path / "out/first/report.json").read_text() == "mine"
    # A stored file that was damaged since is mended.
    stored.write_bytes(bytes(len(a_wheel())))
    assert cli("load", whole).returncode == PASSED
    assert stored.read_bytes() == a_wheel()


def test_a_load_that_fails_leaves_what_was_loaded(whole: Path, tmp_path: Path, cli: Cli) -> None:
    assert cli("load", whole).returncode == PASSED
    before = sorted((tmp_path / "cache").rglob("*"))
    write(tmp_path / "next.tar", extra=b"more")
    data = bytearray((tmp_path / "next.tar").read_bytes())
    data[BLOCK] ^= 1
    (tmp_path / "next.tar").write_bytes(data)
    assert cli("load", "next.tar").returncode == BAD_INPUT
    assert sorted((tmp_path / "cache").rglob("*")) == before


@pytest.mark.parametrize("engine", ["docker", "process", "quantum"])
def test_what_the_archive_does_not_have(whole: Path, cli: Cli, engine: str) -> None:
    finished = cli("load", whole, "--engine", engine)
    assert finished.returncode == BAD_INPUT and engine in finished.stderr


class Stops(io.BytesIO):
    """Breaks off in the middle, as an interrupt does."""

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell():
            raise KeyboardInterrupt
        return super().read(10)


def test_an_interrupted_save_goes_on_and_gives_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "again.tar"
    with pytest.raises(KeyboardInterrupt), ArchiveWriter(path, "plan") as writer:
        for name, kind, content, compress in contents()[:4]:
            writer.add(name, kind, io.BytesIO(content), len(content), compress=compress)  # type: ignore[arg-type]
        kept = writer.resumed
        writer.add("runs/first/x", "run", Stops(b"x" * 5000), 5000)
    assert not path.exists()
    with ArchiveWriter(path, "plan") as writer:
        assert writer.resumed == kept
    write(path)
    assert path.read_bytes() == whole.read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["again.tar"]


@pytest.mark.parametrize("damage", ["flip", "cut", "plan", "journal"])
def test_what_an_interrupted_save_left_is_checked(whole: Path, tmp_path: Path, damage: str) -> None:
    path, partial = tmp_path / "x.tar", tmp_path / ".x.tar.part"
    with ArchiveWriter(path, "other plan" if damage == "plan" else "plan") as writer:
        for name, kind, content, compress in contents()[:4]:
            writer.add(name, kind, io.BytesIO(content), len(content), compress=compress)  # type: ignore[arg-type]
    data = bytearray(partial.read_bytes())
    data[BLOCK] ^= damage == "flip"
    partial.write_bytes(data[:1500] if damage == "cut" else data)
    if damage == "journal":
        (tmp_path / ".x.tar.part.parts").write_text("nonsense\n{]\n")
    with ArchiveWriter(path, "plan") as writer:
        assert bool(writer.resumed) == (damage == "cut")
    write(path)
    assert path.read_bytes() == whole.read_bytes()


def test_content_that_is_not_the_locks_is_left_out(tmp_path: Path) -> None:
    with ArchiveWriter(tmp_path / "x.tar", "plan") as writer:
        for size, sha256 in ((3, "0" * 64), (4, ""), (2, "")):
            with pytest.raises(BadInput, match="six"):
                writer.add(f"wheels/{WHEEL}", "wheel", io.BytesIO(b"abc"), size, sha256=sha256)
        assert writer.resumed == 0 and writer.find(f"wheels/{WHEEL}") is None


def test_two_saves_of_one_file(tmp_path: Path) -> None:
    with (
        ArchiveWriter(tmp_path / "x.tar", "plan"),
        pytest.raises(BadInput, match="Another process"),
        ArchiveWriter(tmp_path / "x.tar", "plan"),
    ):
        pass


@pytest.mark.parametrize("image", [{"tag": "runner-torch:a"}, {"id": f"sha256:{'0' * 64}"}])
def test_half_an_image_is_refused(image: dict[str, str]) -> None:
    known = {"image": "torch", "python": "3.8", "lock_sha256": "0" * 64, "key": "0" * 64}
    Environment.model_validate({**known, "wheels": []})
    with pytest.raises(ValueError, match="a name and an id"):
        Environment.model_validate({**known, "wheels": [], **image})
