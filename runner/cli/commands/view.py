"""`runner view`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def view(
    path: Annotated[
        Path, typer.Argument(metavar="RUN|FILE", help="A run folder, or a model's file.")
    ],
    artifact: Annotated[
        str,
        typer.Option(help="Which of a run's: onnx, pb, int8, model.tflite (default: the .tflite)."),
    ] = "",
    browser: Annotated[bool, typer.Option(help="Open it in the browser.")] = True,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 0,
) -> None:
    """Look at a model's graph in the browser, drawn by Netron, until Ctrl-C."""
    import webbrowser
    from threading import Thread

    from runner.host.text import make_printable
    from runner.viewer import Viewer, find_artifact

    found = find_artifact(path, artifact)
    viewer = Viewer(found, port)
    try:
        print(f"{make_printable(str(found))}: {viewer.address} (Ctrl-C ends it)", flush=True)
        if browser:  # one that runs in the terminal waits for this server
            Thread(target=webbrowser.open, args=(viewer.address,), daemon=True).start()
        viewer.serve()
    except KeyboardInterrupt:
        pass
    finally:
        viewer.close()
