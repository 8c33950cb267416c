"""The commands, one module each, which parse, call and print."""

from __future__ import annotations

# Each one's module and name in it, and its line in the help: the first of its docstring, or its
# group's help. In the order of the help.
COMMANDS = {
    "convert": (
        "convert:convert",
        "Convert a model, check every stage against PyTorch's outputs, and leave a run folder.",
    ),
    "quantize": (
        "quantize:quantize",
        "Quantise a float .tflite file, and judge each result against it.",
    ),
    "compare": (
        "compare:compare",
        "Compare two models (.pt, .onnx, .pb, .tflite) on the same inputs.",
    ),
    "benchmark": (
        "benchmark:benchmark",
        "Measure the latency of .tflite files, in turns, in one or several interpreters.",
    ),
    "inspect": (
        "inspect:inspect",
        "Say what a file is, who wrote it, what is in it, and whether it can be converted.",
    ),
    "view": (
        "view:view",
        "Look at a model's graph in the browser, drawn by Netron, until Ctrl-C.",
    ),
    "reproduce": (
        "reproduce:reproduce",
        "Run a recorded conversion again, and compare the artifacts with the recorded ones.",
    ),
    "diagnose": (
        "diagnose:diagnose",
        "Find the first operator that introduces the error of a run, and the layer it belongs to.",
    ),
    "bisect": (
        "bisect:bisect",
        "Name the first toolchain that fails, drifts or slows down, with evidence; then exit 10.",
    ),
    "cache": (
        "clean:cache",
        "List the finished stages that are kept, the most recently used first.",
    ),
    "clean": (
        "clean:clean",
        "Empty the cache of stages; remove what runs that were killed left behind.",
    ),
    "lock": (
        "environments.lock:lock",
        "Resolve the images' intents, and the runner's own, as of their dates; write the locks.",
    ),
    "stages": ("environments.machine:stages", "List the stages of a toolchain."),
    "doctor": (
        "environments.machine:doctor",
        "Say what works on this machine, and how to mend the rest.",
    ),
    "schemas": (
        "environments.machine:schemas",
        "Write the JSON schemas of the reports, the records and an inspection.",
    ),
    "images": ("environments.images:images_app", "The environments: list them, build them."),
    "report": (
        "report:report_app",
        "Reports of finished runs: a table over many, a run's page, a bundle for an issue.",
    ),
    "toolchain": (
        "toolchain:toolchain_app",
        "Toolchains: those there are, and your own of what others installed.",
    ),
    "suite": (
        "suite:suite_app",
        "Many models with many toolchains: run them, compare two sets of results.",
    ),
    "archive": ("environments.archive:archive_app", "A toolchain in one file, for offline use."),
}
