"""The stage `samples`: the inputs of a run's check, of which the volume holds the index alone.

Where the stage that made them was taken from the cache, only its outputs are kept.
"""

from __future__ import annotations

from stages.kit.contract import Job, Signature, Stage, StageError, run_as_program, write_json
from stages.kit.samples import open_samples


def convert(job: Job) -> Signature:
    """Make the inputs again, and write how many there are."""
    samples = open_samples(job.volume)
    if samples is None:
        raise StageError("The volume holds no samples.")
    write_json(job.output, {"inputs": len(samples.inputs)})
    return Signature((), ())


def check(job: Job) -> None:
    """Return None: there is nothing to compare."""


STAGE = Stage(
    name="samples",
    summary=__doc__ or "",
    consumes="samples/samples.json",
    produces="samples-again.json",
    packages=("numpy",),
    convert=convert,
    check=check,
)

if __name__ == "__main__":
    run_as_program(STAGE)
