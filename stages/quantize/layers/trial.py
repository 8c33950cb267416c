"""What a change of a quantised model is worth on calibration samples; the check's stay unseen.

The outputs of the float model of the same graph are the measure.
"""

from __future__ import annotations

from typing import List, Sequence, Tuple

import numpy as np

from stages.frameworks.tflite_model import TfliteModel
from stages.kit.contract import Signature
from stages.quantize.layers.noise import encode_inputs, read_levels

# Samples that repairs are fitted to and judged by, at most, and how few judge nothing.
_MOST_FITTED, _MOST_JUDGED, _FEWEST = 64, 128, 8
# Multiplications for each of the four times that samples run through integer models. TensorFlow
# 2.4's interpreter does some 600 million a second of them on x86-64, so it is half a minute.
_MOST_PRODUCTS = 4e9

Batches = List[List[np.ndarray]]

# What a net without any noise has, in dB.
_NO_NOISE = 200.0


def choose(samples: Sequence[np.ndarray], most: int) -> Batches:
    """Choose samples at equal distances: an array per input each.

    `samples` are arrays of shape (samples, *shape), one per input.
    """
    count = len(samples[0])
    numbers = np.unique(np.linspace(0, count - 1, min(count, most)).astype(int))
    return [[np.ascontiguousarray(array[n]) for array in samples] for n in numbers]


def split(samples: Sequence[np.ndarray], products: int) -> Tuple[Batches, Batches]:
    """Split samples into those that repairs are fitted to and those that judge them, in turns.

    `products` is how many multiplications a sample takes. Both are empty if there are too few
    samples, or too few that can be run in time.
    """
    most = int(_MOST_PRODUCTS / max(products, 1))
    if len(samples[0]) < 2 * _FEWEST or most < _FEWEST:
        return [], []
    fitted = choose([array[0::2] for array in samples], min(most, _MOST_FITTED))
    return fitted, choose([array[1::2] for array in samples], min(most, _MOST_JUDGED))


def run_quantized(
    content: bytes, signature: Signature, batches: Sequence[Sequence[np.ndarray]]
) -> Batches:
    """Run a quantised model on samples, and return its outputs as floats.

    `signature` is the graph's.
    """
    from stages.frameworks.tensorflow import import_tensorflow
    from stages.frameworks.tflite_runtime import find_indices

    interpreter = import_tensorflow().lite.Interpreter(model_content=content, num_threads=1)
    given = interpreter.get_input_details()
    inputs = find_indices(given, signature.inputs, may_be_dropped=True)
    model = TfliteModel(content, inputs)
    places = find_indices(interpreter.get_output_details(), signature.outputs)
    outputs = [place for place in places if place is not None]
    levels = [read_levels(model, place) for place in outputs]
    run = model.plain([model.names[place] for place in outputs])
    return [
        [
            value if found is None else found.dequantize(value)
            for value, found in zip(run(encode_inputs(model, values)), levels)
        ]
        for values in batches
    ]


def compare_outputs(
    expected: Sequence[Sequence[np.ndarray]], found: Sequence[Sequence[np.ndarray]]
) -> Tuple[float, float]:
    """Return the worst output's signal to noise in dB, and the least share of equal classes."""
    ratios, shares = [], []
    for right, given in zip(zip(*expected), zip(*found)):
        wide, error = np.stack(right).astype(np.float64), np.stack(given).astype(np.float64)
        noise = float(np.square(error - wide).sum())
        power = float(np.square(wide).sum())
        ratios.append(10 * np.log10(power / noise) if power and noise else _NO_NOISE)
        if wide.ndim == 3 and wide.shape[1] == 1 and wide.shape[2] > 1:
            shares.append(float(np.mean(wide.argmax(axis=2) == error.argmax(axis=2))))
    return float(min(ratios)), min(shares, default=1.0)


def measure_gain(
    expected: Sequence[Sequence[np.ndarray]], before: Batches, after: Batches
) -> Tuple[float, float]:
    """Return by how many dB the noise of a sample falls on the average, and the error of that.

    Each sample counts the same, however loud it is: the sum of all noise is that of a few samples,
    and differs by chance more than a repair gains.
    """
    noises = []
    for found in (before, after):
        total = np.zeros(len(expected))
        for right, given in zip(zip(*expected), zip(*found)):
            wide, error = np.stack(right).astype(np.float64), np.stack(given).astype(np.float64)
            each = np.square(error - wide).reshape(len(wide), -1).sum(axis=1)
            total += each / max(float(np.square(wide).sum()), 1e-300)
        noises.append(10 * np.log10(total + 1e-20))
    gains = noises[0] - noises[1]
    return float(gains.mean()), float(gains.std(ddof=1) / np.sqrt(len(gains)))
