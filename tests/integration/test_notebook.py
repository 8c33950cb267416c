"""The example notebook in a real kernel: what its cells show, of a run and of an error."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import nbformat
import pytest
from harness import ROOT
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

EXAMPLES = ROOT / "examples"


def read_html(cell: Any) -> str:
    return "".join(o["data"].get("text/html", "") for o in cell["outputs"] if "data" in o)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], Path]:
    """Run the notebook with a cell more, whose model is missing; return its cells of code."""
    folder = tmp_path_factory.mktemp("notebook")
    for name in ("mbv2.pt", "mbv2.toml"):
        shutil.copy(EXAMPLES / name, folder)
    notebook = nbformat.read(EXAMPLES / "convert.ipynb", as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell('convert("no-such-model.pt")'))
    where = {"metadata": {"path": str(folder)}}
    client = NotebookClient(notebook, timeout=600, startup_timeout=600, resources=where)
    with pytest.raises(CellExecutionError):
        client.execute()
    return [cell for cell in notebook.cells if cell["cell_type"] == "code"], folder


def test_the_example_is_kept_without_outputs() -> None:
    notebook = nbformat.read(EXAMPLES / "convert.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells)


def test_the_cell_shows_how_far_the_stages_are(run: tuple[list[Any], Path]) -> None:
    converting = run[0][0]
    (shown,) = (output for output in converting["outputs"] if "data" in output)
    html = shown["data"]["text/html"]
    assert html.count("<td>done</td>") == 3 and "Engine: " in html


def test_a_report_shows_its_verdict_its_stages_and_a_link(run: tuple[list[Any], Path]) -> None:
    cells, folder = run
    html = read_html(cells[1])
    assert "Converted, within tolerance." in html and html.count("within tolerance</td>") == 3
    page = html.partition('href="')[2].partition('"')[0]
    assert (folder / page).name == "report.html" and (folder / page).is_file()


def test_it_has_what_the_report_has(run: tuple[list[Any], Path]) -> None:
    assert run[0][2]["outputs"][0]["text"] == "passed True model.tflite\n"


def test_an_error_is_two_lines_and_no_traceback(run: tuple[list[Any], Path]) -> None:
    (error,) = (o for o in run[0][3]["outputs"] if o["output_type"] == "error")
    assert error["ename"] == "BadInput" and len(error["traceback"]) <= 2
    assert (
        error["traceback"][0].startswith("error: ") and "no-such-model.pt" in error["traceback"][0]
    )
