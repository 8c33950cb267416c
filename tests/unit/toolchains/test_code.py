"""Which code a stage uses, against what Python's own parser finds in the same files."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.host.paths import ROOT
from runner.toolchains.code import hash_toolchain, list_code
from runner.toolchains.load import load_toolchains

MODULES = sorted(
    {m for chain in load_toolchains() for s in chain.stages for m in (s.module, s.trace) if m}
)


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import is not followed"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("module", MODULES)
def test_every_import_is_followed(module: str) -> None:
    code = {path for path in list_code([module]) if path.suffix == ".py"}
    assert ROOT.joinpath(*module.split(".")).with_suffix(".py") in code
    for path in code:
        for name in imports(path):
            place = ROOT.joinpath(*name.split("."))
            for file in (place.with_suffix(".py"), place / "__init__.py"):
                if name.startswith("stages.") and file.is_file():
                    assert file in code, f"{path.name} imports {name}"


def test_handlers_that_are_imported_by_name_and_data_are_there() -> None:
    code = {path.name for path in list_code(["stages.convert.onnx_to_graph"])}
    handlers = ROOT / "stages/fixes/onnx_tf/handlers"
    assert code >= {path.name for path in handlers.glob("*.py")} | {"catalogue.json"}


def test_a_file_of_another_toolchain_changes_nothing(tmp_path: Path) -> None:
    """Only the files that are followed count, wherever the others come from."""
    for path in (ROOT / "stages").rglob("*"):
        if path.suffix in (".py", ".json"):
            copy = tmp_path / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    chains = {chain.name: chain for chain in load_toolchains()}
    (tmp_path / "stages/plain/another.py").write_text("")
    changed = tmp_path / "stages/plain/torch_to_onnx.py"
    changed.write_text(changed.read_text() + "\n")
    for name, differs in (("pytorch-tflite-2020", False), ("2022", True), ("2026", False)):
        before, after = (hash_toolchain(chains[name], root=root) for root in (ROOT, tmp_path))
        assert (before != after) is differs, name
