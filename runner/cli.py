"""The command line: parses, calls, prints. All it does can be called from Python too."""

from __future__ import annotations

import json
import signal
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

import runner
from runner.engines.choice import ENGINES
from runner.errors import BadInput, ExitCode, RunnerError
from runner.toolchain import (
    DEFAULT_TOOLCHAIN,
    ROOT,
    Image,
    all_images,
    load_image,
    load_toolchain,
    toolchain_for,
)

app = typer.Typer(
    name="runner",
    help="Convert PyTorch models to TensorFlow Lite with the tools of September 2020.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
images_app = typer.Typer(help="The environments: list them, build them.", no_args_is_help=True)
app.add_typer(images_app, name="images")

_errors = Console(stderr=True)
_traceback = False

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]


@app.callback(invoke_without_command=True)
def _main(
    show_traceback: Annotated[
        bool, typer.Option("--traceback", help="Show where an error was raised.")
    ] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    global _traceback
    _traceback = show_traceback
    if version:
        print(runner.__version__)
        raise typer.Exit


@app.command()
def convert(
    model: Annotated[
        Optional[Path], typer.Option(help="TorchScript, a pickled module, or a state_dict.")
    ] = None,
    from_onnx: Annotated[
        Optional[Path], typer.Option(help="An ONNX model made elsewhere, instead of --model.")
    ] = None,
    from_pb: Annotated[
        Optional[Path], typer.Option(help="A frozen graph made elsewhere, instead of --model.")
    ] = None,
    output: Annotated[
        Optional[Path], typer.Option(help="The run folder (default: runs/NAME-TIME).")
    ] = None,
    input: Annotated[
        Optional[list[str]],
        typer.Option(help="[NAME=]SHAPE[:DTYPE], such as 1x3x224x224; once an input."),
    ] = None,
    arch: Annotated[
        str, typer.Option(help="What builds the model: FILE.py:CALLABLE or MODULE:CALLABLE.")
    ] = "",
    arch_args: Annotated[str, typer.Option(help="Its keyword arguments, as JSON.")] = "",
    samples: Annotated[int, typer.Option(help="Generated inputs to check with.")] = 1000,
    inputs: Annotated[
        Optional[Path], typer.Option(help="Your own inputs to check with: .npy or .npz.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The seed of the generated inputs.")] = 0,
    tolerance: Annotated[float, typer.Option(help="What the metric must stay below.")] = 1e-6,
    metric: Annotated[
        str, typer.Option(help="mean, max, p99 or rms of the absolute error; mean-rel, ...")
    ] = "mean",
    opset: Annotated[Optional[int], typer.Option(help="ONNX operator set (default 11).")] = None,
    fixes: Annotated[
        str, typer.Option(help="Repairs of the 2020 tools: all, none, NAME,... or -NAME,...")
    ] = "all",
    faithful: Annotated[
        bool, typer.Option("--faithful", help="The pinned tools alone: --fixes none.")
    ] = False,
    engine: Annotated[str, typer.Option(help=f"{', '.join(ENGINES)}.")] = "auto",
    gpu: Annotated[bool, typer.Option("--gpu", help="Run TensorFlow's CUDA variant.")] = False,
    option: Annotated[
        Optional[list[str]],
        typer.Option(help="STAGE.NAME=VALUE, for any stage option (see `runner stages`)."),
    ] = None,
    wheel: Annotated[
        Optional[list[str]],
        typer.Option(help="A wheel for a pin that has vanished: FILE[#sha256=HEX]."),
    ] = None,
    toolchain: Annotated[
        Optional[str], typer.Option(help="Which chain of stages (default: by the model's option).")
    ] = None,
    as_json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print errors only.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the stages' output.")] = False,
) -> None:
    """Convert a model, check every stage against PyTorch's outputs, and leave a run folder."""
    # Late: other commands do without what a conversion imports.
    from runner.pipeline import convert as convert_model
    from runner.view import ConsoleView, SilentView

    source, toolchain = _source(model, from_onnx, from_pb, toolchain)
    view = SilentView() if quiet or as_json else ConsoleView(Console(), verbose=verbose)
    report = convert_model(
        source,
        output=output,
        engine=engine,
        inputs=input or (),
        samples=samples,
        seed=seed,
        inputs_file=inputs,
        tolerance=tolerance,
        metric=metric,
        arch=arch,
        arch_args=_json_object(arch_args, "--arch-args"),
        options={
            "opset": opset,
            "fixes": "none" if faithful else fixes,
            **_stage_options(option or []),
        },
        wheels=wheel or (),
        gpu=gpu,
        toolchain=toolchain,
        view=view,
    )
    if as_json:
        print(report.to_json(), end="")
    elif quiet:
        for record in report.stages:
            if record.status == "failed":
                _print_error(RunnerError(f"{record.name}: {record.failure}", record.remedy))
    raise typer.Exit(report.exit_code)


@app.command()
def lock(
    image: Annotated[Optional[list[str]], typer.Argument(help="Images (default: all).")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail if a lock is stale.")
    ] = False,
) -> None:
    """Resolve the images' intents, and the runner's own, as of their dates; write the locks."""
    from runner import locks

    wanted: list[tuple[str, Path, Callable[[], str]]] = [
        (item.title, item.lock, partial(locks.resolve, item)) for item in _selected(image)
    ]
    if not image and (ROOT / "pyproject.toml").exists():
        wanted.append(("runner", ROOT / "requirements.lock", locks.resolve_own))
    stale = []
    for title, path, resolve in wanted:
        text = resolve()
        if not check:
            print(f"{title}: {'written' if locks.write(path, text) else 'unchanged'}")
        elif difference := locks.difference(path, text):
            stale.append(title)
            print(difference)
        else:
            print(f"{title}: current")
    if stale:
        raise RunnerError(f"Stale locks: {', '.join(stale)}.", "Write them: runner lock.")


@app.command()
def stages(
    toolchain: Annotated[str, typer.Option(help="Which chain of stages.")] = DEFAULT_TOOLCHAIN,
    as_json: Json = False,
) -> None:
    """List the stages of a toolchain."""
    chain = load_toolchain(toolchain)
    rows = [
        {
            "stage": stage.name,
            "service": stage.service,
            "image": stage.image,
            "consumes": stage.consumes,
            "produces": stage.produces,
            "options": ", ".join(stage.options),
        }
        for stage in chain.stages
    ]
    _print_rows(rows, f"{chain.name}: {chain.description}", as_json)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what works on this machine, and how to mend the rest."""
    from runner.doctor import examine

    findings = examine()
    if as_json:
        print(json.dumps([finding.as_dict() for finding in findings], indent=1))
    else:
        console = Console()
        marks = {"ok": "[green]✓[/]", "warning": "[yellow]![/]", "error": "[red]✗[/]"}
        for finding in findings:
            console.print(f"{marks[finding.level]} [bold]{finding.topic}[/]: ", end="")
            console.print(Text(finding.message))
            if finding.remedy:
                console.print(Text(f"  → {finding.remedy}"))
    if any(finding.level == "error" for finding in findings):
        raise typer.Exit(ExitCode.ENVIRONMENT)


@app.command()
def schemas(
    folder: Annotated[Path, typer.Argument(help="Where to write them.")] = Path("docs/schemas"),
) -> None:
    """Write the JSON schemas of the reports."""
    from runner.files import write_text
    from runner.report import Report, StageReport

    for name, model in (("report", Report), ("stage-report", StageReport)):
        text = json.dumps(model.model_json_schema(by_alias=True), indent=1) + "\n"
        write_text(folder / f"{name}.schema.json", text)
        print(folder / f"{name}.schema.json")


@images_app.command("list")
def images_list(as_json: Json = False) -> None:
    """List the environments, and where they are ready on this machine."""
    from runner.doctor import image_states

    _print_rows(image_states(all_images()), "Images", as_json)
    if not as_json:
        for image in all_images():
            for stand_in in image.stand_ins:
                print(f"{image.title}: {stand_in}: {stand_in.reason}.")


@images_app.command("build")
def images_build(
    image: Annotated[Optional[list[str]], typer.Argument(help="Images (default: all).")] = None,
    engine: Annotated[str, typer.Option(help="docker or process.")] = "docker",
    variant: Annotated[str, typer.Option(help="cpu, or cuda for images that have it.")] = "cpu",
) -> None:
    """Build the images (docker) or install the environments (process) ahead of time."""
    from runner.engines.choice import prepare_engine
    from runner.view import ConsoleView

    chosen = [item for item in _selected(image) if item.variant == variant]
    if not chosen:
        raise BadInput(f"None of these images has a variant '{variant}'.")
    with ConsoleView(Console()) as view:
        choice = prepare_engine(engine, chosen, view)
    for item in chosen:
        record = choice.engine.environment(item)
        print(f"{item.title}: {record.identity}")


@images_app.command("base")
def images_base(
    lock: Annotated[
        bool, typer.Option("--lock", help="Write its packages to images/base/packages.lock.")
    ] = False,
) -> None:
    """Build the base image from Debian packages and a CPython 3.8: no registry needed."""
    from runner.base_image import build_base, lock_base
    from runner.engines.docker import connect
    from runner.view import ConsoleView

    with ConsoleView(Console()) as view:
        show = view.task("base image")
        base = build_base(connect(), lambda line: show(line, None))
        show("built", 1.0)
    print(f"{base.tag}: {base.id}")
    if lock:
        print(f"packages.lock: {'written' if lock_base(base) else 'unchanged'}")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status. The one place that catches errors."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        status = app(arguments, standalone_mode=False)
        return int(status or 0)
    except RunnerError as error:
        _print_error(error)
        return int(error.exit_code)
    except KeyboardInterrupt:
        _errors.print("Interrupted.")
        return int(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        return 0
    except Exception as error:  # the command line's own errors, and ours
        return _other_error(error)


def _other_error(error: Exception) -> int:
    show = getattr(error, "show", None)  # a usage error of the command line itself
    if callable(show):
        show()
        return int(getattr(error, "exit_code", ExitCode.BAD_INPUT))
    if isinstance(error, OSError) and error.errno is not None:
        remedy = "Check the disk (runner doctor), then run the command again."
        _print_error(RunnerError(f"{error.strerror}: {error.filename or ''}", remedy))
        return int(ExitCode.ENVIRONMENT)
    traceback.print_exc()
    _errors.print("This is a defect of the runner itself; please report it with the lines above.")
    return int(ExitCode.INTERNAL)


def _interrupt(number: int, frame: Any) -> None:
    # So that SIGTERM and a closed terminal clean up as Ctrl-C does.
    raise KeyboardInterrupt


def _print_error(error: RunnerError) -> None:
    if _traceback:
        traceback.print_exc()
    text = Text("error: ", style="bold red").append(error.message, style="default not bold")
    if error.remedy:
        text.append(f"\n→ {error.remedy}", style="default not bold")
    _errors.print(text, soft_wrap=True)


def _selected(names: list[str] | None) -> list[Image]:
    if not names:
        return all_images()
    wanted = [load_image(name).name for name in names]
    return [image for image in all_images() if image.name in wanted]


def _source(
    model: Path | None, from_onnx: Path | None, from_pb: Path | None, toolchain: str | None
) -> tuple[Path, str]:
    """The one file to convert, and the toolchain that accepts such a file."""
    options = (
        ("--model", "pytorch", model),
        ("--from-onnx", "onnx", from_onnx),
        ("--from-pb", "frozen-graph", from_pb),
    )
    given = [(option, kind, path) for option, kind, path in options if path is not None]
    if len(given) != 1:
        raise BadInput(
            "Give one of --model, --from-onnx and --from-pb.",
            "A PyTorch model, an ONNX model made elsewhere, or a frozen graph made elsewhere.",
        )
    option, kind, path = given[0]
    chosen = toolchain or toolchain_for(kind)
    if load_toolchain(chosen).accepts != kind:
        raise BadInput(
            f"The toolchain '{chosen}' does not start from what {option} names.",
            "Leave out --toolchain: it follows from the option.",
        )
    assert path is not None
    return path, chosen


def _json_object(text: str, option: str) -> dict[str, Any]:
    if not text:
        return {}
    try:
        value = json.loads(text)
    except ValueError as error:
        raise BadInput(
            f"{option} is not JSON: {error}", "Such as '{\"width_mult\": 0.5}'."
        ) from None
    if not isinstance(value, dict):
        raise BadInput(f"{option} must be a JSON object, such as '{{\"width_mult\": 0.5}}'.")
    return value


def _stage_options(items: list[str]) -> dict[str, Any]:
    options = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals:
            raise BadInput(f"--option {item} is not of the form STAGE.NAME=VALUE.")
        try:
            options[key] = json.loads(value)
        except ValueError:
            options[key] = value
    return options


def _print_rows(rows: list[dict[str, str]], title: str, as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    table = Table(title=title, title_justify="left")
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*row.values())
    Console().print(table)


def entry_point() -> None:
    sys.exit(main())
