"""DepthToSpace and SpaceToDepth, channels-last."""

from __future__ import annotations

from typing import List

import numpy as np
import tensorflow as tf

from stages.fixes.onnx_tf.emitter import Decline, Emitter, Inputs, Node, handles
from stages.fixes.onnx_tf.handlers.convolution import get_channels_last
from stages.fixes.onnx_tf.layout import Value


@handles("depth-to-space", "DepthToSpace")
def depth_to_space(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    """Emit DepthToSpace, which wants the block before the channels (DCR); PyTorch has CRD."""
    x = inputs[0]
    assert x is not None
    block = node.get("blocksize")
    tensor = get_channels_last(x)
    if node.get("mode", "DCR") == "CRD":
        channels = x.shape[1]
        if channels is None:
            raise Decline
        index = np.arange(channels, dtype=np.int32).reshape(-1, block * block).T.ravel()
        tensor = tf.gather(tensor, tf.constant(index), axis=3)
    return [emitter.wrap_last(tf.nn.depth_to_space(tensor, block))]


@handles("depth-to-space", "SpaceToDepth")
def space_to_depth(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    x = inputs[0]
    assert x is not None
    return [emitter.wrap_last(tf.nn.space_to_depth(get_channels_last(x), node.get("blocksize")))]
