"""What a decoder remembers of a text: the keys and values of its tokens, for every layer that runs."""

import numpy as np
import numpy.typing as npt

from shard_store.errors import RequestError
from shard_store.geometry import Geometry

Floats = npt.NDArray[np.float32]


def cache_bytes(geometry: Geometry, layers: int, slices: int, capacity: int) -> int:
    """Memory of a cache for `capacity` tokens."""
    return 2 * 4 * layers * slices * geometry.slice_kv * capacity


class KeyValueCache:
    """Room for `capacity` tokens. A pass writes tokens behind those that are committed; `commit` then keeps some."""

    def __init__(self, geometry: Geometry, layers: int, slices: int, capacity: int) -> None:
        heads = geometry.kv_heads // geometry.slices * slices
        shape = (layers, heads, capacity, geometry.head_width)
        self._keys = np.zeros(shape, np.float32)
        self._values = np.zeros(shape, np.float32)
        self.capacity = capacity
        self.length = 0  # tokens that are committed

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return self._keys.nbytes + self._values.nbytes

    def write(self, layer: int, start: int, keys: Floats, values: Floats) -> tuple[Floats, Floats]:
        """Put in keys and values (heads, tokens, width) behind `start` tokens; layer counts those of the plan.

        start: the tokens that are committed, and those of this pass that were written. Returns views of all keys and
        values up to these, (heads, start + tokens, width). Raises RequestError if there is no room.
        """
        end = start + keys.shape[1]
        if end > self.capacity:
            raise RequestError(f"{end} tokens, the cache has room for {self.capacity}; ask for fewer")
        self._keys[layer, :, start:end] = keys
        self._values[layer, :, start:end] = values
        return self._keys[layer, :, :end], self._values[layer, :, :end]

    def commit(self, tokens: int) -> None:
        """Keep this many of the tokens that were written last."""
        self.rewind(self.length + tokens)

    def rewind(self, length: int) -> None:
        """Go on behind the first `length` tokens; also forwards, over tokens that were written."""
        if not 0 <= length <= self.capacity:
            raise RequestError(f"{length} tokens, the cache has room for {self.capacity}")
        self.length = length
