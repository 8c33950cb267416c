"""`--input` and the .toml beside a model: every form that is understood."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.planning.inputs import InputSpec, parse_input, read_toml, resolve_inputs


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1x3x224x224", InputSpec("", (1, 3, 224, 224))),
        ("1,3,32,32", InputSpec("", (1, 3, 32, 32))),
        ("1×3×8×8", InputSpec("", (1, 3, 8, 8))),
        ("16", InputSpec("", (16,))),
        ("ids=1x16:int64", InputSpec("ids", (1, 16), "int64")),
        ("ids=1x16:long", InputSpec("ids", (1, 16), "int64")),
        ("mask=1x2:bool", InputSpec("mask", (1, 2), "bool")),
    ],
)
def test_forms(text: str, expected: InputSpec) -> None:
    assert parse_input(text) == expected


@pytest.mark.parametrize("text", ["ids=1x16:int64", "1x3x224x224:float32"])
def test_shows_itself_as_it_is_given(text: str) -> None:
    assert str(parse_input(text)) == text


def test_toml(tmp_path: Path) -> None:
    file = tmp_path / "model.toml"
    file.write_text(
        '[[input]]\nname = "image"\nshape = [1, 3, 8, 8]\nrange = [0.0, 1.0]\n'
        '[[input]]\nshape = [1, 4]\ndtype = "int"\nrange = [0, 9]\n'
    )
    expected = [
        InputSpec("image", (1, 3, 8, 8), "float32", 0.0, 1.0),
        InputSpec("", (1, 4), "int32", 0, 9),
    ]
    assert read_toml(file) == expected
    model = tmp_path / "model.pt"
    assert resolve_inputs(model, (), None) == (expected, "model.toml")
    assert resolve_inputs(model, ("1x5",), None) == ([InputSpec("", (1, 5))], "--input")
    assert resolve_inputs(tmp_path / "other.pt", (), None) == ([], "")
