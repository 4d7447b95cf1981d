"""The weights that a store's shards stand for, as a hook of the reference forward pass."""

from dataclasses import replace

import numpy as np

from device_agent.plan import Plan
from host.weights import LayerWeights
from shard_store.codec import ShardView
from shard_store.decoder import Decoder, slice_views
from shard_store.geometry import EXACT_BITWIDTH, Cut
from shard_store.reader import ShardReader, Store, aligned_buffer
from tests.reference import LayerHook
from tests.stores import empty_layer


def dequantised(store: Store, plan: Plan) -> LayerHook:
    """Replaces a layer's matrices by what the plan's shards decode to; slices outside the plan become zero."""
    by_layer = {layer.layer: layer for layer in plan.layers}
    geometry, reader, tensors = store.manifest.geometry, ShardReader(store), store.resident()

    def replace_layer(index: int, weights: LayerWeights) -> LayerWeights:
        floats = [np.zeros_like(getattr(weights, matrix.name).weight) for matrix in geometry.slice_matrices]
        for key in by_layer[index].shards():
            payload = reader.read([key], aligned_buffer(reader.buffer_bytes([key])))[0]
            view = ShardView(payload, geometry, key.bitwidth)
            decoded = slice_views(empty_layer(geometry, key.bitwidth, geometry.slices), geometry, key.slice)
            Decoder(geometry).decode(view, decoded)
            parts = slice_views(floats, geometry, key.slice)
            for number, (matrix, part, levels) in enumerate(zip(geometry.slice_matrices, parts, decoded, strict=True)):
                if key.bitwidth == EXACT_BITWIDTH:
                    part[:] = levels
                elif matrix.cut is Cut.ROWS:
                    part[:] = levels * view.scales(number)[:, None]
                else:
                    part[:] = levels * tensors[f"layer.{index}.{matrix.name}.scale"][:, None]
        named = zip(geometry.slice_matrices, floats, strict=True)
        return replace(weights, **{m.name: replace(getattr(weights, m.name), weight=values) for m, values in named})

    return replace_layer
