"""onnx-tensorflow of any release."""

from __future__ import annotations

import random
import uuid
from types import SimpleNamespace
from typing import Any


def draw_same_names(common: Any) -> None:
    """Let the random digits that onnx-tf puts into some names be the same ones each time.

    They are of a UUID. A seeded generator draws digits that the tool itself might have drawn.
    `common` is the module `onnx_tf.common`.
    """
    draw = random.Random(0)
    common.uuid = SimpleNamespace(uuid4=lambda: uuid.UUID(int=draw.getrandbits(128), version=4))
