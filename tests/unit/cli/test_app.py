"""The command line is quick: what its help and its errors import, and that they show everything."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import pytest
import typer
from harness import BAD_INPUT, PASSED, ROOT, run_cli

from runner.cli import commands
from runner.cli.app import app
from runner.cli.lazy import LazyCommand

# What is large, or needed by few commands.
HEAVY = {
    "cryptography",
    "docker",
    "filelock",
    "jinja2",
    "numpy",
    "packaging",
    "pydantic",
    "requests",
    "rich",
    "yaml",
    "zstandard",
}
# Prints the modules that a command line has imported, after what it prints itself.
SPY = """
import sys
from runner.cli.app import main
codes = set()
for line in sys.argv[1:]:
    codes.add(main(line.split("\t")))
print("MODULES", *sys.modules)
sys.exit(codes.pop() if len(codes) == 1 else -1)
"""


def list_imports(*lines: Sequence[str], code: int) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", SPY, *map("\t".join, lines)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return set(done.stdout.rpartition("MODULES")[2].split())


def find_heavy(modules: set[str]) -> set[str]:
    return HEAVY & {module.partition(".")[0] for module in modules}


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], PASSED), (["covnert"], BAD_INPUT)])
def test_the_help_and_a_mistyped_command_import_no_command(arguments: list[str], code: int) -> None:
    modules = list_imports(arguments, code=code)
    assert not find_heavy(modules)
    own = {module for module in modules if module.startswith("runner.")}
    assert {module.split(".")[1] for module in own} == {"cli", "errors", "host", "version"}
    assert not {m for m in own if m.startswith("runner.cli.commands.")}


def test_the_help_of_no_command_needs_what_it_works_with() -> None:
    modules = list_imports(*([name, "--help"] for name in commands.COMMANDS), code=PASSED)
    assert not find_heavy(modules)


def test_a_command_line_that_cannot_be_is_refused_before_anything_is_imported() -> None:
    lines = (
        ["convert"],
        ["convert", "--no-such-option"],
        ["convert", "--model", "m.pt", "--samples", "many"],
        ["convert", "--model", "m.pt", "--limit", "memory"],
        ["lock", "--check", "--audit"],
    )
    assert not find_heavy(list_imports(*lines, code=BAD_INPUT))


def test_a_conversion_imports_neither_clients_nor_numpy() -> None:
    """It is planned whole: then its engine is missing."""
    modules = list_imports(
        ("convert", "--model", "examples/mbv2.pt", "--engine", "none", "--quiet"), code=BAD_INPUT
    )
    assert "runner.conversion.convert" in modules
    assert find_heavy(modules) <= {"jinja2", "packaging", "pydantic"}
    assert "runner.engines.docker.engine" not in modules
    assert not {m for m in modules if m.startswith(("runner.archive", "runner.recipes"))}


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_the_help_says_what_the_command_says_of_itself(name: str) -> None:
    place, help = commands.COMMANDS[name]
    module, attribute = place.split(":")
    found = getattr(import_module(f"{commands.__name__}.{module}"), attribute)
    own = found.info.help if isinstance(found, typer.Typer) else found.__doc__
    assert own.partition("\n")[0] == help
    command = typer.main.get_command(app).commands[name]
    assert isinstance(command, LazyCommand) and command.load().help == own


def test_the_help_of_all_commands_is_shown_whole() -> None:
    done = run_cli("--help", cwd=ROOT)
    shown = " ".join(done.stdout.split())
    assert all(help in shown for _, help in commands.COMMANDS.values())


def test_a_mistyped_command_is_told_the_right_one() -> None:
    done = run_cli("covnert", cwd=ROOT)
    assert done.returncode == BAD_INPUT and "Did you mean 'convert'?" in done.stderr


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("runner con", {"convert"}),
        ("runner convert --to", {"--tolerance", "--toolchain"}),
        ("runner images ", {"list", "build", "base", "sbom"}),
    ],
)
def test_the_shell_completes_commands_and_options(typed: str, expected: set[str]) -> None:
    environment = {
        "_RUNNER_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(typed.split(" ")) - 1),
    }
    done = subprocess.run(
        [Path(sys.executable).with_name("runner")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert set(done.stdout.split()) == expected
