"""What the trace of a quantised model says, in words."""

from __future__ import annotations

from runner.schemas.diagnosis import QuantizedFault, QuantizedPoint, QuantizedTrace
from runner.schemas.report import StageRecord

# A layer is worth keeping in float if it alone costs the outputs so much of all noise.
_LARGE_SHARE = 0.25


def is_below_gate(record: StageRecord) -> bool:
    """Tell whether a quantised model was made, and judged to be too far from the reference."""
    check = record.report.check if record.report else None
    return check is not None and check.verdict not in ("passed", "rounding")


def summarize(trace: QuantizedTrace, below: bool) -> str:
    """Say which layer of a quantised model is at fault, and why; else which one costs most."""
    if trace.faults:
        first, *others = trace.faults
        more = f" So is something at {', '.join(map(name_layer, others[:4]))}." if others else ""
        return (
            f"{trace.mode}: at the layer '{name_layer(first)}' ({' + '.join(first.operators)}), "
            f"{first.reason}.{more}"
        )
    costly = list_costly(trace)
    if not costly:
        return f"{trace.mode}: no layer stands out; the noise is the sum of many."
    worst = costly[0]
    gate = "it is below its gate, and " if below else ""
    return (
        f"{trace.mode}: {gate}no layer is unusual. Most noise comes from '{name_layer(worst)}' "
        f"({' + '.join(worst.operators)}): the outputs have {worst.output_sqnr:.1f} dB if only "
        f"this layer is quantised. --keep-float '{name_layer(worst)}' leaves it in float; "
        "--quantize auto looks for the fewest layers."
    )


def list_costly(trace: QuantizedTrace) -> list[QuantizedPoint]:
    """List the layers that cost the outputs a large share of all noise, the worst first."""
    noises = {id(point): 10 ** (-point.output_sqnr / 10) for point in trace.points}
    total = sum(noises.values())
    chosen = [p for p in trace.points if total and noises[id(p)] >= _LARGE_SHARE * total]
    return sorted(chosen, key=lambda point: point.output_sqnr)


def name_layer(point: QuantizedPoint | QuantizedFault) -> str:
    """Return the user's layers, or else the tensor's first name."""
    return " + ".join(point.modules) or point.tensor.partition(";")[0]
