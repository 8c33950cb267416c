"""Files of a few bytes, which begin as something and are nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.formats.identify import read_file

UNKNOWN = "file of a format that is not known here"
PICKLE = "Python pickle, but none that torch.save wrote"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"\x80", UNKNOWN),
        (b"\x80\x01", UNKNOWN),  # there was never a pickle of protocol 1 that says so
        (b"\x80\x06.", UNKNOWN),
        (b"\x80\x04.", PICKLE),
        # The beginning of one character, of which no text is left.
        (b"\xc3", UNKNOWN),
        (b"\xf0\x9f\x98", UNKNOWN),
        (bytes(3), UNKNOWN),
        (b"a\xc3", "text file"),
        (b"abc", "text file"),
    ],
)
def test_a_few_bytes_are_called_only_what_they_are(
    tmp_path: Path, content: bytes, what: str
) -> None:
    (tmp_path / "file.bin").write_bytes(content)
    found = read_file(tmp_path / "file.bin")
    assert (found.what, found.format, found.bytes) == (what, "other", len(content))
    assert [problem.refused for problem in found.problems] == [True] * (what == UNKNOWN)
