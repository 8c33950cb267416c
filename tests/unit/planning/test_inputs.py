"""`--input` and the .toml beside a model: every form that is understood."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.errors import BadInput
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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Nx3x8x8", InputSpec("", (1, 3, 8, 8), dims=("N", "", "", ""))),
        ("ids=Bx16:int64", InputSpec("ids", (1, 16), "int64", dims=("B", ""))),
        ("16xNx8", InputSpec("", (16, 1, 8), dims=("", "N", ""))),
    ],
)
def test_an_open_batch(text: str, expected: InputSpec) -> None:
    assert parse_input(text) == expected
    assert parse_input(str(expected)) == expected


@pytest.mark.parametrize("text", ["NxCx8x8", "1x3xHx8", "1x3x8xW", "N1x3", "?x3x8x8", "-1x3x8x8"])
def test_other_open_sizes_are_refused(text: str) -> None:
    with pytest.raises(BadInput) as refused:
        parse_input(text)
    assert refused.value.remedy or "shape" in refused.value.message


def test_one_open_size_has_one_name(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="B and N"):
        resolve_inputs(tmp_path / "model.pt", ("a=Nx3", "b=Bx3"), None)


def test_an_open_batch_in_a_toml(tmp_path: Path) -> None:
    file = tmp_path / "model.toml"
    file.write_text('[[input]]\nshape = ["N", 3, 8, 8]\n')
    assert read_toml(file) == [InputSpec("", (1, 3, 8, 8), dims=("N", "", "", ""))]
