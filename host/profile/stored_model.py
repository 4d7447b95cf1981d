"""The float model that a store's shards decode to, at any bitwidth, as the TensorFlow layer takes it."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from host.quiet_tensorflow import tf
from host.transformer import LayerTensors, Tensor, norm
from shard_store.codec import ShardView
from shard_store.decoder import Decoder
from shard_store.file_access import aligned_buffer
from shard_store.geometry import EXACT_BITWIDTH, Cut, ShardKey
from shard_store.reader import ShardReader, Store
from shard_store.vocabulary_head import unpack_block

Floats = npt.NDArray[np.float32]
SliceWeights = dict[str, Floats]  # matrices (rows, columns) and, of those cut by rows, NAME_bias (rows,)


class StoredModel:
    """Decodes shards of an open store to float32. Keeps the layers that it joined last; one thread at a time."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.geometry = store.manifest.geometry
        self.tensors = store.resident()
        self._reader = ShardReader(store, direct=False)
        self._decoder = Decoder(self.geometry)
        self.layer = lru_cache(2 * self.geometry.layers)(self.decode_layer)

    @cached_property
    def vocabulary(self) -> Tensor:
        """The matrix (vocabulary, hidden) of a language model, at the best bitwidth that the store has it in."""
        head = self.store.manifest.vocabulary_head
        assert head is not None
        bitwidth = max(head.blocks)
        parts = []
        for number, span in enumerate(head.blocks[bitwidth]):
            block = self.store.head_block(bitwidth, number, memoryview(bytearray(span.nbytes)), verify=True)
            rows = len(head.rows_of(bitwidth, number))
            weights, scales = unpack_block(block, rows, self.geometry.hidden, bitwidth)
            parts.append(weights.astype(np.float32) * scales[:, None])
        return tf.constant(np.concatenate(parts), tf.float32)

    def norm(self, x: Tensor, name: str) -> Tensor:
        """One of the norms outside the layers, over the last axis."""
        gamma, beta = self.tensors[f"{name}.gamma"], self.tensors.get(f"{name}.beta")
        return norm(tf.convert_to_tensor(x), gamma, beta, self.geometry.norm_eps, self.geometry.spec.norm_kind)

    def close(self) -> None:
        """Closes the store's files."""
        self._reader.close()
        self.store.close()

    def slice_weights(self, key: ShardKey) -> SliceWeights:
        """What one shard decodes to. Raises ChecksumError for a damaged one."""
        buffer = aligned_buffer(self._reader.buffer_bytes([key]))
        view = ShardView(self._reader.read([key], buffer)[0], self.geometry, key.bitwidth)
        matrices = self.geometry.slice_matrices
        weights: SliceWeights = {}
        if key.bitwidth == EXACT_BITWIDTH:
            for index, matrix in enumerate(matrices):
                weights[matrix.name] = np.array(view.weights(index), np.float32)
        else:
            for index, (matrix, levels) in enumerate(zip(matrices, self._decoder.levels(view), strict=True)):
                shared = matrix.cut is Cut.COLUMNS
                scales = self.tensors[f"layer.{key.layer}.{matrix.name}.scale"] if shared else view.scales(index)
                weights[matrix.name] = levels * scales[:, None]
        for index, matrix in enumerate(matrices):
            if matrix.cut is Cut.ROWS:
                weights[f"{matrix.name}_bias"] = view.bias(index).copy()
        return weights

    def decode_layer(self, layer: int, bitwidth: int) -> LayerTensors:
        """A whole layer at one bitwidth."""
        parts = [self.slice_weights(ShardKey(layer, index, bitwidth)) for index in range(self.geometry.slices)]
        return self.join(layer, parts)

    def join(self, layer: int, parts: Sequence[SliceWeights]) -> LayerTensors:
        """A layer of the first len(parts) slices."""
        joined = {name: np.concatenate([part[name] for part in parts], self._axis(name)) for name in parts[0]}
        for name in self.geometry.layer_tensors:
            joined[name.replace(".", "_")] = self.tensors[f"layer.{layer}.{name}"]
        for beta in ("attention_norm_beta", "ffn_norm_beta"):  # an RMSNorm has none
            joined.setdefault(beta, np.zeros(self.geometry.hidden, np.float32))
        return LayerTensors(**joined)

    def with_shard(self, base: int, key: ShardKey) -> LayerTensors:
        """A layer at the base bitwidth but for one shard."""
        layer = self.layer(key.layer, base)
        changed = {}
        for name, part in self.slice_weights(key).items():
            whole = getattr(layer, name).copy()
            axis = self._axis(name)
            size = part.shape[axis]
            own = slice(key.slice * size, (key.slice + 1) * size)
            whole[(slice(None), own) if axis else own] = part
            changed[name] = whole
        return replace(layer, **changed)

    def narrow(self, layer: int, bitwidth: int, slices: int) -> LayerTensors:
        """The first slices of a layer."""
        whole, kept = self.layer(layer, bitwidth), {}
        for matrix in self.geometry.slice_matrices:
            rows = getattr(whole, matrix.name)
            if matrix.cut is Cut.ROWS:
                kept[matrix.name] = rows[: slices * matrix.rows]
                kept[f"{matrix.name}_bias"] = getattr(whole, f"{matrix.name}_bias")[: slices * matrix.rows]
            else:
                kept[matrix.name] = rows[:, : slices * matrix.columns]
        return replace(whole, **kept)

    def _axis(self, name: str) -> int:
        """Along which the slices of a matrix or bias lie behind each other."""
        return int(any(name == matrix.name and matrix.cut is Cut.COLUMNS for matrix in self.geometry.slice_matrices))
